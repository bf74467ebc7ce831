//! Intervals of agreement by resampling comparisons.
//!
//! Raters' values on one comparison hang together, so whole comparisons are drawn with replacement (Efron, 1979,
//! <https://doi.org/10.1214/aos/1176344552>), and the interval reaches from the 2.5 % to the 97.5 % point of the replicates.

use farmhand_core::Seed;

use super::ratings::Ratings;
use crate::statistics::bootstrap;

/// The percentile 95 % interval of `statistic` over `n_replicates` resamples, the same for the same seed and data. `None` when the
/// statistic is not defined on the data, on fewer than half of the resamples, or for fewer than two comparisons.
pub fn interval(
    ratings: &Ratings,
    n_replicates: usize,
    seed: Seed,
    statistic: impl Fn(&Ratings) -> Option<f64>,
) -> Option<[f64; 2]> {
    let mut replicate = Ratings { raters: ratings.raters.clone(), values: ratings.values.clone() };
    bootstrap::interval(ratings.values.len(), n_replicates, seed, |drawn| {
        replicate.values.iter_mut().zip(drawn).for_each(|(row, i)| row.clone_from(&ratings.values[*i]));
        statistic(&replicate)
    })
}

#[cfg(test)]
mod tests {
    use super::super::raw;
    use super::*;

    fn ratings(n_agree: usize, n_apart: usize) -> Ratings {
        let rows = std::iter::repeat_n([1.0, 1.0], n_agree).chain(std::iter::repeat_n([1.0, 2.0], n_apart));
        Ratings { raters: vec![String::new(); 2], values: rows.map(|row| row.map(Some).to_vec()).collect() }
    }

    #[test]
    fn the_interval_of_a_share_is_the_binomials() {
        let interval = interval(&ratings(280, 120), 2000, Seed::root(1), raw::observed).expect("defined");
        let error = (0.7 * 0.3 / 400.0_f64).sqrt();
        for (end, expected) in interval.iter().zip([0.7 - 1.96 * error, 0.7 + 1.96 * error]) {
            assert!((end - expected).abs() < 0.006, "{interval:?}");
        }
    }

    #[test]
    fn the_seed_fixes_it_and_what_is_not_defined_has_none() {
        let table = ratings(30, 10);
        let of = |seed| interval(&table, 100, Seed::root(seed), raw::observed);
        assert_eq!(of(3), of(3));
        assert_ne!(of(3), of(4));
        assert_eq!(interval(&ratings(1, 0), 100, Seed::root(0), raw::observed), None);
        assert_eq!(interval(&table, 100, Seed::root(0), |_| None), None);
    }
}
