//! How hard each instruction is for the reference, estimated from judgements of several models.
//!
//! The published difficulties belong to AlpacaEval's 805 instructions, its reference and its judge. For other instructions they
//! are estimated here from the user's own judgements, as the package's authors estimated theirs: one logistic regression over
//! all models with a slope of length and a bias for each model and one coefficient for each instruction. Where they used the
//! L1 penalty of the main fit, the coefficients have a normal prior of mean 0 here: with few models, most instructions are
//! judged a handful of times, and an unpenalised coefficient would be infinite wherever all models win or all lose.

use farmhand_core::{Error, Result};

use super::l1_logistic::sigmoid;
use super::uncertainty::solve;

/// Newton steps at most; six to ten are usual.
const MOST_STEPS: usize = 100;
/// A ridge on slopes and biases so weak that it only decides what the data leave open.
const WEAK_RIDGE: f64 = 1e-6;

/// The verdicts on one model.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct JudgedModel {
    /// Of each verdict: the instruction's number, tanh of the standardised length difference (reference − model), and the
    /// probability in [0, 1] that the model's answer is better.
    pub verdicts: Vec<(usize, f64, f64)>,
}

/// Estimated difficulties.
#[derive(Debug, Clone, PartialEq)]
pub struct DifficultyFit {
    /// The difficulty of each instruction for the reference, in logits, their mean 0: `[instructions]`. Positive where models
    /// beat the reference more than elsewhere. 0 for an instruction without a verdict.
    pub difficulty: Vec<f64>,
    /// The slope of length of each model: `[models]`.
    pub length_slopes: Vec<f64>,
    /// The bias of each model: `[models]`.
    pub biases: Vec<f64>,
}

/// Estimates the difficulty of `n_instructions` instructions; `prior_sd` > 0 is the standard deviation, in logits, that
/// difficulties are expected to have.
///
/// # Errors
/// When there are fewer than two models with verdicts, a number is out of range, or an instruction's number is too large.
pub fn estimate_difficulty(models: &[JudgedModel], n_instructions: usize, prior_sd: f64) -> Result<DifficultyFit> {
    if models.iter().filter(|model| !model.verdicts.is_empty()).count() < 2 {
        return Err(Error::invalid_data("one model's verdicts do not tell a hard instruction from a bad answer")
            .with_hint("give judgements of at least two models against the same reference"));
    }
    if !(prior_sd > 0.0 && prior_sd.is_finite()) {
        return Err(Error::invalid_config(format!("expected a standard deviation of difficulties > 0, got {prior_sd}")));
    }
    for (instruction, length, p) in models.iter().flat_map(|model| &model.verdicts) {
        if *instruction >= n_instructions || !length.is_finite() || !(0.0..=1.0).contains(p) {
            let message =
                format!("a verdict ({instruction}, {length}, {p}) is out of range; there are {n_instructions} instructions");
            return Err(Error::invalid_data(message));
        }
    }
    let joint = Joint { models, n_instructions, precision: prior_sd.powi(-2) };
    let mut at = Point { own: vec![0.0; 2 * models.len()], difficulty: vec![0.0; n_instructions] };
    let mut objective = joint.objective(&at);
    for _ in 0..MOST_STEPS {
        let Some(step) = joint.newton_step(&at) else { break };
        let taken = (0..40).map(|halvings| at.moved(&step, 0.5_f64.powi(halvings))).find_map(|there| {
            let value = joint.objective(&there);
            (value <= objective).then_some((there, value))
        });
        let Some((there, value)) = taken else { break };
        (at, objective) = (there, value);
        let size = step.own.iter().chain(&step.difficulty).fold(0.0_f64, |size, d| size.max(d.abs()));
        if size < 1e-12 {
            break;
        }
    }
    let mean = at.difficulty.iter().sum::<f64>() / n_instructions.max(1) as f64;
    let is_judged = {
        let mut judged = vec![false; n_instructions];
        models.iter().flat_map(|model| &model.verdicts).for_each(|(instruction, ..)| judged[*instruction] = true);
        judged
    };
    let centred = |(d, judged): (&f64, &bool)| if *judged { d - mean } else { 0.0 };
    Ok(DifficultyFit {
        difficulty: at.difficulty.iter().zip(&is_judged).map(centred).collect(),
        length_slopes: at.own.iter().step_by(2).copied().collect(),
        biases: at.own.iter().skip(1).step_by(2).map(|bias| bias + mean).collect(),
    })
}

