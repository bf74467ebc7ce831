//! Decision transformer: imitate scored answers, each behind a line with its score, and ask for a high one.
//!
//! Chen et al. 2021, <https://arxiv.org/abs/2106.01345>; for language models the best of the offline methods of Hu et al. 2023,
//! <https://arxiv.org/abs/2308.12050>. `−log π(y_t | z, x, y_<t)` over all answers, good and bad; z is the answer's score in standard
//! deviations (unbiased) from the mean of the pool, as text with two decimals, in the first line of the instruction
//! ([`crate::training::Controls`]), never trained on. Asked for answers, the model is given a score beyond those it has seen, 5.00
//! (policy `conditioned`); asking for much more than it has seen may make answers worse, so try some values.
//!
//! The authors write the score behind the instruction (`{input} <rm_score>: {z:.2f} `); here it stands in front, as all controls do.

use farmhand_core::types::ScoredCompletion;
use farmhand_core::{
    BuildContext, Checkpoint, Error, FeedbackKind, Learner, LearnerConfig, LearnerInputs, Problem, Requirements, Result,
    RunContext, register,
};
use farmhand_models::OptimConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::rl::reduction::Reduction;
use crate::rl::selection::{all_equal, mean_and_std};
use crate::training::{Controls, FineTuning, Imitated, Ranges, Task, TrainOptions, scores_of};

register! {
    kind: Learner, name: "decision_transformer", config: DecisionTransformerConfig,
    summary: "imitation of scored answers behind their score, to ask for a high one", paper: "https://arxiv.org/abs/2308.12050",
}

/// Options of `[learner.decision_transformer]`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub struct DecisionTransformerConfig {
    /// The first line of a conditioned instruction, with `{}` in the place of the score.
    pub control: String,
    /// The score that the policy `conditioned` asks for unless it is told another, in standard deviations above the mean.
    pub ask: f64,
    /// How token losses become one number per step.
    pub reduction: Reduction,
    /// Records are scored answers. The paper's steps take 128 of them, once.
    #[serde(flatten)]
    pub train: TrainOptions,
}

impl Default for DecisionTransformerConfig {
    fn default() -> Self {
        let optim = OptimConfig { lr: 5e-6, ..OptimConfig::default() };
        Self {
            control: "Score of the answer: {}".to_owned(),
            ask: 5.0,
            reduction: Reduction::TokenMean,
            train: TrainOptions { optim, ..TrainOptions::default() },
        }
    }
}

#[typetag::serde(name = "decision_transformer")]
impl LearnerConfig for DecisionTransformerConfig {
    fn build(&self, _: &BuildContext<'_>) -> Result<Box<dyn Learner>> {
        Ok(Box::new(DecisionTransformer(self.clone())))
    }

    fn problems(&self) -> Vec<Problem> {
        Ranges::new()
            .control_line("control", &self.control)
            .require("ask", self.ask.is_finite(), "a number", self.ask)
            .train(&self.train, Self::default().train.batch_size)
            .problems()
    }
}

struct DecisionTransformer(DecisionTransformerConfig);

/// How a score is written, the same in training and in asking.
fn written(score: f64) -> String {
    format!("{score:.2}")
}

impl Learner for DecisionTransformer {
    fn requires(&self) -> Requirements {
        Requirements::policy_from(FeedbackKind::Scored)
    }

    fn learn(&mut self, inputs: LearnerInputs<'_>, ctx: &RunContext<'_>) -> Result<Checkpoint> {
        let Self(config) = self;
        let controls = Controls::open(&config.control, written(config.ask));
        let pool = inputs.feedback.scored()?;
        let scale = Scale::of(pool)?;
        let answers = scale.conditioned(pool, &controls);
        let held_out = match inputs.validation.map(|feedback| feedback.scored()).transpose()? {
            Some(answers) => scale.conditioned(answers, &controls),
            None => Vec::new(),
        };
        let task = Task {
            learner: "decision_transformer",
            role: "policy",
            doing: "fine-tuning behind scores",
            records: "scored answers",
        };
        let tuning = FineTuning { task, init: inputs.init, train: &config.train, reduction: config.reduction, rounds: None };
        let checkpoint = tuning.learn(&answers, &held_out, ctx)?;
        controls.save(ctx)?;
        Ok(checkpoint)
    }
}

/// The mean and the standard deviation of a pool's scores.
struct Scale {
    mean: f64,
    std: f64,
}

impl Scale {
    fn of(pool: &[ScoredCompletion]) -> Result<Self> {
        let scores = scores_of(pool);
        if pool.len() > 1 && !all_equal(&scores) {
            let (mean, std) = mean_and_std(&scores);
            return Ok(Self { mean, std });
        }
        let message = format!("all {} answers have the same score: there is nothing to condition on", pool.len());
        Err(Error::invalid_data(message).with_hint("score the answers with a reward model that tells them apart"))
    }

