//! The options of PPO.

use farmhand_core::Problem;
use farmhand_models::{OptimConfig, Schedule};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::pretraining::PretrainingMix;
use crate::rl::kl::{KlControl, KlEstimator};
use crate::rl::masked::Whitening;
use crate::rl::reduction::Reduction;
use crate::rl::reward_shaping::MissingEnd;
use crate::training::{PassOptions, Ranges, RolloutOptions};

/// Where the value model starts. Its head is always zero at first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ValueInit {
    /// At the reward model's body when the reward model has a checkpoint with the policy's tokenizer, otherwise at the policy's.
    #[default]
    Auto,
    /// At the reward model's body; an error when that is not possible.
    RewardModel,
    /// At the policy's body.
    Policy,
}

/// Options of `[learner.ppo]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub struct PpoConfig {
    /// Rounds of sampling and updating, ≥ 1.
    pub steps: u64,
    /// Responses sampled per round, ≥ 1.
    pub rollout_size: usize,
    /// Responses per optimiser step, ≥ 1; a round's last step may have fewer.
    pub batch_size: usize,
    /// Passes over a round's responses, ≥ 1.
    pub inner_epochs: u32,
    /// Longest prompt, in tokens; instructions with a longer one are left out and counted.
    pub max_prompt_tokens: usize,
    /// Longest response, in tokens, ≥ 1.
    pub max_new_tokens: u32,
    /// Softmax temperature of sampling and of every log-probability, > 0.
    pub temperature: f64,
    /// What happens to the score of a response cut off before its end-of-sequence token.
    pub missing_end: MissingEnd,
    /// Weight of the divergence from the reference in the reward, ≥ 0.
    pub kl_weight: f64,
    /// How that weight changes from round to round.
    pub kl_control: KlControl,
    /// How the divergence is estimated per token.
    pub kl_estimator: KlEstimator,
    /// Bringing the token rewards to variance 1 (their mean stays).
    pub whiten_rewards: Whitening,
    /// Bringing the advantages to mean 0 and variance 1.
    pub whiten_advantages: Whitening,
    /// Discount γ per token, in [0, 1].
    pub gamma: f64,
    /// Horizon λ of the advantage estimate, in [0, 1]; 1 is return minus value.
    pub lambda: f64,
    /// How far from 1 the probability ratio may go before its gradient vanishes, > 0.
    pub clip: f64,
    /// How far a value may go from its old value before its gradient vanishes, ≥ 0; 0 does not clip.
    pub value_clip: f64,
    /// Weight of the value loss, > 0. The value model has its own optimiser, so it matters only through gradient clipping.
    pub value_weight: f64,
    /// How token losses become one number per optimiser step.
    pub reduction: Reduction,
    /// Where the value model starts.
    pub value_init: ValueInit,
    /// Texts that the policy goes on learning beside its reward (InstructGPT's PPO-ptx); by default none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pretraining: Option<PretrainingMix>,
    /// Responses generated together at most, ≥ 1. Changes speed and memory.
    pub generation_batch: usize,
    /// Rounds between saved states, ≥ 1.
    pub save_every: u64,
    /// Records are responses. With `lora`, policy, reference and, where it starts at the policy's body, the value model share
    /// the weights; without dropout, for responses are sampled without it. `freeze` is about the policy.
    #[serde(flatten)]
    pub passes: PassOptions,
    /// The policy's optimiser; its schedule runs over all optimiser steps of all rounds.
    pub optim: OptimConfig,
    /// The value model's optimiser.
    pub value_optim: OptimConfig,
}

impl Default for PpoConfig {
    fn default() -> Self {
        let optim = OptimConfig { lr: 1e-5, eps: 1e-5, schedule: Schedule::Linear, ..OptimConfig::default() };
        Self {
            steps: 40,
            rollout_size: 128,
            batch_size: 64,
            inner_epochs: 2,
            max_prompt_tokens: 192,
            max_new_tokens: 300,
            temperature: 1.0,
            missing_end: MissingEnd::Keep,
            kl_weight: 0.02,
            kl_control: KlControl::Fixed,
            kl_estimator: KlEstimator::K1,
            whiten_rewards: Whitening::Tokens,
            whiten_advantages: Whitening::Tokens,
            gamma: 1.0,
            lambda: 1.0,
            clip: 0.2,
            value_clip: 0.2,
            value_weight: 0.1,
            reduction: Reduction::TokenMean,
            value_init: ValueInit::Auto,
            pretraining: None,
            generation_batch: 64,
            save_every: 5,
            passes: PassOptions::default(),
            value_optim: optim.clone(),
            optim,
        }
    }
}

impl PpoConfig {
    /// AlpacaFarm's published set-up for simulated feedback on LLaMA-7B, with its quirks: the divergence clamped at 0,
    /// whitening and means over padded cells, the value model started from the reward model.
    ///
    /// Two things differ: policy and value model are clipped apart (there: one norm over both), and padding has the value 0 and
    /// trains nothing (there: the value model predicts and learns on padding too).
    pub fn alpaca_farm() -> Self {
        let steps_per_round = 4;
        let optim = OptimConfig {
            lr: 1e-5,
            eps: 1e-5,
            schedule: Schedule::Linear,
            warmup_steps: 5 * steps_per_round,
            warmup_ratio: 0.0,
            ..OptimConfig::default()
        };
        Self {
            steps: 390,
            rollout_size: 512,
            batch_size: 256,
            inner_epochs: 2,
            max_prompt_tokens: 192,
            max_new_tokens: 300,
            kl_weight: 0.0067,
            kl_estimator: KlEstimator::K1Clamped,
            whiten_rewards: Whitening::AllCells,
            whiten_advantages: Whitening::AllCells,
            reduction: Reduction::FixedNorm,
            value_init: ValueInit::RewardModel,
            value_optim: optim.clone(),
            optim,
            ..Self::default()
        }
    }

