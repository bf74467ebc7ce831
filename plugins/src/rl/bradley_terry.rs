//! The loss of a reward model on a better and a worse answer, as a function of their rewards.
//!
//! With Δ = r_w − r_l − m. Bradley-Terry, as in Ouyang et al. 2022, <https://arxiv.org/abs/2203.02155>, equation 1: the better
//! answer wins with probability σ(Δ). Margins m after Llama 2 (Touvron et al. 2023, <https://arxiv.org/abs/2307.09288>, section
//! 3.2.2 and table 27) and HelpSteer2-Preference (Wang et al. 2024, <https://arxiv.org/abs/2410.01257>, which scales the loss
//! instead), centring after Eisenstein et al. 2023. Two models of comparisons that may end in a tie: Rao and Kupper 1967
//! (<https://doi.org/10.1080/01621459.1967.10482901>), Davidson 1970 (<https://doi.org/10.1080/01621459.1970.10481082>).

use farmhand_core::{Error, Problem, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

/// What the margin of a pair does: how much better the chosen answer is, on the judge's scale.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum MarginRule {
    /// Nothing.
    #[default]
    Ignored,
    /// It is subtracted from the difference of rewards: Δ = r_w − r_l − `weight` · margin.
    Subtracted {
        /// Reward per unit of the judge's scale, > 0.
        weight: f64,
    },
    /// It is a rating, 0 (negligibly better) to 3 (significantly better), and 0, ⅓, ⅔ or 1 is subtracted: Llama 2's small margins.
    #[serde(rename = "llama2_small")]
    Llama2Small,
    /// It is a rating, 0 (negligibly better) to 3 (significantly better), and 0, 1, 2 or 3 is subtracted: Llama 2's large margins.
    #[serde(rename = "llama2_large")]
    Llama2Large,
    /// The pair's loss is multiplied by it: the scaled Bradley-Terry loss of HelpSteer2-Preference, margins 1 to 3.
    Scaling,
}

impl MarginRule {
    /// What is subtracted from the difference of rewards, and what the loss is multiplied by. A pair without a margin counts as
    /// one of 0, under [`MarginRule::Scaling`] as one of 1.
    ///
    /// # Errors
    /// When the margin is not on the scale that the rule reads.
    pub fn apply(self, margin: Option<f64>) -> Result<(f64, f64)> {
        let rating = |step: f64| match margin.unwrap_or(0.0) {
            rating if [0.0, 1.0, 2.0, 3.0].contains(&rating) => Ok((rating * step, 1.0)),
            other => Err(Error::invalid_data(format!("expected a margin of 0, 1, 2 or 3, got {other}")).with_hint(
                "these margins are ratings; for margins on another scale use `margin = { subtracted = { weight = 1.0 } }`",
            )),
        };
        match self {
            Self::Ignored => Ok((0.0, 1.0)),
            Self::Subtracted { weight } => Ok((margin.unwrap_or(0.0) * weight, 1.0)),
            Self::Llama2Small => rating(1.0 / 3.0),
            Self::Llama2Large => rating(1.0),
            Self::Scaling => match margin.unwrap_or(1.0) {
                margin if margin > 0.0 => Ok((0.0, margin)),
                other => Err(Error::invalid_data(format!("expected a margin > 0, got {other}"))
                    .with_hint("a loss multiplied by 0 teaches nothing; leave such pairs out")),
            },
        }
    }

    /// Values out of range, paths relative to the rule.
    pub fn problems(self) -> Vec<Problem> {
        match self {
            Self::Subtracted { weight } if !(weight > 0.0 && weight.is_finite()) => {
                vec![Problem::new("subtracted.weight", format!("expected a number > 0, got {weight}"))]
            }
            _ => Vec::new(),
        }
    }
}

/// How comparisons without a winner come about.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum TieModel {
    /// They do not: Bradley-Terry, `P(w) = σ(Δ)`. Ties are left out.
    #[default]
    None,
    /// Rao and Kupper: a judge notices no difference below ln θ. `P(w) = σ(Δ − ln θ)`, `P(tie) = (θ²−1) σ(Δ − ln θ) σ(−Δ − ln θ)`.
    RaoKupper {
        /// Threshold θ, > 1. At 3, half of the comparisons of equal answers are ties.
        theta: f64,
    },
    /// Davidson: `P(w) : P(l) : P(tie) = e^(Δ/2) : e^(−Δ/2) : ν`.
    Davidson {
        /// How common ties are, ν, > 0. At 2, half of the comparisons of equal answers are ties.
        nu: f64,
    },
}

