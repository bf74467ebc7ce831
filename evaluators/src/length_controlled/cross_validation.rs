//! Which strength of the penalty to take: cross-validation as AlpacaEval has scikit-learn do it.

use super::l1_logistic::Rows;

/// Folds of the cross-validation.
pub const N_FOLDS: usize = 5;

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
/// # Panics
/// When there are no strengths.
pub fn cross_validate(rows: &Rows, strengths: &[f64]) -> CrossValidation {
    let n = rows.len();
    let fold_of = |g: usize| (n - 1 - g) % N_FOLDS;
    let mut losses = vec![0.0; strengths.len()];
    for fold in 0..N_FOLDS.min(n) {
        let train = rows.filtered(|g| fold_of(g) != fold);
        let held_out = rows.filtered(|g| fold_of(g) == fold);
        let mut w = vec![0.0; rows.n_features()];
        for (loss, c) in losses.iter_mut().zip(strengths) {
            // Neighbouring strengths have neighbouring optima.
            w = train.fit(*c, &w);
            *loss += held_out.weighted_loss(&w) / held_out.len() as f64 / N_FOLDS.min(n) as f64;
        }
    }
    let best = (0..losses.len()).min_by(|a, b| losses[*a].total_cmp(&losses[*b])).expect("at least one strength");
    CrossValidation { c: strengths[best], losses }
}

#[cfg(test)]
mod tests {
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
}