/// Slope and bias of each model, and the difficulties.
#[derive(Clone)]
struct Point {
    /// `[models, 2]`.
    own: Vec<f64>,
    /// `[instructions]`.
    difficulty: Vec<f64>,
}

impl Point {
    fn moved(&self, step: &Self, by: f64) -> Self {
        let moved = |from: &[f64], step: &[f64]| from.iter().zip(step).map(|(x, d)| x + by * d).collect();
        Self { own: moved(&self.own, &step.own), difficulty: moved(&self.difficulty, &step.difficulty) }
    }
}

struct Joint<'a> {
    models: &'a [JudgedModel],
    n_instructions: usize,
    /// One over the prior's variance.
    precision: f64,
}

impl Joint<'_> {
    fn logit(at: &Point, model: usize, instruction: usize, length: f64) -> f64 {
        at.own[2 * model] * length + at.own[2 * model + 1] + at.difficulty[instruction]
    }

    /// Minus the log posterior, in nats.
    fn objective(&self, at: &Point) -> f64 {
        let squares = |values: &[f64]| values.iter().map(|x| x * x).sum::<f64>();
        let mut sum = 0.5 * (self.precision * squares(&at.difficulty) + WEAK_RIDGE * squares(&at.own));
        for (m, model) in self.models.iter().enumerate() {
            for (i, length, p) in &model.verdicts {
                let z = Self::logit(at, m, *i, *length);
                sum += z.max(0.0) + (-z.abs()).exp().ln_1p() - p * z;
            }
        }
        sum
    }

    /// Newton's step. The difficulties' part of the Hessian is diagonal, so they are eliminated first and what is left to solve
    /// has two unknowns a model.
    fn newton_step(&self, at: &Point) -> Option<Point> {
        let (n_own, n) = (at.own.len(), self.n_instructions);
        let mut slope_own: Vec<f64> = at.own.iter().map(|x| WEAK_RIDGE * x).collect();
        let mut slope: Vec<f64> = at.difficulty.iter().map(|x| self.precision * x).collect();
        let (mut own, mut diagonal) = (vec![0.0; n_own * n_own], vec![self.precision; n]);
        let mut cross = vec![0.0; n * n_own];
        (0..n_own).for_each(|k| own[k * n_own + k] = WEAK_RIDGE);
        for (m, model) in self.models.iter().enumerate() {
            for (i, length, p) in &model.verdicts {
                let q = sigmoid(Self::logit(at, m, *i, *length));
                let curvature = q * (1.0 - q);
                for (k, f) in [(2 * m, *length), (2 * m + 1, 1.0)] {
                    slope_own[k] += (q - p) * f;
                    cross[i * n_own + k] += curvature * f;
                    for (l, g) in [(2 * m, *length), (2 * m + 1, 1.0)] {
                        own[k * n_own + l] += curvature * f * g;
                    }
                }
                slope[*i] += q - p;
                diagonal[*i] += curvature;
            }
        }
        let mut right: Vec<f64> = slope_own.iter().map(|s| -s).collect();
        for i in 0..n {
            let row = &cross[i * n_own..(i + 1) * n_own];
            let touched: Vec<usize> = (0..n_own).filter(|k| row[*k] != 0.0).collect();
            for k in &touched {
                right[*k] += row[*k] * slope[i] / diagonal[i];
                for l in &touched {
                    own[k * n_own + l] -= row[*k] * row[*l] / diagonal[i];
                }
            }
        }
        let step_own = solve(own, right)?;
        let eliminated = |i: usize| {
            let of_own: f64 = cross[i * n_own..(i + 1) * n_own].iter().zip(&step_own).map(|(c, d)| c * d).sum();
            (-slope[i] - of_own) / diagonal[i]
        };
        let difficulty = (0..n).map(eliminated).collect();
        Some(Point { own: step_own, difficulty })
    }
}

