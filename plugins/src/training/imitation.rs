//! Imitation: the weighted negative log-likelihood of answers, the loss of every method that selects or conditions and then
//! fine-tunes.
//!
//! `Σ_i w_i Σ_t c_i (−log π(y_it | x_i, y_i<t))` over the answers i of an optimiser step, end-of-sequence tokens included, with
//! the factors c of a [`Reduction`]. They count tokens and answers, not weights: twice the weights are twice the loss.

use farmhand_core::{Result, Seed};
use farmhand_models::{LanguageModel, selected_log_probs, selected_log_probs_no_grad};
use tch::{Kind, Tensor};

use super::learner_options::TrainOptions;
use super::records::{Record, record_batch};
use crate::rl::reduction::{Reduction, StepTotals};

/// Adds the gradient of the picked records' loss to the model, micro-batch by micro-batch, and gives the loss in nats. `weights`
/// has one number a record; none means 1 each. `seed` is the step's. Only the first text of a record is imitated.
///
/// # Errors
/// When a batch cannot be made.
pub fn imitation_step(
    model: &LanguageModel,
    records: &[Record],
    weights: Option<&[f64]>,
    picked: &[usize],
    reduction: Reduction,
    options: &TrainOptions,
    seed: Seed,
) -> Result<f64> {
    let totals = StepTotals::of(&response_lengths(records, picked)).with_width(options.max_tokens);
    let mut total = Tensor::zeros([], (Kind::Double, model.device()));
    for rows in options.passes.micro_batching(model.device()).groups(records, picked) {
        let batch = record_batch(records, &rows, options.passes.layout, model.device(), Some(seed))?;
        let selected = selected_log_probs(model, &batch);
        let mut losses = -&selected.values;
        if let Some(weights) = weights {
            losses *= per_token(weights, records, &rows).to_kind(losses.kind()).to_device(losses.device());
        }
        let loss = reduction.reduce(&losses, &batch.response_lengths(), totals);
        total += loss.detach();
        selected.backward(&loss);
    }
    // Read once: a look at a number makes the host wait for the device.
    Ok(total.double_value(&[]))
}

/// The mean loss per response token of all records, in nats, without weights and without gradient.
///
/// # Errors
/// When a batch cannot be made.
pub fn imitation_loss(model: &LanguageModel, records: &[Record], options: &TrainOptions) -> Result<f64> {
    let all: Vec<usize> = (0..records.len()).collect();
    let mut sum = Tensor::zeros([], (Kind::Double, model.device()));
    for rows in options.passes.micro_batching(model.device()).groups(records, &all) {
        let batch = record_batch(records, &rows, options.passes.layout, model.device(), None)?;
        let (log_probs, _) = selected_log_probs_no_grad(model, &batch);
        sum -= log_probs.sum(Kind::Double);
    }
    let n_tokens: usize = response_lengths(records, &all).iter().sum();
    Ok(sum.double_value(&[]) / n_tokens.max(1) as f64)
}

fn response_lengths(records: &[Record], picked: &[usize]) -> Vec<usize> {
    picked.iter().map(|&i| records[i].texts[0].response().len()).collect()
}

/// The weight of each token's record, flat `[tokens]`.
fn per_token(weights: &[f64], records: &[Record], rows: &[usize]) -> Tensor {
    let of_row = |&row: &usize| std::iter::repeat_n(weights[row], records[row].texts[0].response().len());
    Tensor::from_slice(&rows.iter().flat_map(of_row).collect::<Vec<f64>>())
}

#[cfg(test)]
mod tests {
    use farmhand_models::{Ending, TextCodec};

    use super::*;
    use crate::testing::{SPLITS, Stage, assert_same_gradients, demonstrations, take_gradients, tiny_checkpoint};
    use crate::training::PassOptions;

    fn fixture() -> (LanguageModel, Vec<Record>) {
        let stage = Stage::new();
        let init = tiny_checkpoint(&stage);
        let codec = TextCodec::load(&init, None).expect("a codec");
        let model = LanguageModel::load(init.path(), tch::Device::Cpu).expect("loaded");
        model.set_trainable(true);
        let encode = |(index, item): (usize, &farmhand_core::types::Demonstration)| {
            let text = codec.encode(&item.instruction, &item.output, Ending::WithEos).expect("encoded");
            Record { index, ..Record::new(&item.instruction.id, [text]) }
        };
        (model, demonstrations(8).iter().enumerate().map(encode).collect())
    }