    fn conditioned(&self, answers: &[ScoredCompletion], controls: &Controls) -> Vec<Imitated> {
        let conditioned = |answer: &ScoredCompletion| {
            let z = (answer.score - self.mean) / self.std;
            let instruction = controls.apply(&answer.completion.instruction, &written(z));
            Imitated { instruction, ..Imitated::sampled(&answer.completion) }
        };
        answers.iter().map(conditioned).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use farmhand_core::{Device, Feedback, RecordedEvents};

    use super::*;
    use crate::testing::{
        Stage, assert_resumes_exactly, fast_optim, instructions, likelihood, scored, small_lora, tiny_checkpoint,
    };

    fn config() -> DecisionTransformerConfig {
        let train = TrainOptions { epochs: 20, batch_size: 4, save_every: 5, optim: fast_optim(2e-2), ..TrainOptions::default() };
        DecisionTransformerConfig { control: "{}".into(), train, ..DecisionTransformerConfig::default() }
    }

    fn learn(
        config: &DecisionTransformerConfig,
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
    fn scores_are_written_with_two_decimals_in_deviations_from_the_mean() {
        let pool = scored(&[1.0, 0.2, -0.5]);
        let controls = Controls::open("Score: {}", written(5.0));
        assert_eq!(controls.best(), "5.00");
        let answers = Scale::of(&pool).expect("a spread").conditioned(&pool, &controls);
        let lines: Vec<&str> = answers.iter().filter_map(|answer| answer.instruction.instruction.lines().next()).collect();
        assert_eq!(lines, ["Score: 1.02", "Score: -0.04", "Score: -0.98"]);
    }

    #[test]
    fn asking_for_a_higher_score_gives_the_better_answer() {
        let (stage, events) = (Stage::new(), RecordedEvents::default());
        let mut pool = scored(&(0..16).map(|i| f64::from(i % 2)).collect::<Vec<_>>());
        // A good and a bad answer to each of eight questions.
        let questions = instructions(8);
        for (i, answer) in pool.iter_mut().enumerate() {
            answer.completion.instruction = questions[i / 2].clone();
            answer.completion.output = if answer.score > 0.5 { "good" } else { "bad" }.to_owned();
        }
        let mut config = config();
        (config.train.epochs, config.train.batch_size, config.train.optim) = (120, 8, fast_optim(3e-2));
        let learned = learn(&config, &pool, &tiny_checkpoint(&stage), &stage.context(&events)).expect("learned");
        let controls = Controls::load(learned.path()).expect("saved");
        assert_eq!((controls.best(), controls.values()), ("5.00", &[][..]));
        let margin = |value: &str| {
            let instruction = controls.apply(&pool[3].completion.instruction, value);
            likelihood(&learned, &instruction, "good") - likelihood(&learned, &instruction, "bad")
        };
        // Scores 1 and 0 of as many answers each are ±0.97 deviations from their mean.
        assert!(margin("0.97") > 2.0 && margin("-0.97") < -2.0, "{} {}", margin("0.97"), margin("-0.97"));
        assert_eq!(events.scalars("decision_transformer/validation_loss").len(), 120);
    }

    #[test]
    fn a_pool_without_a_spread_and_options_out_of_range_are_refused() {
        for pool in [scored(&[0.1; 3]), scored(&[4.0])] {
            let (stage, events) = (Stage::new(), RecordedEvents::default());
            let error = learn(&config(), &pool, &tiny_checkpoint(&stage), &stage.context(&events)).expect_err("constant");
            assert!(error.message().contains("the same score: there is nothing to condition on"), "{error}");
        }
        let wrong = DecisionTransformerConfig { control: "score".into(), ask: f64::NAN, ..config() };
        let paths: Vec<String> = wrong.problems().into_iter().map(|problem| problem.path).collect();
        assert_eq!(paths, ["control", "ask"]);
    }

    #[test]
    fn a_stopped_or_killed_run_continues_to_the_same_bytes_also_with_an_adapter() {
        let base = Stage::new();
        let init = tiny_checkpoint(&base);
        let pool = scored(&[2.0, -1.0, 1.5, -0.5, 1.0, -2.0, 0.0, 0.3]);
        let mut with_lora = config();
        with_lora.train.passes.lora = Some(small_lora());
        for config in [config(), with_lora] {
            assert_resumes_exactly("decision_transformer/loss", 12, |ctx| learn(&config, &pool, &init, ctx));
        }
    }
}
