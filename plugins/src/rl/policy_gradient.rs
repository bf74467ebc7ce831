//! Surrogate objectives of the policy gradient, per token, and the clipped value loss.
//!
//! With ρ_t = π(y_t) / π_old(y_t) and the advantage A of a token: PPO's `max(−A ρ, −A clip(ρ, 1 − ε_low, 1 + ε_high))` (Schulman et
//! al. 2017, <https://arxiv.org/abs/1707.06347>, equation 7), and what took its place in methods without a value model. At ρ = 1
//! the gradient of every one of them, summed over a response, is that of REINFORCE, `−A ∇ Σ_t log π(y_t)`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

/// What weighs a sampled token when the policy has moved since it was sampled.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Importance {
    /// The token's own clipped ratio: PPO and GRPO.
    #[default]
    Token,
    /// The clipped ratio of the response, `exp(mean_t log ρ_t)`, for all its tokens: GSPO (Zheng et al. 2025,
    /// <https://arxiv.org/abs/2507.18071>). Its clip bounds are about a thousandth of the token's.
    Sequence,
    /// `−sg(min(ρ, 1 + ε_high)) A log π(y_t)`: CISPO (MiniMax 2025, <https://arxiv.org/abs/2506.13585>). The weight is clipped, not
    /// the gradient, so that no token is left out; `clip_low` has no part in it.
    Cispo,
    /// `−A σ(τ (ρ − 1)) 4/τ`: SAPO (Gao et al. 2025), a soft gate instead of a clip.
    Sapo {
        /// Temperature τ of tokens with an advantage above 0, > 0; the paper's is 1.
        positive: f64,
        /// Temperature τ of the others, > 0; the paper's is 1.05.
        negative: f64,
    },
}

/// How far a ratio may go before its gradient vanishes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ClipRange {
    /// Below 1, in (0, 1].
    pub low: f64,
    /// Above 1, > 0.
    pub high: f64,
    /// The largest ratio that a negative advantage is multiplied with, > 1 + high; none bounds nothing (Ye et al. 2020, dual clip).
    pub ceiling: Option<f64>,
}

impl ClipRange {
    /// As far below as above, without a ceiling.
    pub fn symmetric(clip: f64) -> Self {
        Self { low: clip, high: clip, ceiling: None }
    }
}

/// The per-token policy loss and what it tells.
#[derive(Debug)]
pub struct PolicyLoss {
    /// The surrogate `[tokens]`, differentiable.
    pub losses: Tensor,
    /// 1 where the clip holds the gradient back, `[tokens]`, without gradient.
    pub clipped: Tensor,
    /// `½ (log ρ)²` `[tokens]`, without gradient: how far the policy moved since the rollout, in nats.
    pub approx_kl: Tensor,
}

/// Log-ratios beyond this are cut, so that no ratio overflows; e²⁰ is five hundred million.
const MAX_LOG_RATIO: f64 = 20.0;

/// ρ from its two log-probabilities, `[tokens]`, finite whatever they are.
pub fn ratios(log_probs: &Tensor, old_log_probs: &Tensor) -> Tensor {
    (log_probs - old_log_probs).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
}

/// PPO's clipped surrogate. `log_probs` (differentiable), `old_log_probs` and `advantages` are `[tokens]`; `clip` is ε > 0.
pub fn clipped_policy_loss(log_probs: &Tensor, old_log_probs: &Tensor, advantages: &Tensor, clip: f64) -> PolicyLoss {
    let ratio = ratios(log_probs, old_log_probs);
    clipped(&ratio, log_probs, old_log_probs, advantages, ClipRange::symmetric(clip))
}

/// `−A log π(y_t)` `[tokens]`: REINFORCE, for responses of the policy itself. `advantages` `[tokens]` carry no gradient.
pub fn reinforce_losses(log_probs: &Tensor, advantages: &Tensor) -> Tensor {
    -(log_probs * advantages)
}

