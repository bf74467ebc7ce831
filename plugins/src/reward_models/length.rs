//! Scores an answer by its length alone: a baseline that shows how much of a result is length, and a toy to learn on.
//!
//! Without a target the score is `scale · characters`; with one it is `−scale · |characters − target|`.

use farmhand_core::types::Response;
use farmhand_core::{BuildContext, Problem, Result, RewardModel, RewardModelConfig, RunContext, register};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::training::Ranges;

register! {
    kind: RewardModel, name: "length", config: LengthConfig,
    summary: "the length of the answer, in characters",
}

/// Options of `[reward_model.length]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LengthConfig {
    /// Points per character; negative prefers short answers. Not 0, and > 0 with a target.
    pub scale: f64,
    /// The ideal length in characters; answers lose `scale` points for each character they are off. None: longer scores more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<u32>,
}

impl Default for LengthConfig {
    fn default() -> Self {
        Self { scale: 0.01, target: None }
    }
}

#[typetag::serde(name = "length")]
impl RewardModelConfig for LengthConfig {
    fn build(&self, _: &BuildContext<'_>) -> Result<Box<dyn RewardModel>> {
        Ok(Box::new(Length(self.clone())))
    }

    fn problems(&self) -> Vec<Problem> {
        let fits = self.scale.is_finite() && if self.target.is_some() { self.scale > 0.0 } else { self.scale != 0.0 };
        let expected = if self.target.is_some() { "a number > 0 (there is a target)" } else { "a number other than 0" };
        Ranges::new().require("scale", fits, expected, self.scale).problems()
    }
}

struct Length(LengthConfig);

impl RewardModel for Length {
    fn score(&mut self, items: &[Response<'_>], _: &RunContext<'_>) -> Result<Vec<f64>> {
        let Self(config) = self;
        let score = |item: &Response<'_>| {
            let n_characters = item.output.chars().count() as f64;
            config.target.map_or(config.scale * n_characters, |target| -config.scale * (n_characters - f64::from(target)).abs())
        };
        Ok(items.iter().map(score).collect())
    }
}

#[cfg(test)]
mod tests {
    use farmhand_core::NoEvents;
    use farmhand_core::types::Instruction;

    use super::*;
    use crate::testing::with_context;

    fn scores(config: &LengthConfig, outputs: &[&str]) -> Vec<f64> {
        let instruction = Instruction::new("Write.", None);
        let items: Vec<_> = outputs.iter().map(|&output| Response { instruction: &instruction, output }).collect();
        with_context(&NoEvents, |ctx| Length(config.clone()).score(&items, ctx)).expect("scored")
    }

    #[test]
    fn longer_scores_more_and_characters_are_not_bytes() {
        assert_eq!(scores(&LengthConfig { scale: 2.0, target: None }, &["", "ab", "éü"]), [0.0, 4.0, 4.0]);
        assert_eq!(scores(&LengthConfig { scale: -1.0, target: None }, &["abc"]), [-3.0]);
    }

    #[test]
    fn with_a_target_the_nearest_length_scores_most() {
        assert_eq!(scores(&LengthConfig { scale: 1.0, target: Some(3) }, &["abc", "a", "abcde"]), [0.0, -2.0, -2.0]);
    }

    #[test]
    fn a_scale_without_effect_is_refused() {
        assert!(LengthConfig::default().problems().is_empty());
        assert_eq!(LengthConfig { scale: 0.0, target: None }.problems()[0].path, "scale");
        assert_eq!(LengthConfig { scale: -1.0, target: Some(5) }.problems().len(), 1);
    }
}
