//! Filtered maximum likelihood: fine-tuning on those of some scored answers whose score is high enough.
//!
//! The baseline of offline reinforcement learning for language models (Hu et al. 2023, <https://arxiv.org/abs/2308.12050>):
//! `−log π(y_t | x, y_<t)` over the answers with `r > τ`. The paper gives no τ. Reward models have no fixed scale, so by default τ
//! is a number of standard deviations above the mean of the pool.

use farmhand_core::types::ScoredCompletion;
use farmhand_core::{
    BuildContext, Checkpoint, Error, FeedbackKind, Learner, LearnerConfig, LearnerInputs, Problem, Requirements, Result,
    RunContext, register,
};
use farmhand_models::OptimConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::rl::reduction::Reduction;
use crate::rl::selection::{above, best, z_scores};
use crate::training::{FineTuning, Imitated, Ranges, Task, TrainOptions, scores_of};

register! {
    kind: Learner, name: "filtered_mle", config: FilteredMleConfig,
    summary: "supervised fine-tuning on answers that score above a threshold", paper: "https://arxiv.org/abs/2308.12050",
}

/// Options of `[learner.filtered_mle]`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub struct FilteredMleConfig {
    /// The score τ that an answer must exceed.
    pub threshold: f64,
    /// τ counts standard deviations (unbiased) from the mean score of all answers, instead of points on the scores' own scale.
    pub standardise: bool,
    /// How token losses become one number per step.
    pub reduction: Reduction,
    /// Records are the answers that were kept. The paper's steps take 128 of them, once.
    #[serde(flatten)]
    pub train: TrainOptions,
}

impl Default for FilteredMleConfig {
    fn default() -> Self {
        let optim = OptimConfig { lr: 5e-6, ..OptimConfig::default() };
        let train = TrainOptions { optim, ..TrainOptions::default() };
        Self { threshold: 0.0, standardise: true, reduction: Reduction::TokenMean, train }
    }
}

#[typetag::serde(name = "filtered_mle")]
impl LearnerConfig for FilteredMleConfig {
    fn build(&self, _: &BuildContext<'_>) -> Result<Box<dyn Learner>> {
        Ok(Box::new(FilteredMle(self.clone())))
    }

    fn problems(&self) -> Vec<Problem> {
        Ranges::new()
            .require("threshold", self.threshold.is_finite(), "a number", self.threshold)
            .train(&self.train, Self::default().train.batch_size)
            .problems()
    }
}

struct FilteredMle(FilteredMleConfig);

impl Learner for FilteredMle {
    fn requires(&self) -> Requirements {
        Requirements::policy_from(FeedbackKind::Scored)
    }

    fn learn(&mut self, inputs: LearnerInputs<'_>, ctx: &RunContext<'_>) -> Result<Checkpoint> {
        let Self(config) = self;
        let pool = inputs.feedback.scored()?;
        let answers = kept(pool, config)?;
        ctx.scalar("filtered_mle/kept", 0, answers.len() as f64 / pool.len() as f64);
        let held_out = match inputs.validation.map(|feedback| feedback.scored()).transpose()? {
            Some(pool) if !pool.is_empty() => kept(pool, config)?,
            _ => Vec::new(),
        };
        let task =
            Task { learner: "filtered_mle", role: "policy", doing: "fine-tuning on kept answers", records: "kept answers" };
        let tuning = FineTuning { task, init: inputs.init, train: &config.train, reduction: config.reduction, rounds: None };
        tuning.learn(&answers, &held_out, ctx)
    }
}

