//! An optimiser step on pairs of responses that the policy, or another, has just given: their log-ratios to the reference,
//! micro-batch by micro-batch.

use farmhand_core::{Result, RunContext};
use farmhand_models::{LanguageModel, selected_log_probs_no_grad_at, sequence_sums};
use tch::{Kind, Tensor};

use super::judging::Verdicts;
use super::policy_update::MicroBatch;
use super::records::Record;
use super::rollouts::{Partition, Sampled, Sampler};
use crate::rl::pairwise::LogRatios;

/// Pairs of responses to train on, with the reference's log-probabilities.
pub struct JudgedPairs {
    /// The chosen and the rejected response of each.
    pub records: Vec<Record>,
    /// How the records of the optimiser step go through the models.
    pub partition: Partition,
    /// The reference's sums over the tokens of the chosen and the rejected response, in nats, one entry a record.
    reference: Vec<[f64; 2]>,
    /// Whether the chosen response is the first of its two.
    pub first_is_chosen: Vec<bool>,
}

impl JudgedPairs {
    /// The pairs of which one response is better: at equal places of `first` and `second`, as the verdicts say. Ties, failures and
    /// equal texts are left out; all others go into one optimiser step. A record's margin is the difference of its scores.
    ///
    /// # Errors
    /// When a log-probability is not finite.
    pub fn new(
        sampler: &Sampler<'_>,
        reference: &LanguageModel,
        [first, second]: [&Sampled; 2],
        verdicts: &Verdicts,
        step: u64,
        ctx: &RunContext<'_>,
    ) -> Result<Self> {
        let (mut records, mut first_is_chosen) = (Vec::new(), Vec::new());
        for (row, p_first) in verdicts.p_first.iter().enumerate() {
            let Some(p_first) = p_first.filter(|p| *p != 0.5) else { continue };
            let [a, b] = [first, second].map(|sampled| sampled.records[row].texts[0].clone());
            if a.ids == b.ids {
                continue;
            }
            let texts = if p_first > 0.5 { [a, b] } else { [b, a] };
            let prompt = &first.records[row];
            let margin = verdicts.gaps.as_ref().map_or(0.0, |gaps| gaps[row].abs());
            records.push(Record { index: prompt.index, margin, ..Record::new(&prompt.id, texts) });
            first_is_chosen.push(p_first > 0.5);
        }
        let partition = match records.len() {
            0 => Vec::new(),
            n => sampler.partition(&records, n, step, 0, ctx),
        };
        let reference = match records.is_empty() {
            true => Vec::new(),
            false => sums_of_texts(sampler, reference, &records, &partition)?.chunks(2).map(|pair| [pair[0], pair[1]]).collect(),
        };
        Ok(Self { records, partition, reference, first_is_chosen })
    }

    /// The log-ratios of a micro-batch's pairs; differentiable.
    pub fn log_ratios(&self, micro: &MicroBatch<'_>) -> LogRatios {
        let sums = sequence_sums(micro.log_probs, micro.batch);
        let n = micro.rows.len();
        let like_sums = |values: Vec<f64>| Tensor::from_slice(&values).to_kind(sums.kind()).to_device(sums.device());
        let own = |side: usize| sums.narrow(0, (side * n) as i64, n as i64);
        let others = |side: usize| like_sums(micro.rows.iter().map(|&row| self.reference[row][side]).collect());
        let lengths = |side: usize| like_sums(micro.lengths[side * n..][..n].iter().map(|&length| length as f64).collect());
        let both = |of: &dyn Fn(usize) -> Tensor| [of(0), of(1)];
        let (own, others, lengths) = (both(&own), both(&others), both(&lengths));
        let ratios = LogRatios::new([&own[0], &own[1]], [&others[0], &others[1]], [&lengths[0], &lengths[1]]);
        LogRatios { gaps: like_sums(micro.rows.iter().map(|&row| self.records[row].margin).collect()), ..ratios }
    }

    /// The policy's log-probabilities of the second responses of a micro-batch's pairs, whether chosen or rejected, summed over
    /// their tokens, `[pairs]`, in nats; differentiable.
    pub fn second_log_probs(&self, micro: &MicroBatch<'_>) -> Tensor {
        let n = micro.rows.len();
        let place = |(i, &row): (usize, &usize)| (if self.first_is_chosen[row] { n + i } else { i }) as i64;
        let places: Vec<i64> = micro.rows.iter().enumerate().map(place).collect();
        let sums = sequence_sums(micro.log_probs, micro.batch);
        sums.index_select(0, &Tensor::from_slice(&places).to_device(sums.device()))
    }

    /// What there is to tell of a micro-batch's log-ratios: the implicit reward margin, the share of pairs where it is positive (0
    /// counts half), and both log-ratios.
    pub fn numbers(ratios: &LogRatios, beta: f64, n_records: usize) -> Vec<(&'static str, Tensor)> {
        let mean = |values: &Tensor| values.detach().sum(Kind::Double) / n_records as f64;
        let margin = &ratios.chosen - &ratios.rejected;
        vec![
            ("margin", mean(&margin) * beta),
            ("accuracy", mean(&((margin.sign() + 1.0) * 0.5))),
            ("chosen_log_ratio", mean(&ratios.chosen)),
            ("rejected_log_ratio", mean(&ratios.rejected)),
        ]
    }
}

