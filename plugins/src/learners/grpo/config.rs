//! The options of GRPO and its relatives.

use farmhand_core::Problem;
use farmhand_models::{OptimConfig, Schedule};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::rl::advantage::GroupAdvantage;
use crate::rl::kl::{KlEstimator, KlPlacement};
use crate::rl::policy_gradient::{ClipRange, Importance};
use crate::rl::reduction::Reduction;
use crate::training::{PassOptions, Ranges, RolloutOptions};

/// What happens to a prompt whose responses all got the same reward, so that none has an advantage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum EqualRewards {
    /// Its responses stay, with advantage 0; they count in every mean, and in the divergence.
    #[default]
    Keep,
    /// Its responses are left out.
    Drop,
    /// They are left out and other prompts are drawn in its place: the dynamic sampling of DAPO.
    Refill {
        /// Times that a round draws again at most, ≥ 1.
        rounds: u32,
    },
}

/// Options of `[learner.grpo]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub struct GrpoConfig {
    /// Rounds and sampling. The paper has 1024 responses a round, 64 to a prompt, of up to 1024 tokens.
    #[serde(flatten)]
    pub rollouts: RolloutOptions,
    /// How the rewards of a prompt's responses become advantages.
    pub advantage: GroupAdvantage,
    /// What happens to a prompt whose responses all got the same reward.
    pub equal_rewards: EqualRewards,
    /// Tokens before `max_new_tokens` over which a response loses up to 1 point for its length; 0 takes nothing. DAPO has a fifth
    /// of `max_new_tokens`.
    pub overlong_margin: u32,
    /// Leave responses without their end-of-sequence token out of the loss; they still count in their group's mean.
    pub skip_cut_off: bool,
    /// Responses per optimiser step, ≥ 1; a round's last step may have fewer. The paper's rounds are one step each.
    pub batch_size: usize,
    /// Passes over a round's responses, ≥ 1.
    pub inner_epochs: u32,
    /// What weighs a token when the policy has moved since it was sampled.
    pub ratio: Importance,
    /// How far below 1 a ratio may go before its gradient vanishes, in (0, 1].
    pub clip_low: f64,
    /// How far above 1 a ratio may go before its gradient vanishes, > 0.
    pub clip_high: f64,
    /// The largest ratio that a negative advantage is multiplied with, > 1 + `clip_high`; by default there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dual_clip: Option<f64>,
    /// How token losses become one number per optimiser step; `fixed_norm` divides by `max_new_tokens`.
    pub reduction: Reduction,
    /// Weight β of the divergence from the reference, ≥ 0; 0 needs no reference.
    pub kl_weight: f64,
    /// Where the divergence counts: the paper's place is the loss. In the reward it is summed over the response before responses are
    /// compared with each other.
    pub kl_placement: KlPlacement,
    /// How the divergence is estimated per token. In the loss, the gradient of `k1` is 0 on average, so that it needs
    /// `kl_importance_weight`; in the reward, `k1` is the usual one.
    pub kl_estimator: KlEstimator,
    /// Multiply the divergence of a token by its ratio, so that its estimate stays unbiased when the policy has moved.
    pub kl_importance_weight: bool,
    /// Records are responses. With `lora`, policy and reference share the weights; without dropout, for responses are sampled
    /// without it.
    #[serde(flatten)]
    pub passes: PassOptions,
    /// The optimiser; its schedule runs over all optimiser steps of all rounds.
    pub optim: OptimConfig,
}

impl Default for GrpoConfig {
    fn default() -> Self {
        Self {
            rollouts: RolloutOptions { samples_per_prompt: 8, ..RolloutOptions::default() },
            advantage: GroupAdvantage::GroupNorm,
            equal_rewards: EqualRewards::Keep,
            overlong_margin: 0,
            skip_cut_off: false,
            batch_size: 128,
            inner_epochs: 1,
            ratio: Importance::Token,
            clip_low: 0.2,
            clip_high: 0.2,
            dual_clip: None,
            reduction: Reduction::SeqMean,
            kl_weight: 0.04,
            kl_placement: KlPlacement::Loss,
            kl_estimator: KlEstimator::K3,
            kl_importance_weight: false,
            passes: PassOptions::default(),
            optim: OptimConfig { lr: 1e-6, schedule: Schedule::Constant, ..OptimConfig::default() },
        }
    }
}

impl GrpoConfig {
    /// Dr. GRPO (Liu et al. 2025, <https://arxiv.org/abs/2503.20783>): no division by the deviation or by the response's length.
    pub fn dr_grpo() -> Self {
        Self { advantage: GroupAdvantage::GroupMean, reduction: Reduction::FixedNorm, kl_weight: 0.0, ..Self::default() }
    }

    /// DAPO (Yu et al. 2025, <https://arxiv.org/abs/2503.14476>): a higher upper clip, means over tokens, prompts without a
    /// difference replaced, a penalty in the last fifth of the allowed length, no reference.
    pub fn dapo() -> Self {
        let default = Self::default();
        Self {
            clip_high: 0.28,
            reduction: Reduction::TokenMean,
            equal_rewards: EqualRewards::Refill { rounds: 10 },
            overlong_margin: default.rollouts.max_new_tokens / 5,
            kl_weight: 0.0,
            ..default
        }
    }

