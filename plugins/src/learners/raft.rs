//! RAFT, reward-ranked fine-tuning: stages of sampling, ranking by a reward model, and fine-tuning on the best.
//!
//! Dong et al. 2023, <https://arxiv.org/abs/2304.06767>. A stage takes b instructions, samples K answers y ~ π(·|x) to each, selects
//! by reward, and fine-tunes the stage's own policy on the selection with `−log π(y_t | x, y_<t)`. Three selections:
//!
//! * `local`: the answer with the highest reward to each instruction; the first of equal ones.
//! * `top`: the best fraction of all answers of the stage, whatever they answer.
//! * `soft`: all answers, weighted `K · softmax(c z)` by their z-scores among the answers to the instruction, as later code of the
//!   same authors does.
//!
//! With `kl_weight` β the ranking goes by `r − β [log π(y|x) − log π_0(y|x)]`, π_0 the policy that the learner was given (or the
//! reference). As in the paper this decides the selection only: the loss has no divergence term.

use std::path::PathBuf;

use farmhand_core::types::{SamplingParams, ScoredCompletion};
use farmhand_core::{
    BuildContext, Checkpoint, Error, FeedbackKind, Learner, LearnerConfig, LearnerInputs, PolicySpec, Problem, Requirements,
    Result, RunContext, register,
};
use farmhand_models::OptimConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::rl::reduction::Reduction;
use crate::rl::selection::{effective_sample_size, kl_adjusted, soft_weights, top_fraction};
use crate::training::{
    Answerer, FineTuning, Imitated, Ranges, Rounds, Task, TrainOptions, answerable, best_answers, instructions_of_round, log_kl,
    log_scored, scored_answers, scores_of,
};

register! {
    kind: Learner, name: "raft", config: RaftConfig,
    summary: "reward-ranked fine-tuning on own answers", paper: "https://arxiv.org/abs/2304.06767",
}

/// Options of `[learner.raft]`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub struct RaftConfig {
    /// Stages of sampling and fine-tuning, ≥ 1. The paper has 10 to 12 with 16 or 32 answers, 15 to 18 with 8.
    pub rounds: u64,
    /// Instructions a stage takes, ≥ 1, other ones each stage as long as there are any; all of them if there are no more. The paper
    /// has 2048.
    pub instructions_per_round: usize,
    /// Which answers a stage learns from.
    pub selection: RaftSelection,
    /// Weight β of the log-ratio to the initial policy in the ranking, ≥ 0. The paper tries 0.005, 0.01 and 0.1.
    pub kl_weight: f64,
    /// Measure the divergence from the initial policy on each stage's answers and log it as `kl`: two forward passes over them.
    pub measure_kl: bool,
    /// The policy that answers; by default `causal_lm` with the weights of the stage before.
    pub policy: PolicySpec,
    /// How it answers: `n` answers to each instruction (K). The paper has 8, 16 or 32 at temperatures 0.7 to 1.
    pub sampling: SamplingParams,
    /// How token losses become one number per step.
    pub reduction: Reduction,
    /// Records are selected answers; a stage's learning rate follows a schedule of its own.
    #[serde(flatten)]
    pub train: TrainOptions,
}

/// Which answers a stage of RAFT learns from.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum RaftSelection {
    /// The best answer to each instruction.
    #[default]
    Local,
    /// The best answers of all.
    Top {
        /// Their share, in (0, 1]; at least one is taken. The paper samples one answer to an instruction and takes 1/K.
        fraction: f64,
    },
    /// All answers, weighted by how good they are among those to the same instruction.
    Soft {
        /// The factor c of z-scores in the exponent, > 0; 8 in the authors' code. Larger ones come close to `local`.
        sharpness: f64,
    },
}

impl Default for RaftConfig {
    fn default() -> Self {
        let optim = OptimConfig { lr: 2e-5, ..OptimConfig::default() };
        Self {
            rounds: 10,
            instructions_per_round: 2048,
            selection: RaftSelection::Local,
            kl_weight: 0.0,
            measure_kl: true,
            policy: PolicySpec::from_json("causal_lm", "{}").expect("a component of this crate"),
            sampling: SamplingParams { n: 8, temperature: 0.85, max_new_tokens: 128, ..SamplingParams::default() },
            reduction: Reduction::TokenMean,
            train: TrainOptions { epochs: 2, optim, ..TrainOptions::default() },
        }
    }
}

#[typetag::serde(name = "raft")]
impl LearnerConfig for RaftConfig {
    fn build(&self, ctx: &BuildContext<'_>) -> Result<Box<dyn Learner>> {
        Ok(Box::new(Raft { config: self.clone(), base_dir: ctx.base_dir.to_owned() }))
    }

