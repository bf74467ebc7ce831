//! FeedME: supervised fine-tuning on the answers that people liked.
//!
//! The likelihood loss of fine-tuning, `−log π(y_t | x, y_<t)`, on a selection of answers. Two ways to select: the preferred answer
//! of each pair, which is AlpacaFarm's binary FeedME (Dubois et al. 2023, <https://arxiv.org/abs/2305.14387>, section 4.2), or every
//! answer with a rating of τ or more, which is OpenAI's (its model index names demonstrations and "model samples rated 7/7 by
//! human labelers"). A pair that says how sure the judge was counts like any other.

use farmhand_core::{
    BuildContext, Checkpoint, Error, Feedback, FeedbackKind, Learner, LearnerConfig, LearnerInputs, Problem, Requirements,
    Result, RunContext, register,
};
use farmhand_models::OptimConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::rl::reduction::Reduction;
use crate::rl::selection::{at_least, best};
use crate::training::{FineTuning, Imitated, Ranges, Task, TrainOptions, scores_of};

register! {
    kind: Learner, name: "feedme", config: FeedmeConfig,
    summary: "supervised fine-tuning on preferred or highly rated answers", paper: "https://arxiv.org/abs/2305.14387",
    presets: {
        "alpaca_farm": "AlpacaFarm's binary FeedME" => FeedmeConfig::alpaca_farm(),
        "open_ai": "OpenAI's filter by ratings from 1 to 7" => FeedmeConfig::open_ai(),
    },
}

/// Options of `[learner.feedme]`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub struct FeedmeConfig {
    /// Which answers are imitated; decides what the method learns from.
    pub keep: Keep,
    /// How token losses become one number per step.
    pub reduction: Reduction,
    /// Records are the answers that were kept. AlpacaFarm's steps take 128 of them.
    #[serde(flatten)]
    pub train: TrainOptions,
}

/// Which answers are imitated.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Keep {
    /// The preferred answer of each preference pair.
    #[default]
    Winners,
    /// Scored answers with a high score.
    Rated {
        /// The lowest score that is kept, on the raters' scale.
        threshold: f64,
    },
}

impl Default for FeedmeConfig {
    fn default() -> Self {
        let optim = OptimConfig { lr: 2e-5, ..OptimConfig::default() };
        let train = TrainOptions { epochs: 3, validate_every: 200, optim, ..TrainOptions::default() };
        Self { keep: Keep::Winners, reduction: Reduction::TokenMean, train }
    }
}

impl FeedmeConfig {
    /// AlpacaFarm's: winners, with its recipe of supervised fine-tuning.
    pub fn alpaca_farm() -> Self {
        let defaults = Self::default();
        Self { train: TrainOptions { batch_size: 128, ..defaults.train }, ..defaults }
    }

    /// OpenAI's: answers rated 7 of 7.
    pub fn open_ai() -> Self {
        Self { keep: Keep::Rated { threshold: 7.0 }, ..Self::default() }
    }
}

#[typetag::serde(name = "feedme")]
impl LearnerConfig for FeedmeConfig {
    fn build(&self, _: &BuildContext<'_>) -> Result<Box<dyn Learner>> {
        Ok(Box::new(Feedme(self.clone())))
    }

    fn problems(&self) -> Vec<Problem> {
        let threshold = match self.keep {
            Keep::Winners => 0.0,
            Keep::Rated { threshold } => threshold,
        };
        Ranges::new()
            .require("keep.rated.threshold", threshold.is_finite(), "a number", threshold)
            .train(&self.train, Self::default().train.batch_size)
            .problems()
    }
}

struct Feedme(FeedmeConfig);

impl Learner for Feedme {
    fn requires(&self) -> Requirements {
        Requirements::policy_from(match self.0.keep {
            Keep::Winners => FeedbackKind::Preferences,
            Keep::Rated { .. } => FeedbackKind::Scored,
        })
    }

    fn learn(&mut self, inputs: LearnerInputs<'_>, ctx: &RunContext<'_>) -> Result<Checkpoint> {
        let Self(config) = self;
        let answers = kept(inputs.feedback, config.keep)?;
        ctx.scalar("feedme/kept", 0, answers.len() as f64 / inputs.feedback.len() as f64);
        let held_out = match inputs.validation {
            Some(feedback) if !feedback.is_empty() => kept(feedback, config.keep)?,
            _ => Vec::new(),
        };
        let task = Task { learner: "feedme", role: "policy", doing: "fine-tuning on kept answers", records: "kept answers" };
        let tuning = FineTuning { task, init: inputs.init, train: &config.train, reduction: config.reduction, rounds: None };
        tuning.learn(&answers, &held_out, ctx)
    }
}

