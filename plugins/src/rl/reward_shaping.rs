//! From one score a response to one reward a token.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

/// What happens to the score of a response that was cut off before its end-of-sequence token.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MissingEnd {
    /// Nothing.
    #[default]
    Keep,
    /// It is replaced by this score; AlpacaFarm's option, with −1.
    Replace(f64),
    /// This much is subtracted from it; TRL's option.
    Subtract(f64),
}

impl MissingEnd {
    /// The score after the rule; `ended` says whether the response has its end-of-sequence token.
    pub fn apply(self, score: f64, ended: bool) -> f64 {
        match self {
            Self::Replace(replacement) if !ended => replacement,
            Self::Subtract(penalty) if !ended => score - penalty,
            _ => score,
        }
    }
}

/// What a long response loses, in [−1, 0]: nothing up to `max_tokens − margin` tokens, then linearly more, 1 from `max_tokens` on.
/// The soft punishment of DAPO (Yu et al. 2025, <https://arxiv.org/abs/2503.14476>, equation 13).
pub fn overlong_penalty(length: usize, max_tokens: usize, margin: usize) -> f64 {
    let free = max_tokens.saturating_sub(margin);
    if length <= free { 0.0 } else { -(((length - free) as f64 / margin.max(1) as f64).min(1.0)) }
}

/// Rewards `[rollouts, tokens]`: minus `weight` times the divergence of each token, plus the score at the last token.
///
/// `scores` `[rollouts]`; `kl` `[rollouts, tokens]`, 0 where padded; `lengths` in tokens, each at least 1. The last
/// token is found by length, never by its id, so padding with the end-of-sequence token moves nothing.
pub fn token_rewards(scores: &Tensor, kl: &Tensor, lengths: &[usize], weight: f64) -> Tensor {
    let last: Vec<i64> = lengths.iter().map(|&length| length.max(1) as i64 - 1).collect();
    let last = Tensor::from_slice(&last).to_device(kl.device()).unsqueeze(1);
    (kl * -weight).scatter_add(1, &last, &scores.to_kind(kl.kind()).unsqueeze(1))
}

