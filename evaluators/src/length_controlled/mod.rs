//! The length-controlled win rate of AlpacaEval 2: what the win rate would be if both answers were equally long.
//!
//! A logistic regression explains each verdict by the difference of lengths, by how hard the instruction is for the reference,
//! and by the model itself; the prediction with the length's part set to zero, averaged over the instructions, is the win rate.
//! Dubois, Galambosi, Liang and Hashimoto, 2024, *Length-Controlled AlpacaEval*, equations 1 and 2, and version 0.6.6 of the
//! package `alpaca_eval`, `length_controlled_v1`.
//!
//! For row i with length difference dᵢ = len(output_1) − len(output_2), in characters, the features are tanh(dᵢ / sd(d)), the
//! instruction's difficulty, 1 for the model; then further covariates, if any. The weights minimise
//! |w|₁ + C · Σ sᵢ · log loss, with the gamed baselines' rows (a verbose and a concise version of the reference against itself,
//! sᵢ = 0.1, and 0 in place of the model's 1) holding the first two weights near those that explain them. C is found by
//! [cross-validation](cross_validate).
//!
//! Where we differ: the optimum is exact ([`l1_logistic`]), difficulties are given row by row (joined by instruction, or by the
//! row's position as the package does), and [`Fit::std_error_with_estimation`] counts what the package leaves out.

pub mod covariates;
mod cross_validation;
mod difficulty;
pub mod l1_logistic;
mod uncertainty;
mod weights;

use farmhand_core::{Error, Result};

pub use cross_validation::{CrossValidation, N_FOLDS, cross_validate, usual_strengths};
pub use difficulty::{DifficultyFit, JudgedModel, estimate_difficulty};
use l1_logistic::{Rows, sigmoid};
pub use weights::{ModelWeights, is_extreme, win_rate_between};

/// The package's weight of a regularising row: half of its λ = 0.2.
pub const REGULARISER_WEIGHT: f64 = 0.1;

/// One comparison of the model with the reference.
#[derive(Debug, Clone, PartialEq)]
pub struct Instance {
    /// Characters of the reference's answer minus those of the model's.
    pub delta_len: f64,
    /// How hard the instruction is for the reference, in logits; `None` in all instances: the regression has no such feature.
    pub difficulty: Option<f64>,
    /// Further differences between the answers whose part is taken out like the length's, for example of lists: as many in
    /// every instance, each brought to tanh(x / sd(x)).
    pub covariates: Vec<f64>,
    /// The probability that the model's answer is better, in [0, 1]; `None` without a verdict: not fitted, but predicted.
    pub p_win: Option<f64>,
}

/// A row that ties the weights of length and difficulty down: a gamed reference against the reference.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RegulariserRow {
    /// The difference of lengths over its standard deviation, before the tanh.
    pub std_delta_len: f64,
    /// The instruction's difficulty, in logits.
    pub difficulty: f64,
    /// The probability that the gamed answer is better, in [0, 1]; `None` without a verdict.
    pub p_win: Option<f64>,
}

/// A fitted regression and what follows from it.
#[derive(Debug, Clone, PartialEq)]
pub struct Fit {
    /// The weights of length, difficulty and model.
    pub weights: ModelWeights,
    /// The weights of the further covariates.
    pub covariates: Vec<f64>,
    /// The strength C it was fitted with.
    pub c: f64,
    /// What cross-validation found; `None` when C was given.
    pub cross_validation: Option<CrossValidation>,
    /// The length-controlled win rate, in [0, 1].
    pub win_rate: f64,
    /// The standard error of the mean of the predictions, as the package has it: how much instructions differ, and not how well
    /// the weights are known. `None` for a single instance.
    pub std_error: Option<f64>,
    /// The standard error that counts both: instructions drawn anew, and the weights fitted to their verdicts anew.
    pub std_error_with_estimation: Option<f64>,
    /// The prediction for every instance, in [0, 1]: `[instances]`.
    pub predictions: Vec<f64>,
    /// How far each instance moves the win rate, estimation counted: `[instances]`. Two models' differences, instruction by
    /// instruction, say how well the difference of their win rates is known. `None` where
    /// [`Fit::std_error_with_estimation`] is.
    pub influences: Option<Vec<f64>>,
}

/// The regression's rows: regulariser first, then the instances with a verdict.
struct Design {
    rows: Rows,
    /// The number of the first row that is an instance.
    first_instance: usize,
    has_difficulty: bool,
}

