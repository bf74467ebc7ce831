//! One round of experience: sample, score, measure.

use std::collections::BTreeMap;
use std::time::Instant;

use farmhand_core::types::{FinishReason, Instruction, Response, SamplingParams};
use farmhand_core::{Error, NoEvents, Result, RewardModel, RunContext, checked};
use farmhand_models::{
    EncodedText, GenerateOptions, GenerationRequest, LanguageModel, ScalarModel, TextCodec, TokenBatch, epoch_order, generate,
    selected_log_probs_no_grad_at,
};
use tch::{Kind, Tensor, no_grad};

use super::PpoConfig;
use crate::rl::rollout::RolloutBatch;
use crate::training::Record;

/// What a round samples from and asks.
pub(super) struct Sampler<'a> {
    pub(super) config: &'a PpoConfig,
    pub(super) codec: &'a TextCodec,
    /// All instructions, as given.
    pub(super) instructions: &'a [Instruction],
    /// The prompts of those that fit.
    pub(super) prompts: &'a [Record],
    pub(super) policy: &'a LanguageModel,
    pub(super) reference: &'a LanguageModel,
    pub(super) value: &'a ScalarModel,
}

/// A round's responses: texts for the update, numbers for the losses, and what to tell.
pub(super) struct Round {
    /// Prompt and response of each rollout, in the order they were drawn.
    pub(super) texts: Vec<EncodedText>,
    /// The instruction of each, for messages.
    pub(super) ids: Vec<String>,
    pub(super) batch: RolloutBatch,
    /// Seconds that sampling took; the rest of a round is scoring.
    pub(super) rollout_secs: f64,
    /// Mean score before penalties.
    pub(super) mean_score: f64,
    /// Share of responses with their end-of-sequence token.
    pub(super) ended: f64,
    /// Mean entropy of the distributions tokens were drawn from, in nats.
    pub(super) entropy: f64,
}

/// The rollouts of each optimiser step of one pass, cut into micro-batches: steps, micro-batches, rows.
pub(super) type Partition = Vec<Vec<Vec<usize>>>;

