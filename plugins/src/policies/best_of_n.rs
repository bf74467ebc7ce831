//! The best of n answers by a reward model's score, as a policy around a policy.
//!
//! Nakano et al. 2021, <https://arxiv.org/abs/2112.09332>, section 2; AlpacaFarm's best-of-n.

use farmhand_core::types::{Completion, Instruction, Response, SamplingParams};
use farmhand_core::{
    BuildContext, Policy, PolicyConfig, PolicySpec, Problem, Result, RewardModel, RewardModelSpec, RunContext, checked, register,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::rl::selection::best;
use crate::training::Ranges;

register! {
    kind: Policy, name: "best_of_n", config: BestOfNConfig,
    summary: "the best of n answers of another policy by a reward model", paper: "https://arxiv.org/abs/2112.09332",
}

/// Options of `[policy.best_of_n]`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BestOfNConfig {
    /// Answers to choose from, ≥ 1.
    pub n: u32,
    /// The policy that answers; by default `causal_lm` with the policy of the stage.
    pub policy: PolicySpec,
    /// The reward model that chooses; by default `bradley_terry` with the reward model of the stage. Of equal scores the first
    /// answer wins.
    pub reward_model: RewardModelSpec,
}

impl Default for BestOfNConfig {
    fn default() -> Self {
        Self {
            n: 16,
            policy: PolicySpec::from_json("causal_lm", "{}").expect("a component of this crate"),
            reward_model: RewardModelSpec::from_json("bradley_terry", "{}").expect("a component of this crate"),
        }
    }
}

#[typetag::serde(name = "best_of_n")]
impl PolicyConfig for BestOfNConfig {
    fn build(&self, ctx: &BuildContext<'_>) -> Result<Box<dyn Policy>> {
        let (policy, reward_model) = (self.policy.build(ctx)?, self.reward_model.build(ctx)?);
        let name = format!("best-of-{} {}", self.n, policy.model());
        Ok(Box::new(BestOfN { n: self.n, name, policy, reward_model }))
    }

    fn problems(&self) -> Vec<Problem> {
        Ranges::new()
            .at_least_one("n", self.n as usize)
            .nested("policy", self.policy.problems())
            .nested("reward_model", self.reward_model.problems())
            .problems()
    }
}

struct BestOfN {
    n: u32,
    name: String,
    policy: Box<dyn Policy>,
    reward_model: Box<dyn RewardModel>,
}

impl Policy for BestOfN {
    fn model(&self) -> &str {
        &self.name
    }

    fn generate(
        &mut self,
        instructions: &[Instruction],
        sampling: &SamplingParams,
        ctx: &RunContext<'_>,
    ) -> Result<Vec<Completion>> {
        let wider = SamplingParams { n: sampling.n * self.n, ..sampling.clone() };
        let candidates = checked::generate(self.policy.as_mut(), instructions, &wider, ctx)?;
        let responses: Vec<Response<'_>> = candidates
            .iter()
            .map(|candidate| Response { instruction: &candidate.instruction, output: &candidate.output })
            .collect();
        let scores = checked::score(self.reward_model.as_mut(), &responses, ctx)?;
        let winners = scores.chunks(self.n as usize).enumerate().map(|(group, scores)| {
            let candidate = &candidates[group * self.n as usize + best(scores).unwrap_or(0)];
            Completion { model: self.name.clone(), sample: (group % sampling.n as usize) as u32, ..candidate.clone() }
        });
        Ok(winners.collect())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use farmhand_core::{Device, NoEvents};

    use super::*;
    use crate::testing::{Stage, instructions, tiny_checkpoint};

    #[test]
    fn the_longest_of_n_answers_wins_under_the_length_reward_model() {
        let stage = Stage::new();
        let ctx = stage.context(&NoEvents);
        let checkpoint = tiny_checkpoint(&stage);
        let mut build = BuildContext::new(Device::Cpu, Path::new("."));
        build.policy = Some(&checkpoint);
        let config: BestOfNConfig =
            serde_json::from_value(serde_json::json!({ "n": 4, "reward_model": { "length": {} } })).expect("a configuration");
        assert!(config.problems().is_empty());
        let sampling = |n| SamplingParams { n, max_new_tokens: 8, ..SamplingParams::default() };
        let instructions = instructions(3);
        let all = PolicySpec::from_json("causal_lm", "{}")
            .and_then(|spec| spec.build(&build))
            .and_then(|mut policy| policy.generate(&instructions, &sampling(8), &ctx))
            .expect("generated");
        let mut policy = config.build(&build).expect("built");
        assert_eq!(policy.model(), "best-of-4 base");
        let best = checked::generate(policy.as_mut(), &instructions, &sampling(2), &ctx).expect("generated");
        let length = |completion: &Completion| completion.output.chars().count();
        for (group, winner) in all.chunks(4).zip(&best) {
            assert_eq!(length(winner), group.iter().map(length).max().expect("four answers"));
            assert!(group.iter().any(|candidate| candidate.output == winner.output));
        }
    }

    #[test]
    fn problems_of_the_parts_are_located() {
        let config: BestOfNConfig = serde_json::from_value(serde_json::json!({
            "n": 0, "policy": { "causal_lm": { "max_batch": 0 } }, "reward_model": { "length": { "scale": 0.0 } },
        }))
        .expect("a configuration");
        let paths: Vec<String> = config.problems().into_iter().map(|problem| problem.path).collect();
        assert_eq!(paths, ["n", "policy.causal_lm.max_batch", "reward_model.length.scale"]);
    }
}
