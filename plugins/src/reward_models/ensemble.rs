//! Several reward models as one, to make a policy that exploits one model's mistakes pay for it.
//!
//! Coste et al. 2023, <https://arxiv.org/abs/2310.02743>: the mean of the members, their worst case, or the mean minus a
//! multiple of their disagreement, as the paper has it the variance, or the standard deviation, in the unit of the scores. Llama 2
//! (Touvron et al. 2023, <https://arxiv.org/abs/2307.09288>, section 3.2.3) combines a model of helpfulness with one of safety.

use farmhand_core::types::Response;
use farmhand_core::{
    BuildContext, Error, Problem, Result, RewardModel, RewardModelConfig, RewardModelSpec, RunContext, checked, register,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::training::Ranges;

register! {
    kind: RewardModel, name: "ensemble", config: EnsembleConfig,
    summary: "several reward models as one: mean, worst case, mean minus disagreement, or safety before helpfulness",
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
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
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
    /// Their mean minus `k` times their variance (population): the paper's uncertainty-weighted optimisation.
    MeanMinusVariance {
        /// How much disagreement costs, ≥ 0, per unit of variance.
        k: f64,
    },
    /// Llama 2's two models: the first member scores helpfulness, the second safety. The safety score counts for instructions
    /// that ask for trouble and for answers that are unsafe, `σ(score) < threshold`; else the helpfulness score counts. Scores are
    /// log-odds, as Bradley-Terry models give them, and so is the result; Llama 2 whitens it before PPO, which `ppo` does with its
    /// own rewards.
    SafetyFirst {
        /// The probability below which an answer is unsafe, in [0, 1]; Llama 2's is 0.15.
        threshold: f64,
        /// The data sets whose instructions ask for trouble, by the name that instructions carry.
        #[serde(default)]
        safety_datasets: Vec<String>,
    },
}

impl Combine {
    /// One score from the members' scores of an answer; `scores` is not empty. `dataset` is that of the instruction.
    pub fn apply(&self, scores: &[f64], dataset: Option<&str>) -> f64 {
        let n = scores.len() as f64;
        let mean = scores.iter().sum::<f64>() / n;
        let variance = || scores.iter().map(|score| (score - mean).powi(2)).sum::<f64>() / n;
        match self {
            Self::Mean => mean,
            Self::WorstCase => scores.iter().copied().fold(f64::INFINITY, f64::min),
            Self::MeanMinusStd { k } => mean - k * variance().sqrt(),
            Self::MeanMinusVariance { k } => mean - k * variance(),
            Self::SafetyFirst { threshold, safety_datasets } => {
                let (helpfulness, safety) = (scores[0], scores[1]);
                let is_tagged = dataset.is_some_and(|name| safety_datasets.iter().any(|tagged| tagged == name));
                let is_unsafe = 1.0 / (1.0 + (-safety).exp()) < *threshold;
                if is_tagged || is_unsafe { safety } else { helpfulness }
            }
        }
    }
}

#[typetag::serde(name = "ensemble")]
impl RewardModelConfig for EnsembleConfig {
    fn build(&self, ctx: &BuildContext<'_>) -> Result<Box<dyn RewardModel>> {
        if let Some(problem) = self.problems().into_iter().find(|problem| problem.path == "members") {
            return Err(Error::invalid_config(format!("`members`: {}", problem.message)));
        }
        let members = self.members.iter().map(|spec| spec.build(ctx)).collect::<Result<Vec<_>>>()?;
        Ok(Box::new(Ensemble { members, combine: self.combine.clone() }))
    }

    fn problems(&self) -> Vec<Problem> {
        let mut ranges = Ranges::new().require("members", !self.members.is_empty(), "at least one reward model", "none");
        for (i, member) in self.members.iter().enumerate() {
            ranges = ranges.nested(&format!("members[{i}]"), member.problems());
        }
        let ranges = match &self.combine {
            Combine::MeanMinusStd { k } => ranges.not_negative("combine.mean_minus_std.k", *k),
            Combine::MeanMinusVariance { k } => ranges.not_negative("combine.mean_minus_variance.k", *k),
            Combine::SafetyFirst { threshold, .. } => ranges.fraction("combine.safety_first.threshold", *threshold).require(
                "members",
                self.members.len() == 2,
                "two members with `safety_first`, helpfulness and safety",
                self.members.len(),
            ),
            Combine::Mean | Combine::WorstCase => ranges,
        };
        ranges.problems()
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
        let dataset = |i: usize| items[i].instruction.dataset.as_deref();
        Ok((0..items.len()).map(|i| self.combine.apply(&of_item(i), dataset(i))).collect())
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
    fn the_combinations_of_members_that_score_alike() {
        let scores = [1.0, 3.0, 8.0];
        let apply = |combine: Combine, scores: &[f64]| combine.apply(scores, None);
        assert_eq!(apply(Combine::Mean, &scores), 4.0);
        assert_eq!(apply(Combine::WorstCase, &scores), 1.0);
        // Deviations −3, −1, 4: variance 26/3.
        let variance = 26.0f64 / 3.0;
        assert!((apply(Combine::MeanMinusStd { k: 2.0 }, &scores) - (4.0 - 2.0 * variance.sqrt())).abs() < 1e-12);
        assert!((apply(Combine::MeanMinusVariance { k: 0.1 }, &scores) - (4.0 - 0.1 * variance)).abs() < 1e-12);
        assert_eq!(apply(Combine::MeanMinusStd { k: 5.0 }, &[2.0]), 2.0);
    }

    #[test]
    fn safety_counts_where_it_is_low_or_the_instruction_asks_for_trouble() {
        let combine = Combine::SafetyFirst { threshold: 0.15, safety_datasets: vec!["red team".to_owned()] };
        let logit = |p: f64| (p / (1.0 - p)).ln();
        // Probabilities of helpfulness and of safety, and the data set.
        let cases = [(0.9, 0.1, None), (0.9, 0.6, Some("chat")), (0.9, 0.6, Some("red team"))];
        let rewards = cases.map(|(helpful, safe, dataset)| combine.apply(&[logit(helpful), logit(safe)], dataset));
        for (reward, golden) in rewards.iter().zip([-2.197_225, 2.197_225, 0.405_465]) {
            assert!((reward - golden).abs() < 1e-6, "{rewards:?}");
        }
        // Whitened by the population deviation, as before PPO.
        let mean = rewards.iter().sum::<f64>() / 3.0;
        let deviation = (rewards.iter().map(|reward| (reward - mean).powi(2)).sum::<f64>() / 3.0).sqrt();
        for (reward, golden) in rewards.iter().zip([-1.292_765, 1.142_940, 0.149_824]) {
            assert!(((reward - mean) / deviation - golden).abs() < 1e-6);
        }
        let one: EnsembleConfig = serde_json::from_value(serde_json::json!({
            "members": [{ "length": {} }], "combine": { "safety_first": { "threshold": 1.5 } },
        }))
        .expect("a configuration");
        let paths: Vec<String> = one.problems().into_iter().map(|problem| problem.path).collect();
        assert_eq!(paths, ["combine.safety_first.threshold", "members"]);
        assert!(one.build(&BuildContext::new(Device::Cpu, Path::new("."))).is_err(), "it has no safety score");
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
