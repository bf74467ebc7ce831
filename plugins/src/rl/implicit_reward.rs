//! The implicit reward of an answer: what direct preference optimisation takes in place of a reward model's score, and how much a
//! pair counts by how likely the policy itself finds its answers.
//!
//! For a divergence D_f to the reference instead of the usual reverse KL, the reward of the optimum is β f′(π/π_ref) up to a
//! constant of the prompt (Wang et al. 2023, <https://arxiv.org/abs/2309.16240>); with d = ln π − ln π_ref of the whole
//! answer the scores below stand in for d.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Tensor;

/// The divergence of the policy from the reference that is paid for.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Divergence {
    /// KL(π ‖ π_ref): s = d.
    #[default]
    ReverseKl,
    /// KL(π_ref ‖ π): s = 1 − e^(−d).
    ForwardKl,
    /// Jensen-Shannon: s = ln 2 + ln σ(d).
    JensenShannon,
    /// The family in between: s = (e^((α−1) d) − 1) / (α − 1). α → 1 is the reverse KL, α = 0 the forward KL.
    Alpha {
        /// α, any finite number.
        alpha: f64,
    },
}

/// Exponents are cut off here, so that an answer far from the reference gives a large number and not infinity.
const LARGEST_EXPONENT: f64 = 80.0;

impl Divergence {
    /// The score of each log-ratio d, any shape, differentiable.
    pub fn scores(self, log_ratios: &Tensor) -> Tensor {
        let power = |factor: f64| (log_ratios * factor).clamp_max(LARGEST_EXPONENT).expm1() / factor;
        match self {
            Self::ReverseKl => log_ratios.shallow_clone(),
            Self::ForwardKl => power(-1.0),
            Self::JensenShannon => log_ratios.log_sigmoid() + std::f64::consts::LN_2,
            Self::Alpha { alpha } if (alpha - 1.0).abs() < 1e-6 => log_ratios.shallow_clone(),
            Self::Alpha { alpha } => power(alpha - 1.0),
        }
    }

    /// Values out of range, paths relative to this table.
    pub fn problems(self) -> Vec<farmhand_core::Problem> {
        match self {
            Self::Alpha { alpha } if !alpha.is_finite() => {
                vec![farmhand_core::Problem::new("alpha.alpha", format!("expected a finite number, got {alpha}"))]
            }
            _ => Vec::new(),
        }
    }
}

/// How much a pair counts by how likely the policy finds its answers: pairs like its own samples count more (WPO, Zhou et al.
/// 2024, <https://arxiv.org/abs/2406.11827>). The weight of a pair is the product of its two answers' weights; it carries no
/// gradient.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PolicyWeighting {
    /// Every pair counts the same.
    #[default]
    Off,
    /// `exp(mean_t ln π(y_t))`: the geometric mean of the tokens' probabilities.
    Likelihood,
    /// `exp(mean_t (ln π(y_t) − ln Σ_v π(v)²))`: the same relative to what a sampled token gets on average; the paper's equation 2
    /// (sampled alignment). The output layer is computed once more for it.
    SampledAlignment,
}

/// The weight of each answer, `[answers]`, from the mean of its tokens' terms `[answers]`.
pub fn policy_weights(mean_terms: &Tensor) -> Tensor {
    mean_terms.detach().exp()
}

#[cfg(test)]
mod tests {
    use tch::Kind;

    use super::*;
    use crate::rl::pairwise::{LogRatios, PairwiseLink};

    fn mean_of(losses: &Tensor) -> f64 {
        losses.mean(Kind::Double).double_value(&[])
    }

    const FAMILY: [Divergence; 6] = [
        Divergence::ReverseKl,
        Divergence::ForwardKl,
        Divergence::JensenShannon,
        Divergence::Alpha { alpha: 0.5 },
        Divergence::Alpha { alpha: 1.0 },
        Divergence::Alpha { alpha: 2.0 },
    ];

