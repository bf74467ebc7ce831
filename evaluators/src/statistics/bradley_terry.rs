//! Strengths of many models from pairwise verdicts: Bradley and Terry, 1952, on Elo's scale, with intervals.
//!
//! P(a beats b) = σ(θₐ − θ_b); a tie is half a win of each. The strengths maximise the likelihood with a normal prior so weak that
//! it only decides what the data leave open (a model that never lost, two groups that never met). Their covariance is the
//! sandwich of the Hessian around the verdicts' own gradients, summed by instruction, so that several verdicts on one
//! instruction do not count as independent.

use std::collections::BTreeMap;

use farmhand_core::{Error, Result};

use super::{multiple_comparisons::holm, normal};
use crate::estimate::NORMAL_975;
use crate::length_controlled::l1_logistic::sigmoid;

/// Precision of the prior on each strength.
const WEAK_PRIOR: f64 = 1e-3;
/// Newton steps at most; six are usual.
const MOST_STEPS: usize = 100;

/// One verdict on two models' answers to an instruction.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Match {
    /// The number of the first model.
    pub first: usize,
    /// The number of the second model.
    pub second: usize,
    /// The number of the instruction.
    pub instruction: usize,
    /// The probability, in [0, 1], that the second answer is better.
    pub p_second: f64,
}

/// Fitted strengths.
#[derive(Debug, Clone, PartialEq)]
pub struct Strengths {
    /// In logits, their mean 0: `[models]`.
    pub theta: Vec<f64>,
    /// Their covariance: `[models, models]`, row by row.
    pub covariance: Vec<f64>,
}

/// A place on the leaderboard.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Place {
    /// Elo's points: 400 / ln 10 a logit, the mean of all models at 1000.
    pub elo: f64,
    /// The 95 % interval of the points.
    pub elo_interval: [f64; 2],
    /// The rank by points, 1 the best.
    pub rank: usize,
    /// The ranks the model may have: 1 + how many are surely better to the number of models minus how many are surely worse, the
    /// differences of all pairs tested together at 5 % (Holm).
    pub rank_interval: [usize; 2],
}

impl Strengths {
    /// The strengths that explain `matches` best.
    ///
    /// # Errors
    /// When there is no match, a model plays itself, or a number is out of range.
    pub fn fit(n_models: usize, matches: &[Match]) -> Result<Self> {
        if matches.is_empty() {
            return Err(Error::missing_input("no verdicts between models"));
        }
        for Match { first, second, p_second, .. } in matches {
            if first == second || first.max(second) >= &n_models || !(0.0..=1.0).contains(p_second) {
                let message =
                    format!("a verdict of {p_second} between models {first} and {second} of {n_models} is out of range");
                return Err(Error::invalid_data(message));
            }
        }
        let mut theta = vec![0.0; n_models];
        for _ in 0..MOST_STEPS {
            let (gradient, hessian) = derivatives(&theta, matches);
            let inverse = inverse(hessian, n_models).ok_or_else(|| Error::non_finite("the strengths' Hessian has no inverse"))?;
            let step: Vec<f64> =
                (0..n_models).map(|i| -(0..n_models).map(|j| inverse[i * n_models + j] * gradient[j]).sum::<f64>()).collect();
            // A likelihood of logistic terms is tame enough for steps of two logits at most.
            let size = step.iter().fold(0.0_f64, |size, d| size.max(d.abs()));
            let short = (2.0 / size).min(1.0);
            theta.iter_mut().zip(&step).for_each(|(theta, d)| *theta += short * d);
            if size < 1e-12 {
                break;
            }
        }
        let mean = theta.iter().sum::<f64>() / n_models as f64;
        let covariance = sandwich(&theta, matches)?;
        theta.iter_mut().for_each(|theta| *theta -= mean);
        Ok(Self { theta, covariance })
    }

    /// The probability that model `a` beats model `b`.
    pub fn p_beats(&self, a: usize, b: usize) -> f64 {
        sigmoid(self.theta[a] - self.theta[b])
    }

