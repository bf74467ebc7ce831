//! Preference pairs with the reference's log-probabilities, and one pass of some of them through the policy.

use std::path::Path;

use farmhand_core::{Result, RunContext, Seed};
use farmhand_models::{LanguageModel, selected_log_probs, selected_log_probs_no_grad, sequence_sums};
use tch::{Kind, Tensor};

use super::DpoConfig;
use crate::rl::pairwise::{LengthScale, LogRatios};
use crate::rl::reduction::StepTotals;
use crate::training::{Record, Reference, record_batch};

/// Pairs with the log-probabilities of the frozen reference.
pub(super) struct Pairs {
    pub(super) records: Vec<Record>,
    /// Sums over the chosen and the rejected answer's tokens, in nats, one entry a record.
    reference: Vec<Vec<f32>>,
}

impl Pairs {
    /// Asks the reference; zeros when the loss is reference-free.
    pub(super) fn new(
        records: Vec<Record>,
        reference: &mut Reference<'_>,
        config: &DpoConfig,
        cache_dir: Option<&Path>,
        ctx: &RunContext<'_>,
    ) -> Result<Self> {
        let reference = match config.reference_free {
            true => vec![vec![0.0; 2]; records.len()],
            false => reference.sums(&records, 1.0, config.train.passes.layout, cache_dir, ctx)?,
        };
        Ok(Self { records, reference })
    }
}

/// What some pairs tell; means over the pairs, log-ratios in nats.
pub(super) struct Pass {
    pub(super) loss: f64,
    /// β times the difference of the log-ratios: the implicit reward margin.
    pub(super) margin: f64,
    /// Share of pairs with a positive margin; a margin of 0 counts half.
    pub(super) accuracy: f64,
    pub(super) chosen: f64,
    pub(super) rejected: f64,
    pub(super) nll: f64,
}

/// Runs the picked pairs through the policy, micro-batch by micro-batch; with the seed of an optimiser step, adds the gradient of
/// their loss.
pub(super) fn run_pairs(
    policy: &LanguageModel,
    pairs: &Pairs,
    picked: &[usize],
    config: &DpoConfig,
    train: Option<Seed>,
) -> Result<Pass> {
    let n = picked.len() as f64;
    let chosen_lengths: Vec<usize> = picked.iter().map(|&i| pairs.records[i].texts[0].response().len()).collect();
    let totals = StepTotals::of(&chosen_lengths).with_width(config.train.max_tokens);
    // The numbers of `Pass` in their order; read once, for a look makes the host wait for the device.
    let mut sums = Tensor::zeros([6], (Kind::Double, policy.device()));
    let passes = &config.train.passes;
    for rows in passes.micro_batching(policy.device()).groups(&pairs.records, picked) {
        // All chosen answers, then all rejected ones.
        let batch = record_batch(&pairs.records, &rows, passes.layout, policy.device(), train)?;
        let selected = train.map(|_| selected_log_probs(policy, &batch));
        let values = match &selected {
            Some(selected) => selected.values.shallow_clone(),
            None => selected_log_probs_no_grad(policy, &batch).0,
        };
        let ratios = log_ratios(&sequence_sums(&values, &batch), &batch.response_lengths(), pairs, &rows);
        let mut loss = config.link.losses(&ratios, config.beta).sum(Kind::Float) / n;
        let mut nll = loss.zeros_like();
        if config.nll_weight > 0.0 {
            let lengths = &batch.response_lengths()[..rows.len()];
            let chosen = values.narrow(0, 0, lengths.iter().sum::<usize>() as i64);
            nll = config.nll_reduction.reduce(&-chosen, lengths, totals);
            loss += &nll * config.nll_weight;
        }
        let mean = |values: &Tensor| values.detach().sum(Kind::Double) / n;
        let margin = ratios.margin(LengthScale::Sum);
        let accuracy = (margin.sign() + 1.0) * 0.5;
        let numbers = [
            loss.detach().to_kind(Kind::Double),
            mean(&margin) * config.beta,
            mean(&accuracy),
            mean(&ratios.chosen),
            mean(&ratios.rejected),
            nll.detach().to_kind(Kind::Double),
        ];
        sums += Tensor::stack(&numbers, 0);
        if let Some(selected) = selected {
            selected.backward(&loss);
        }
    }
    let [loss, margin, accuracy, chosen, rejected, nll] = [0, 1, 2, 3, 4, 5].map(|i| sums.double_value(&[i]));
    Ok(Pass { loss, margin, accuracy, chosen, rejected, nll })
}

/// The log-ratios to the reference from the policy's sums `[2 · pairs]` and token counts, chosen answers first.
fn log_ratios(sums: &Tensor, lengths: &[usize], pairs: &Pairs, rows: &[usize]) -> LogRatios {
    let n = rows.len() as i64;
    let half = |side: usize| {
        let reference: Vec<f32> = rows.iter().map(|&i| pairs.reference[i][side]).collect();
        let lengths: Vec<f32> = lengths[side * rows.len()..][..rows.len()].iter().map(|&length| length as f32).collect();
        let on_device = |values: &[f32]| Tensor::from_slice(values).to_device(sums.device());
        (sums.narrow(0, side as i64 * n, n) - on_device(&reference), on_device(&lengths))
    };
    let ((chosen, chosen_lengths), (rejected, rejected_lengths)) = (half(0), half(1));
    LogRatios { chosen, rejected, chosen_lengths, rejected_lengths }
}

#[cfg(test)]
mod tests {
    use farmhand_core::types::PreferencePair;
    use farmhand_core::{Checkpoint, NoEvents};
    use farmhand_models::{BatchLayout, Ending, TextCodec};