    #[test]
    fn every_score_is_0_with_slope_1_at_the_reference_but_for_the_half_slope_of_jensen_shannon() {
        for divergence in FAMILY {
            let at = |d: f64| divergence.scores(&Tensor::from_slice(&[d])).double_value(&[0]);
            let slope = (at(1e-6) - at(-1e-6)) / 2e-6;
            let expected = if divergence == Divergence::JensenShannon { 0.5 } else { 1.0 };
            assert!(at(0.0).abs() < 1e-12 && (slope - expected).abs() < 1e-6, "{divergence:?}: {slope}");
        }
    }

    #[test]
    fn gradients_match_finite_differences_and_far_answers_stay_finite() {
        for divergence in FAMILY {
            let at = |d: f64| divergence.scores(&Tensor::from_slice(&[d])).double_value(&[0]);
            for d in [-1.3, 0.2, 2.0] {
                let leaf = Tensor::from_slice(&[d]).set_requires_grad(true);
                divergence.scores(&leaf).sum(Kind::Double).backward();
                let slope = (at(d + 1e-6) - at(d - 1e-6)) / 2e-6;
                assert!((slope - leaf.grad().double_value(&[0])).abs() < 1e-5, "{divergence:?} at {d}");
            }
            for d in [-500.0, 500.0] {
                let score = divergence.scores(&Tensor::from_slice(&[d as f32]));
                assert!(score.double_value(&[0]).is_finite(), "{divergence:?} at {d}");
            }
        }
    }

    #[test]
    fn alpha_0_is_the_forward_kl_and_alpha_1_the_reverse_kl() {
        let d = Tensor::from_slice(&[-1.0, 0.3, 2.0]);
        let distance = |a: Divergence, b: Divergence| (a.scores(&d) - b.scores(&d)).abs().max().double_value(&[]);
        assert!(distance(Divergence::Alpha { alpha: 0.0 }, Divergence::ForwardKl) < 1e-12);
        assert!(distance(Divergence::Alpha { alpha: 1.0 }, Divergence::ReverseKl) < 1e-12);
        assert!(distance(Divergence::Alpha { alpha: 1.0 + 1e-4 }, Divergence::ReverseKl) < 1e-3);
        assert_eq!(Divergence::Alpha { alpha: f64::NAN }.problems()[0].path, "alpha.alpha");
    }

    #[test]
    fn the_weighting_matches_trl_and_carries_no_gradient() {
        // Four pairs of eight and ten tokens; ln Σ p² = −0.5 at every token, so that half a nat a token is added.
        let policy =
            [[-12.0, -20.5, -7.25, -33.0], [-14.0, -18.0, -9.75, -33.25]].map(|sums: [f64; 4]| Tensor::from_slice(&sums));
        let reference =
            [[-13.0, -21.0, -8.0, -31.5], [-13.5, -19.5, -8.5, -31.0]].map(|sums: [f64; 4]| Tensor::from_slice(&sums));
        let lengths = [8.0, 10.0].map(|length: f64| policy[0].ones_like() * length);
        let ratios = LogRatios::new([&policy[0], &policy[1]], [&reference[0], &reference[1]], [&lengths[0], &lengths[1]]);
        let weights = [0, 1].map(|side| policy_weights(&(&policy[side] / &lengths[side] + 0.5)));
        let losses = PairwiseLink::Logistic.losses(&ratios, 0.1);
        assert!((mean_of(&(&losses * &weights[0] * &weights[1])) - 0.091_873_29).abs() < 1e-6);
        let leaf = Tensor::from_slice(&[-1.0]).set_requires_grad(true);
        assert!(!policy_weights(&leaf).requires_grad());
        // A mixture of losses: 0.8 of the logistic link, 0.2 of the binary classifier's, and the likelihood of the chosen answers.
        let nll = -policy[0].sum(Kind::Double).double_value(&[]) / 32.0;
        let mixed = 0.8 * mean_of(&losses) + 0.2 * mean_of(&PairwiseLink::BcoPair.losses(&ratios, 0.1)) + nll;
        assert!((mixed - 3.067_363_11).abs() < 1e-6);
    }
}
