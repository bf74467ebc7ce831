//! Expert iteration: the best of n answers, again and again imitated.
//!
//! Anthony et al. 2017, <https://arxiv.org/abs/1705.08439>: an expert, which is the policy with a search, shows answers that the
//! policy then imitates, and with a better policy the search finds better ones. For language models the search is best-of-n by a
//! reward model: each round samples n answers y ~ π(·|x) to an instruction, keeps the first with the highest reward, and
//! fine-tunes on it with `−log π(y_t | x, y_<t)`. One round of it is AlpacaFarm's (Dubois et al. 2023,
//! <https://arxiv.org/abs/2305.14387>, section 4.2: best of 16, three epochs).
//!
//! Nothing keeps the policy near where it began; after k rounds its divergence is at most that of the best of n^k.

use std::path::PathBuf;

use farmhand_core::types::SamplingParams;
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
    kind: Learner, name: "expert_iteration", config: ExpertIterationConfig,
    summary: "rounds of fine-tuning on the best of n own answers", paper: "https://arxiv.org/abs/1705.08439",
    presets: { "alpaca_farm": "AlpacaFarm's one round of best-of-16" => ExpertIterationConfig::alpaca_farm() },
}

/// Options of `[learner.expert_iteration]`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub struct ExpertIterationConfig {
    /// Rounds of sampling and fine-tuning, ≥ 1.
    pub rounds: u64,
    /// Instructions a round takes, ≥ 1, other ones each round as long as there are any; by default all, every round.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instructions_per_round: Option<usize>,
    /// Which weights a round's fine-tuning starts from. The answers always come from the round before.
    pub start: RoundStart,
    /// Measure the divergence from the initial policy on each round's answers and log it as `kl`: two forward passes over them.
    pub measure_kl: bool,
    /// The policy that answers; by default `causal_lm` with the weights of the round before.
    pub policy: PolicySpec,
    /// How it answers: `n` answers to choose from, ≥ 2.
    pub sampling: SamplingParams,
    /// How token losses become one number per step.
    pub reduction: Reduction,
    /// Records are the best answers; a round's learning rate follows a schedule of its own. AlpacaFarm's steps take 128.
    #[serde(flatten)]
    pub train: TrainOptions,
}

impl Default for ExpertIterationConfig {
    fn default() -> Self {
        let optim = OptimConfig { lr: 2e-5, ..OptimConfig::default() };
        Self {
            rounds: 3,
            instructions_per_round: None,
            start: RoundStart::Previous,
            measure_kl: true,
            policy: PolicySpec::from_json("causal_lm", "{}").expect("a component of this crate"),
            sampling: SamplingParams { n: 16, ..SamplingParams::default() },
            reduction: Reduction::TokenMean,
            train: TrainOptions { epochs: 3, optim, ..TrainOptions::default() },
        }
    }
}

impl ExpertIterationConfig {
    /// AlpacaFarm's: one round, the best of 16 answers of at most 300 tokens to every instruction, top-p 0.9.
    pub fn alpaca_farm() -> Self {
        let defaults = Self::default();
        Self {
            rounds: 1,
            sampling: SamplingParams { top_p: 0.9, max_new_tokens: 300, ..defaults.sampling },
            train: TrainOptions { batch_size: 128, ..defaults.train },
            ..defaults
        }
    }
}

#[typetag::serde(name = "expert_iteration")]
impl LearnerConfig for ExpertIterationConfig {
    fn build(&self, ctx: &BuildContext<'_>) -> Result<Box<dyn Learner>> {
        Ok(Box::new(ExpertIteration { config: self.clone(), base_dir: ctx.base_dir.to_owned() }))
    }

    fn problems(&self) -> Vec<Problem> {
        Ranges::new()
            .rounds(self.rounds, &self.train.passes)
            .at_least_one("instructions_per_round", self.instructions_per_round.unwrap_or(1))
            .nested("policy", self.policy.problems())
            .answers_to_choose_from("sampling", &self.sampling)
            .train(&self.train, Self::default().train.batch_size)
            .problems()
    }
}

struct ExpertIteration {
    config: ExpertIterationConfig,
    /// Where relative paths in the policy's options start.
    base_dir: PathBuf,
}

const TASK: Task =
    Task { learner: "expert_iteration", role: "policy", doing: "fine-tuning on the best answers", records: "best answers" };

impl Learner for ExpertIteration {
    fn requires(&self) -> Requirements {
        Requirements::policy_from(FeedbackKind::Prompts).with_reward_model()
    }

