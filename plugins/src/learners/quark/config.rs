//! The options of Quark.

use farmhand_core::Problem;
use farmhand_models::{OptimConfig, Schedule};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::rl::reduction::Reduction;
use crate::rl::reward_shaping::MissingEnd;
use crate::training::{PassOptions, Ranges};

/// Options of `[learner.quark]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub struct QuarkConfig {
    /// Optimiser steps in all, ≥ 1. The paper has 3 million answers in steps of 128.
    pub steps: u64,
    /// Optimiser steps between explorations, ≥ 1. The paper has 500.
    pub steps_per_round: u64,
    /// Answers sampled in an exploration, at least as many as there are bins: one to each of as many instructions. The paper answers
    /// all of its instructions each time.
    pub rollout_size: usize,
    /// Bins K that the pool is divided into, ≥ 2. The paper has 5, for some tasks 8.
    pub bins: usize,
    /// Which bins are trained on, and whether answers stand behind the control of their bin.
    pub train_on: TrainedBins,
    /// Which answers are in the pool.
    pub pool: Pool,
    /// The first line of a conditioned instruction, with `{}` in the place of the bin, `0` for the best.
    pub control: String,
    /// Weight β of the divergence from the reference, ≥ 0.
    pub kl_weight: f64,
    /// Which divergence it is, exact over the vocabulary.
    pub kl_direction: KlDirection,
    /// Weight of the entropy of the policy's distributions, which is added to the objective, ≥ 0.
    pub entropy_weight: f64,
    /// Answers per optimiser step, ≥ 1, drawn with replacement.
    pub batch_size: usize,
    /// Longest prompt with its control, in tokens; instructions with a longer one are left out and counted.
    pub max_prompt_tokens: usize,
    /// Longest answer, in tokens, ≥ 1. The paper's tasks have 20.
    pub max_new_tokens: u32,
    /// Softmax temperature of exploration, > 0.
    pub temperature: f64,
    /// What happens to the score of an answer cut off before its end-of-sequence token.
    pub missing_end: MissingEnd,
    /// How token losses become one number per optimiser step.
    pub reduction: Reduction,
    /// Answers generated together at most, ≥ 1. Changes speed and memory.
    pub generation_batch: usize,
    /// Steps between saved states, ≥ 1.
    pub save_every: u64,
    /// Records are answers. With `lora`, policy and reference share the weights.
    #[serde(flatten)]
    pub passes: PassOptions,
    /// The optimiser; its schedule runs over all steps.
    pub optim: OptimConfig,
}

/// Which bins are trained on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TrainedBins {
    /// All, each answer behind the control of its bin; exploration asks for the best one. The paper's.
    #[default]
    AllConditioned,
    /// The best bin alone, without controls: AlpacaFarm's.
    BestPlain,
}

/// Which answers are in the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Pool {
    /// Those of all explorations; all are put into bins anew after each. The paper's.
    #[default]
    Growing,
    /// Those of the newest exploration: AlpacaFarm's.
    Newest,
}

/// Which divergence between policy π and reference π₀ is paid for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum KlDirection {
    /// `KL(π ‖ π₀)`: the authors' and AlpacaFarm's code.
    #[default]
    FromPolicy,
    /// `KL(π₀ ‖ π)`: the formula in the paper.
    FromReference,
}

impl Default for QuarkConfig {
    fn default() -> Self {
        Self {
            steps: 400,
            steps_per_round: 50,
            rollout_size: 512,
            bins: 5,
            train_on: TrainedBins::AllConditioned,
            pool: Pool::Growing,
            control: "Quality of the answer: {}".to_owned(),
            kl_weight: 0.05,
            kl_direction: KlDirection::FromPolicy,
            entropy_weight: 0.06,
            batch_size: 128,
            max_prompt_tokens: 192,
            max_new_tokens: 300,
            temperature: 1.0,
            missing_end: MissingEnd::Keep,
            reduction: Reduction::TokenMean,
            generation_batch: 64,
            save_every: 25,
            passes: PassOptions::default(),
            optim: OptimConfig { lr: 1e-5, eps: 1e-5, schedule: Schedule::Linear, ..OptimConfig::default() },
        }
    }
}

impl QuarkConfig {
    /// AlpacaFarm's: the best of 4 bins of each exploration's own answers, without controls and entropy, one step an exploration,
    /// means over padded cells.
    pub fn alpaca_farm() -> Self {
        let optim = OptimConfig {
            lr: 3e-6,
            eps: 1e-5,
            schedule: Schedule::Linear,
            warmup_steps: 5,
            warmup_ratio: 0.0,
            ..OptimConfig::default()
        };
        Self {
            steps: 390,
            steps_per_round: 1,
            bins: 4,
            train_on: TrainedBins::BestPlain,
            pool: Pool::Newest,
            entropy_weight: 0.0,
            batch_size: 256,
            reduction: Reduction::FixedNorm,
            optim,
            ..Self::default()
        }
    }

    /// Everything out of range, paths relative to the learner's table.
    pub(super) fn problems(&self) -> Vec<Problem> {
        Ranges::new()
            .at_least_one("steps", self.steps as usize)
            .at_least_one("steps_per_round", self.steps_per_round as usize)
            .require("bins", self.bins >= 2, "2 bins or more", self.bins)
            .require(
                "rollout_size",
                self.rollout_size >= self.bins,
                "as many answers as there are bins or more",
                self.rollout_size,
            )
            .control_line("control", &self.control)
            .not_negative("kl_weight", self.kl_weight)
            .not_negative("entropy_weight", self.entropy_weight)
            .at_least_one("batch_size", self.batch_size)
            .at_least_one("max_prompt_tokens", self.max_prompt_tokens)
            .at_least_one("max_new_tokens", self.max_new_tokens as usize)
            .positive("temperature", self.temperature)
            .at_least_one("generation_batch", self.generation_batch)
            .at_least_one("save_every", self.save_every as usize)
            .passes(&self.passes)
            .nested("optim", self.optim.problems())
            .problems()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_in_range_and_options_out_of_it_are_located() {
        assert_eq!(QuarkConfig::default().problems(), []);
        assert_eq!(QuarkConfig::alpaca_farm().problems(), []);
        let config = QuarkConfig {
            steps_per_round: 0,
            bins: 1,
            rollout_size: 0,
            control: "best".into(),
            kl_weight: -1.0,
            temperature: 0.0,
            ..QuarkConfig::default()
        };
        let paths: Vec<String> = config.problems().into_iter().map(|problem| problem.path).collect();
        assert_eq!(paths, ["steps_per_round", "bins", "rollout_size", "control", "kl_weight", "temperature"]);
    }
}
