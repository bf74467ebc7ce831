//! Reward conditioning: imitate good and bad answers alike, each behind a line that says which it is, and ask for good ones.
//!
//! `−log π(y_t | c, x, y_<t)` over all answers, with the control c of the answer's quality as the first line of the instruction
//! ([`crate::training::Controls`]) and therefore never trained on. Binary from preference pairs: the chosen answer is good, the
//! rejected one bad, two records a pair (AlpacaFarm, Dubois et al. 2023, <https://arxiv.org/abs/2305.14387>; conditional training,
//! Korbak et al. 2023, <https://arxiv.org/abs/2302.08582>). In k levels from scored answers: bins of equal size by rank, 0 the best.
//!
//! The policy `conditioned` asks the model for good answers. Without a control the model answers as its mixture of good and bad ones
//! taught it; `plain_share` keeps some records without a control for that. The papers add tokens to the vocabulary; here the control
//! is text.

use farmhand_core::types::Instruction;
use farmhand_core::{
    BuildContext, Checkpoint, Error, Feedback, FeedbackKind, Learner, LearnerConfig, LearnerInputs, Problem, Requirements,
    Result, RunContext, Seed, register,
};
use farmhand_models::OptimConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::rl::reduction::Reduction;
use crate::rl::selection::{all_equal, quantiles};
use crate::training::{Controls, FineTuning, Imitated, Ranges, Task, TrainOptions, scores_of};

register! {
    kind: Learner, name: "reward_conditioning", config: RewardConditioningConfig,
    summary: "imitation of good and bad answers behind a control that says which", paper: "https://arxiv.org/abs/2302.08582",
    presets: { "alpaca_farm": "AlpacaFarm's binary reward conditioning" => RewardConditioningConfig::alpaca_farm() },
}

/// Options of `[learner.reward_conditioning]`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub struct RewardConditioningConfig {
    /// What tells good answers from bad ones; decides what the method learns from.
    pub levels: Levels,
    /// The first line of a conditioned instruction, with `{}` in the place of the level: `good` and `bad`, or the number of the bin.
    pub control: String,
    /// Share of answers, in [0, 1), that are imitated without a control, so that the model stays useful without. Which ones follows
    /// from the seed and the answer.
    pub plain_share: f64,
    /// How token losses become one number per step.
    pub reduction: Reduction,
    /// Records are answers, two a pair. AlpacaFarm's steps take 128 of them.
    #[serde(flatten)]
    pub train: TrainOptions,
}

/// What tells good answers from bad ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Levels {
    /// Preference pairs: `good` and `bad`.
    #[default]
    Pairs,
    /// Scored answers: bins of equal size, `0` for the best.
    Bins {
        /// Their number, ≥ 2; what is left over goes to the worst.
        n: usize,
    },
}

impl Default for RewardConditioningConfig {
    fn default() -> Self {
        let optim = OptimConfig { lr: 2e-5, ..OptimConfig::default() };
        Self {
            levels: Levels::Pairs,
            control: "Quality of the answer: {}".to_owned(),
            plain_share: 0.0,
            reduction: Reduction::TokenMean,
            train: TrainOptions { epochs: 3, validate_every: 200, optim, ..TrainOptions::default() },
        }
    }
}

impl RewardConditioningConfig {
    /// AlpacaFarm's: binary, with its recipe of supervised fine-tuning.
    pub fn alpaca_farm() -> Self {
        let defaults = Self::default();
        Self { train: TrainOptions { batch_size: 128, ..defaults.train }, ..defaults }
    }
}

#[typetag::serde(name = "reward_conditioning")]
impl LearnerConfig for RewardConditioningConfig {
    fn build(&self, _: &BuildContext<'_>) -> Result<Box<dyn Learner>> {
        Ok(Box::new(RewardConditioning(self.clone())))
    }

    fn problems(&self) -> Vec<Problem> {
        let n = match self.levels {
            Levels::Pairs => 2,
            Levels::Bins { n } => n,
        };
        Ranges::new()
            .require("levels.bins.n", n >= 2, "2 bins or more", n)
            .control_line("control", &self.control)
            .require("plain_share", (0.0..1.0).contains(&self.plain_share), "a number in [0, 1)", self.plain_share)
            .train(&self.train, Self::default().train.batch_size)
            .problems()
    }
}

struct RewardConditioning(RewardConditioningConfig);

impl Learner for RewardConditioning {
    fn requires(&self) -> Requirements {
        Requirements::policy_from(match self.0.levels {
            Levels::Pairs => FeedbackKind::Preferences,
            Levels::Bins { .. } => FeedbackKind::Scored,
        })
    }