    /// Points, ranks and their intervals: `[models]`.
    pub fn places(&self) -> Vec<Place> {
        let n = self.theta.len();
        let pairs: Vec<(usize, usize)> = (0..n).flat_map(|i| (0..i).map(move |j| (i, j))).collect();
        let p_values: Vec<f64> = pairs.iter().map(|(i, j)| self.p_equal(*i, *j)).collect();
        let (mut n_better, mut n_worse) = (vec![0; n], vec![0; n]);
        for ((i, j), p) in pairs.iter().zip(holm(&p_values)) {
            if p < 0.05 {
                let (better, worse) = if self.theta[*i] > self.theta[*j] { (*i, *j) } else { (*j, *i) };
                n_better[worse] += 1;
                n_worse[better] += 1;
            }
        }
        let points = 400.0 / std::f64::consts::LN_10;
        let place = |i: usize| {
            let (elo, error) = (1000.0 + points * self.theta[i], points * self.covariance[i * n + i].sqrt());
            Place {
                elo,
                elo_interval: [elo - NORMAL_975 * error, elo + NORMAL_975 * error],
                rank: 1 + self.theta.iter().filter(|theta| **theta > self.theta[i]).count(),
                rank_interval: [1 + n_better[i], n - n_worse[i]],
            }
        };
        (0..n).map(place).collect()
    }

    /// The p value of no difference between two models.
    fn p_equal(&self, i: usize, j: usize) -> f64 {
        let n = self.theta.len();
        let cov = |a: usize, b: usize| self.covariance[a * n + b];
        let variance = cov(i, i) + cov(j, j) - 2.0 * cov(i, j);
        let difference = self.theta[i] - self.theta[j];
        if variance > 0.0 { normal::two_sided_p(difference / variance.sqrt()) } else { 1.0 }
    }
}

/// Gradient `[models]` and Hessian `[models, models]` of minus the log posterior.
fn derivatives(theta: &[f64], matches: &[Match]) -> (Vec<f64>, Vec<f64>) {
    let n = theta.len();
    let mut gradient: Vec<f64> = theta.iter().map(|theta| WEAK_PRIOR * theta).collect();
    let mut hessian = vec![0.0; n * n];
    (0..n).for_each(|i| hessian[i * n + i] = WEAK_PRIOR);
    for Match { first, second, p_second, .. } in matches {
        let q = sigmoid(theta[*second] - theta[*first]);
        gradient[*second] += q - p_second;
        gradient[*first] -= q - p_second;
        let curvature = q * (1.0 - q);
        for (a, b, sign) in [(first, first, 1.0), (second, second, 1.0), (first, second, -1.0), (second, first, -1.0)] {
            hessian[a * n + b] += sign * curvature;
        }
    }
    (gradient, hessian)
}

/// The covariance of the centred strengths: P · H⁻¹ · (Σ gᵢ gᵢᵀ over instructions) · H⁻¹ · P with P the centring.
fn sandwich(theta: &[f64], matches: &[Match]) -> Result<Vec<f64>> {
    let n = theta.len();
    let (_, hessian) = derivatives(theta, matches);
    let mut inverse = inverse(hessian, n).ok_or_else(|| Error::non_finite("the strengths' Hessian has no inverse"))?;
    for j in 0..n {
        let mean = (0..n).map(|i| inverse[i * n + j]).sum::<f64>() / n as f64;
        (0..n).for_each(|i| inverse[i * n + j] -= mean);
    }
    let mut by_instruction: BTreeMap<usize, Vec<(usize, f64)>> = BTreeMap::new();
    for Match { first, second, instruction, p_second } in matches {
        let slope = sigmoid(theta[*second] - theta[*first]) - p_second;
        by_instruction.entry(*instruction).or_default().extend([(*second, slope), (*first, -slope)]);
    }
    let mut covariance = vec![0.0; n * n];
    for slopes in by_instruction.values() {
        let pull: Vec<f64> = (0..n).map(|i| slopes.iter().map(|(j, slope)| inverse[i * n + j] * slope).sum()).collect();
        for i in 0..n {
            (0..n).for_each(|j| covariance[i * n + j] += pull[i] * pull[j]);
        }
    }
    let m = by_instruction.len() as f64;
    if m > 1.0 {
        covariance.iter_mut().for_each(|c| *c *= m / (m - 1.0));
    }
    Ok(covariance)
}

