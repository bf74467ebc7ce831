//! Rejection sampling fine-tuning as in Llama 2: the best answers of all rounds so far, imitated from the start again.
//!
//! Touvron et al. 2023, <https://arxiv.org/abs/2307.09288>, section 3.2.3. Each round samples K answers to each instruction from the
//! newest model, and for each instruction the answer with the highest reward of *all* rounds so far is its target; the first of
//! equal ones, earlier rounds first. (With the last round's samples alone, which was Llama 2's way up to its third version, some
//! skills got lost: `replay = "last_round"`.) Every version is fine-tuned with `−log π(y_t | x, y_<t)` from the model that the
//! learner was given, not from the version before. The temperature is tuned anew each round: a model after such training has its
//! best answers at higher ones (1.2 to 1.3 in the paper).
//!
//! Answers keep the scores of their round. Llama 2's combination of a safety and a helpfulness reward belongs into the reward model,
//! for example an `ensemble`. The paper's last step, PPO from the last version, is a learner of its own.

use std::collections::BTreeMap;
use std::path::PathBuf;

use farmhand_core::data::{ReadOptions, read_scored_completions};
use farmhand_core::types::{SamplingParams, ScoredCompletion};
use farmhand_core::{
    BuildContext, Checkpoint, Error, FeedbackKind, Learner, LearnerConfig, LearnerInputs, PolicySpec, Problem, Requirements,
    Result, RunContext, register,
};
use farmhand_models::OptimConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::rl::reduction::Reduction;
use crate::training::{
    Answerer, FineTuning, Imitated, Ranges, RoundStart, Rounds, Task, TrainOptions, answerable, best_answers,
    instructions_of_round, log_kl, log_scored, scored_answers,
};

register! {
    kind: Learner, name: "rejection_sampling", config: RejectionSamplingConfig,
    summary: "Llama 2's rounds of fine-tuning on the best answers of all rounds", paper: "https://arxiv.org/abs/2307.09288",
}

/// Options of `[learner.rejection_sampling]`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub struct RejectionSamplingConfig {
    /// Rounds of sampling and fine-tuning, ≥ 1. Llama 2 had four before PPO.
    pub rounds: u64,
    /// Instructions a round takes, ≥ 1, other ones each round as long as there are any; by default all, every round.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instructions_per_round: Option<usize>,
    /// Which rounds' answers a round learns from.
    pub replay: RoundsReplayed,
    /// Which weights a round's fine-tuning starts from. The answers always come from the round before.
    pub start: RoundStart,
    /// Measure the divergence from the initial policy on each round's answers and log it as `kl`: two forward passes over them.
    pub measure_kl: bool,
    /// The policy that answers; by default `causal_lm` with the weights of the round before. One that names a larger model makes
    /// this distillation, as Llama 2's smaller models were made from the answers of the largest.
    pub policy: PolicySpec,
    /// How it answers: `n` answers to choose from, ≥ 2. The paper tells no number, only that more bring more.
    pub sampling: SamplingParams,
    /// The temperature of each round, > 0; the last one also counts for later rounds. Empty: `sampling.temperature`.
    pub temperatures: Vec<f64>,
    /// How token losses become one number per step.
    pub reduction: Reduction,
    /// Records are the best answers.
    #[serde(flatten)]
    pub train: TrainOptions,
}

/// Which rounds' answers a round learns from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RoundsReplayed {
    /// The best answer to each instruction from all rounds so far.
    #[default]
    AllRounds,
    /// The best answer to each instruction of this round.
    LastRound,
}

impl Default for RejectionSamplingConfig {
    fn default() -> Self {
        let optim = OptimConfig { lr: 2e-5, ..OptimConfig::default() };
        Self {
            rounds: 4,
            instructions_per_round: None,
            replay: RoundsReplayed::AllRounds,
            start: RoundStart::Initial,
            measure_kl: true,
            policy: PolicySpec::from_json("causal_lm", "{}").expect("a component of this crate"),
            sampling: SamplingParams { n: 10, ..SamplingParams::default() },
            temperatures: Vec::new(),
            reduction: Reduction::TokenMean,
            train: TrainOptions { epochs: 2, optim, ..TrainOptions::default() },
        }
    }
}

#[typetag::serde(name = "rejection_sampling")]
impl LearnerConfig for RejectionSamplingConfig {
    fn build(&self, ctx: &BuildContext<'_>) -> Result<Box<dyn Learner>> {
        Ok(Box::new(RejectionSampling { config: self.clone(), base_dir: ctx.base_dir.to_owned() }))
    }