    fn problems(&self) -> Vec<Problem> {
        let mut ranges = Ranges::new()
            .rounds(self.rounds, &self.train.passes)
            .at_least_one("instructions_per_round", self.instructions_per_round)
            .not_negative("kl_weight", self.kl_weight)
            .nested("policy", self.policy.problems());
        ranges = match self.selection {
            RaftSelection::Local => ranges.answers_to_choose_from("sampling", &self.sampling),
            RaftSelection::Top { fraction } => ranges
                .require("selection.top.fraction", fraction > 0.0 && fraction <= 1.0, "a number in (0, 1]", fraction)
                .nested("sampling", self.sampling.problems()),
            RaftSelection::Soft { sharpness } => {
                ranges.positive("selection.soft.sharpness", sharpness).answers_to_choose_from("sampling", &self.sampling)
            }
        };
        ranges.train(&self.train, Self::default().train.batch_size).problems()
    }
}

struct Raft {
    config: RaftConfig,
    /// Where relative paths in the policy's options start.
    base_dir: PathBuf,
}

const TASK: Task = Task { learner: "raft", role: "policy", doing: "fine-tuning on ranked answers", records: "selected answers" };

impl Learner for Raft {
    fn requires(&self) -> Requirements {
        Requirements::policy_from(FeedbackKind::Prompts).with_reward_model()
    }

    fn learn(&mut self, inputs: LearnerInputs<'_>, ctx: &RunContext<'_>) -> Result<Checkpoint> {
        let Self { config, base_dir } = self;
        let reward_model = inputs.reward_model.ok_or_else(|| Error::missing_input("`raft` needs a reward model"))?;
        let instructions = answerable(inputs.feedback.prompts()?, inputs.init, &config.train, ctx)?;
        let reference = inputs.reference.unwrap_or(inputs.init);
        let mut rounds = Rounds::open(config.rounds, inputs.init, ctx)?;
        while let Some(round) = rounds.next_round()? {
            let seed = ctx.seed;
            let ctx = &round.context(ctx);
            let picked = instructions_of_round(instructions.len(), Some(config.instructions_per_round), round.number, seed);
            let asked: Vec<_> = picked.into_iter().map(|i| instructions[i].clone()).collect();
            let who = Answerer { policy: &config.policy, checkpoint: &round.start, base_dir, models: inputs.models };
            let mut scored = scored_answers(who, &asked, &config.sampling, &mut *reward_model, ctx)?;
            let n = config.sampling.n as usize;
            let n_untied = log_scored(TASK.learner, round.number, &scored, n, ctx)?;

            if config.measure_kl || config.kl_weight > 0.0 {
                let ratios = log_kl(TASK.learner, &round, reference, &scored, &config.train.passes, ctx)?;
                let adjusted = kl_adjusted(&scores_of(&scored), &ratios, config.kl_weight);
                scored.iter_mut().zip(adjusted).for_each(|(answer, score)| answer.score = score);
            }
            let selected = select(&scored, n, n_untied, config.selection)?;
            let weights: Vec<f64> = selected.iter().map(|answer| answer.weight).collect();
            ctx.scalar("raft/effective_answers", round.number, effective_sample_size(&weights));
            let tuning = FineTuning {
                task: TASK,
                init: &round.start,
                train: &config.train,
                reduction: config.reduction,
                rounds: Some(&rounds),
            };
            tuning.learn(&selected, &[], ctx)?;
            rounds.finish(round)?;
        }
        rounds.result(ctx)
    }
}

