//! Krippendorff's α: agreement of any number of raters, with missing values, on a nominal, ordinal or interval scale.
//!
//! Krippendorff, 2011, <https://repository.upenn.edu/asc_papers/43>: α = 1 − Dₒ / Dₑ. Each comparison with m ≥ 2 values gives
//! every ordered pair of them to the coincidences o_cd with weight 1 / (m − 1); with n_c = Σ_d o_cd and n = Σ n_c,
//! Dₒ = Σ o_cd δ²_cd / n and Dₑ = Σ n_c n_d δ²_cd / (n (n − 1)), without the pairs of a value with itself.

use super::ratings::Ratings;

/// What distances between values mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Values are the same or not.
    Nominal,
    /// Values have an order: the distance is how many values of the data lie between two.
    Ordinal,
    /// Values are numbers.
    Interval,
}

/// α, at most 1; `None` when no comparison has two values or all values are the same.
pub fn alpha(ratings: &Ratings, level: Level) -> Option<f64> {
    let categories = ratings.categories();
    let counts = ratings.counts(&categories, 2);
    let n_of: Vec<f64> = (0..categories.len()).map(|c| counts.iter().map(|row| row[c]).sum()).collect();
    let n: f64 = n_of.iter().sum();
    let distance = |c: usize, d: usize| match level {
        Level::Nominal => f64::from(u8::from(c != d)),
        Level::Interval => (categories[c] - categories[d]).powi(2),
        Level::Ordinal => {
            let (low, high) = (c.min(d), c.max(d));
            (n_of[low..=high].iter().sum::<f64>() - (n_of[low] + n_of[high]) / 2.0).powi(2)
        }
    };
    let (mut observed, mut expected) = (0.0, 0.0);
    for c in 0..categories.len() {
        for d in (0..categories.len()).filter(|d| *d != c) {
            let apart = distance(c, d);
            let coincidences: f64 = counts.iter().map(|row| row[c] * row[d] / (row.iter().sum::<f64>() - 1.0)).sum();
            observed += coincidences * apart;
            expected += n_of[c] * n_of[d] * apart;
        }
    }
    (expected > 0.0).then(|| 1.0 - (n - 1.0) * observed / expected)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows of raters over comparisons, 0 for missing, as ratings.
    fn of_raters<const N: usize>(raters: &[[i8; N]], missing: i8) -> Ratings {
        let value = |value: i8| (value != missing).then_some(f64::from(value));
        let values = (0..N).map(|item| raters.iter().map(|rater| value(rater[item])).collect()).collect();
        Ratings { raters: vec![String::new(); raters.len()], values }
    }

    #[test]
    fn krippendorffs_own_example_with_missing_values() {
        // Section C of the paper: four observers, twelve units; it gives .743, .815 and .849.
        let ratings = of_raters(
            &[
                [1, 2, 3, 3, 2, 1, 4, 1, 2, 0, 0, 0],
                [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, 0, 3],
                [0, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, 0],
                [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, 0],
            ],
            0,
        );
        for (level, expected) in
            [(Level::Nominal, 0.743421052631579), (Level::Ordinal, 0.8153875037548814), (Level::Interval, 0.8491071428571428)]
        {
            assert!((alpha(&ratings, level).expect("values") - expected).abs() < 1e-13, "{level:?}");
        }
    }

    #[test]
    fn the_python_package_says_the_same_of_verdicts() {
        // krippendorff.alpha(reliability_data=…, level_of_measurement=…) of three raters, −1 where missing.
        let ratings = of_raters(
            &[
                [
                    2, 2, -1, 0, 1, 1, -1, 2, 2, 2, 2, -1, 2, 2, 2, 2, -1, -1, 1, -1, 2, -1, 2, 1, 0, -1, 2, 0, 2, -1, 0, -1, 0,
                    2, 2, -1, 0, 0, 0, 1,
                ],
                [
                    2, 2, 1, 2, 1, 1, 0, 0, 2, -1, 2, 1, 2, 2, 0, 0, -1, 0, 1, 2, 2, 1, -1, 1, 1, 2, 2, 0, 2, 0, 0, 2, 0, 2, 0,
                    1, -1, 0, 0, 1,
                ],
                [
                    2, 2, 1, 1, 2, 1, 0, -1, 0, 1, 2, 1, 2, 2, 2, 1, 1, 2, 1, -1, 1, 1, 2, 2, -1, -1, -1, 0, -1, 0, 0, 0, 0, 2,
                    2, 1, 0, -1, 0, 2,
                ],
            ],
            -1,
        );
        for (level, expected) in
            [(Level::Nominal, 0.5202449812861518), (Level::Ordinal, 0.4734229513176882), (Level::Interval, 0.47986474023977865)]
        {
            assert!((alpha(&ratings, level).expect("values") - expected).abs() < 1e-13, "{level:?}");
        }
    }

    #[test]
    fn nothing_and_one_value_have_no_alpha() {
        assert_eq!(alpha(&of_raters(&[[1, 2], [0, 0]], 0), Level::Nominal), None);
        assert_eq!(alpha(&of_raters(&[[1, 1], [1, 1]], 0), Level::Interval), None);
        assert_eq!(alpha(&of_raters(&[[1, 2], [1, 2]], 0), Level::Ordinal), Some(1.0));
    }
}
