//! Imitates the better answer of each preference pair, the more the surer the judge was. Put your method in its place.
//!
//! Say here what the method does, cite the paper, and give the equation as the code computes it. This one minimises
//! `−(1/N) Σ w log π(y_w | x)` over the N pairs of an optimiser step, with `w = 2 p − 1` where the judge gave a probability p
//! that the chosen answer is better, and `w = 1` where it only said which.

use farmhand_core::types::PreferencePair;
use farmhand_core::{
    BuildContext, Checkpoint, FeedbackKind, Learner, LearnerConfig, LearnerInputs, Problem, Requirements, Result, RunContext,
    Seed, register,
};
use farmhand_models::{Ending, save_checkpoint, selected_log_probs, sequence_sums};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::training::{Ranges, Record, Task, TrainOptions, Training, admit, record_batch, shuffled_steps, start_training};

register! {
    kind: Learner, name: "template_learner", config: TemplateLearnerConfig,
    summary: "imitation of chosen answers, weighted by how sure the judge was",
    // paper: "https://arxiv.org/abs/…",
}

/// Options of `[learner.template_learner]`. These comments are the user's documentation: say unit and range.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub(crate) struct TemplateLearnerConfig {
    /// How much the judge's certainty counts, ≥ 0: the weight is `w^certainty`; 0 imitates every chosen answer alike.
    pub certainty: f64,
    /// Records are pairs.
    #[serde(flatten)]
    pub train: TrainOptions,
}

impl Default for TemplateLearnerConfig {
    fn default() -> Self {
        Self { certainty: 1.0, train: TrainOptions::default() }
    }
}

#[typetag::serde(name = "template_learner")]
impl LearnerConfig for TemplateLearnerConfig {
    fn build(&self, _: &BuildContext<'_>) -> Result<Box<dyn Learner>> {
        Ok(Box::new(TemplateLearner(self.clone())))
    }

    fn problems(&self) -> Vec<Problem> {
        Ranges::new().not_negative("certainty", self.certainty).train(&self.train, Self::default().train.batch_size).problems()
    }
}

struct TemplateLearner(TemplateLearnerConfig);

impl Learner for TemplateLearner {
    fn requires(&self) -> Requirements {
        Requirements::policy_from(FeedbackKind::Preferences)
    }

    fn learn(&mut self, inputs: LearnerInputs<'_>, ctx: &RunContext<'_>) -> Result<Checkpoint> {
        let Self(config) = self;
        let passes = &config.train.passes;
        let (codec, policy) = passes.load(inputs.init, ctx)?;
        let policy = start_training(policy, passes, inputs.init, ctx.seed.child("lora", 0))?;

        let pairs = inputs.feedback.preferences()?;
        let limit = config.train.token_limit(policy.config().max_positions());
        let records = admit(pairs, "preference pairs", limit, true, ctx, |pair: &PreferencePair| {
            Ok(Record::new(&pair.instruction.id, [codec.encode(&pair.instruction, &pair.chosen, Ending::WithEos)?]))
        })?;

        // Adds the gradient of the picked pairs' loss to the policy and gives back the loss.
        let accumulate = |picked: &[usize], seed: Seed| -> Result<f64> {
            let mut total = Tensor::zeros([], (Kind::Double, policy.device()));
            for rows in passes.micro_batching(policy.device()).groups(&records, picked) {
                let weights: Vec<f64> = rows.iter().map(|&i| weight(&pairs[records[i].index]).powf(config.certainty)).collect();
                let batch = record_batch(&records, &rows, passes.layout, policy.device(), Some(seed))?;
                let selected = selected_log_probs(&policy, &batch);
                let loss = weighted_loss(&sequence_sums(&selected.values, &batch), &weights, picked.len());
                total += loss.detach();
                selected.backward(&loss);
            }
            Ok(total.double_value(&[]))
        };

        let task = Task { learner: "template_learner", role: "policy", doing: "template_learner", records: "preference pairs" };
        let plan = shuffled_steps(&records, &config.train, ctx);
        let dry_run = |rows: &[usize]| accumulate(rows, ctx.seed).map(drop);
        let mut training = Training::start(task, &policy, policy.trained(), &records, plan, &config.train, ctx, dry_run)?
            .keeping(&policy, &codec)?;
        while let Some(step) = training.next_step()? {
            let loss = accumulate(&step.picked, step.seed)?;
            training.apply(&step, loss)?;
        }
        save_checkpoint(&policy, &codec, "template_learner", ctx)
    }
}

/// How much a pair counts, in (0, 1].
fn weight(pair: &PreferencePair) -> f64 {
    pair.p_chosen.map_or(1.0, |p| 2.0 * p - 1.0)
}

/// A micro-batch's part of the step's loss: `log_probs` `[pairs]` of whole answers, in nats, `n_pairs` in the whole step.
fn weighted_loss(log_probs: &Tensor, weights: &[f64], n_pairs: usize) -> Tensor {
    let weights = Tensor::from_slice(weights).to_kind(log_probs.kind()).to_device(log_probs.device());
    -(log_probs * weights).sum(Kind::Float) / n_pairs as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loss_matches_hand_calculation_however_it_is_split() {
        // (1 · 2.0 + 0.5 · 3.0) / 2 = 1.75
        let whole = weighted_loss(&Tensor::from_slice(&[-2.0f32, -3.0]), &[1.0, 0.5], 2);
        assert!((whole.double_value(&[]) - 1.75).abs() < 1e-6);
        let parts = [(-2.0f32, 1.0), (-3.0, 0.5)]
            .map(|(log_prob, weight)| weighted_loss(&Tensor::from_slice(&[log_prob]), &[weight], 2).double_value(&[]));
        assert!((parts.iter().sum::<f64>() - 1.75).abs() < 1e-6);
    }
}
