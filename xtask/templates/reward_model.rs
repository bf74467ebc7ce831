//! Scores an answer by how varied its words are. Put your reward in its place.
//!
//! Say here what the score means, cite the paper, and give the formula as the code computes it. This one is
//! `weight · distinct words / words`, and 0 for an answer without words.

use std::collections::BTreeSet;

use farmhand_core::types::Response;
use farmhand_core::{BuildContext, Problem, Result, RewardModel, RewardModelConfig, RunContext, register};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::training::Ranges;

register! {
    kind: RewardModel, name: "template_reward_model", config: TemplateRewardModelConfig,
    summary: "how varied the words of an answer are",
    // paper: "https://arxiv.org/abs/…",
}

/// Options of `[reward_model.template_reward_model]`. These comments are the user's documentation: say unit and range.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct TemplateRewardModelConfig {
    /// Points of an answer that repeats no word, > 0.
    pub weight: f64,
}

impl Default for TemplateRewardModelConfig {
    fn default() -> Self {
        Self { weight: 1.0 }
    }
}

#[typetag::serde(name = "template_reward_model")]
impl RewardModelConfig for TemplateRewardModelConfig {
    fn build(&self, _: &BuildContext<'_>) -> Result<Box<dyn RewardModel>> {
        Ok(Box::new(TemplateRewardModel(self.clone())))
    }

    fn problems(&self) -> Vec<Problem> {
        Ranges::new().positive("weight", self.weight).problems()
    }
}

struct TemplateRewardModel(TemplateRewardModelConfig);

impl RewardModel for TemplateRewardModel {
    /// A score depends on its item alone, whatever is asked beside it.
    fn score(&mut self, items: &[Response<'_>], _: &RunContext<'_>) -> Result<Vec<f64>> {
        Ok(items.iter().map(|item| self.0.weight * variety(item.output)).collect())
    }
}

/// The share of words that are not said again, in [0, 1].
fn variety(text: &str) -> f64 {
    let words: Vec<String> = text.split_whitespace().map(str::to_lowercase).collect();
    let distinct = words.iter().collect::<BTreeSet<_>>().len();
    distinct as f64 / words.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_are_repeated_cost_whatever_their_case() {
        assert_eq!(variety("red green blue"), 1.0);
        assert_eq!(variety("Red red RED blue"), 0.5);
        assert_eq!(variety(" "), 0.0);
    }

    #[test]
    fn a_weight_without_effect_is_refused() {
        assert_eq!(TemplateRewardModelConfig::default().problems(), []);
        assert_eq!(TemplateRewardModelConfig { weight: 0.0 }.problems()[0].path, "weight");
    }
}