    fn learn(&mut self, inputs: LearnerInputs<'_>, ctx: &RunContext<'_>) -> Result<Checkpoint> {
        let Self(config) = self;
        let controls = config.controls();
        let answers = config.conditioned(inputs.feedback, &controls, Some(ctx.seed))?;
        let held_out = match inputs.validation {
            Some(feedback) if !feedback.is_empty() => config.conditioned(feedback, &controls, None)?,
            _ => Vec::new(),
        };
        let task = Task {
            learner: "reward_conditioning",
            role: "policy",
            doing: "fine-tuning behind controls",
            records: "conditioned answers",
        };
        let tuning = FineTuning { task, init: inputs.init, train: &config.train, reduction: config.reduction, rounds: None };
        let checkpoint = tuning.learn(&answers, &held_out, ctx)?;
        controls.save(ctx)?;
        Ok(checkpoint)
    }
}

impl RewardConditioningConfig {
    fn controls(&self) -> Controls {
        let values = match self.levels {
            Levels::Pairs => vec!["good".to_owned(), "bad".to_owned()],
            Levels::Bins { n } => (0..n).map(|bin| bin.to_string()).collect(),
        };
        Controls::of_values(&self.control, values)
    }

    /// The answers with their controls; with a seed, some without.
    fn conditioned(&self, feedback: Feedback<'_>, controls: &Controls, seed: Option<Seed>) -> Result<Vec<Imitated>> {
        let ask = |instruction: &Instruction, output: &str, level: usize| {
            let plain = seed.is_some_and(|seed| {
                let answer = format!("{} {output}", instruction.id);
                seed.child_text("plain", &answer).rng().bernoulli(self.plain_share)
            });
            if plain { instruction.clone() } else { controls.apply(instruction, &controls.values()[level]) }
        };
        match self.levels {
            Levels::Pairs => {
                let sides = feedback.preferences()?.iter().flat_map(|pair| {
                    [(&pair.chosen, 0), (&pair.rejected, 1)].map(|(output, level)| (&pair.instruction, output, level))
                });
                let imitated = |(instruction, output, level): (&Instruction, &String, usize)| {
                    Imitated::whole(&ask(instruction, output, level), output)
                };
                Ok(sides.map(imitated).collect())
            }
            Levels::Bins { n } => {
                let answers = feedback.scored()?;
                let scores = scores_of(answers);
                if all_equal(&scores) && !scores.is_empty() {
                    let message = format!("all {} answers have the same score: there are no levels", scores.len());
                    return Err(
                        Error::invalid_data(message).with_hint("score the answers with a reward model that tells them apart")
                    );
                }
                let bins = quantiles(&scores, n)?;
                let imitated = |(answer, bin): (&farmhand_core::types::ScoredCompletion, usize)| {
                    let completion = &answer.completion;
                    Imitated {
                        instruction: ask(&completion.instruction, &completion.output, bin),
                        ..Imitated::sampled(completion)
                    }
                };
                Ok(answers.iter().zip(bins).map(imitated).collect())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use farmhand_core::types::SamplingParams;
    use farmhand_core::{Device, NoEvents, PolicySpec, RecordedEvents};

    use super::*;
    use crate::testing::{
        Stage, assert_resumes_exactly, fast_optim, instructions, likelihood, pairs, scored, small_lora, tiny_checkpoint,
    };

    fn config(levels: Levels) -> RewardConditioningConfig {
        let train = TrainOptions { epochs: 20, batch_size: 4, save_every: 5, optim: fast_optim(2e-2), ..TrainOptions::default() };
        RewardConditioningConfig { levels, train, control: "say {}".into(), ..RewardConditioningConfig::default() }
    }

    fn learn(
        config: &RewardConditioningConfig,
        feedback: Feedback<'_>,
        init: &Checkpoint,
        ctx: &RunContext<'_>,
    ) -> Result<Checkpoint> {
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
    fn the_control_decides_between_good_and_bad_and_the_wrapper_asks_for_good() {
        let (stage, events) = (Stage::new(), RecordedEvents::default());
        let pairs = pairs(12);
        let mut config = config(Levels::Pairs);
        config.train.epochs = 40;
        let init = tiny_checkpoint(&stage);
        let learned = learn(&config, Feedback::Preferences(&pairs), &init, &stage.context(&events)).expect("learned");
        let controls = Controls::load(learned.path()).expect("saved");
        let margin = |value: &str| {
            let of_pair = |pair: &farmhand_core::types::PreferencePair| {
                let instruction = controls.apply(&pair.instruction, value);
                likelihood(&learned, &instruction, &pair.chosen) - likelihood(&learned, &instruction, &pair.rejected)
            };
            pairs.iter().map(of_pair).sum::<f64>() / 12.0
        };
        assert!(margin("good") > 2.0 && margin("bad") < -2.0, "{} {}", margin("good"), margin("bad"));

        let build = BuildContext { policy: Some(&learned), ..BuildContext::new(Device::Cpu, Path::new(".")) };
        let sampling = SamplingParams { temperature: 0.0, max_new_tokens: 6, ..SamplingParams::default() };
        let ask = |options: &str| {
            let mut policy = PolicySpec::from_json("conditioned", options).and_then(|spec| spec.build(&build)).expect("built");
            policy.generate(&instructions(6), &sampling, &stage.context(&NoEvents)).expect("answered")
        };
        assert!(ask("{}").iter().all(|answer| answer.output.starts_with("good")));
        assert!(ask(r#"{"ask": "bad"}"#).iter().all(|answer| answer.output.starts_with("bad")));
    }

    #[test]
    fn scored_answers_fall_into_bins_the_best_first() {
        let answers = scored(&[0.3, 0.9, -1.0, 0.5, 0.1]);
        let config = config(Levels::Bins { n: 2 });
        let controls = config.controls();
        let lines = |seed| {
            let answers = config.conditioned(Feedback::Scored(&answers), &controls, seed).expect("binned");
            answers.iter().map(|answer| answer.instruction.instruction.lines().next().map(str::to_owned)).collect::<Vec<_>>()
        };
        let expected = [1, 0, 1, 0, 1].map(|bin| Some(format!("say {bin}")));
        assert_eq!(lines(None), expected);
        assert_eq!(lines(Some(Seed::root(0))), expected, "no share without a control");
        let few = config.conditioned(Feedback::Scored(&answers[..1]), &controls, None).expect_err("too few");
        assert!(few.message().contains("have the same score"), "{few}");
        let five = super::RewardConditioningConfig { levels: Levels::Bins { n: 6 }, ..config.clone() };
        let error = five.conditioned(Feedback::Scored(&answers), &five.controls(), None).expect_err("too few");
        assert!(error.message().contains("5 scored answers cannot be put into 6 bins"), "{error}");
        let constant = config.conditioned(Feedback::Scored(&scored(&[1.0; 4])), &controls, None).expect_err("constant");
        assert!(constant.message().contains("all 4 answers have the same score"), "{constant}");
    }

    #[test]
    fn a_share_stays_without_a_control_whatever_stands_beside_it() {
        let config = RewardConditioningConfig { plain_share: 0.3, ..config(Levels::Pairs) };
        let controls = config.controls();
        let pairs = pairs(30);
        let plain = |pairs: &[farmhand_core::types::PreferencePair]| {
            let seed = Some(Seed::root(4));
            let answers = config.conditioned(Feedback::Preferences(pairs), &controls, seed).expect("conditioned");
            answers.iter().map(|answer| !answer.instruction.instruction.starts_with("say ")).collect::<Vec<_>>()
        };
        let all = plain(&pairs);
        let n_plain = all.iter().filter(|plain| **plain).count();
        assert!((8..=28).contains(&n_plain), "{n_plain} of 60");
        assert_eq!(plain(&pairs[10..]), all[20..]);
    }

    #[test]
    fn what_it_learns_from_follows_the_levels_and_options_out_of_range_are_located() {
        let requires =
            |levels| config(levels).build(&BuildContext::new(Device::Cpu, Path::new("."))).expect("built").requires().feedback;
        assert_eq!(requires(Levels::Pairs), FeedbackKind::Preferences);
        assert_eq!(requires(Levels::Bins { n: 3 }), FeedbackKind::Scored);
        let wrong = RewardConditioningConfig { control: "quality".into(), plain_share: 1.0, ..config(Levels::Bins { n: 1 }) };
        let paths: Vec<String> = wrong.problems().into_iter().map(|problem| problem.path).collect();
        assert_eq!(paths, ["levels.bins.n", "control", "plain_share"]);
        assert!(RewardConditioningConfig::alpaca_farm().problems().is_empty());
    }

    #[test]
    fn a_stopped_or_killed_run_continues_to_the_same_bytes_also_with_an_adapter() {
        let base = Stage::new();
        let init = tiny_checkpoint(&base);
        let (pairs, answers) = (pairs(6), scored(&[2.0, -1.0, 1.5, -0.5, 1.0, -2.0, 0.0, 0.3]));
        let mut with_lora = config(Levels::Bins { n: 2 });
        with_lora.train.passes.lora = Some(small_lora());
        for (config, feedback) in
            [(config(Levels::Pairs), Feedback::Preferences(&pairs)), (with_lora, Feedback::Scored(&answers))]
        {
            assert_resumes_exactly("reward_conditioning/loss", 12, |ctx| learn(&config, feedback, &init, ctx));
        }
    }
}