impl Importance {
    /// The surrogate of responses of `lengths` tokens. `log_probs` (differentiable), `old_log_probs` and `advantages` are
    /// `[tokens]`, flat, response after response.
    pub fn policy_loss(
        self,
        log_probs: &Tensor,
        old_log_probs: &Tensor,
        advantages: &Tensor,
        lengths: &[usize],
        clip: ClipRange,
    ) -> PolicyLoss {
        let ratio = match self {
            Self::Sequence => ratios(&mean_of_response(log_probs, lengths), &mean_of_response(old_log_probs, lengths)),
            _ => ratios(log_probs, old_log_probs),
        };
        let with = |losses: Tensor, clipped: Tensor| {
            let clipped = clipped.to_kind(log_probs.kind());
            PolicyLoss { losses, clipped, approx_kl: (log_probs - old_log_probs).detach().square() * 0.5 }
        };
        match self {
            Self::Token | Self::Sequence => clipped(&ratio, log_probs, old_log_probs, advantages, clip),
            Self::Cispo => {
                let ratio = ratio.detach();
                let weight = ratio.clamp_max(1.0 + clip.high);
                with(reinforce_losses(log_probs, &(advantages * weight)), ratio.gt(1.0 + clip.high))
            }
            Self::Sapo { positive, negative } => {
                let tau = advantages.gt(0.0).to_kind(ratio.kind()) * (positive - negative) + negative;
                let gate = (&tau * (&ratio - 1.0)).sigmoid() * 4.0 / tau;
                with(-(advantages * gate), ratio.zeros_like())
            }
        }
    }

    /// Values out of range, paths relative to the option's table.
    pub fn problems(self) -> Vec<farmhand_core::Problem> {
        let Self::Sapo { positive, negative } = self else { return Vec::new() };
        let bad = [("sapo.positive", positive), ("sapo.negative", negative)];
        let is_bad = |(_, tau): &(&str, f64)| !(tau.is_finite() && *tau > 0.0);
        let problem = |(key, tau)| farmhand_core::Problem::new(key, format!("expected a number > 0, got {tau}"));
        bad.into_iter().filter(is_bad).map(problem).collect()
    }
}

/// `max(−A ρ, −A clip(ρ))` `[tokens]`.
fn clipped(ratio: &Tensor, log_probs: &Tensor, old_log_probs: &Tensor, advantages: &Tensor, clip: ClipRange) -> PolicyLoss {
    let free = match clip.ceiling {
        Some(ceiling) => ratio.clamp_max(ceiling),
        None => ratio.shallow_clone(),
    };
    let plain = -(advantages * free);
    let bounded = -(advantages * ratio.clamp(1.0 - clip.low, 1.0 + clip.high));
    PolicyLoss {
        losses: plain.maximum(&bounded),
        clipped: bounded.detach().gt_tensor(&plain.detach()).to_kind(log_probs.kind()),
        approx_kl: (log_probs - old_log_probs).detach().square() * 0.5,
    }
}

/// The mean over a response's tokens at each of its tokens: `values` and result flat `[tokens]`; differentiable.
fn mean_of_response(values: &Tensor, lengths: &[usize]) -> Tensor {
    let rows = rows_of(lengths).to_device(values.device());
    let lengths: Vec<f64> = lengths.iter().map(|&length| length.max(1) as f64).collect();
    let lengths = Tensor::from_slice(&lengths).to_kind(values.kind()).to_device(values.device());
    let sums = lengths.zeros_like().index_add(0, &rows, values);
    (sums / lengths).index_select(0, &rows)
}

/// Which response each token belongs to, `[tokens]`, for responses of these lengths.
fn rows_of(lengths: &[usize]) -> Tensor {
    let rows: Vec<i64> = lengths.iter().enumerate().flat_map(|(row, &length)| std::iter::repeat_n(row as i64, length)).collect();
    Tensor::from_slice(&rows)
}

/// The per-token value loss and what it tells.
#[derive(Debug)]
pub struct ValueLoss {
    /// `½ max((V − R)², (clip(V, V_old ± ε) − R)²)` `[tokens]`, differentiable.
    pub losses: Tensor,
    /// 1 where the clipped branch is the larger, `[tokens]`, without gradient.
    pub clipped: Tensor,
}