    const ALL: [usize; 8] = [7, 6, 5, 4, 3, 2, 1, 0];

    #[test]
    fn loss_and_gradients_do_not_depend_on_layout_and_micro_batches_with_any_weights() {
        let (model, records) = fixture();
        let weights = [0.5, 2.0, 0.0, 1.0, -0.5, 1.5, 1.0, 3.0];
        for (reduction, weights) in
            [(Reduction::TokenMean, None), (Reduction::SeqMean, Some(&weights[..])), (Reduction::SeqSum, Some(&weights))]
        {
            let gradients = |layout, size, tokens| {
                let (micro_batch_size, micro_batch_tokens) = (Some(size), Some(tokens));
                let passes = PassOptions { layout, micro_batch_size, micro_batch_tokens, ..PassOptions::default() };
                let options = TrainOptions { passes, ..TrainOptions::default() };
                let loss = imitation_step(&model, &records, weights, &ALL, reduction, &options, Seed::root(0)).expect("run");
                (loss, take_gradients(model.parameters()))
            };
            let (loss, expected) = gradients(farmhand_models::BatchLayout::Padded, 8, 4096);
            for (layout, size, tokens) in SPLITS {
                let (same_loss, same) = gradients(layout, size, tokens);
                assert!((loss - same_loss).abs() < 1e-6 * loss.abs().max(1.0));
                assert_same_gradients(&same, &expected, 1e-6);
            }
        }
    }

    #[test]
    fn the_loss_is_of_the_response_with_its_one_end_wherever_that_begins() {
        let (model, mut records) = fixture();
        let options = TrainOptions::default();
        let sum = |records: &[Record], picked: &[usize]| {
            imitation_step(&model, records, None, picked, Reduction::SeqSum, &options, Seed::root(0)).expect("run")
        };
        let text = records[1].texts[0].clone();
        let eos = *text.ids.last().expect("an end");
        assert_eq!(text.response().iter().filter(|&&id| id == eos).count(), 1);
        // The end's token elsewhere is a token like any other: in the prompt it costs nothing, in the response once.
        let batch = record_batch(&records, &[0, 1, 2, 3], options.passes.layout, model.device(), None).expect("made");
        let n_tokens: usize = records[..4].iter().map(|record| record.texts[0].response().len()).sum();
        assert_eq!(batch.n_response_tokens(), n_tokens);
        let (whole, alone) = (sum(&records, &[0, 1, 2, 3]), [0, 1, 2, 3].map(|i| sum(&records, &[i])));
        assert!((4.0 * whole - alone.iter().sum::<f64>()).abs() < 1e-4, "longer neighbours change nothing");
        // Moved by a token, the boundary gives another loss: by what that token costs.
        records[1].texts[0].response_start += 1;
        let shorter = sum(&records, &[1]);
        records[1].texts[0].response_start -= 2;
        let longer = sum(&records, &[1]);
        assert!(shorter < alone[1] - 1e-3 && longer > alone[1] + 1e-3, "{shorter}, {}, {longer}", alone[1]);
    }

    #[test]
    fn weights_of_1_change_nothing_and_a_weight_of_0_leaves_its_record_out_of_the_gradient() {
        let (model, records) = fixture();
        let options = TrainOptions::default();
        let run = |weights: Option<&[f64]>, picked: &[usize]| {
            let loss =
                imitation_step(&model, &records, weights, picked, Reduction::SeqSum, &options, Seed::root(0)).expect("run");
            (loss, take_gradients(model.parameters()))
        };
        let (loss, gradients) = run(None, &ALL);
        let (same, same_gradients) = run(Some(&[1.0; 8]), &ALL);
        assert_eq!(loss, same);
        assert_same_gradients(&same_gradients, &gradients, 1e-7);
        // Two records of which one counts for nothing are half of the other one alone.
        let mut weights = [1.0; 8];
        weights[3] = 0.0;
        let (pair, pair_gradients) = run(Some(&weights), &[2, 3]);
        let (alone, alone_gradients) = run(None, &[2]);
        assert!((2.0 * pair - alone).abs() < 1e-5);
        let doubled: Vec<Tensor> = pair_gradients.iter().map(|gradient| gradient * 2.0).collect();
        assert_same_gradients(&doubled, &alone_gradients, 1e-5);
    }
}
