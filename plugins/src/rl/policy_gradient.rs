//! The clipped surrogate objective and the clipped value loss of PPO, per token.
//!
//! Schulman et al. 2017, <https://arxiv.org/abs/1707.06347>, equation 7.

use tch::{Kind, Tensor};

/// The per-token policy loss and what it tells.
#[derive(Debug)]
pub struct PolicyLoss {
    /// `max(−A ρ, −A clip(ρ, 1 ± ε))` `[tokens]`, differentiable.
    pub losses: Tensor,
    /// 1 where the clipped branch is the larger, `[tokens]`, without gradient.
    pub clipped: Tensor,
    /// `½ (log ρ)²` `[tokens]`, without gradient: how far the policy moved since the rollout, in nats.
    pub approx_kl: Tensor,
}

/// The clipped surrogate. `log_probs` (differentiable), `old_log_probs` and `advantages` are `[tokens]`; ρ is the
/// exponential of the difference of the first two; `clip` is ε > 0.
pub fn clipped_policy_loss(log_probs: &Tensor, old_log_probs: &Tensor, advantages: &Tensor, clip: f64) -> PolicyLoss {
    let log_ratio = log_probs - old_log_probs;
    let ratio = log_ratio.exp();
    let plain = -(advantages * &ratio);
    let bounded = -(advantages * ratio.clamp(1.0 - clip, 1.0 + clip));
    PolicyLoss {
        losses: plain.maximum(&bounded),
        clipped: bounded.detach().gt_tensor(&plain.detach()).to_kind(log_probs.kind()),
        approx_kl: log_ratio.detach().square() * 0.5,
    }
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

    fn mean(values: &Tensor) -> f64 {
        values.mean(Kind::Double).double_value(&[])
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