impl TieModel {
    /// `−ln P(w)` for differences Δ, any shape.
    pub fn win_losses(self, delta: &Tensor) -> Tensor {
        match self {
            Self::None => -delta.log_sigmoid(),
            Self::RaoKupper { theta } => -(delta - theta.ln()).log_sigmoid(),
            Self::Davidson { nu } => davidson_log_total(delta, nu) - delta * 0.5,
        }
    }

    /// `−ln P(tie)` for differences Δ, any shape; symmetric in Δ.
    ///
    /// # Panics
    /// Under [`TieModel::None`], in which there are no ties.
    pub fn tie_losses(self, delta: &Tensor) -> Tensor {
        match self {
            Self::None => panic!("Bradley-Terry has no ties"),
            Self::RaoKupper { theta } => {
                let (up, down) = ((delta - theta.ln()).log_sigmoid(), (-delta - theta.ln()).log_sigmoid());
                -(up + down + (theta * theta - 1.0).ln())
            }
            Self::Davidson { nu } => davidson_log_total(delta, nu) - nu.ln(),
        }
    }

    /// Values out of range, paths relative to the model.
    pub fn problems(self) -> Vec<Problem> {
        match self {
            Self::RaoKupper { theta } if !(theta > 1.0 && theta.is_finite()) => {
                vec![Problem::new("rao_kupper.theta", format!("expected a number > 1, got {theta}"))]
            }
            Self::Davidson { nu } if !(nu > 0.0 && nu.is_finite()) => {
                vec![Problem::new("davidson.nu", format!("expected a number > 0, got {nu}"))]
            }
            _ => Vec::new(),
        }
    }
}

/// `ln(e^(Δ/2) + e^(−Δ/2) + ν)`.
fn davidson_log_total(delta: &Tensor, nu: f64) -> Tensor {
    let half = delta * 0.5;
    Tensor::stack(&[half.shallow_clone(), -&half, half.full_like(nu.ln())], 0).logsumexp([0], false)
}

/// The loss of each pair with a winner, `[pairs]`, from Δ `[pairs]`: `−(1−ε) ln P(w|Δ) − ε ln P(w|−Δ)`, with a share ε of labels
/// taken to be wrong.
pub fn preference_losses(delta: &Tensor, ties: TieModel, label_smoothing: f64) -> Tensor {
    if label_smoothing == 0.0 {
        return ties.win_losses(delta);
    }
    ties.win_losses(delta) * (1.0 - label_smoothing) + ties.win_losses(&-delta) * label_smoothing
}

/// `(r_w + r_l)²` of each pair, `[pairs]`, which keeps rewards around 0.
pub fn centring_losses(one: &Tensor, other: &Tensor) -> Tensor {
    (one + other).square()
}