    /// InstructGPT (Ouyang et al. 2022, appendix C.4): 512 episodes a round in eight steps, passed over once, β = 0.02, no discount,
    /// λ = 0.95 as in its predecessors, value model from the reward model, a constant learning rate of 9e-6 after ten rounds of
    /// warm-up. Its policies' rates depend on their size; this is the value model's. Its mix of pre-training texts needs a file of them: set
    /// `pretraining.file`.
    pub fn instruct_gpt() -> Self {
        let optim = OptimConfig {
            lr: 9e-6,
            betas: [0.9, 0.95],
            schedule: Schedule::Constant,
            warmup_steps: 80,
            warmup_ratio: 0.0,
            ..OptimConfig::default()
        };
        Self {
            steps: 500,
            rollout_size: 512,
            batch_size: 64,
            inner_epochs: 1,
            kl_weight: 0.02,
            lambda: 0.95,
            value_init: ValueInit::RewardModel,
            value_optim: optim.clone(),
            optim,
            ..Self::default()
        }
    }

    /// Everything out of range, paths relative to the learner's table.
    pub(super) fn problems(&self) -> Vec<Problem> {
        Ranges::new()
            .at_least_one("steps", self.steps as usize)
            .at_least_one("rollout_size", self.rollout_size)
            .at_least_one("batch_size", self.batch_size)
            .at_least_one("inner_epochs", self.inner_epochs as usize)
            .at_least_one("max_prompt_tokens", self.max_prompt_tokens)
            .at_least_one("max_new_tokens", self.max_new_tokens as usize)
            .positive("temperature", self.temperature)
            .not_negative("kl_weight", self.kl_weight)
            .nested("kl_control", self.kl_control.problems())
            .fraction("gamma", self.gamma)
            .fraction("lambda", self.lambda)
            .positive("clip", self.clip)
            .not_negative("value_clip", self.value_clip)
            .positive("value_weight", self.value_weight)
            .at_least_one("generation_batch", self.generation_batch)
            .at_least_one("save_every", self.save_every as usize)
            .sampled_passes(&self.passes)
            .nested("pretraining", self.pretraining.as_ref().map(PretrainingMix::problems).unwrap_or_default())
            .nested("optim", self.optim.problems())
            .nested("value_optim", self.value_optim.problems())
            .problems()
    }

    /// How a round is sampled: one response a prompt.
    pub(super) fn rollouts(&self) -> RolloutOptions {
        RolloutOptions {
            steps: self.steps,
            prompts_per_step: self.rollout_size,
            samples_per_prompt: 1,
            max_prompt_tokens: self.max_prompt_tokens,
            max_new_tokens: self.max_new_tokens,
            temperature: self.temperature,
            missing_end: self.missing_end,
            generation_batch: self.generation_batch,
            save_every: self.save_every,
            ..RolloutOptions::default()
        }
    }

    /// Optimiser steps of all rounds.
    pub(super) fn n_optimiser_steps(&self) -> u64 {
        self.rollouts().n_optimiser_steps(self.batch_size, self.inner_epochs)
    }

    /// Columns of a round's padded tensors: the longest response allowed where padding counts, else the longest there is.
    pub(super) fn width(&self, lengths: &[usize]) -> usize {
        let padding_counts = [self.whiten_rewards, self.whiten_advantages].contains(&Whitening::AllCells);
        if padding_counts { self.max_new_tokens as usize } else { lengths.iter().copied().max().unwrap_or(0) }
    }
}

#[cfg(test)]
mod tests {
    use farmhand_models::LoraConfig;

    use super::*;

    #[test]
    fn the_default_and_the_presets_are_in_range() {
        assert_eq!(PpoConfig::default().problems(), []);
        assert_eq!(PpoConfig::alpaca_farm().problems(), []);
        assert_eq!(PpoConfig::instruct_gpt().problems(), []);
        // 256 000 episodes.
        assert_eq!(PpoConfig::instruct_gpt().n_optimiser_steps(), 500 * 8);
        assert_eq!(PpoConfig::alpaca_farm().n_optimiser_steps(), 390 * 4);
    }

    #[test]
    fn options_out_of_range_are_located() {
        let config =
            PpoConfig { lambda: 1.5, kl_control: KlControl::AdaptiveGain { target: -1.0, gain: 0.1 }, ..PpoConfig::default() };
        let paths: Vec<String> = config.problems().into_iter().map(|problem| problem.path).collect();
        assert_eq!(paths, ["kl_control.adaptive_gain.target", "lambda"]);
        let lora = LoraConfig { rank: 0, dropout: 0.1, ..LoraConfig::default() };
        let paths: Vec<String> =
            PpoConfig { passes: PassOptions { lora: Some(lora), ..PassOptions::default() }, ..PpoConfig::default() }
                .problems()
                .into_iter()
                .map(|problem| problem.path)
                .collect();
        assert_eq!(paths, ["lora.rank", "lora.dropout"]);
    }
}
