//! The KL divergence to the reference policy: per-token estimators and the controllers of its weight.
//!
//! With x = log π(token) − log π_ref(token) of a sampled token: k1 = x, k2 = x²/2, k3 = e⁻ˣ − 1 + x (Schulman 2020,
//! <http://joschu.net/blog/kl-approx.html>). k1 and k3 are unbiased; k3 is never negative.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Tensor;

/// Where the divergence from the reference counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum KlPlacement {
    /// It is subtracted from the reward, so that it has no gradient of its own.
    Reward,
    /// It is added to each token's loss.
    Loss,
}

/// How the divergence is estimated from the log-probabilities of a sampled token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum KlEstimator {
    /// The log-ratio itself: unbiased, may be negative.
    #[default]
    K1,
    /// The log-ratio where it is positive, otherwise 0: AlpacaFarm's. Biased upwards.
    K1Clamped,
    /// Half the squared log-ratio: never negative, small variance, biased far from the reference.
    K2,
    /// `e⁻ˣ − 1 + x`: never negative and unbiased.
    K3,
}

impl KlEstimator {
    /// The estimate per token, in nats: any shape, the same for both arguments and the result.
    pub fn per_token(self, log_probs: &Tensor, reference_log_probs: &Tensor) -> Tensor {
        let x = log_probs - reference_log_probs;
        match self {
            Self::K1 => x,
            Self::K1Clamped => x.clamp_min(0.0),
            Self::K2 => x.square() * 0.5,
            Self::K3 => (-&x).expm1() + x,
        }
    }
}

/// How the weight of the divergence in the reward changes from step to step.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum KlControl {
    /// It stays as it is.
    #[default]
    Fixed,
    /// `weight ← weight · (1 + gain · clip(kl / target − 1, ±0.2))` a step, whatever the batch: AlpacaFarm.
    AdaptiveGain {
        /// The divergence per response to steer to, in nats, > 0.
        target: f64,
        /// Strength of the correction, > 0; AlpacaFarm's is 0.1.
        gain: f64,
    },
    /// `weight ← weight · (1 + clip(kl / target − 1, ±0.2) · n / horizon)` after n responses: Ziegler et al. 2019, TRL.
    AdaptiveHorizon {
        /// The divergence per response to steer to, in nats, > 0.
        target: f64,
        /// Responses over which a lasting error of 20 % changes the weight by 20 %, > 0; TRL's is 10000.
        horizon: f64,
    },
}

impl KlControl {
    /// The weight after a step whose responses diverged by `kl` nats on average, over `n` responses.
    pub fn next_weight(self, weight: f64, kl: f64, n: usize) -> f64 {
        match self {
            Self::Fixed => weight,
            Self::AdaptiveGain { target, gain } => weight * (1.0 + gain * (kl / target - 1.0).clamp(-0.2, 0.2)),
            Self::AdaptiveHorizon { target, horizon } => {
                weight * (1.0 + (kl / target - 1.0).clamp(-0.2, 0.2) * n as f64 / horizon)
            }
        }
    }

    /// Values out of range: path relative to this table and what was expected.
    pub fn problems(self) -> Vec<farmhand_core::Problem> {
        let positive = |key: &str, value: f64| {
            let bad = !(value.is_finite() && value > 0.0);
            bad.then(|| farmhand_core::Problem::new(key, format!("expected a number > 0, got {value}")))
        };
        match self {
            Self::Fixed => Vec::new(),
            Self::AdaptiveGain { target, gain } => {
                [positive("adaptive_gain.target", target), positive("adaptive_gain.gain", gain)].into_iter().flatten().collect()
            }
            Self::AdaptiveHorizon { target, horizon } => {
                let problems = [positive("adaptive_horizon.target", target), positive("adaptive_horizon.horizon", horizon)];
                problems.into_iter().flatten().collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn estimates(estimator: KlEstimator, log_probs: &[f64], reference: &[f64]) -> Vec<f64> {
        let estimate = estimator.per_token(&Tensor::from_slice(log_probs), &Tensor::from_slice(reference));
        Vec::try_from(estimate).expect("numbers")
    }

    fn assert_close(got: &[f64], expected: &[f64]) {
        assert_eq!(got.len(), expected.len());
        assert!(got.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{got:?} is not {expected:?}");
    }

    #[test]
    fn the_estimators_match_the_goldens() {
        let (log_probs, reference) = ([-1.0, -2.0, -0.5], [-1.2, -1.5, -0.5]);
        assert_close(&estimates(KlEstimator::K1, &log_probs, &reference), &[0.2, -0.5, 0.0]);
        assert_close(&estimates(KlEstimator::K1Clamped, &log_probs, &reference), &[0.2, 0.0, 0.0]);
        assert_close(&estimates(KlEstimator::K2, &log_probs, &reference), &[0.02, 0.125, 0.0]);
        assert_close(&estimates(KlEstimator::K3, &log_probs, &reference), &[0.018_730_75, 0.148_721_27, 0.0]);
        // Fixture A's chosen row.
        let (log_probs, reference) = ([-0.5, -1.0, -0.3], [-0.7, -1.1, -0.4]);
        let sum = |estimator| estimates(estimator, &log_probs, &reference).iter().sum::<f64>();
        assert_close(&[sum(KlEstimator::K1), sum(KlEstimator::K2), sum(KlEstimator::K3)], &[0.4, 0.03, 0.028_406]);
    }

    #[test]
    fn the_controllers_match_trl_and_alpaca_farm() {
        let run = |control: KlControl, kls: &[f64], n| {
            let mut weight = 0.2;
            let steps = kls.iter().map(|kl| {
                weight = control.next_weight(weight, *kl, n);
                weight
            });
            steps.collect::<Vec<_>>()
        };
        let trl = KlControl::AdaptiveHorizon { target: 6.0, horizon: 1e4 };
        assert_close(&run(trl, &[3.0, 12.0, 6.0], 256), &[0.198_976, 0.199_994_76, 0.199_994_76]);
        assert_close(&run(trl, &[9.0], 64), &[0.200_256]);
        let alpaca_farm = KlControl::AdaptiveGain { target: 6.0, gain: 0.1 };
        assert_close(&run(alpaca_farm, &[3.0, 12.0, 6.0], 256), &[0.196, 0.199_92, 0.199_92]);
        assert_close(&run(KlControl::Fixed, &[3.0, 12.0], 256), &[0.2, 0.2]);
    }

    #[test]
    fn controllers_refuse_targets_that_are_not_positive() {
        assert!(KlControl::Fixed.problems().is_empty());
        let problems = KlControl::AdaptiveGain { target: 0.0, gain: 0.1 }.problems();
        assert_eq!(problems.iter().map(|p| p.path.as_str()).collect::<Vec<_>>(), ["adaptive_gain.target"]);
    }
}