/// The answers a stage learns from, `n` to an instruction in `answers`.
fn select(answers: &[ScoredCompletion], n: usize, n_untied: usize, selection: RaftSelection) -> Result<Vec<Imitated>> {
    let imitated = |answer: &ScoredCompletion| Imitated::sampled(&answer.completion);
    match selection {
        RaftSelection::Local => Ok(best_answers(answers, n, n_untied)?.into_iter().map(imitated).collect()),
        RaftSelection::Top { fraction } => {
            Ok(top_fraction(&scores_of(answers), fraction).into_iter().map(|i| imitated(&answers[i])).collect())
        }
        RaftSelection::Soft { sharpness } => {
            let weights = answers.chunks(n).flat_map(|group| soft_weights(&scores_of(group), sharpness));
            Ok(answers.iter().zip(weights).map(|(answer, weight)| Imitated { weight, ..imitated(answer) }).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use farmhand_core::{ErrorKind, RecordedEvents};

    use super::*;
    use crate::testing::{
        Constant, LikesE, Stage, assert_resumes_exactly, fast_optim, learn_from_prompts, lively_checkpoint, scored, small_lora,
        tiny_checkpoint,
    };

    fn config(selection: RaftSelection) -> RaftConfig {
        RaftConfig {
            rounds: 4,
            selection,
            sampling: SamplingParams { n: 6, max_new_tokens: 6, ..SamplingParams::default() },
            train: TrainOptions { epochs: 2, batch_size: 8, save_every: 2, optim: fast_optim(2e-2), ..TrainOptions::default() },
            ..RaftConfig::default()
        }
    }

    const SELECTIONS: [RaftSelection; 3] =
        [RaftSelection::Local, RaftSelection::Top { fraction: 0.2 }, RaftSelection::Soft { sharpness: 8.0 }];

    #[test]
    fn the_three_selections_match_the_goldens() {
        let picked = |scores: &[f64], n, selection| {
            let answers = scored(scores);
            let place = |answer: &Imitated| {
                answers.iter().position(|scored| scored.completion.output == answer.output).expect("one of them")
            };
            let selected = select(&answers, n, 1, selection).expect("selected");
            selected.iter().map(|answer| (place(answer), answer.weight)).collect::<Vec<_>>()
        };
        let scores = [0.1, 0.9, 0.4, 1.5, 1.2, 1.4, -0.3, -0.9, 0.0];
        assert_eq!(picked(&scores, 3, RaftSelection::Local), [(1, 1.0), (3, 1.0), (8, 1.0)]);
        assert_eq!(picked(&[0.1, 1.5, -0.3, 0.9], 1, RaftSelection::Top { fraction: 0.5 }), [(1, 1.0), (3, 1.0)]);
        let soft = picked(&[0.1, 0.9, 0.4, 2.0, 2.0, 2.0], 3, RaftSelection::Soft { sharpness: 1.0 });
        for ((_, got), golden) in soft.iter().zip([0.290_141, 2.100_338, 0.609_521, 1.0, 1.0, 1.0]) {
            assert!((got - golden).abs() < 1e-6, "{soft:?}");
        }
    }

    #[test]
    fn reward_rises_with_every_selection() {
        for selection in SELECTIONS {
            let (stage, events) = (Stage::new(), RecordedEvents::default());
            let config = config(selection);
            learn_from_prompts(&config, 12, &tiny_checkpoint(&stage), &mut LikesE, &stage.context(&events)).expect("learned");
            let reward = events.scalars("raft/reward");
            assert!(reward.len() == 4 && reward[3].1 > reward[0].1 + 0.05, "{selection:?}: {reward:?}");
            assert!(events.scalars("raft/kl")[3].1 > 0.0);
        }
    }

    #[test]
    fn a_penalty_in_the_ranking_is_0_in_the_first_stage_and_holds_back_in_later_ones() {
        let last_kl = |kl_weight| {
            let (stage, events) = (Stage::new(), RecordedEvents::default());
            let config = RaftConfig { kl_weight, ..config(RaftSelection::Local) };
            learn_from_prompts(&config, 12, &tiny_checkpoint(&stage), &mut LikesE, &stage.context(&events)).expect("learned");
            let kl = events.scalars("raft/kl");
            assert_eq!((kl.len(), kl[0]), (4, (0, 0.0)));
            kl[3].1
        };
        let (weak, strong) = (last_kl(1e-9), last_kl(0.5));
        assert!(strong < weak, "{strong} is not below {weak}");
    }

    #[test]
    fn answers_that_all_score_alike_are_refused() {
        for selection in SELECTIONS {
            let (stage, events) = (Stage::new(), RecordedEvents::default());
            let init = tiny_checkpoint(&stage);
            let error = learn_from_prompts(&config(selection), 4, &init, &mut Constant, &stage.context(&events));
            assert_eq!(error.expect_err("no choice").kind(), ErrorKind::InvalidData);
        }
    }

    #[test]
    fn a_stopped_or_killed_run_continues_to_the_same_bytes_also_with_an_adapter() {
        let base = Stage::new();
        let init = lively_checkpoint(&base);
        let ranked = RaftConfig { kl_weight: 0.1, ..config(RaftSelection::Soft { sharpness: 1.0 }) };
        let mut with_lora = config(RaftSelection::Local);
        with_lora.train.passes.lora = Some(small_lora());
        with_lora.train.batch_size = 3;
        for (config, step) in [(ranked, 20), (with_lora, 11)] {
            let learn = |ctx: &RunContext<'_>| learn_from_prompts(&config, 12, &init, &mut LikesE, ctx);
            assert_resumes_exactly("raft/loss", step, learn);
        }
    }

    #[test]
    fn options_that_make_no_sense_are_located() {
        let paths = |config: RaftConfig| config.problems().into_iter().map(|problem| problem.path).collect::<Vec<_>>();
        let one_answer = |selection| {
            let sampling = SamplingParams { n: 1, ..SamplingParams::default() };
            RaftConfig { sampling, selection, kl_weight: -1.0, ..RaftConfig::default() }
        };
        assert_eq!(paths(one_answer(RaftSelection::Local)), ["kl_weight", "sampling.n"]);
        assert_eq!(paths(one_answer(RaftSelection::Top { fraction: 0.0 })), ["kl_weight", "selection.top.fraction"]);
        let soft = one_answer(RaftSelection::Soft { sharpness: 0.0 });
        assert_eq!(paths(soft), ["kl_weight", "selection.soft.sharpness", "sampling.n"]);
    }
}