    fn learn(&mut self, inputs: LearnerInputs<'_>, ctx: &RunContext<'_>) -> Result<Checkpoint> {
        let Self { config, base_dir } = self;
        let reward_model = inputs.reward_model.ok_or_else(|| Error::missing_input("`expert_iteration` needs a reward model"))?;
        let instructions = answerable(inputs.feedback.prompts()?, inputs.init, &config.train, ctx)?;
        let n = config.sampling.n as usize;
        let mut rounds = Rounds::open(config.rounds, inputs.init, ctx)?;
        while let Some(round) = rounds.next_round()? {
            let seed = ctx.seed;
            let ctx = &round.context(ctx);
            let picked = instructions_of_round(instructions.len(), config.instructions_per_round, round.number, seed);
            let asked: Vec<_> = picked.into_iter().map(|i| instructions[i].clone()).collect();
            let who = Answerer { policy: &config.policy, checkpoint: &round.start, base_dir, models: inputs.models };
            let scored = scored_answers(who, &asked, &config.sampling, &mut *reward_model, ctx)?;
            let n_untied = log_scored(TASK.learner, round.number, &scored, n, ctx)?;
            if config.measure_kl {
                log_kl(TASK.learner, &round, inputs.reference.unwrap_or(inputs.init), &scored, &config.train.passes, ctx)?;
            }

            let best = best_answers(&scored, n, n_untied)?;
            let best: Vec<Imitated> = best.into_iter().map(|answer| Imitated::sampled(&answer.completion)).collect();
            let init = config.start.of(&round, inputs.init);
            let tuning =
                FineTuning { task: TASK, init, train: &config.train, reduction: config.reduction, rounds: Some(&rounds) };
            tuning.learn(&best, &[], ctx)?;
            rounds.finish(round)?;
        }
        rounds.result(ctx)
    }
}

#[cfg(test)]
mod tests {
    use farmhand_core::{ErrorKind, RecordedEvents};

    use super::*;
    use crate::testing::{
        Constant, LikesE, Stage, assert_resumes_exactly, fast_optim, learn_from_prompts, lively_checkpoint, small_lora,
        tiny_checkpoint,
    };

    fn config() -> ExpertIterationConfig {
        ExpertIterationConfig {
            rounds: 3,
            sampling: SamplingParams { n: 6, max_new_tokens: 6, ..SamplingParams::default() },
            train: TrainOptions { epochs: 2, batch_size: 4, save_every: 2, optim: fast_optim(1e-2), ..TrainOptions::default() },
            ..ExpertIterationConfig::default()
        }
    }

    #[test]
    fn reward_rises_round_by_round_and_steps_go_on_from_round_to_round() {
        let (stage, events) = (Stage::new(), RecordedEvents::default());
        learn_from_prompts(&config(), 12, &tiny_checkpoint(&stage), &mut LikesE, &stage.context(&events)).expect("learned");
        let reward = events.scalars("expert_iteration/reward");
        assert_eq!(reward.iter().map(|(round, _)| *round).collect::<Vec<_>>(), [0, 1, 2]);
        assert!(reward[2].1 > reward[0].1 + 0.05, "{reward:?}");
        let kl = events.scalars("expert_iteration/kl");
        assert!(kl.len() == 3 && kl[0].1 == 0.0 && kl[2].1 > 0.0, "{kl:?}");
        let steps: Vec<u64> = events.scalars("expert_iteration/loss").iter().map(|(step, _)| *step).collect();
        assert_eq!(steps, (0..3 * 2 * 3).collect::<Vec<_>>());
        // What each round answered stays.
        let scored = stage.stage.path().join("rounds/02/scored.jsonl");
        assert_eq!(std::fs::read_to_string(scored).expect("kept").lines().count(), 12 * 6);
    }

    #[test]
    fn answers_that_all_score_alike_are_refused() {
        let (stage, events) = (Stage::new(), RecordedEvents::default());
        let init = tiny_checkpoint(&stage);
        let error = learn_from_prompts(&config(), 4, &init, &mut Constant, &stage.context(&events)).expect_err("no choice");
        assert_eq!(error.kind(), ErrorKind::InvalidData);
        assert!(error.message().contains("have the same score"), "{error}");
    }

    #[test]
    fn rounds_take_their_share_of_instructions_and_may_start_over() {
        let config = ExpertIterationConfig { instructions_per_round: Some(4), start: RoundStart::Initial, ..config() };
        let (stage, events) = (Stage::new(), RecordedEvents::default());
        learn_from_prompts(&config, 12, &tiny_checkpoint(&stage), &mut LikesE, &stage.context(&events)).expect("learned");
        let scored = stage.stage.path().join("rounds/01/scored.jsonl");
        assert_eq!(std::fs::read_to_string(scored).expect("kept").lines().count(), 4 * 6);
    }

    #[test]
    fn a_stopped_or_killed_run_continues_to_the_same_bytes_also_with_an_adapter() {
        let base = Stage::new();
        let init = lively_checkpoint(&base);
        let mut with_lora = config();
        with_lora.train.passes.lora = Some(small_lora());
        for config in [config(), with_lora] {
            let learn = |ctx: &RunContext<'_>| learn_from_prompts(&config, 12, &init, &mut LikesE, ctx);
            assert_resumes_exactly("expert_iteration/loss", 9, learn);
        }
    }

    #[test]
    fn options_that_make_no_sense_are_located() {
        let mut config = config();
        (config.rounds, config.instructions_per_round, config.sampling.n) = (0, Some(0), 1);
        config.train.passes.lora =
            Some(farmhand_models::LoraConfig { output: farmhand_models::AdapterOutput::Adapter, ..small_lora() });
        let paths: Vec<String> = config.problems().into_iter().map(|problem| problem.path).collect();
        assert_eq!(paths, ["rounds", "lora.output", "instructions_per_round", "sampling.n"]);
        config = ExpertIterationConfig::default();
        config.sampling.temperature = 0.0;
        assert_eq!(config.problems()[0].path, "sampling.temperature");
        assert!(ExpertIterationConfig::alpaca_farm().problems().is_empty());
    }
}