/// The answers to imitate.
fn kept(feedback: Feedback<'_>, keep: Keep) -> Result<Vec<Imitated>> {
    match keep {
        Keep::Winners => {
            Ok(feedback.preferences()?.iter().map(|pair| Imitated::whole(&pair.instruction, &pair.chosen)).collect())
        }
        Keep::Rated { threshold } => {
            let answers = feedback.scored()?;
            let scores = scores_of(answers);
            let kept = at_least(&scores, threshold);
            if let (true, Some(highest)) = (kept.is_empty(), best(&scores)) {
                let highest = scores[highest];
                let message = format!("none of {} answers scores {threshold} or more, the highest is {highest}", scores.len());
                return Err(Error::invalid_data(message).with_hint("lower `keep.rated.threshold`"));
            }
            Ok(kept.into_iter().map(|i| Imitated::sampled(&answers[i].completion)).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use farmhand_core::types::PreferencePair;
    use farmhand_core::{Device, RecordedEvents};

    use super::*;
    use crate::testing::{Stage, assert_resumes_exactly, fast_optim, likelihood, pairs, scored, small_lora, tiny_checkpoint};

    fn config(keep: Keep) -> FeedmeConfig {
        let train = TrainOptions { epochs: 10, batch_size: 4, save_every: 5, optim: fast_optim(2e-2), ..TrainOptions::default() };
        FeedmeConfig { keep, train, ..FeedmeConfig::default() }
    }

    fn learn(config: &FeedmeConfig, feedback: Feedback<'_>, init: &Checkpoint, ctx: &RunContext<'_>) -> Result<Checkpoint> {
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
    fn winners_become_likely_and_losers_do_not_count() {
        let (stage, events) = (Stage::new(), RecordedEvents::default());
        let init = tiny_checkpoint(&stage);
        let pairs = pairs(8);
        let learned = learn(&config(Keep::Winners), Feedback::Preferences(&pairs), &init, &stage.context(&events));
        let learned = learned.expect("learned");
        let mean = |side: fn(&PreferencePair) -> &str| {
            pairs.iter().map(|pair| likelihood(&learned, &pair.instruction, side(pair))).sum::<f64>() / 8.0
        };
        let (chosen, rejected) = (mean(|pair| &pair.chosen), mean(|pair| &pair.rejected));
        let before = pairs.iter().map(|pair| likelihood(&init, &pair.instruction, &pair.chosen)).sum::<f64>() / 8.0;
        assert!(chosen > before + 5.0 && chosen > rejected + 5.0, "{chosen} {rejected} {before}");
        assert_eq!(events.scalars("feedme/kept"), [(0, 1.0)]);
        assert_eq!(events.scalars("feedme/validation_loss").len(), 10);

        // What was rejected leaves no trace.
        let others: Vec<PreferencePair> =
            pairs.iter().map(|pair| PreferencePair { rejected: "the cat sat".into(), ..pair.clone() }).collect();
        let stage = Stage::new();
        let same = learn(&config(Keep::Winners), Feedback::Preferences(&others), &init, &stage.context(&events));
        let weights = |checkpoint: &Checkpoint| std::fs::read(checkpoint.path().join("model.safetensors")).expect("read");
        assert_eq!(weights(&same.expect("learned")), weights(&learned));
    }

    #[test]
    fn ratings_at_the_threshold_count_and_too_high_a_threshold_names_the_highest() {
        let answers = scored(&[7.0, 6.9, 3.0, 7.0]);
        let kept = |threshold| kept(Feedback::Scored(&answers), Keep::Rated { threshold });
        assert_eq!(
            kept(7.0).expect("two").iter().map(|answer| &answer.output).collect::<Vec<_>>(),
            [&answers[0].completion.output, &answers[3].completion.output]
        );
        let error = kept(8.0).expect_err("none");
        assert!(error.message().contains("none of 4 answers scores 8 or more, the highest is 7"), "{error}");

        let (stage, events) = (Stage::new(), RecordedEvents::default());
        let init = tiny_checkpoint(&stage);
        let config = config(Keep::Rated { threshold: 7.0 });
        learn(&config, Feedback::Scored(&answers), &init, &stage.context(&events)).expect("learned");
        assert_eq!(events.scalars("feedme/kept"), [(0, 0.5)]);
        assert!(learn(&config, Feedback::Preferences(&pairs(2)), &init, &stage.context(&events)).is_err());
    }

    #[test]
    fn what_it_learns_from_follows_the_choice_and_the_preset() {
        let requires = |config: &FeedmeConfig| {
            config.build(&BuildContext::new(Device::Cpu, Path::new("."))).expect("built").requires().feedback
        };
        assert_eq!(requires(&FeedmeConfig::default()), FeedbackKind::Preferences);
        assert_eq!(requires(&FeedmeConfig::open_ai()), FeedbackKind::Scored);
        assert_eq!(requires(&FeedmeConfig::alpaca_farm()), FeedbackKind::Preferences);
        let wrong = config(Keep::Rated { threshold: f64::NAN });
        assert_eq!(wrong.problems()[0].path, "keep.rated.threshold");
    }

    #[test]
    fn a_stopped_or_killed_run_continues_to_the_same_bytes_also_with_an_adapter() {
        let base = Stage::new();
        let init = tiny_checkpoint(&base);
        let pairs = pairs(8);
        let mut with_lora = config(Keep::Winners);
        with_lora.train.passes.lora = Some(small_lora());
        for config in [config(Keep::Winners), with_lora] {
            assert_resumes_exactly("feedme/loss", 12, |ctx| learn(&config, Feedback::Preferences(&pairs), &init, ctx));
        }
    }
}