/// Fits the length-controlled win rate; `c`: the strength, `None` to find it by cross-validation over [`usual_strengths`].
///
/// # Errors
/// When there is no verdict, a number is not finite or out of range, or some instances have a difficulty and others none.
pub fn fit(instances: &[Instance], regulariser: &[RegulariserRow], c: Option<f64>) -> Result<Fit> {
    check(instances, regulariser, c)?;
    let design = design(instances, regulariser);
    let cross_validation = c.is_none().then(|| cross_validate(&design.rows, &usual_strengths()));
    let c = c.or(cross_validation.as_ref().map(|found| found.c)).expect("given or found");
    let w = design.rows.fit(c, &vec![0.0; design.rows.n_features()]);
    let place = usize::from(design.has_difficulty);
    let weights = ModelWeights { length: w[0], difficulty: if design.has_difficulty { w[1] } else { 0.0 }, model: w[1 + place] };
    let predictions: Vec<f64> = instances
        .iter()
        .map(|instance| sigmoid(weights.difficulty * instance.difficulty.unwrap_or(0.0) + weights.model))
        .collect();
    let estimate = crate::estimate::Estimate::of_mean(&predictions).expect("checked: some instances");
    let influences = uncertainty::influences(&design, c, &w, instances, &predictions);
    Ok(Fit {
        weights,
        covariates: w[2 + place..].to_vec(),
        c,
        cross_validation,
        win_rate: estimate.mean,
        std_error: estimate.std_error,
        std_error_with_estimation: influences.as_deref().map(uncertainty::std_error),
        predictions,
        influences,
    })
}

fn check(instances: &[Instance], regulariser: &[RegulariserRow], c: Option<f64>) -> Result<()> {
    if instances.iter().all(|instance| instance.p_win.is_none()) {
        return Err(Error::invalid_data("no comparison has a verdict, so there is no length-controlled win rate"));
    }
    if let Some(c) = c.filter(|c| !(*c > 0.0 && c.is_finite())) {
        return Err(Error::invalid_config(format!("expected a strength C > 0, got {c}")));
    }
    let (n_difficult, n_covariates) =
        (instances.iter().filter(|i| i.difficulty.is_some()).count(), instances[0].covariates.len());
    if n_difficult != 0 && n_difficult != instances.len() {
        let message = format!("{n_difficult} of {} instructions have a difficulty, the others none", instances.len());
        return Err(Error::invalid_data(message)
            .with_hint("use difficulties of these instructions, estimate them from your own data, or do without"));
    }
    for (i, instance) in instances.iter().enumerate() {
        let numbers = [instance.delta_len, instance.difficulty.unwrap_or(0.0)];
        let p_is_wrong = instance.p_win.is_some_and(|p| !(0.0..=1.0).contains(&p));
        if p_is_wrong || numbers.iter().chain(&instance.covariates).any(|x| !x.is_finite()) {
            return Err(Error::invalid_data(format!(
                "comparison {i} has a number that is not finite or a verdict outside [0, 1]"
            )));
        }
        if instance.covariates.len() != n_covariates {
            let n = instance.covariates.len();
            return Err(Error::invalid_data(format!("comparison {i} has {n} covariates, the first one {n_covariates}")));
        }
    }
    for (i, row) in regulariser.iter().enumerate() {
        let p_is_wrong = row.p_win.is_some_and(|p| !(0.0..=1.0).contains(&p));
        if p_is_wrong || !row.std_delta_len.is_finite() || !row.difficulty.is_finite() {
            let message = format!("regularising row {i} has a number that is not finite or a verdict outside [0, 1]");
            return Err(Error::invalid_data(message));
        }
    }
    Ok(())
}

fn design(instances: &[Instance], regulariser: &[RegulariserRow]) -> Design {
    let has_difficulty = instances.iter().all(|instance| instance.difficulty.is_some());
    let n_covariates = instances[0].covariates.len();
    let features = |length: f64, difficulty: f64, model: f64, covariates: &[f64]| -> Vec<f64> {
        let difficulty = has_difficulty.then_some(difficulty);
        [length].into_iter().chain(difficulty).chain([model]).chain(covariates.iter().copied()).collect()
    };
    let mut rows = Rows::new(2 + usize::from(has_difficulty) + n_covariates);
    let none = vec![0.0; n_covariates];
    for row in regulariser {
        if let Some(p) = row.p_win {
            rows.push(&features(row.std_delta_len.tanh(), row.difficulty, 0.0, &none), p, REGULARISER_WEIGHT);
        }
    }
    let first_instance = rows.len();
    let length_scale = scale(instances.iter().map(|instance| instance.delta_len));
    let scales: Vec<f64> = (0..n_covariates).map(|k| scale(instances.iter().map(|instance| instance.covariates[k]))).collect();
    for instance in instances {
        let Some(p) = instance.p_win else { continue };
        let covariates: Vec<f64> = instance.covariates.iter().zip(&scales).map(|(x, scale)| (x * scale).tanh()).collect();
        let length = (instance.delta_len * length_scale).tanh();
        rows.push(&features(length, instance.difficulty.unwrap_or(0.0), 1.0, &covariates), p, 1.0);
    }
    Design { rows, first_instance, has_difficulty }
}

