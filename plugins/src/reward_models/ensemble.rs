//! Several reward models as one, to make a policy that exploits one model's mistakes pay for it.
//!
//! Coste et al. 2023, <https://arxiv.org/abs/2310.02743>: the mean of the members, their worst case, or the mean minus a
//! multiple of their disagreement (the paper subtracts the variance; here it is the standard deviation, in the unit of the
//! scores).

use farmhand_core::types::Response;
use farmhand_core::{
    BuildContext, Error, Problem, Result, RewardModel, RewardModelConfig, RewardModelSpec, RunContext, checked, register,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::training::Ranges;

register! {
    kind: RewardModel, name: "ensemble", config: EnsembleConfig,
    summary: "several reward models as one: mean, worst case, or mean minus disagreement",
    paper: "https://arxiv.org/abs/2310.02743",
}

/// Options of `[reward_model.ensemble]`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EnsembleConfig {
    /// The reward models, each a table with one name over its options; at least one.
    pub members: Vec<RewardModelSpec>,
    /// How their scores of one answer become one.
    pub combine: Combine,
}

/// How the members' scores of one answer become one.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Combine {
    /// Their mean.
    #[default]
    Mean,
    /// The lowest.
    WorstCase,
    /// Their mean minus `k` standard deviations (population).
    MeanMinusStd {
        /// How much disagreement costs, ≥ 0, in standard deviations.
        k: f64,
    },
}

impl Combine {
    /// One score from the members' scores; `scores` is not empty.
    pub fn apply(self, scores: &[f64]) -> f64 {
        let n = scores.len() as f64;
        let mean = scores.iter().sum::<f64>() / n;
        match self {
            Self::Mean => mean,
            Self::WorstCase => scores.iter().copied().fold(f64::INFINITY, f64::min),
            Self::MeanMinusStd { k } => {
                let variance = scores.iter().map(|score| (score - mean).powi(2)).sum::<f64>() / n;
                mean - k * variance.sqrt()
            }
        }
    }
}

#[typetag::serde(name = "ensemble")]
impl RewardModelConfig for EnsembleConfig {
    fn build(&self, ctx: &BuildContext<'_>) -> Result<Box<dyn RewardModel>> {
        if self.members.is_empty() {
            return Err(Error::invalid_config("`members` is empty").with_hint("name at least one reward model"));
        }
        let members = self.members.iter().map(|spec| spec.build(ctx)).collect::<Result<Vec<_>>>()?;
        Ok(Box::new(Ensemble { members, combine: self.combine }))
    }

    fn problems(&self) -> Vec<Problem> {
        let mut ranges = Ranges::new().require("members", !self.members.is_empty(), "at least one reward model", "none");
        for (i, member) in self.members.iter().enumerate() {
            ranges = ranges.nested(&format!("members[{i}]"), member.problems());
        }
        match self.combine {
            Combine::MeanMinusStd { k } => ranges.not_negative("combine.mean_minus_std.k", k).problems(),
            _ => ranges.problems(),
        }
    }
}

struct Ensemble {
    members: Vec<Box<dyn RewardModel>>,
    combine: Combine,
}

impl RewardModel for Ensemble {
    fn score(&mut self, items: &[Response<'_>], ctx: &RunContext<'_>) -> Result<Vec<f64>> {
        let by_member =
            self.members.iter_mut().map(|member| checked::score(member.as_mut(), items, ctx)).collect::<Result<Vec<_>>>()?;
        let of_item = |i: usize| by_member.iter().map(|scores| scores[i]).collect::<Vec<_>>();
        Ok((0..items.len()).map(|i| self.combine.apply(&of_item(i))).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use farmhand_core::types::Instruction;
    use farmhand_core::{Device, NoEvents};

    use super::*;
    use crate::testing::with_context;

    #[test]
    fn the_three_combinations() {
        let scores = [1.0, 3.0, 8.0];
        assert_eq!(Combine::Mean.apply(&scores), 4.0);
        assert_eq!(Combine::WorstCase.apply(&scores), 1.0);
        // Deviations −3, −1, 4: variance 26/3.
        assert!((Combine::MeanMinusStd { k: 2.0 }.apply(&scores) - (4.0 - 2.0 * (26.0f64 / 3.0).sqrt())).abs() < 1e-12);
        assert_eq!(Combine::MeanMinusStd { k: 5.0 }.apply(&[2.0]), 2.0);
    }

    #[test]
    fn members_read_from_configurations_are_scored_together() {
        let config: EnsembleConfig = serde_json::from_value(serde_json::json!({
            "members": [{ "length": { "scale": 1.0 } }, { "length": { "scale": 1.0, "target": 2 } }],
            "combine": "worst_case",
        }))
        .expect("a configuration");
        assert!(config.problems().is_empty());
        let mut model = config.build(&BuildContext::new(Device::Cpu, Path::new("."))).expect("built");
        let instruction = Instruction::new("Write.", None);
        let item = Response { instruction: &instruction, output: "abcd" };
        assert_eq!(with_context(&NoEvents, |ctx| model.score(&[item], ctx)).expect("scored"), [-2.0]);
    }

    #[test]
    fn an_empty_ensemble_and_a_bad_member_are_located() {
        assert_eq!(EnsembleConfig::default().problems()[0].path, "members");
        let bad: EnsembleConfig =
            serde_json::from_value(serde_json::json!({ "members": [{ "length": { "scale": 0.0 } }] })).expect("a configuration");
        assert_eq!(bad.problems()[0].path, "members[0].length.scale");
    }
}