/// The inverse of a symmetric positive definite matrix, by Gauss and Jordan; `None` where a pivot vanishes.
fn inverse(mut a: Vec<f64>, n: usize) -> Option<Vec<f64>> {
    let mut inverse = vec![0.0; n * n];
    (0..n).for_each(|i| inverse[i * n + i] = 1.0);
    for k in 0..n {
        let pivot = a[k * n + k];
        if !(pivot > 0.0 && pivot.is_finite()) {
            return None;
        }
        for j in 0..n {
            a[k * n + j] /= pivot;
            inverse[k * n + j] /= pivot;
        }
        for i in (0..n).filter(|i| *i != k) {
            let factor = a[i * n + k];
            if factor != 0.0 {
                for j in 0..n {
                    a[i * n + j] -= factor * a[k * n + j];
                    inverse[i * n + j] -= factor * inverse[k * n + j];
                }
            }
        }
    }
    Some(inverse)
}

#[cfg(test)]
mod tests {
    use farmhand_core::Seed;

    use super::*;

    fn tournament(theta: &[f64], n_instructions: usize, seed: u64) -> Vec<Match> {
        let mut rng = Seed::root(seed).rng();
        let mut matches = Vec::new();
        for instruction in 0..n_instructions {
            for second in 0..theta.len() {
                for first in 0..second {
                    let wins = rng.bernoulli(sigmoid(theta[second] - theta[first]));
                    matches.push(Match { first, second, instruction, p_second: f64::from(u8::from(wins)) });
                }
            }
        }
        matches
    }

    #[test]
    fn two_models_have_the_logit_of_their_win_rate() {
        let matches: Vec<Match> = (0..10)
            .map(|instruction| Match { first: 0, second: 1, instruction, p_second: if instruction < 8 { 1.0 } else { 0.0 } })
            .collect();
        let strengths = Strengths::fit(2, &matches).expect("fitted");
        assert!((strengths.p_beats(1, 0) - 0.8).abs() < 1e-3, "{strengths:?}");
        let places = strengths.places();
        assert!((places[1].elo - places[0].elo - 400.0 * 4.0_f64.log10()).abs() < 1.0);
        assert_eq!((places[1].rank, places[0].rank), (1, 2));
        assert!((places[0].elo + places[1].elo - 2000.0).abs() < 1e-9);
    }

    #[test]
    fn intervals_cover_the_strengths_of_a_simulation() {
        let theta = [-1.0, -0.2, 0.3, 0.9];
        let (mut n_covered, mut n) = (0, 0);
        for seed in 0..300 {
            let places = Strengths::fit(4, &tournament(&theta, 60, seed)).expect("fitted").places();
            for (place, theta) in places.iter().zip(theta) {
                let truth = 1000.0 + 400.0 / std::f64::consts::LN_10 * theta;
                n_covered += usize::from(place.elo_interval[0] <= truth && truth <= place.elo_interval[1]);
                n += 1;
            }
        }
        let coverage = n_covered as f64 / n as f64;
        assert!((0.93..=0.97).contains(&coverage), "{coverage}");
    }

    #[test]
    fn ranks_are_sure_when_the_data_are() {
        let places = Strengths::fit(3, &tournament(&[-2.0, 0.0, 2.0], 200, 1)).expect("fitted").places();
        assert_eq!(
            places.iter().map(|place| (place.rank, place.rank_interval)).collect::<Vec<_>>(),
            [(3, [3, 3]), (2, [2, 2]), (1, [1, 1])]
        );
        let equal = Strengths::fit(3, &tournament(&[0.0; 3], 30, 2)).expect("fitted").places();
        assert!(equal.iter().all(|place| place.rank_interval == [1, 3]), "{equal:?}");
    }

    #[test]
    fn a_model_that_never_lost_and_groups_that_never_met_stay_finite() {
        let matches: Vec<Match> =
            (0..20).map(|i| Match { first: (i % 2) * 2, second: (i % 2) * 2 + 1, instruction: i, p_second: 1.0 }).collect();
        let strengths = Strengths::fit(4, &matches).expect("fitted");
        assert!(strengths.theta.iter().all(|theta| theta.is_finite() && theta.abs() < 20.0), "{strengths:?}");
        assert!(strengths.covariance.iter().all(|c| c.is_finite()));
    }

    #[test]
    fn wrong_verdicts_are_refused() {
        let bad = |m: Match| Strengths::fit(2, &[m]).expect_err("refused");
        assert_eq!(Strengths::fit(2, &[]).expect_err("refused").kind(), farmhand_core::ErrorKind::MissingInput);
        bad(Match { first: 0, second: 0, instruction: 0, p_second: 1.0 });
        bad(Match { first: 0, second: 5, instruction: 0, p_second: 1.0 });
        bad(Match { first: 0, second: 1, instruction: 0, p_second: f64::NAN });
    }
}