#[cfg(test)]
mod tests {
    use farmhand_core::Seed;

    use super::*;

    /// Verdicts on `n_models` models of different quality, on instructions of these difficulties.
    fn simulated(difficulty: &[f64], n_models: usize) -> Vec<JudgedModel> {
        let mut rng = Seed::root(7).rng();
        let mut verdict = |m: usize, i: usize| {
            let length = (0.7 * rng.normal()).tanh();
            let z = difficulty[i] + 0.05 * m as f64 - 1.0 - 1.2 * length;
            (i, length, if rng.bernoulli(sigmoid(z)) { 1.0 } else { 0.0 })
        };
        (0..n_models).map(|m| JudgedModel { verdicts: (0..difficulty.len()).map(|i| verdict(m, i)).collect() }).collect()
    }

    #[test]
    fn difficulties_slopes_and_biases_of_a_simulation_are_found() {
        let truth: Vec<f64> = (0..200).map(|i| (f64::from(i) / 199.0 - 0.5) * 4.0).collect();
        let fit = estimate_difficulty(&simulated(&truth, 40), 200, 1.0).expect("estimated");
        let correlation = {
            let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
            dot(&fit.difficulty, &truth) / (dot(&fit.difficulty, &fit.difficulty) * dot(&truth, &truth)).sqrt()
        };
        assert!(correlation > 0.94, "{correlation}");
        assert!(fit.difficulty.iter().sum::<f64>().abs() < 1e-9);
        let slope = fit.length_slopes.iter().sum::<f64>() / 40.0;
        assert!((slope + 1.2).abs() < 0.15, "{slope}");
        assert!(fit.biases[39] > fit.biases[0] + 1.0, "{:?}", fit.biases);
    }

    #[test]
    fn the_gradient_is_zero_at_the_estimate() {
        let truth = [0.5, -1.0, 0.0, 2.0, -0.2, 0.1];
        let models = simulated(&truth, 5);
        let joint = Joint { models: &models, n_instructions: 6, precision: 1.0 };
        let fit = estimate_difficulty(&models, 6, 1.0).expect("estimated");
        // Centring moves the difficulties' mean; at the optimum with free biases it is 0 already.
        let own = fit.length_slopes.iter().zip(&fit.biases).flat_map(|(slope, bias)| [*slope, *bias]).collect();
        let at = Point { own, difficulty: fit.difficulty };
        let here = joint.objective(&at);
        for k in 0..at.own.len() + 6 {
            for by in [1e-4, -1e-4] {
                let mut there = at.clone();
                if k < at.own.len() {
                    there.own[k] += by
                } else {
                    there.difficulty[k - at.own.len()] += by
                }
                assert!(joint.objective(&there) >= here - 1e-12, "coordinate {k}");
            }
        }
    }

    #[test]
    fn an_instruction_without_a_verdict_has_no_difficulty_and_always_winning_stays_finite() {
        let models: Vec<JudgedModel> =
            (0..3).map(|_| JudgedModel { verdicts: vec![(0, 0.0, 1.0), (2, 0.1, 0.0), (3, -0.1, 0.5)] }).collect();
        let fit = estimate_difficulty(&models, 4, 1.0).expect("estimated");
        assert_eq!(fit.difficulty[1], 0.0);
        assert!(fit.difficulty[0] > 0.0 && fit.difficulty[2] < 0.0 && fit.difficulty[0] < 5.0, "{:?}", fit.difficulty);
    }

    #[test]
    fn too_little_and_wrong_input_are_refused() {
        let one = JudgedModel { verdicts: vec![(0, 0.0, 1.0)] };
        let refused = |models: &[JudgedModel], sd| estimate_difficulty(models, 1, sd).expect_err("refused").to_string();
        assert!(refused(std::slice::from_ref(&one), 1.0).contains("one model"));
        assert!(refused(&[one.clone(), one.clone()], 0.0).contains("> 0"));
        let far = JudgedModel { verdicts: vec![(5, 0.0, 1.0)] };
        assert!(refused(&[one, far], 1.0).contains("out of range"));
    }
}
