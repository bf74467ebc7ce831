//! The options of PPO.

use farmhand_core::Problem;
use farmhand_models::{BatchLayout, FreezeConfig, LoraConfig, OptimConfig, PromptFormat, Schedule};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::rl::kl::{KlControl, KlEstimator};
use crate::rl::masked::Whitening;
use crate::rl::reduction::Reduction;
use crate::rl::reward_shaping::MissingEnd;
use crate::training::{MicroBatching, Ranges};

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
#[serde(deny_unknown_fields, default)]
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
    /// How instructions become text; by default as the checkpoint says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt: Option<PromptFormat>,
    /// Responses generated together at most, ≥ 1. Changes speed and memory.
    pub generation_batch: usize,
    /// Responses per forward pass at most, ≥ 1; by default as many as `micro_batch_tokens` allows. Changes speed and memory, not
    /// the result.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub micro_batch_size: Option<usize>,
    /// Tokens per forward pass at most, ≥ 1: padding counts, an equal prompt counts once. By default 1024 on the CPU and 8192
    /// on a GPU. Changes speed and memory, not the result.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub micro_batch_tokens: Option<usize>,
    /// How texts lie in a forward pass. Changes speed and memory, not the result.
    pub layout: BatchLayout,
    /// Gradient checkpointing: of every so many blocks only the input is kept for the backward pass, which computes the rest
    /// again; 0 keeps everything. Less memory for more time; changes neither the loss nor the gradients.
    pub checkpoint_every: usize,
    /// Rounds between saved states, ≥ 1.
    pub save_every: u64,
    /// Train low-rank changes to the linear layers (LoRA) of policy and value model, and the value model's head, and no other
    /// weights; by default all weights are trained. Policy, reference and, where it starts at the policy's body, the value model
    /// then share the weights. Without dropout: responses are sampled without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora: Option<LoraConfig>,
    /// Weights of the policy that stay as they are; not together with `lora`.
    #[serde(skip_serializing_if = "FreezeConfig::is_empty")]
    pub freeze: FreezeConfig,
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
            prompt: None,
            generation_batch: 64,
            micro_batch_size: None,
            micro_batch_tokens: None,
            layout: BatchLayout::Packed,
            checkpoint_every: 0,
            save_every: 5,
            lora: None,
            freeze: FreezeConfig::default(),
            value_optim: optim.clone(),
            optim,
        }
    }
}

impl PpoConfig {
    /// AlpacaFarm's published set-up for simulated feedback on LLaMA-7B, with its quirks: the divergence clamped at 0,
    /// whitening and means over padded cells, the value model started from the reward model.
    ///
    /// Two things differ: policy and value model are clipped apart (there: one norm over both), and the value model is not
    /// trained on padding.
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

    /// Everything out of range, paths relative to the learner's table.
    pub(super) fn problems(&self) -> Vec<Problem> {
        let dropout = self.lora.as_ref().map_or(0.0, |lora| lora.dropout);
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
            .at_least_one("micro_batch_size", self.micro_batch_size.unwrap_or(1))
            .at_least_one("micro_batch_tokens", self.micro_batch_tokens.unwrap_or(1))
            .at_least_one("save_every", self.save_every as usize)
            .trained_part(self.lora.as_ref(), &self.freeze)
            .require("lora.dropout", dropout == 0.0, "0, for responses are sampled without dropout", dropout)
            .nested("optim", self.optim.problems())
            .nested("value_optim", self.value_optim.problems())
            .problems()
    }

    pub(super) fn micro_batching(&self, device: tch::Device) -> MicroBatching {
        MicroBatching::new(self.layout, self.micro_batch_tokens, self.micro_batch_size, device)
    }

    /// Optimiser steps of all rounds.
    pub(super) fn n_optimiser_steps(&self) -> u64 {
        self.steps * u64::from(self.inner_epochs) * self.rollout_size.div_ceil(self.batch_size) as u64
    }

    /// Columns of a round's padded tensors: the longest response allowed where padding counts, else the longest there is.
    pub(super) fn width(&self, lengths: &[usize]) -> usize {
        let padding_counts = [self.whiten_rewards, self.whiten_advantages].contains(&Whitening::AllCells);
        if padding_counts { self.max_new_tokens as usize } else { lengths.iter().copied().max().unwrap_or(0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_and_the_alpaca_farm_preset_are_in_range() {
        assert_eq!(PpoConfig::default().problems(), []);
        assert_eq!(PpoConfig::alpaca_farm().problems(), []);
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
            PpoConfig { lora: Some(lora), ..PpoConfig::default() }.problems().into_iter().map(|problem| problem.path).collect();
        assert_eq!(paths, ["lora.rank", "lora.dropout"]);
    }
}