    use super::*;
    use crate::rl::pairwise::PairwiseLink;
    use crate::rl::reduction::Reduction;
    use crate::testing::{SPLITS, Stage, assert_same_gradients, pairs, small_lora, take_gradients, tiny_checkpoint};
    use crate::training::{PassOptions, TrainOptions, start_training};

    struct Fixture {
        stage: Stage,
        init: Checkpoint,
        policy: LanguageModel,
        records: Vec<Record>,
    }

    fn with(passes: PassOptions) -> DpoConfig {
        DpoConfig { train: TrainOptions { passes, ..DpoConfig::default().train }, ..DpoConfig::default() }
    }

    fn fixture() -> Fixture {
        let stage = Stage::new();
        let init = tiny_checkpoint(&stage);
        let codec = TextCodec::load(&init, None).expect("a codec");
        let policy = LanguageModel::load(init.path(), tch::Device::Cpu).expect("loaded");
        policy.set_trainable(true);
        let encode = |pair: &PreferencePair| {
            let side = |answer: &str| codec.encode(&pair.instruction, answer, Ending::WithEos).expect("encoded");
            Record::new(&pair.instruction.id, [side(&pair.chosen), side(&pair.rejected)])
        };
        let records = pairs(8).iter().map(encode).collect();
        Fixture { stage, init, policy, records }
    }

    #[test]
    fn the_loss_is_ln_2_at_the_reference_and_every_log_ratio_zero() {
        let Fixture { stage, init, policy, records } = fixture();
        let (config, ctx) = (DpoConfig::default(), stage.context(&NoEvents));
        let mut reference = Reference::new(&init, None, &policy).expect("fits");
        let free = DpoConfig { reference_free: true, ..DpoConfig::default() };
        let pairs = Pairs::new(records.clone(), &mut reference, &free, None, &ctx).expect("nothing to compute");
        assert_eq!(pairs.reference, vec![vec![0.0; 2]; 8]);
        let pairs = Pairs::new(records, &mut reference, &config, None, &ctx).expect("computed");
        for micro_batch_size in [1, 3, 8].map(Some) {
            let config = with(PassOptions { micro_batch_size, ..PassOptions::default() });
            let pass = run_pairs(&policy, &pairs, &[0, 1, 2, 3, 4, 5, 6, 7], &config, None).expect("run");
            assert!((pass.loss - std::f64::consts::LN_2).abs() < 1e-6, "{}", pass.loss);
            assert!(pass.chosen.abs() < 1e-5 && pass.rejected.abs() < 1e-5);
        }
    }

    #[test]
    fn loss_and_gradients_do_not_depend_on_layout_and_micro_batches() {
        let Fixture { policy, records, .. } = fixture();
        // A reference unlike the policy, so that the pairs weigh differently.
        let reference = (0..8).map(|i| vec![-8.0 - i as f32, -9.0 + 0.5 * i as f32]).collect();
        let pairs = Pairs { records, reference };
        for (link, nll_reduction) in [
            (PairwiseLink::Logistic, Reduction::TokenMean),
            (PairwiseLink::LogisticPerToken, Reduction::SeqMean),
            (PairwiseLink::Ipo { log_ratios: LengthScale::Mean }, Reduction::SeqSum),
        ] {
            let gradients = |layout, size, tokens| {
                let (micro_batch_size, micro_batch_tokens) = (Some(size), Some(tokens));
                let micro = with(PassOptions { layout, micro_batch_size, micro_batch_tokens, ..PassOptions::default() });
                let config = DpoConfig { link, nll_reduction, nll_weight: 0.3, ..micro };
                let loss = run_pairs(&policy, &pairs, &[7, 6, 5, 4, 3, 2, 1, 0], &config, Some(Seed::root(0))).expect("run").loss;
                (loss, take_gradients(policy.parameters()))
            };
            let (loss, expected) = gradients(BatchLayout::Padded, 8, 4096);
            for (layout, size, tokens) in SPLITS {
                let (same_loss, same) = gradients(layout, size, tokens);
                assert!((loss - same_loss).abs() < 1e-6 * loss.abs().max(1.0));
                assert_same_gradients(&same, &expected, 1e-6);
            }
        }
    }

    #[test]
    fn an_adapters_dropout_does_not_depend_on_layout_and_micro_batches() {
        let Fixture { stage: _stage, init, policy, records } = fixture();
        policy.set_trainable(false);
        let options = PassOptions { lora: Some(small_lora()), ..PassOptions::default() };
        let policy = start_training(policy, &options, &init, Seed::root(1)).expect("started");
        for (_, tensor) in policy.trained() {
            tch::no_grad(|| drop(tensor.shallow_clone().g_add_scalar_(0.05)));
        }
        let pairs = Pairs { records, reference: vec![vec![-8.0, -9.0]; 8] };
        let gradients = |layout, size, tokens| {
            let (micro_batch_size, micro_batch_tokens) = (Some(size), Some(tokens));
            let config = with(PassOptions { layout, micro_batch_size, micro_batch_tokens, ..PassOptions::default() });
            run_pairs(&policy, &pairs, &[7, 6, 5, 4, 3, 2, 1, 0], &config, Some(Seed::root(3))).expect("run");
            take_gradients(&policy.trained())
        };
        let expected = gradients(BatchLayout::Padded, 8, 4096);
        for (layout, size, tokens) in SPLITS {
            assert_same_gradients(&gradients(layout, size, tokens), &expected, 1e-5);
        }
    }
}