/// One over the sample standard deviation (divisor n − 1); 0 where all numbers are equal, which leaves nothing to explain.
fn scale(values: impl Iterator<Item = f64>) -> f64 {
    let values: Vec<f64> = values.collect();
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    if squares > 0.0 { 1.0 / (squares / (n - 1.0)).sqrt() } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use farmhand_core::Seed;

    use super::*;

    fn instance(delta_len: f64, p_win: f64) -> Instance {
        Instance { delta_len, difficulty: None, covariates: Vec::new(), p_win: Some(p_win) }
    }

    /// A judge that likes length: the model's answers are longer, and as good as the reference's.
    fn length_loving(n: usize, seed: u64) -> Vec<Instance> {
        let mut rng = Seed::root(seed).rng();
        let mut draw = |_| {
            let delta_len = -300.0 + 300.0 * rng.normal();
            let p = sigmoid(-2.0 * (delta_len / 300.0).tanh());
            instance(delta_len, if rng.bernoulli(p) { 1.0 } else { 0.0 })
        };
        (0..n).map(&mut draw).collect()
    }

    #[test]
    fn a_win_rate_that_comes_of_length_alone_is_taken_back() {
        let instances = length_loving(4000, 1);
        let raw = instances.iter().filter_map(|instance| instance.p_win).sum::<f64>() / 4000.0;
        let fit = fit(&instances, &[], None).expect("fitted");
        assert!(raw > 0.7, "{raw}");
        assert!((fit.win_rate - 0.5).abs() < 4.0 * fit.std_error_with_estimation.expect("many"), "{fit:?}");
        assert!((fit.weights.length + 2.0).abs() < 0.3, "{:?}", fit.weights);
        // Without a difficulty all predictions are one number, and the package's standard error sees nothing.
        assert!(fit.std_error.expect("many") < 1e-12);
    }

    #[test]
    fn the_standard_error_is_that_of_many_repetitions() {
        let fits: Vec<Fit> = (0..200).map(|seed| fit(&length_loving(500, seed), &[], Some(1.0)).expect("fitted")).collect();
        let rates: Vec<f64> = fits.iter().map(|fit| fit.win_rate).collect();
        let spread = crate::estimate::Estimate::of_mean(&rates).and_then(|e| e.std_error).expect("many") * 200.0_f64.sqrt();
        let told = fits.iter().filter_map(|fit| fit.std_error_with_estimation).sum::<f64>() / 200.0;
        assert!((told / spread - 1.0).abs() < 0.15, "told {told}, seen {spread}");
    }

    #[test]
    fn a_covariate_takes_its_part_and_one_that_is_always_equal_changes_nothing() {
        let mut rng = Seed::root(5).rng();
        let mut with_lists = |_: usize| {
            let lists = if rng.bernoulli(0.5) { 1.0 } else { 0.0 };
            let p = sigmoid(1.5 * lists);
            let p_win = Some(if rng.bernoulli(p) { 1.0 } else { 0.0 });
            Instance { delta_len: 100.0 * rng.normal(), difficulty: None, covariates: vec![lists, 7.0], p_win }
        };
        let instances: Vec<Instance> = (0..4000).map(&mut with_lists).collect();
        let with = fit(&instances, &[], Some(10.0)).expect("fitted");
        assert!((with.win_rate - 0.5).abs() < 0.05 && with.covariates[0] > 1.0, "{with:?}");
        assert_eq!(with.covariates[1], 0.0);
        let plain: Vec<Instance> = instances.iter().map(|i| Instance { covariates: Vec::new(), ..i.clone() }).collect();
        assert!(fit(&plain, &[], Some(10.0)).expect("fitted").win_rate > 0.6);
    }

    #[test]
    fn comparisons_without_a_verdict_are_predicted_and_not_fitted() {
        let mut instances = length_loving(300, 2);
        let fitted = fit(&instances, &[], Some(1.0)).expect("fitted");
        instances.push(Instance { p_win: None, ..instances[0].clone() });
        let more = fit(&instances, &[], Some(1.0)).expect("fitted");
        assert_eq!((fitted.predictions.len(), more.predictions.len()), (300, 301));
    }

    #[test]
    fn wrong_numbers_are_refused() {
        let refused = |instances: &[Instance], c| fit(instances, &[], c).expect_err("refused").to_string();
        assert!(refused(&[], None).contains("no comparison has a verdict"));
        assert!(refused(&[Instance { p_win: None, ..instance(0.0, 0.0) }], None).contains("no comparison has a verdict"));
        assert!(refused(&[instance(f64::NAN, 1.0)], None).contains("comparison 0"));
        assert!(refused(&[instance(1.0, 1.5)], None).contains("[0, 1]"));
        assert!(refused(&[instance(1.0, 1.0)], Some(0.0)).contains("C > 0"));
        let half = [instance(1.0, 1.0), Instance { difficulty: Some(1.0), ..instance(2.0, 0.0) }];
        assert!(refused(&half, None).contains("1 of 2 instructions have a difficulty"));
    }
}
