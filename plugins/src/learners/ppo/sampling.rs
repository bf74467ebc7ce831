//! One round of experience: sample, score, measure.

use std::time::Instant;

use farmhand_core::{Result, RewardModel, RunContext};
use farmhand_models::{LanguageModel, ScalarModel, selected_log_probs_no_grad_at};
use tch::{Kind, Tensor};

use super::PpoConfig;
use super::pretraining::PretrainingTexts;
use crate::rl::rollout::{RolloutBatch, padded};
use crate::training::{Partition, Record, Sampler};

/// What a round samples from and asks.
#[derive(Clone, Copy)]
pub(super) struct Actors<'a> {
    pub(super) config: &'a PpoConfig,
    pub(super) sampler: Sampler<'a>,
    pub(super) reference: &'a LanguageModel,
    pub(super) value: &'a ScalarModel,
    pub(super) pretraining: Option<&'a PretrainingTexts>,
}

/// A round's responses: texts for the update, numbers for the losses, and what to tell.
pub(super) struct Round {
    /// Prompt and response of each rollout, in the order they were drawn.
    pub(super) records: Vec<Record>,
    pub(super) batch: RolloutBatch,
    /// The value model's prediction at the position that predicts each token, `[rollouts, tokens]`.
    pub(super) values: Tensor,
    /// The reward model's score of each response after penalties, `[rollouts]`.
    pub(super) scores: Tensor,
    /// Seconds that sampling and scoring took.
    pub(super) rollout_secs: f64,
    pub(super) score_secs: f64,
    /// Mean score before penalties.
    pub(super) mean_score: f64,
    /// Share of responses with their end-of-sequence token.
    pub(super) ended: f64,
    /// Mean entropy of the distributions tokens were drawn from, in nats.
    pub(super) entropy: f64,
}

impl Actors<'_> {
    /// Round `step`: responses drawn from the policy with their scores, log-probabilities and values.
    pub(super) fn roll_out(&self, step: u64, reward_model: &mut dyn RewardModel, ctx: &RunContext<'_>) -> Result<Round> {
        let Self { config, sampler, .. } = self;
        let n = config.rollout_size;
        let sampled = sampler.sample(step * n as u64, n, ctx)?;
        let started = Instant::now();
        let scores = sampler.score(&sampled, reward_model, ctx)?;
        let lengths = sampled.lengths();
        let (ended, rollout_secs) = (sampled.ended_share(), sampled.secs);

        let names = ["log-probability", "reference log-probability", "value", "entropy"];
        let first_pass = self.partition(&sampled.records, step, 0, ctx);
        let [log_probs, reference, values, entropies] = sampler.measure(&sampled.records, &first_pass, names, |batch| {
            let (log_probs, entropies) = selected_log_probs_no_grad_at(sampler.policy, batch, config.temperature);
            let (reference, _) = selected_log_probs_no_grad_at(self.reference, batch, config.temperature);
            [log_probs, reference, self.value.response_values(batch), entropies]
        })?;
        let batch = RolloutBatch::new(config.width(&lengths), lengths, &log_probs, &reference);
        Ok(Round {
            values: padded(&values, &batch.mask),
            batch,
            records: sampled.records,
            scores: Tensor::from_slice(&scores.rewards).to_kind(Kind::Float),
            rollout_secs,
            score_secs: started.elapsed().as_secs_f64(),
            mean_score: scores.mean(),
            ended,
            entropy: entropies.mean(Kind::Double).double_value(&[]),
        })
    }

    /// The partition of pass `epoch` of round `step`.
    pub(super) fn partition(&self, records: &[Record], step: u64, epoch: u32, ctx: &RunContext<'_>) -> Partition {
        self.sampler.partition(records, self.config.batch_size, step, epoch, ctx)
    }
}