/// The answers above the threshold.
fn kept(pool: &[ScoredCompletion], config: &FilteredMleConfig) -> Result<Vec<Imitated>> {
    let mut scores = scores_of(pool);
    if config.standardise {
        scores = z_scores(&scores).ok_or_else(|| {
            Error::invalid_data(format!("all {} answers have the same score: none is above the mean", scores.len())).with_hint(
                "set `standardise = false` and a `threshold` on the scores' own scale, or score with another reward model",
            )
        })?;
    }
    let kept = above(&scores, config.threshold);
    if let (true, Some(highest)) = (kept.is_empty(), best(&scores)) {
        let (n, threshold) = (scores.len(), config.threshold);
        let unit = if config.standardise { " standard deviations above the mean" } else { "" };
        let message = format!("none of {n} answers scores more than {threshold}{unit}, the highest is {:.4}", scores[highest]);
        return Err(Error::invalid_data(message).with_hint("lower `threshold`"));
    }
    Ok(kept.into_iter().map(|i| Imitated::sampled(&pool[i].completion)).collect())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use farmhand_core::{Device, Feedback, NoEvents, RecordedEvents};

    use super::*;
    use crate::testing::{Stage, assert_resumes_exactly, fast_optim, likelihood, scored, small_lora, tiny_checkpoint};

    fn config() -> FilteredMleConfig {
        let train = TrainOptions { epochs: 10, batch_size: 2, save_every: 5, optim: fast_optim(2e-2), ..TrainOptions::default() };
        FilteredMleConfig { train, ..FilteredMleConfig::default() }
    }

    fn learn(
        config: &FilteredMleConfig,
        pool: &[ScoredCompletion],
        init: &Checkpoint,
        ctx: &RunContext<'_>,
    ) -> Result<Checkpoint> {
        let feedback = Feedback::Scored(pool);
        let validation = Some(feedback);
        let inputs = LearnerInputs {
            init,
            reference: None,
            feedback,
            validation,
            reward_model: None,
            annotator: None,
            models: &farmhand_core::FoldersOnly,
        };
        config.build(&BuildContext::new(Device::Cpu, Path::new(".")))?.learn(inputs, ctx)
    }

    #[test]
    fn answers_above_the_threshold_become_likely_and_others_do_not() {
        let (stage, events) = (Stage::new(), RecordedEvents::default());
        let pool = scored(&[2.0, -1.0, 1.5, -0.5, 1.0, -2.0]);
        let learned = learn(&config(), &pool, &tiny_checkpoint(&stage), &stage.context(&events)).expect("learned");
        let mean = |good: bool| {
            let side = pool.iter().filter(|answer| (answer.score > 0.5) == good).map(|answer| &answer.completion);
            side.map(|answer| likelihood(&learned, &answer.instruction, &answer.output)).sum::<f64>() / 3.0
        };
        assert!(mean(true) > mean(false) + 5.0, "{} {}", mean(true), mean(false));
        assert_eq!(events.scalars("filtered_mle/kept"), [(0, 0.5)]);
        assert_eq!(events.scalars("filtered_mle/validation_loss").len(), 10);
    }

    #[test]
    fn the_threshold_is_exclusive_and_empty_selections_say_why() {
        let pool = scored(&[1.0, 0.2, -0.5]);
        let n_kept = |threshold, standardise, pool: &[ScoredCompletion]| {
            kept(pool, &FilteredMleConfig { threshold, standardise, ..config() }).map(|kept| kept.len())
        };
        // The mean is 0.2333.
        assert_eq!((n_kept(0.0, true, &pool).ok(), n_kept(0.0, false, &pool).ok()), (Some(1), Some(2)));
        assert_eq!(n_kept(0.2, false, &pool).ok(), Some(1));
        let error = n_kept(2.0, true, &pool).expect_err("none");
        assert!(
            error
                .message()
                .contains("none of 3 answers scores more than 2 standard deviations above the mean, the highest is 1.02"),
            "{error}"
        );
        let constant = scored(&[0.1; 3]);
        assert!(n_kept(0.0, true, &constant).expect_err("none").message().contains("all 3 answers have the same score"));
        assert_eq!(n_kept(0.0, false, &constant).ok(), Some(3));
        let stage = Stage::new();
        assert!(learn(&config(), &[], &tiny_checkpoint(&stage), &stage.context(&NoEvents)).is_err());
    }

    #[test]
    fn a_stopped_or_killed_run_continues_to_the_same_bytes_also_with_an_adapter() {
        let base = Stage::new();
        let init = tiny_checkpoint(&base);
        let pool = scored(&[2.0, -1.0, 1.5, -0.5, 1.0, -2.0]);
        let mut with_lora = config();
        with_lora.train.passes.lora = Some(small_lora());
        for config in [config(), with_lora] {
            assert_resumes_exactly("filtered_mle/loss", 12, |ctx| learn(&config, &pool, &init, ctx));
        }
    }
}