    /// GSPO (Zheng et al. 2025, <https://arxiv.org/abs/2507.18071>): the ratio of the whole response, with its narrow clip.
    pub fn gspo() -> Self {
        Self {
            ratio: Importance::Sequence,
            clip_low: 3e-4,
            clip_high: 4e-4,
            reduction: Reduction::SeqMean,
            kl_weight: 0.0,
            ..Self::default()
        }
    }

    /// CISPO (MiniMax 2025, <https://arxiv.org/abs/2506.13585>): the weight of a token is clipped, not its gradient. The paper does
    /// not give its upper clip; this is DAPO's.
    pub fn cispo() -> Self {
        Self { ratio: Importance::Cispo, clip_high: 0.28, reduction: Reduction::TokenMean, kl_weight: 0.0, ..Self::default() }
    }

    /// How far a ratio may go.
    pub(super) fn clip(&self) -> ClipRange {
        ClipRange { low: self.clip_low, high: self.clip_high, ceiling: self.dual_clip }
    }

    /// Everything out of range or without sense, paths relative to the learner's table.
    pub(super) fn problems(&self) -> Vec<Problem> {
        let ceiling = self.dual_clip.unwrap_or(f64::INFINITY);
        let clips = matches!(self.ratio, Importance::Token | Importance::Sequence);
        let refills = !matches!(self.equal_rewards, EqualRewards::Refill { rounds: 0 });
        let in_reward = self.kl_placement == KlPlacement::Reward;
        let in_loss = self.kl_weight > 0.0 && !in_reward;
        let drifts = self.kl_estimator == KlEstimator::K1 && in_loss && !self.kl_importance_weight;
        let n = self.rollouts.samples_per_prompt;
        Ranges::new()
            .rollouts(&self.rollouts, &self.passes)
            .require("samples_per_prompt", n != 1, "at least 2 responses to compare", n)
            .require("equal_rewards.refill.rounds", refills, "a whole number ≥ 1", 0)
            .require(
                "overlong_margin",
                self.overlong_margin <= self.rollouts.max_new_tokens,
                "at most `max_new_tokens`",
                self.overlong_margin,
            )
            .at_least_one("batch_size", self.batch_size)
            .at_least_one("inner_epochs", self.inner_epochs as usize)
            .nested("ratio", self.ratio.problems())
            .require("clip_low", self.clip_low > 0.0 && self.clip_low <= 1.0, "a number in (0, 1]", self.clip_low)
            .positive("clip_high", self.clip_high)
            .require("dual_clip", ceiling > 1.0 + self.clip_high, "a number above 1 + `clip_high`", ceiling)
            .require("dual_clip", self.dual_clip.is_none() || clips, "a `ratio` that is clipped", "one that is not")
            .not_negative("kl_weight", self.kl_weight)
            .require(
                "kl_estimator",
                !drifts,
                "`k2` or `k3`, or `kl_importance_weight`, for the gradient of `k1` is 0 on average",
                "`k1`",
            )
            .require("kl_placement", !in_reward || self.kl_weight > 0.0, "`kl_weight` > 0 for `reward`", "`kl_weight = 0`")
            .require(
                "kl_importance_weight",
                !self.kl_importance_weight || in_loss,
                "a divergence in the loss (`kl_weight` > 0) when it is set",
                "none",
            )
            .nested("optim", self.optim.problems())
            .problems()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_and_every_preset_are_in_range() {
        for config in [GrpoConfig::default(), GrpoConfig::dr_grpo(), GrpoConfig::dapo(), GrpoConfig::gspo(), GrpoConfig::cispo()]
        {
            assert_eq!(config.problems(), []);
        }
    }

    #[test]
    fn options_that_make_no_sense_together_are_refused_with_the_reason() {
        let paths = |config: GrpoConfig| config.problems().into_iter().map(|problem| problem.path).collect::<Vec<_>>();
        let k1 = GrpoConfig { kl_estimator: KlEstimator::K1, ..GrpoConfig::default() };
        assert!(k1.problems()[0].message.contains("0 on average"));
        assert_eq!(paths(GrpoConfig { kl_importance_weight: true, ..k1 }), [""; 0]);
        let alone = RolloutOptions { samples_per_prompt: 1, ..RolloutOptions::default() };
        assert_eq!(paths(GrpoConfig { rollouts: alone, ..GrpoConfig::default() }), ["samples_per_prompt"]);
        let low = GrpoConfig { dual_clip: Some(1.1), clip_low: 0.0, ..GrpoConfig::default() };
        assert_eq!(paths(low), ["clip_low", "dual_clip"]);
        assert_eq!(paths(GrpoConfig { dual_clip: Some(3.0), ..GrpoConfig::cispo() }), ["dual_clip"]);
        let useless = GrpoConfig { kl_importance_weight: true, ..GrpoConfig::dr_grpo() };
        assert_eq!(paths(useless), ["kl_importance_weight"]);
        let in_reward = GrpoConfig { kl_placement: KlPlacement::Reward, kl_importance_weight: true, ..GrpoConfig::default() };
        assert_eq!(paths(in_reward.clone()), ["kl_importance_weight"]);
        assert_eq!(paths(GrpoConfig { kl_weight: 0.0, ..in_reward }), ["kl_placement", "kl_importance_weight"]);
        let refill = EqualRewards::Refill { rounds: 0 };
        assert_eq!(paths(GrpoConfig { equal_rewards: refill, ..GrpoConfig::default() }), ["equal_rewards.refill.rounds"]);
    }
}
