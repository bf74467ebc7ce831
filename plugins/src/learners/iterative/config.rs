//! The options of iterative learning, and which of them go together.

use farmhand_core::types::SamplingParams;
use farmhand_core::{
    BuildContext, CheckpointKind, Device, FeedbackKind, LearnerSpec, PolicySpec, Problem, Requirements, Result, RewardModelSpec,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::selection::PairSelection;
use crate::training::{Ranges, RoundStart};

/// Who scores a round's answers.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Scorer {
    /// The reward model of the experiment.
    #[default]
    RewardModel,
    /// The annotator of the experiment, who compares all answers to an instruction with each other: n (n − 1) / 2 comparisons. An
    /// answer scores the share of the others that it beats.
    Annotator,
    /// A reward model that is made anew each round, with the round's weights where its options name no model: the policy rewards
    /// itself, for example `own = { self_reward = {} }`.
    Own(RewardModelSpec),
}

/// Which answers a round learns from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Replay {
    /// Its own.
    #[default]
    New,
    /// Its own and those of all earlier rounds, each round's selected by itself.
    All,
    /// The answers of all rounds to an instruction compete with each other; differs from `all` where rounds share instructions.
    BestOfAll,
}

/// Options of `[learner.iterative]`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct IterativeConfig {
    /// Rounds, ≥ 1. The paper has 3.
    pub rounds: u64,
    /// Instructions a round takes, ≥ 1, none of which another round has; by default an equal share of all. The paper has 20 000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instructions_per_round: Option<usize>,
    /// Each round takes all instructions instead of a share of its own.
    pub same_instructions: bool,
    /// The policy that answers: by default `causal_lm` with the round's weights; `openai_server` for a server that serves them.
    pub policy: PolicySpec,
    /// How it answers: `n` answers to each instruction, ≥ 2. `temperature` counts only where `temperatures` is empty.
    pub sampling: SamplingParams,
    /// The temperatures at which an equal share of the `n` answers each is sampled. The paper samples half at 1 and half at 0.7 for
    /// answers that differ; its code samples all at 1.
    pub temperatures: Vec<f64>,
    /// Who scores the answers.
    pub scorer: Scorer,
    /// Subtracted from a score for each character of the answer, ≥ 0. The paper's length penalty is 0.001.
    pub length_penalty: f64,
    /// Leave out answers that were cut off by `max_new_tokens`: a pair does not say that its answer has no end, so the inner learner
    /// learns to end there.
    pub drop_unfinished: bool,
    /// Which answers make pairs. For a learner that takes ranked lists all of them are in the list.
    pub selection: PairSelection,
    /// Which rounds' answers are learnt from.
    pub replay: Replay,
    /// Where the inner learner starts in each round.
    pub init: RoundStart,
    /// What the inner learner stays close to, where it has a reference: the `initial` policy (or the reference that the stage was
    /// given), or the `previous` round's.
    pub reference: RoundStart,
    /// The inner learner: one that takes preference pairs or ranked lists and makes a policy. Its steps, learning rate and schedule
    /// are those of one round.
    pub learner: LearnerSpec,
}

impl Default for IterativeConfig {
    fn default() -> Self {
        Self {
            rounds: 3,
            instructions_per_round: None,
            same_instructions: false,
            policy: PolicySpec::from_json("causal_lm", "{}").expect("a component of this crate"),
            sampling: SamplingParams { n: 8, ..SamplingParams::default() },
            temperatures: vec![1.0, 0.7],
            scorer: Scorer::RewardModel,
            length_penalty: 0.0,
            drop_unfinished: false,
            selection: PairSelection::BestWorst,
            replay: Replay::New,
            init: RoundStart::Previous,
            reference: RoundStart::Initial,
            learner: dpo("{}"),
        }
    }
}

fn dpo(options: &str) -> LearnerSpec {
    LearnerSpec::from_json("dpo", options).expect("a component of this crate")
}