/// Means over pairs of losses that were weighted: `Σ weight · loss`, a number that carries the gradient.
pub fn weighted_sum(losses: &Tensor, weights: &[f64]) -> Tensor {
    let weights = Tensor::from_slice(weights).to_kind(losses.kind()).to_device(losses.device());
    (losses * weights).sum(Kind::Float)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [TieModel; 3] = [TieModel::None, TieModel::RaoKupper { theta: 3.0 }, TieModel::Davidson { nu: 2.0 }];

    fn loss(delta: f64, label_smoothing: f64) -> f64 {
        preference_losses(&Tensor::from_slice(&[delta]), TieModel::None, label_smoothing).double_value(&[0])
    }

    #[test]
    fn the_loss_matches_the_goldens_with_margins_and_scaling() {
        for (rule, margin, golden) in [
            (MarginRule::Ignored, 3.0, 0.403_186),
            (MarginRule::Subtracted { weight: 0.5 }, 2.0, 0.854_355),
            (MarginRule::Llama2Small, 0.0, 0.403_186),
            (MarginRule::Llama2Small, 1.0, 0.526_526),
            (MarginRule::Llama2Small, 2.0, 0.676_619),
            (MarginRule::Llama2Small, 3.0, 0.854_355),
            (MarginRule::Llama2Large, 3.0, 2.395_545),
            (MarginRule::Scaling, 3.0, 1.209_558),
        ] {
            let (subtracted, weight) = rule.apply(Some(margin)).expect("on the scale");
            let got = weight * loss(1.2 - 0.5 - subtracted, 0.0);
            assert!((got - golden).abs() < 1e-6, "{rule:?} {margin}: {got}, not {golden}");
        }
        // ε = 0.1: 0.9 · 0.403186 + 0.1 · (0.403186 + 0.7).
        assert!((loss(0.7, 0.1) - 0.473_186).abs() < 1e-6);
        let pairs = [(1.2, 0.2), (-0.3, 0.4), (0.5, 0.5)];
        let [chosen, rejected] = [pairs.map(|pair| pair.0), pairs.map(|pair| pair.1)].map(|rewards| Tensor::from_slice(&rewards));
        let losses = preference_losses(&(&chosen - &rejected), TieModel::None, 0.0);
        assert!((losses.mean(Kind::Double).double_value(&[]) - 0.703_198_31).abs() < 1e-6);
        let centred = losses + centring_losses(&chosen, &rejected) * 0.01;
        assert!((centred.mean(Kind::Double).double_value(&[]) - 0.713_098_31).abs() < 1e-6);
        let margins = Tensor::from_slice(&[0.5, 0.0, 0.1]);
        let with_margins = preference_losses(&(chosen - rejected - margins), TieModel::None, 0.0);
        assert!((with_margins.mean(Kind::Double).double_value(&[]) - 0.773_886_56).abs() < 1e-6);
    }

    #[test]
    fn margins_off_their_scale_are_refused() {
        assert!(MarginRule::Llama2Small.apply(Some(1.5)).is_err());
        assert!(MarginRule::Scaling.apply(Some(0.0)).is_err());
        assert_eq!(MarginRule::Scaling.apply(None).expect("counts as 1"), (0.0, 1.0));
        assert_eq!(MarginRule::Subtracted { weight: 0.0 }.problems()[0].path, "subtracted.weight");
        assert_eq!(serde_json::from_str::<MarginRule>(r#""llama2_small""#).expect("a rule"), MarginRule::Llama2Small);
    }

    #[test]
    fn win_loss_and_tie_have_probability_1_in_all_and_ties_are_likeliest_between_equals() {
        let delta = Tensor::from_slice(&[-30.0, -1.3, 0.0, 0.4, 2.0, 30.0]);
        for model in &ALL[1..] {
            let p = |losses: Tensor| (-losses).exp();
            let (win, lose, tie) = (p(model.win_losses(&delta)), p(model.win_losses(&-&delta)), p(model.tie_losses(&delta)));
            let off: Tensor = win + lose + &tie - 1.0;
            assert!(off.abs().max().double_value(&[]) < 1e-12, "{model:?}");
            assert_eq!(tie.argmax(0, false).int64_value(&[]), 2);
            assert!((tie.double_value(&[2]) - 0.5).abs() < 1e-12, "{model:?}");
        }
        // Rao and Kupper at Δ = 0.7, θ = 3 by hand: e^0.7 / (e^0.7 + 3) and 8 / ((e^0.7 + 3)(e^-0.7 + 3)).
        let at = Tensor::from_slice(&[0.7]);
        let (up, down) = (0.7_f64.exp(), (-0.7_f64).exp());
        let expected = [-(up / (up + 3.0)).ln(), -(8.0 / ((up + 3.0) * (down + 3.0))).ln()];
        assert!((ALL[1].win_losses(&at).double_value(&[0]) - expected[0]).abs() < 1e-12);
        assert!((ALL[1].tie_losses(&at).double_value(&[0]) - expected[1]).abs() < 1e-12);
    }

    #[test]
    fn gradients_match_finite_differences() {
        let near = |at: f64, value: &dyn Fn(f64) -> f64, slope: f64| {
            let expected = (value(at + 1e-6) - value(at - 1e-6)) / 2e-6;
            assert!((expected - slope).abs() < 1e-6, "{expected} and {slope}");
        };
        for model in ALL {
            for at in [-2.0, 0.0, 0.3, 4.0] {
                let slope = |losses: &dyn Fn(&Tensor) -> Tensor| {
                    let leaf = Tensor::from_slice(&[at]).set_requires_grad(true);
                    losses(&leaf).sum(Kind::Double).backward();
                    let value = |at: f64| losses(&Tensor::from_slice(&[at])).sum(Kind::Double).double_value(&[]);
                    near(at, &value, leaf.grad().double_value(&[0]));
                };
                slope(&|delta| preference_losses(delta, model, 0.1));
                if model != TieModel::None {
                    slope(&|delta| model.tie_losses(delta));
                }
            }
        }
    }

    #[test]
    fn weights_that_share_a_list_give_its_mean_over_pairs() {
        // All pairs of three answers scored 1.0, 0.2, -0.5, averaged.
        let delta = Tensor::from_slice(&[0.8, 1.5, 0.7]);
        let losses = preference_losses(&delta, TieModel::None, 0.0);
        assert!((weighted_sum(&losses, &[1.0 / 3.0; 3]).double_value(&[]) - 0.325_233).abs() < 1e-6);
        assert!((losses.sum(Kind::Double).double_value(&[]) - 0.975_700).abs() < 1e-6);
    }
}