impl Sampler<'_> {
    /// Round `step`: responses drawn from the policy with their scores, log-probabilities and values.
    pub(super) fn roll_out(&self, step: u64, reward_model: &mut dyn RewardModel, ctx: &RunContext<'_>) -> Result<Round> {
        let Self { config, codec, .. } = *self;
        let first = step * config.rollout_size as u64;
        let drawn: Vec<&Record> = self.draw(first, ctx).into_iter().map(|i| &self.prompts[i]).collect();
        let request = |(i, record): (usize, &&Record)| GenerationRequest {
            prompt: record.texts[0].ids.clone(),
            seed: ctx.seed.child("rollout", first + i as u64),
        };
        let requests: Vec<GenerationRequest> = drawn.iter().enumerate().map(request).collect();
        let sampling = SamplingParams {
            temperature: config.temperature,
            max_new_tokens: config.max_new_tokens,
            ..SamplingParams::default()
        };
        let options =
            GenerateOptions { sampling, eos: codec.stop_ids(), max_batch: config.generation_batch, ..GenerateOptions::default() };
        let started = Instant::now();
        let generated = generate(self.policy, Some(&codec.tokenizer), &requests, &options, &mut |_| ctx.cancel.check())?;
        let rollout_secs = started.elapsed().as_secs_f64();

        let answers: Vec<String> = generated.iter().map(|response| codec.decode(&response.tokens)).collect();
        let responses: Vec<Response<'_>> = drawn
            .iter()
            .zip(&answers)
            .map(|(record, output)| Response { instruction: &self.instructions[record.index], output })
            .collect();
        // The round has its own progress; a bar for every scoring would drown it.
        let scores = checked::score(reward_model, &responses, &RunContext { events: &NoEvents, ..*ctx })?;

        let ended: Vec<bool> = generated.iter().map(|response| response.finish == FinishReason::Stop).collect();
        let texts: Vec<EncodedText> = drawn
            .iter()
            .zip(&generated)
            .map(|(record, response)| codec.encode_tokens(&record.texts[0].ids, &response.tokens))
            .collect();
        let measured = self.measure(&texts, step, ctx)?;
        let lengths: Vec<usize> = texts.iter().map(|text| text.response().len()).collect();
        let penalised: Vec<f64> =
            scores.iter().zip(&ended).map(|(&score, &ended)| config.missing_end.apply(score, ended)).collect();
        let n = texts.len() as f64;
        Ok(Round {
            batch: RolloutBatch::new(
                config.width(&lengths),
                lengths,
                &measured.log_probs,
                &measured.reference_log_probs,
                &measured.values,
                &penalised,
            ),
            ids: drawn.iter().map(|record| record.id.clone()).collect(),
            texts,
            rollout_secs,
            mean_score: scores.iter().sum::<f64>() / n,
            ended: ended.iter().filter(|ended| **ended).count() as f64 / n,
            entropy: measured.entropies.mean(Kind::Double).double_value(&[]),
        })
    }

    /// The partition of pass `epoch` of round `step`.
    pub(super) fn partition(&self, texts: &[EncodedText], step: u64, epoch: u32, ctx: &RunContext<'_>) -> Partition {
        let order = epoch_order(texts.len(), ctx.seed.child("minibatches", step), u64::from(epoch));
        let micro = self.config.passes.micro_batching(self.policy.device());
        let groups = |rows: &[usize]| micro.groups_of(rows, |row| std::slice::from_ref(&texts[row]));
        order.chunks(self.config.batch_size).map(groups).collect()
    }

    /// The prompts of the draws `first..first + rollout_size`: shuffled passes over all prompts, one after the other.
    fn draw(&self, first: u64, ctx: &RunContext<'_>) -> Vec<usize> {
        let n = self.prompts.len();
        let mut orders: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
        let pick = |draw: u64| {
            let (epoch, place) = (draw / n as u64, (draw % n as u64) as usize);
            orders.entry(epoch).or_insert_with(|| epoch_order(n, ctx.seed.child("prompts", 0), epoch))[place]
        };
        (first..first + self.config.rollout_size as u64).map(pick).collect()
    }

    /// Log-probabilities, values and entropies of all response tokens, flat, in the order of `texts`. Computed in the very
    /// micro-batches of the first pass, so that the probability ratio of the first optimiser step is exactly 1.
    fn measure(&self, texts: &[EncodedText], step: u64, ctx: &RunContext<'_>) -> Result<Measured> {
        let mut rows_of: [Vec<Tensor>; 4] = std::array::from_fn(|_| (0..texts.len()).map(|_| Tensor::new()).collect());
        for rows in self.partition(texts, step, 0, ctx).into_iter().flatten() {
            let batch = self.batch_of(texts, &rows)?;
            let (log_probs, entropies) = selected_log_probs_no_grad_at(self.policy, &batch, self.config.temperature);
            let (reference, _) = selected_log_probs_no_grad_at(self.reference, &batch, self.config.temperature);
            let values = no_grad(|| self.value.response_values(&batch));
            let sizes: Vec<i64> = batch.response_lengths().into_iter().map(|length| length as i64).collect();
            for (columns, flat) in rows_of.iter_mut().zip([log_probs, reference, values, entropies]) {
                for (&row, part) in rows.iter().zip(flat.to_device(tch::Device::Cpu).split_with_sizes(&sizes, 0)) {
                    columns[row] = part;
                }
            }
        }
        let [log_probs, reference_log_probs, values, entropies] = rows_of.map(|columns| Tensor::cat(&columns, 0));
        let measured = Measured { log_probs, reference_log_probs, values, entropies };
        for (what, numbers) in [
            ("log-probability", &measured.log_probs),
            ("reference log-probability", &measured.reference_log_probs),
            ("value", &measured.values),
        ] {
            if numbers.isfinite().all().int64_value(&[]) == 0 {
                return Err(Error::non_finite(format!("a {what} of the responses of step {step} is not finite"))
                    .with_hint("lower `optim.lr` or `value_optim.lr`"));
            }
        }
        Ok(measured)
    }

    /// Some texts as one batch on the policy's device.
    pub(super) fn batch_of(&self, texts: &[EncodedText], rows: &[usize]) -> Result<TokenBatch> {
        let texts: Vec<&EncodedText> = rows.iter().map(|&row| &texts[row]).collect();
        TokenBatch::new(&texts, self.config.passes.layout, self.policy.device())
    }
}

/// Flat `[tokens]` numbers of all responses, on the CPU, without gradient.
struct Measured {
    log_probs: Tensor,
    reference_log_probs: Tensor,
    values: Tensor,
    entropies: Tensor,
}
