//! Which strength of the penalty to take: cross-validation as AlpacaEval has scikit-learn do it.

use super::l1_logistic::{Problem, Rows, Survey};

/// Folds of the cross-validation.
pub const N_FOLDS: usize = 5;

/// The step, against the weights, at which all rows are near enough to their optimum for the folds to start there.
const NEAR_ENOUGH: f64 = 1e-2;
/// The step, against the weights, after which a fold's optimum is known.
const SMALL_ENOUGH: f64 = 1e-6;

/// The strengths AlpacaEval tries: ten from 1e-4 to 1e4, evenly in the logarithm.
pub fn usual_strengths() -> Vec<f64> {
    (0..10).map(|i| 10_f64.powf(-4.0 + 8.0 * f64::from(i) / 9.0)).collect()
}

/// What cross-validation found.
#[derive(Debug, Clone, PartialEq)]
pub struct CrossValidation {
    /// The strength C with the smallest loss; the weakest penalty's is not preferred among equals, the strongest's is.
    pub c: f64,
    /// The mean over the folds of the mean of weight × log loss on held-out rows, for each strength: `[strengths]`, in nats.
    pub losses: Vec<f64>,
}

/// Tries each of `strengths` on every fold.
///
/// Row g of n is in fold (n − 1 − g) mod 5: the round robin that scikit-learn's `GroupKFold` comes to when every row is a group
/// of its own (AlpacaEval's two copies of a row, one a label, form one).
///
/// The optima of a fold and of all rows are close neighbours, and those of one strength and the next: all rows are followed along
/// the strengths, and each fold starts from there, where slope and curvature of the rows outside the fold are known without
/// another look. Folds stop at steps of [`SMALL_ENOUGH`], which leaves the losses exact to about 1e-11.
///
/// # Panics
/// When there are no strengths.
pub fn cross_validate(rows: &Rows, strengths: &[f64]) -> CrossValidation {
    let n = rows.len();
    let fold_of = |g: usize| (n - 1 - g) % N_FOLDS;
    let folds: Vec<Rows> = (0..N_FOLDS.min(n)).map(|fold| rows.filtered(|g| fold_of(g) == fold)).collect();
    let all: Vec<&Rows> = folds.iter().collect();
    let mut losses = vec![0.0; strengths.len()];
    let mut w = vec![0.0; rows.n_features()];
    for (loss, c) in losses.iter_mut().zip(strengths) {
        let whole = Problem { parts: &all, c: *c };
        let near = whole.descend(&w, whole.survey(&w), NEAR_ENOUGH);
        let surveys: Vec<Survey> = all.iter().map(|fold| Problem { parts: &[fold], c: *c }.survey(&near.before)).collect();
        let mut everything = Survey::nothing(rows.n_features());
        surveys.iter().for_each(|survey| everything.add(1.0, survey));
        for (fold, survey) in surveys.iter().enumerate() {
            let train: Vec<&Rows> = (0..all.len()).filter(|k| *k != fold).map(|k| all[k]).collect();
            let mut here = everything.clone();
            here.add(-1.0, survey);
            let found = Problem { parts: &train, c: *c }.descend(&near.before, here, SMALL_ENOUGH);
            *loss += folds[fold].weighted_loss(&found.weights) / folds[fold].len() as f64 / folds.len() as f64;
        }
        w = near.weights;
    }
    let best = (0..losses.len()).min_by(|a, b| losses[*a].total_cmp(&losses[*b])).expect("at least one strength");
    CrossValidation { c: strengths[best], losses }
}

#[cfg(test)]
mod tests {
    use super::super::l1_logistic::sigmoid;
    use super::*;

    #[test]
    fn the_strengths_are_numpys() {
        let strengths = usual_strengths();
        let expected = [1e-4, 7.742_636_826_811_277e-4, 5.994_842_503_189_409e-3, 4.641_588_833_612_779e-2];
        for (got, expected) in strengths.iter().zip(expected) {
            assert!((got / expected - 1.0).abs() < 1e-14, "{got} {expected}");
        }
        assert!((strengths[9] / 1e4 - 1.0).abs() < 1e-14);
    }

    #[test]
    fn noise_asks_for_a_strong_penalty_and_a_signal_for_a_weak_one() {
        let mut rng = farmhand_core::Seed::root(3).rng();
        let (mut noise, mut signal) = (Rows::new(1), Rows::new(1));
        for _ in 0..300 {
            let x = rng.normal();
            noise.push(&[x], if rng.bernoulli(0.5) { 1.0 } else { 0.0 }, 1.0);
            signal.push(&[x], if x > 0.0 { 0.95 } else { 0.05 }, 1.0);
        }
        let strengths = usual_strengths();
        assert!(cross_validate(&noise, &strengths).c < 0.1);
        assert!(cross_validate(&signal, &strengths).c > 0.1);
    }

    #[test]
    fn equal_losses_take_the_strongest_penalty_and_few_rows_are_enough() {
        let mut rows = Rows::new(1);
        (0..3).for_each(|_| rows.push(&[0.0], 0.5, 1.0));
        let found = cross_validate(&rows, &[0.1, 1.0]);
        assert_eq!((found.c, found.losses[0]), (0.1, found.losses[1]));
        assert!((found.losses[0] - std::f64::consts::LN_2).abs() < 1e-15);
    }

    #[test]
    fn folds_that_start_near_their_optimum_lose_what_exact_ones_lose() {
        let mut rng = farmhand_core::Seed::root(8).rng();
        let mut rows = Rows::new(3);
        for _ in 0..403 {
            let features = [rng.normal().tanh(), 3.0 * rng.normal(), 1.0];
            let win = rng.bernoulli(sigmoid(features[0] - 0.8 * features[1] + 0.3));
            rows.push(&features, if win { 0.97 } else { 0.04 }, 0.1 + rng.uniform());
        }
        let found = cross_validate(&rows, &usual_strengths());
        for (c, loss) in usual_strengths().into_iter().zip(found.losses) {
            let of_fold = |fold: usize| {
                let w = rows.filtered(|g| (402 - g) % N_FOLDS != fold).fit(c, &[0.0; 3]);
                let held_out = rows.filtered(|g| (402 - g) % N_FOLDS == fold);
                held_out.weighted_loss(&w) / held_out.len() as f64
            };
            let exact = (0..N_FOLDS).map(of_fold).sum::<f64>() / N_FOLDS as f64;
            assert!((loss - exact).abs() < 1e-11, "C {c}: {loss} {exact}");
        }
    }
}