/// The value loss. `values` (differentiable), `old_values` and `returns` are `[tokens]`; `clip` is ε > 0, or `None` for
/// the plain squared error.
pub fn clipped_value_loss(values: &Tensor, old_values: &Tensor, returns: &Tensor, clip: Option<f64>) -> ValueLoss {
    let plain = (values - returns).square();
    let Some(clip) = clip else {
        let clipped = plain.detach().zeros_like();
        return ValueLoss { losses: plain * 0.5, clipped };
    };
    let bounded_values = old_values + (values - old_values).clamp(-clip, clip);
    let bounded = (bounded_values - returns).square();
    let clipped = bounded.detach().gt_tensor(&plain.detach()).to_kind(Kind::Float).to_kind(values.kind());
    ValueLoss { losses: plain.maximum(&bounded) * 0.5, clipped }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rl::advantage::leave_one_out;
    use crate::rl::kl::KlEstimator;
    use crate::rl::reduction::{Reduction, StepTotals};

    fn mean(values: &Tensor) -> f64 {
        values.mean(Kind::Double).double_value(&[])
    }

    /// Fixture D: log-probabilities now and at sampling, advantages, of two responses.
    fn fixture_d() -> (Tensor, Tensor, Tensor, [usize; 2]) {
        let new = Tensor::from_slice(&[-0.5, -1.0, -0.3, -0.9, -0.4, -1.2, -0.6]);
        let old = Tensor::from_slice(&[-0.9, -1.0, -0.2, -0.6, -0.4, -1.2, -0.9]);
        let advantages = Tensor::from_slice(&[1.0, 1.0, 1.0, -0.5, -0.5, -0.5, -0.5]);
        (new, old, advantages, [3, 4])
    }

    /// TRL's four responses of 4, 3, 2 and 1 tokens, flat: now, at sampling, reference, advantages.
    fn four_responses() -> ([Tensor; 4], [usize; 4]) {
        let new = [-1.0, -2.0, -0.5, -1.5, -0.3, -0.7, -1.0, -1.1, -0.2, -0.6];
        let to_old = [0.1, -0.3, 0.05, 0.0, -0.5, 0.2, 0.1, 0.0, 0.4, 0.3];
        let to_reference = [0.2, -0.1, 0.3, 0.0, 0.1, 0.1, -0.2, -0.3, 0.4, 0.0];
        let advantages = [1.0, 1.0, 1.0, 1.0, -0.5, -0.5, -0.5, 0.25, 0.25, -1.0];
        let new = Tensor::from_slice(&new);
        let old = &new + Tensor::from_slice(&to_old);
        let reference = &new + Tensor::from_slice(&to_reference);
        ([new, old, reference, Tensor::from_slice(&advantages)], [4, 3, 2, 1])
    }

    fn reduced(losses: &Tensor, lengths: &[usize], reduction: Reduction) -> f64 {
        reduction.reduce(losses, lengths, StepTotals::of(lengths)).double_value(&[])
    }

    const EPSILON: ClipRange = ClipRange { low: 0.2, high: 0.2, ceiling: None };
    const SAPO: Importance = Importance::Sapo { positive: 1.0, negative: 1.05 };

    #[test]
    fn every_surrogate_matches_the_goldens_of_two_responses() {
        let (new, old, advantages, lengths) = fixture_d();
        let loss = |importance: Importance, clip: ClipRange, reduction: Reduction| {
            reduced(&importance.policy_loss(&new, &old, &advantages, &lengths, clip).losses, &lengths, reduction)
        };
        let narrow = ClipRange { low: 3e-4, high: 4e-4, ceiling: None };
        let higher = ClipRange { high: 0.28, ..EPSILON };
        for (importance, clip, reduction, golden) in [
            (Importance::Token, EPSILON, Reduction::SeqMean, -0.258_107),
            (Importance::Token, EPSILON, Reduction::TokenMean, -0.147_130),
            (Importance::Token, EPSILON, Reduction::SeqSum, -0.514_954),
            (Importance::Token, EPSILON, Reduction::FixedNorm, -0.128_739),
            (Importance::Token, higher, Reduction::TokenMean, -0.158_558),
            (Importance::Sequence, EPSILON, Reduction::SeqMean, -0.302_585),
            (Importance::Sequence, narrow, Reduction::SeqMean, -0.250_200),
            (Importance::Cispo, higher, Reduction::TokenMean, 0.056_298),
        ] {
            let loss = loss(importance, clip, reduction);
            assert!((loss - golden).abs() < 1e-6, "{importance:?} {clip:?} {reduction:?}: {loss} is not {golden}");
        }
        // Fixture A's chosen response against a baseline of 0.4, and fixture C's group with the mean of the others.
        let log_probs = Tensor::from_slice(&[-0.5, -1.0, -0.3]);
        let bare = reinforce_losses(&log_probs, &Tensor::from_slice(&[0.6, 0.6, 0.6]));
        assert!((reduced(&bare, &[3], Reduction::SeqSum) - 1.08).abs() < 1e-6);
        let sums = Tensor::from_slice(&[-1.8, -3.1, -0.8, -2.0]);
        let advantages = Tensor::from_slice(&leave_one_out(&[1.0, 0.2, -0.5, 0.2], 4));
        assert!((mean(&reinforce_losses(&sums, &advantages)) - 0.229_167).abs() < 1e-6);
    }

    #[test]
    fn every_surrogate_matches_trl_on_four_responses() {
        let ([new, old, reference, advantages], lengths) = four_responses();
        let losses =
            |importance: Importance, clip: ClipRange| importance.policy_loss(&new, &old, &advantages, &lengths, clip).losses;
        let higher = ClipRange { high: 0.28, ..EPSILON };
        let ceiling = ClipRange { ceiling: Some(1.1), ..EPSILON };
        let five = ClipRange { high: 4.0, ..EPSILON };
        for (importance, clip, reduction, golden) in [
            (Importance::Token, EPSILON, Reduction::SeqMean, 0.034_810_38),
            (Importance::Token, EPSILON, Reduction::TokenMean, -0.198_750_21),
            (Importance::Token, EPSILON, Reduction::FixedNorm, -0.124_218_88),
            (Importance::Token, higher, Reduction::TokenMean, -0.206_750_21),
            (Importance::Token, ceiling, Reduction::SeqMean, 0.022_363_66),
            (Importance::Sequence, EPSILON, Reduction::SeqMean, 0.022_893_72),
            (Importance::Cispo, five, Reduction::TokenMean, 0.445_791_22),
            (SAPO, EPSILON, Reduction::SeqMean, 0.036_981_63),
            (Importance::Token, EPSILON, Reduction::SeqSum, -0.496_875_53),
            (Importance::Sequence, EPSILON, Reduction::SeqSum, -0.539_701_18),
        ] {
            let loss = reduced(&losses(importance, clip), &lengths, reduction);
            assert!((loss - golden).abs() < 1e-6, "{importance:?} {clip:?} {reduction:?}: {loss} is not {golden}");
        }
        // With 0.04 times the divergence in the loss, weighted by the ratio and not.
        let kl = KlEstimator::K3.per_token(&new, &reference) * 0.04;
        let weighted = losses(Importance::Token, EPSILON) + &kl * ratios(&new, &old);
        assert!((reduced(&weighted, &lengths, Reduction::SeqMean) - 0.035_604_56).abs() < 1e-6);
        let plain = losses(Importance::Token, EPSILON) + kl;
        assert!((reduced(&plain, &lengths, Reduction::SeqMean) - 0.035_760_75).abs() < 1e-6);
    }

    #[test]
    fn a_ratio_of_1_gives_minus_the_advantage_with_the_policy_gradient() {
        let (new, _, advantages, lengths) = fixture_d();
        for importance in [Importance::Token, Importance::Sequence, Importance::Cispo, SAPO] {
            let leaf = new.copy().set_requires_grad(true);
            let loss = importance.policy_loss(&leaf, &new, &advantages, &lengths, EPSILON);
            assert_eq!(loss.clipped.sum(Kind::Double).double_value(&[]), 0.0);
            loss.losses.sum(Kind::Double).backward();
            assert!((leaf.grad() + &advantages).abs().max().double_value(&[]) < 1e-9, "{importance:?}");
        }
        // Fixture A's row with advantage 1 and 0.04 times its divergence.
        let (log_probs, reference) = (Tensor::from_slice(&[-0.5, -1.0, -0.3]), Tensor::from_slice(&[-0.7, -1.1, -0.4]));
        let one = log_probs.ones_like();
        let loss = Importance::Token.policy_loss(&log_probs, &log_probs, &one, &[3], EPSILON).losses
            + KlEstimator::K3.per_token(&log_probs, &reference) * 0.04;
        assert!((mean(&loss) + 0.999_621).abs() < 1e-6);
    }

    #[test]
    fn a_log_ratio_of_ten_thousand_is_finite() {
        let old = Tensor::from_slice(&[-1e4, -1.0]);
        for importance in [Importance::Token, Importance::Sequence, Importance::Cispo, SAPO] {
            let new = Tensor::from_slice(&[-0.1, -1e4]).set_requires_grad(true);
            let losses = importance.policy_loss(&new, &old, &Tensor::from_slice(&[-1.0, 1.0]), &[1, 1], EPSILON).losses;
            losses.sum(Kind::Double).backward();
            assert_eq!(losses.isfinite().all().int64_value(&[]), 1, "{importance:?}");
            assert_eq!(new.grad().isfinite().all().int64_value(&[]), 1, "{importance:?}");
        }
    }

    #[test]
    fn gradients_of_every_surrogate_match_finite_differences() {
        let (new, old, advantages, lengths) = fixture_d();
        // CISPO's weight carries no gradient, so that its loss is no potential of it.
        for importance in [Importance::Token, Importance::Sequence, SAPO] {
            let clip = ClipRange { low: 0.15, high: 0.25, ceiling: Some(3.0) };
            let loss = |at: &Tensor| importance.policy_loss(at, &old, &advantages, &lengths, clip).losses.sum(Kind::Double);
            let leaf = new.copy().set_requires_grad(true);
            loss(&leaf).backward();
            for i in 0..7 {
                let moved = |by: f64| {
                    let at = new.copy();
                    let _ = at.get(i).g_add_scalar_(by);
                    loss(&at).double_value(&[])
                };
                let slope = (moved(1e-6) - moved(-1e-6)) / 2e-6;
                assert!((slope - leaf.grad().double_value(&[i])).abs() < 1e-6, "{importance:?} {i}");
            }
        }
    }

    #[test]
    fn both_losses_match_trl_0_11() {
        // The seven real tokens of the rollouts in reward_shaping's test. TRL's value loss is 0.1 · ½ · mean.
        let old = Tensor::from_slice(&[-1.0, -2.0, -0.5, -0.3, -0.7, -1.0, -2.0]);
        let new = &old + Tensor::from_slice(&[0.05, -0.3, 0.3, 0.1, -0.1, 0.25, -0.05]);
        let advantages = Tensor::from_slice(&[
            1.066_170_19,
            1.085_094_81,
            1.045_550_84,
            -0.656_260_90,
            -0.772_589_01,
            -0.850_441_20,
            -0.917_524_72,
        ]);
        let policy = clipped_policy_loss(&new, &old, &advantages, 0.2);
        assert!((mean(&policy.losses) - 0.029_965_66).abs() < 1e-6);
        assert!((mean(&policy.approx_kl) - 0.019_107_14).abs() < 1e-6);
        assert!((mean(&policy.clipped) - 1.0 / 7.0).abs() < 1e-6);

        let old_values = Tensor::from_slice(&[0.1, 0.2, 0.3, -0.1, 0.0, 0.1, 0.2]);
        let values = &old_values + Tensor::from_slice(&[0.3, -0.1, 0.05, 0.1, 0.25, -0.4, 0.0]);
        let returns = Tensor::from_slice(&[1.8092, 1.936, 1.98, -0.830_012_5, -0.894_75, -0.905, -0.9]);
        let value = clipped_value_loss(&values, &old_values, &returns, Some(0.2));
        assert!((0.1 * mean(&value.losses) - 0.086_877_71).abs() < 1e-6);
        assert!((mean(&value.clipped) - 2.0 / 7.0).abs() < 1e-6);
        let plain = clipped_value_loss(&values, &old_values, &returns, None);
        assert!((mean(&plain.losses) - 0.5 * mean(&(&values - &returns).square())).abs() < 1e-12);
    }

    #[test]
    fn the_gradient_is_the_policy_gradient_at_ratio_one_and_zero_beyond_the_clip() {
        let old = Tensor::from_slice(&[-1.0, -1.0, -1.0, -1.0, -1.0]);
        // ratio: 1; far above with A > 0 (clipped); far above with A < 0 (not); far below with A < 0 (clipped), A > 0 (not).
        let new = (&old + Tensor::from_slice(&[0.0, 0.5, 0.5, -0.5, -0.5])).set_requires_grad(true);
        let advantages = Tensor::from_slice(&[2.0, 1.0, -1.0, -1.0, 1.0]);
        clipped_policy_loss(&new, &old, &advantages, 0.2).losses.sum(Kind::Double).backward();
        let grad = Vec::<f64>::try_from(new.grad()).expect("numbers");
        let expected = [-2.0, 0.0, 0.5_f64.exp(), 0.0, -(-0.5_f64).exp()];
        assert!(grad.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12), "{grad:?}");
    }

    #[test]
    fn gradients_match_finite_differences() {
        let old = Tensor::from_slice(&[-1.2, -0.4, -2.0]);
        let new = [-1.1, -0.45, -1.6];
        let advantages = Tensor::from_slice(&[0.7, -1.3, 0.4]);
        let loss = |point: &[f64]| {
            let losses = clipped_policy_loss(&Tensor::from_slice(point), &old, &advantages, 0.2).losses;
            losses.sum(Kind::Double).double_value(&[])
        };
        let leaf = Tensor::from_slice(&new).set_requires_grad(true);
        clipped_policy_loss(&leaf, &old, &advantages, 0.2).losses.sum(Kind::Double).backward();
        for i in 0..new.len() {
            let (mut up, mut down) = (new, new);
            up[i] += 1e-6;
            down[i] -= 1e-6;
            let slope = (loss(&up) - loss(&down)) / 2e-6;
            assert!((slope - leaf.grad().double_value(&[i as i64])).abs() < 1e-6, "{i}");
        }
    }
}