impl IterativeConfig {
    /// The paper's set-up for an 8B model.
    pub fn rlhf_workflow() -> Self {
        Self {
            instructions_per_round: Some(20_000),
            sampling: SamplingParams { n: 8, max_new_tokens: 2048, ..SamplingParams::default() },
            learner: dpo(r#"{ "beta": 0.1, "epochs": 2, "batch_size": 128, "max_tokens": 4096, "optim": { "lr": 5e-7 } }"#),
            ..Self::default()
        }
    }

    /// SPPO's loop (Wu et al. 2024, section 5.1): five answers at temperature 1, best and worst by the share of answers they beat,
    /// squared losses that push the two log-ratios to ±1/(2β) with β = 1/η = 0.001, reference and start the round's policy, 64 pairs a
    /// step, one pass, a learning rate of 5e-7 that falls linearly after 10 % of warm-up. There that rate is RMSprop's; the released
    /// code samples at temperature 0.7 and top-p 0.9.
    pub fn sppo() -> Self {
        Self {
            sampling: SamplingParams { n: 5, max_new_tokens: 2048, ..SamplingParams::default() },
            temperatures: Vec::new(),
            scorer: Scorer::Annotator,
            reference: RoundStart::Previous,
            learner: dpo(r#"{ "beta": 0.001, "link": "sppo_hard", "epochs": 1, "batch_size": 64, "max_tokens": 4096,
                    "optim": { "lr": 5e-7, "schedule": "linear", "warmup_ratio": 0.1 } }"#),
            ..Self::default()
        }
    }

    /// Self-rewarding language models: four answers at temperature 0.7 and top-p 0.9, judged by the policy itself with a rubric of
    /// five points, two rounds of DPO on the best and the worst with β = 0.1, 16 pairs a step and a learning rate of 1e-6 (Yuan et
    /// al. 2024, section 3.1; there it falls to 1e-7, here to 0).
    pub fn self_rewarding() -> Self {
        Self {
            rounds: 2,
            sampling: SamplingParams { n: 4, temperature: 0.7, top_p: 0.9, max_new_tokens: 1024, ..SamplingParams::default() },
            temperatures: Vec::new(),
            scorer: Scorer::Own(RewardModelSpec::from_json("self_reward", "{}").expect("a component of this crate")),
            reference: RoundStart::Previous,
            learner: dpo(r#"{ "beta": 0.1, "epochs": 1, "batch_size": 16, "max_tokens": 2048, "optim": { "lr": 1e-6 } }"#),
            ..Self::default()
        }
    }

    /// Answers to an instruction.
    pub(super) fn n(&self) -> usize {
        self.sampling.n as usize
    }

    /// Everything out of range and without sense, paths relative to the learner's table.
    pub(super) fn problems(&self) -> Vec<Problem> {
        let shares = self.temperatures.len().max(1);
        let own = match &self.scorer {
            Scorer::Own(spec) => spec.problems(),
            _ => Vec::new(),
        };
        let comparable = matches!(self.scorer, Scorer::RewardModel) || self.replay != Replay::BestOfAll;
        let both = self.same_instructions && self.instructions_per_round.is_some();
        let lists = requirements_of(&self.learner).is_ok_and(|requires| requires.feedback == FeedbackKind::RankedLists);
        let mut ranges = Ranges::new()
            .at_least_one("rounds", self.rounds as usize)
            .at_least_one("instructions_per_round", self.instructions_per_round.unwrap_or(1))
            .require("instructions_per_round", !both, "nothing with `same_instructions`", "a number")
            .nested("policy", self.policy.problems())
            .nested("sampling", self.sampling.problems())
            .require("sampling.n", self.n() >= 2, "two answers or more, of which one can be better", self.n())
            .require("sampling.n", self.n().is_multiple_of(shares), "a multiple of the number of `temperatures`", self.n())
            .nested("scorer.own", own)
            .not_negative("length_penalty", self.length_penalty)
            .nested("selection", self.selection.problems(self.n()))
            .require(
                "selection",
                !lists || self.selection == PairSelection::BestWorst,
                "nothing for a learner that takes ranked lists",
                "a selection of pairs",
            )
            .require(
                "replay",
                comparable,
                "another replay: the scores of an annotator or of the policy itself mean something within a round only",
                "`best_of_all`",
            )
            .nested("learner", self.learner.problems());
        for (i, temperature) in self.temperatures.iter().enumerate() {
            ranges = ranges.not_negative(&format!("temperatures[{i}]"), *temperature);
        }
        let all_greedy = if self.temperatures.is_empty() {
            self.sampling.is_greedy()
        } else {
            self.temperatures.iter().all(|temperature| *temperature == 0.0)
        };
        let key = if self.temperatures.is_empty() { "sampling.temperature" } else { "temperatures" };
        let mut problems = ranges.require(key, !all_greedy, "a number > 0, for greedy answers are all the same", 0).problems();
        problems.extend(unfit(&self.learner).map(|reason| Problem::new("learner", reason)));
        problems
    }
}

/// What the inner learner asks for; building a learner touches nothing.
fn requirements_of(learner: &LearnerSpec) -> Result<Requirements> {
    Ok(learner.build(&BuildContext::new(Device::Cpu, std::path::Path::new(".")))?.requires())
}

/// Whether options, at any depth, leave an adapter by itself.
fn leaves_an_adapter(options: &Value) -> bool {
    match options {
        Value::Object(table) => {
            table.get("lora").is_some_and(|lora| lora["output"] == "adapter") || table.values().any(leaves_an_adapter)
        }
        _ => false,
    }
}

/// Why a learner cannot be the inner one, if it cannot.
pub(super) fn unfit(learner: &LearnerSpec) -> Option<String> {
    let requires = requirements_of(learner).ok()?;
    let name = learner.name();
    // A round begins with what the one before made, and that is removed afterwards.
    let alone = serde_json::to_value(learner).is_ok_and(|options| leaves_an_adapter(&options));
    if !matches!(requires.feedback, FeedbackKind::Preferences | FeedbackKind::RankedLists) {
        Some(format!(
            "expected a learner that takes preference pairs or ranked lists, `{name}` takes {}",
            requires.feedback.name()
        ))
    } else if requires.produces != CheckpointKind::CausalLm {
        Some(format!("expected a learner that makes a policy, `{name}` makes a reward model"))
    } else if alone {
        Some(format!("expected `lora.output = \"merged\"` in `{name}`: a round goes on from whole weights"))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn with(options: serde_json::Value) -> IterativeConfig {
        let mut all = json!({ "sampling": { "n": 4 }, "temperatures": [1.0] });
        for (key, value) in options.as_object().expect("a table") {
            all[key] = value.clone();
        }
        serde_json::from_value(all).expect("options")
    }

    #[test]
    fn inner_learners_that_do_not_fit_and_combinations_without_sense_are_refused_with_the_reason() {
        for config in [IterativeConfig::rlhf_workflow(), IterativeConfig::sppo(), IterativeConfig::self_rewarding()] {
            assert_eq!(config.problems(), []);
        }
        let problem = |options: serde_json::Value| {
            let problems = with(options).problems();
            assert_eq!(problems.len(), 1, "{problems:?}");
            (problems[0].path.clone(), problems[0].message.clone())
        };
        for (options, path, part) in [
            (json!({ "learner": { "sft": {} } }), "learner", "`sft` takes demonstrations"),
            (json!({ "learner": { "reward_modeling": {} } }), "learner", "`reward_modeling` makes a reward model"),
            (json!({ "learner": { "iterative": {} } }), "learner", "`iterative` takes instructions"),
            (json!({ "learner": { "dpo": { "lora": { "output": "adapter" } } } }), "learner", "from whole weights"),
            (
                json!({ "learner": { "curriculum": { "learner": { "dpo": { "lora": { "output": "adapter" } } } } } }),
                "learner",
                "from whole weights",
            ),
            (json!({ "learner": { "dpo": { "beta": 0.0 } } }), "learner.dpo.beta", "> 0"),
            (json!({ "temperatures": [1.0, 0.9, 0.8] }), "sampling.n", "a multiple of the number of `temperatures`"),
            (json!({ "temperatures": [0.0] }), "temperatures", "greedy answers are all the same"),
            (json!({ "scorer": "annotator", "replay": "best_of_all" }), "replay", "within a round only"),
            (json!({ "same_instructions": true, "instructions_per_round": 5 }), "instructions_per_round", "nothing"),
            (json!({ "selection": { "rso": { "beta": 0.5, "accept": 5 } } }), "selection.rso.accept", "got 5"),
        ] {
            let (found, message) = problem(options.clone());
            assert!(found == path && message.contains(part), "{options}: `{found}`: {message}");
        }
    }
}