/// A model's log-probabilities summed over the response of every text of every record, in nats.
fn sums_of_texts(sampler: &Sampler<'_>, model: &LanguageModel, records: &[Record], partition: &Partition) -> Result<Vec<f64>> {
    let temperature = sampler.options.temperature;
    let [flat] = sampler.measure(records, partition, ["reference log-probability"], |batch| {
        [selected_log_probs_no_grad_at(model, batch, temperature).0]
    })?;
    let lengths: Vec<i64> = records.iter().flat_map(|record| &record.texts).map(|text| text.response().len() as i64).collect();
    Ok(flat.split_with_sizes(&lengths, 0).iter().map(|part| part.sum(Kind::Float).double_value(&[])).collect())
}

#[cfg(test)]
mod tests {
    use farmhand_core::NoEvents;
    use farmhand_models::TextCodec;

    use super::*;
    use crate::testing::{Stage, instructions, tiny_checkpoint};
    use crate::training::{
        MicroLoss, Opponent, PassOptions, RolloutOptions, fitting_prompts, micro_step, step_totals, text_places,
    };

    #[test]
    fn ties_failures_and_equal_texts_are_left_out_and_log_ratios_at_the_reference_are_0() {
        let stage = Stage::new();
        let init = tiny_checkpoint(&stage);
        let codec = TextCodec::load(&init, None).expect("a codec");
        let policy = LanguageModel::load(init.path(), tch::Device::Cpu).expect("loaded");
        policy.set_trainable(true);
        let options = RolloutOptions { samples_per_prompt: 1, max_new_tokens: 6, ..RolloutOptions::default() };
        let passes = PassOptions { micro_batch_size: Some(2), ..PassOptions::default() };
        let (instructions, ctx) = (instructions(6), stage.context(&NoEvents));
        let prompts = fitting_prompts(&instructions, 96, &codec, &options, &ctx).expect("they fit");
        let sampler = Sampler {
            options: &options,
            passes: &passes,
            codec: &codec,
            instructions: &instructions,
            prompts: &prompts,
            policy: &policy,
        };
        let first = sampler.sample(0, 6, &ctx).expect("sampled");
        let mut second = sampler.sample_opponent(Opponent::Model(&policy), 0, 6, &ctx).expect("sampled");
        second.records[5] = first.records[5].clone();
        let p_first = vec![Some(1.0), Some(0.0), Some(0.5), None, Some(0.2), Some(1.0)];
        let verdicts = Verdicts { p_first, gaps: Some(vec![9.0, -8.0, 0.0, 0.0, -1.4, 9.0]), rewards: None };
        let pairs = JudgedPairs::new(&sampler, &policy, [&first, &second], &verdicts, 0, &ctx).expect("measured");
        assert_eq!(pairs.records.iter().map(|record| record.margin).collect::<Vec<_>>(), [9.0, 8.0, 1.4]);
        assert_eq!(pairs.first_is_chosen, [true, false, false]);
        assert_eq!(pairs.records[0].texts[0].ids, first.records[0].texts[0].ids);
        assert_eq!(pairs.records[2].texts[0].ids, second.records[4].texts[0].ids);
        let rows = [0, 1, 2];
        let totals = step_totals(&sampler, &pairs.records, &rows);
        let mut seen = 0;
        let mut loss = |micro: &MicroBatch<'_>| {
            let ratios = pairs.log_ratios(micro);
            assert!(ratios.chosen.abs().max().double_value(&[]) < 1e-5);
            assert!(ratios.rejected.abs().max().double_value(&[]) < 1e-5);
            assert!(ratios.gaps.min().double_value(&[]) > 1.0);
            assert_eq!(text_places(&pairs.records, micro.rows).len(), micro.lengths.len());
            let sums = sequence_sums(micro.log_probs, micro.batch);
            for (i, &row) in micro.rows.iter().enumerate() {
                let place = if pairs.first_is_chosen[row] { micro.rows.len() + i } else { i };
                let of_second = pairs.second_log_probs(micro).double_value(&[i as i64]);
                assert_eq!(of_second, sums.double_value(&[place as i64]));
            }
            seen += micro.rows.len();
            MicroLoss { loss: ratios.chosen.sum(Kind::Float), numbers: JudgedPairs::numbers(&ratios, 0.1, 3) }
        };
        for rows in &pairs.partition[0] {
            drop(micro_step(&sampler, &pairs.records, rows, totals, 3, &mut loss).expect("run"));
        }
        assert_eq!(seen, 3);
        let verdicts = Verdicts { p_first: vec![None; 6], gaps: None, rewards: None };
        let none = JudgedPairs::new(&sampler, &policy, [&first, &second], &verdicts, 0, &ctx).expect("nothing to measure");
        assert!(none.records.is_empty() && none.partition.is_empty());
    }
}