    fn problems(&self) -> Vec<Problem> {
        let mut ranges = Ranges::new()
            .rounds(self.rounds, &self.train.passes)
            .at_least_one("instructions_per_round", self.instructions_per_round.unwrap_or(1))
            .nested("policy", self.policy.problems())
            .answers_to_choose_from("sampling", &self.sampling);
        for (i, &temperature) in self.temperatures.iter().enumerate() {
            ranges = ranges.positive(&format!("temperatures[{i}]"), temperature);
        }
        ranges.train(&self.train, Self::default().train.batch_size).problems()
    }
}

struct RejectionSampling {
    config: RejectionSamplingConfig,
    /// Where relative paths in the policy's options start.
    base_dir: PathBuf,
}

const TASK: Task =
    Task { learner: "rejection_sampling", role: "policy", doing: "fine-tuning on the best answers", records: "best answers" };

impl Learner for RejectionSampling {
    fn requires(&self) -> Requirements {
        Requirements::policy_from(FeedbackKind::Prompts).with_reward_model()
    }

    fn learn(&mut self, inputs: LearnerInputs<'_>, ctx: &RunContext<'_>) -> Result<Checkpoint> {
        let Self { config, base_dir } = self;
        let reward_model =
            inputs.reward_model.ok_or_else(|| Error::missing_input("`rejection_sampling` needs a reward model"))?;
        let instructions = answerable(inputs.feedback.prompts()?, inputs.init, &config.train, ctx)?;
        let n = config.sampling.n as usize;
        let mut rounds = Rounds::open(config.rounds, inputs.init, ctx)?;
        while let Some(round) = rounds.next_round()? {
            let seed = ctx.seed;
            let ctx = &round.context(ctx);
            let picked = instructions_of_round(instructions.len(), config.instructions_per_round, round.number, seed);
            let asked: Vec<_> = picked.into_iter().map(|i| instructions[i].clone()).collect();
            let who = Answerer { policy: &config.policy, checkpoint: &round.start, base_dir, models: inputs.models };
            let sampling = SamplingParams { temperature: config.temperature(round.number), ..config.sampling.clone() };
            let scored = scored_answers(who, &asked, &sampling, &mut *reward_model, ctx)?;
            let n_untied = log_scored(TASK.learner, round.number, &scored, n, ctx)?;
            if config.measure_kl {
                log_kl(TASK.learner, &round, inputs.reference.unwrap_or(inputs.init), &scored, &config.train.passes, ctx)?;
            }

            let mut best: Vec<ScoredCompletion> = match config.replay {
                RoundsReplayed::LastRound => Vec::new(),
                RoundsReplayed::AllRounds => best_of_rounds_before(&rounds, round.number)?,
            };
            let n_earlier = best.len();
            best.extend(best_answers(&scored, n, n_untied)?.into_iter().cloned());
            ctx.stage.write_jsonl(BEST_FILE, &best[n_earlier..])?;
            let targets = best_by_instruction(&best);
            let from_before = targets.iter().filter(|&&i| i < n_earlier).count() as f64 / targets.len() as f64;
            ctx.scalar("rejection_sampling/from_earlier_rounds", round.number, from_before);
            let mean = targets.iter().map(|&i| best[i].score).sum::<f64>() / targets.len() as f64;
            ctx.scalar("rejection_sampling/reward_of_targets", round.number, mean);

            let targets: Vec<Imitated> = targets.into_iter().map(|i| Imitated::sampled(&best[i].completion)).collect();
            let init = config.start.of(&round, inputs.init);
            let tuning =
                FineTuning { task: TASK, init, train: &config.train, reduction: config.reduction, rounds: Some(&rounds) };
            tuning.learn(&targets, &[], ctx)?;
            rounds.finish(round)?;
        }
        rounds.result(ctx)
    }
}

impl RejectionSamplingConfig {
    fn temperature(&self, round: u64) -> f64 {
        let place = usize::try_from(round).unwrap_or(usize::MAX).min(self.temperatures.len().saturating_sub(1));
        self.temperatures.get(place).copied().unwrap_or(self.sampling.temperature)
    }
}

/// The file of a round with its best answer to each instruction.
const BEST_FILE: &str = "best.jsonl";

/// The best answers of the rounds before `round`, in their order.
fn best_of_rounds_before(rounds: &Rounds, round: u64) -> Result<Vec<ScoredCompletion>> {
    let of_round = |number: u64| {
        read_scored_completions(&rounds.path(number).join(BEST_FILE), &ReadOptions::default()).map(|(answers, _)| answers)
    };
    Ok((0..round).map(of_round).collect::<Result<Vec<_>>>()?.concat())
}

