//! The best of n answers by a reward model's score, as a policy around a policy.
//!
//! Nakano et al. 2021, <https://arxiv.org/abs/2112.09332>, section 2; AlpacaFarm's best-of-n.

use farmhand_core::types::{Completion, Instruction, Response, SamplingParams};
use farmhand_core::{
    BuildContext, Policy, PolicyConfig, PolicySpec, Problem, Result, RewardModel, RewardModelSpec, RunContext, checked, register,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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
        let best = scores.chunks(self.n as usize).enumerate().map(|(group, scores)| {
            let candidate = &candidates[group * self.n as usize + first_best(scores)];
            Completion { model: self.name.clone(), sample: (group % sampling.n as usize) as u32, ..candidate.clone() }
        });
        Ok(best.collect())
    }
}

/// The index of the highest score; the first of equal ones.
fn first_best(scores: &[f64]) -> usize {
    scores.iter().enumerate().fold(0, |best, (i, score)| if *score > scores[best] { i } else { best })
}