/// The mask `[rollouts, width]` of responses with these lengths: 1 for real tokens, 0 for padding.
pub fn length_mask(lengths: &[usize], width: usize, kind: Kind) -> Tensor {
    let lengths: Vec<i64> = lengths.iter().map(|&length| length as i64).collect();
    let columns = Tensor::arange(width as i64, (Kind::Int64, tch::Device::Cpu)).unsqueeze(0);
    columns.lt_tensor(&Tensor::from_slice(&lengths).unsqueeze(1)).to_kind(kind)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rl::advantage::gae;
    use crate::rl::kl::KlEstimator;
    use crate::rl::masked::{Whitening, zero_masked};

    fn block(values: &[f64], rows: i64) -> Tensor {
        Tensor::from_slice(values).view([rows, -1])
    }

    fn assert_close(got: &Tensor, expected: &[f64]) {
        let got = Vec::<f64>::try_from(got.reshape(-1)).expect("numbers");
        assert_eq!(got.len(), expected.len());
        assert!(got.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{got:?} is not {expected:?}");
    }

    #[test]
    fn rewards_returns_and_advantages_match_trl_0_11() {
        // rewards = -0.2 (logp - ref), plus the score at the last unmasked token; gae(1, 0.95) over values * mask;
        // advantages = masked_whiten(advantages, mask).
        let log_probs = block(&[-1.0, -2.0, -0.5, 0.0, -0.3, -0.7, -1.0, -2.0], 2);
        let reference = block(&[-1.2, -1.8, -0.6, 0.0, -0.2, -0.9, -1.3, -1.5], 2);
        let mask = length_mask(&[3, 4], 4, Kind::Double);
        let kl = zero_masked(&KlEstimator::K1.per_token(&log_probs, &reference), &mask);
        let rewards = token_rewards(&Tensor::from_slice(&[2.0, -1.0]), &kl, &[3, 4], 0.2);
        assert_close(&rewards, &[-0.04, 0.04, 1.98, 0.0, 0.02, -0.04, -0.06, -0.9]);
        let values = zero_masked(&block(&[0.1, 0.2, 0.3, 0.4, -0.1, 0.0, 0.1, 0.2], 2), &mask);
        let (advantages, returns) = gae(&rewards, &values, 1.0, 0.95);
        assert_close(&returns, &[1.8092, 1.936, 1.98, 0.0, -0.830_012_5, -0.894_75, -0.905, -0.9]);
        let golden = [1.066_170_19, 1.085_094_81, 1.045_550_84, 0.0, -0.656_260_90, -0.772_589_01, -0.850_441_20, -0.917_524_72];
        assert_close(&Whitening::Tokens.apply(&advantages, &mask, false), &golden);
    }

    #[test]
    fn shaping_whitening_and_gae_match_alpaca_farm() {
        // i = 0..7, t = 0..3: logp = -(1 + .1i + .2t), ref = logp + .1 sin(i + 2t), V = .05i - .1t, score cos(i);
        // shaped = -.0067 clamp(logp - ref, 0) plus the score; whitened over all cells keeping the mean; gae(1, 1).
        let cell = |f: fn(f64, f64) -> f64| {
            let cells: Vec<f64> = (0..32).map(|c| f(f64::from(c / 4), f64::from(c % 4))).collect();
            block(&cells, 8)
        };
        let log_probs = cell(|i, t| -(1.0 + 0.1 * i + 0.2 * t));
        let reference = cell(|i, t| -(1.0 + 0.1 * i + 0.2 * t) + 0.1 * (i + 2.0 * t).sin());
        let values = cell(|i, t| 0.05 * i - 0.1 * t);
        let scores: Vec<f64> = (0..8).map(|i| f64::from(i).cos()).collect();
        let kl = KlEstimator::K1Clamped.per_token(&log_probs, &reference);
        assert!((kl.sum(Kind::Double).double_value(&[]) - 0.988_943_79).abs() < 1e-6);
        let shaped = token_rewards(&Tensor::from_slice(&scores), &kl, &[4, 3, 2, 4, 4, 4, 4, 4], 0.0067);
        let golden = [0.0, 0.0, -0.000_507_06, 0.999_812_79, 0.0, 0.0, 0.539_659_83, 0.0, 0.0, -0.416_653_89, -0.000_187_21, 0.0];
        assert_close(&shaped.narrow(0, 0, 3), &golden);
        let all = shaped.ones_like();
        let (advantages, returns) = gae(&Whitening::AllCells.apply(&shaped, &all, true), &values, 1.0, 1.0);
        assert_close(&returns.select(0, 0), &[2.389_248_6, 2.467_645_66, 2.546_042_73, 2.625_811_24]);
        let advantages = Whitening::AllCells.apply(&advantages, &all, false);
        assert_close(&advantages.select(0, 0), &[1.093_006_42, 1.186_425_39, 1.279_844_35, 1.373_981_48]);
    }

    #[test]
    fn the_score_lands_on_the_last_token_whatever_the_width() {
        let scores = Tensor::from_slice(&[5.0, -2.0]);
        for width in [3, 7] {
            let kl = Tensor::zeros([2, width], (Kind::Double, tch::Device::Cpu));
            let rewards = token_rewards(&scores, &kl, &[1, 3], 0.1);
            assert_eq!((rewards.double_value(&[0, 0]), rewards.double_value(&[1, 2])), (5.0, -2.0));
            assert_eq!(rewards.abs().sum(Kind::Double).double_value(&[]), 7.0);
        }
    }

    #[test]
    fn the_overlong_penalty_matches_the_goldens() {
        let penalties = [10, 16, 18, 20, 21].map(|length| overlong_penalty(length, 20, 4));
        assert_eq!(penalties, [0.0, 0.0, -0.5, -1.0, -1.0]);
    }

    #[test]
    fn a_missing_end_changes_only_responses_without_one() {
        assert_eq!(MissingEnd::Replace(-1.0).apply(3.0, false), -1.0);
        assert_eq!(MissingEnd::Subtract(1.0).apply(3.0, false), 2.0);
        for rule in [MissingEnd::Keep, MissingEnd::Replace(-1.0), MissingEnd::Subtract(1.0)] {
            assert_eq!(rule.apply(3.0, true), 3.0);
        }
        assert_eq!(MissingEnd::Keep.apply(3.0, false), 3.0);
    }
}