/// The place of the best answer to each instruction, the first of equal ones, in the order in which instructions first occur.
fn best_by_instruction(answers: &[ScoredCompletion]) -> Vec<usize> {
    let mut place_of: BTreeMap<&str, usize> = BTreeMap::new();
    let mut best: Vec<usize> = Vec::new();
    for (i, answer) in answers.iter().enumerate() {
        let place = *place_of.entry(&answer.completion.instruction.id).or_insert_with(|| {
            best.push(i);
            best.len() - 1
        });
        if answer.score > answers[best[place]].score {
            best[place] = i;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use farmhand_core::{ErrorKind, RecordedEvents};

    use super::*;
    use crate::testing::{
        Constant, LikesE, Stage, assert_resumes_exactly, fast_optim, learn_from_prompts, scored, small_lora, tiny_checkpoint,
    };

    fn config() -> RejectionSamplingConfig {
        RejectionSamplingConfig {
            rounds: 3,
            sampling: SamplingParams { n: 6, max_new_tokens: 6, ..SamplingParams::default() },
            temperatures: vec![1.0, 1.2],
            train: TrainOptions { epochs: 2, batch_size: 4, save_every: 2, optim: fast_optim(1e-2), ..TrainOptions::default() },
            ..RejectionSamplingConfig::default()
        }
    }

    #[test]
    fn the_best_of_all_rounds_counts_and_the_earlier_of_equal_ones() {
        let mut answers = scored(&[0.1, 1.5, 0.9, 1.5, 0.9]);
        for (i, same) in [(2, 0), (3, 1), (4, 0)] {
            answers[i].completion.instruction = answers[same].completion.instruction.clone();
        }
        assert_eq!(best_by_instruction(&answers), [2, 1]);
        assert!(best_by_instruction(&[]).is_empty());
    }

    #[test]
    fn targets_get_better_with_every_round_and_every_round_starts_from_the_first_model() {
        let (stage, events) = (Stage::new(), RecordedEvents::default());
        let init = tiny_checkpoint(&stage);
        learn_from_prompts(&config(), 12, &init, &mut LikesE, &stage.context(&events)).expect("learned");
        let targets = events.scalars("rejection_sampling/reward_of_targets");
        assert!(targets.len() == 3 && targets.windows(2).all(|pair| pair[1].1 >= pair[0].1), "{targets:?}");
        assert!(targets[2].1 > targets[0].1, "{targets:?}");
        let earlier = events.scalars("rejection_sampling/from_earlier_rounds");
        assert!(earlier[0].1 == 0.0 && earlier[1..].iter().any(|(_, share)| *share > 0.0), "{earlier:?}");
        let reward = events.scalars("rejection_sampling/reward");
        assert!(reward[2].1 > reward[0].1, "{reward:?}");
        // A fresh start each round: the first loss of a later round is about that of the first model, not of a trained one.
        let loss = events.scalars("rejection_sampling/loss");
        assert!((loss[0].1 - loss[12].1).abs() < 0.5, "{loss:?}");
    }

    #[test]
    fn without_replay_the_last_round_alone_counts() {
        let (stage, events) = (Stage::new(), RecordedEvents::default());
        let config = RejectionSamplingConfig { replay: RoundsReplayed::LastRound, rounds: 2, ..config() };
        let init = tiny_checkpoint(&stage);
        learn_from_prompts(&config, 6, &init, &mut LikesE, &stage.context(&events)).expect("learned");
        assert_eq!(events.scalars("rejection_sampling/from_earlier_rounds"), [(0, 0.0), (1, 0.0)]);
    }

    #[test]
    fn answers_that_all_score_alike_are_refused() {
        let (stage, events) = (Stage::new(), RecordedEvents::default());
        let init = tiny_checkpoint(&stage);
        let error = learn_from_prompts(&config(), 4, &init, &mut Constant, &stage.context(&events)).expect_err("no choice");
        assert_eq!(error.kind(), ErrorKind::InvalidData);
    }

    #[test]
    fn a_stopped_or_killed_run_continues_to_the_same_bytes_also_with_an_adapter() {
        let base = Stage::new();
        let init = tiny_checkpoint(&base);
        let mut with_lora = config();
        with_lora.train.passes.lora = Some(small_lora());
        for config in [config(), with_lora] {
            let learn = |ctx: &RunContext<'_>| learn_from_prompts(&config, 12, &init, &mut LikesE, ctx);
            assert_resumes_exactly("rejection_sampling/loss", 9, learn);
        }
    }

    #[test]
    fn each_round_has_its_temperature_and_options_out_of_range_are_located() {
        let temperatures = |config: &RejectionSamplingConfig| [0, 1, 2, 9].map(|round| config.temperature(round));
        assert_eq!(temperatures(&config()), [1.0, 1.2, 1.2, 1.2]);
        assert_eq!(temperatures(&RejectionSamplingConfig::default()), [1.0; 4]);
        let config = RejectionSamplingConfig { temperatures: vec![1.0, 0.0], rounds: 0, ..config() };
        let paths: Vec<String> = config.problems().into_iter().map(|problem| problem.path).collect();
        assert_eq!(paths, ["rounds", "temperatures[1]"]);
    }
}
