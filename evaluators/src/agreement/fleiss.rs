//! Fleiss' κ of any number of raters who need not be the same ones on every comparison.
//!
//! Fleiss, 1971, <https://doi.org/10.1037/h0031619>: κ = (P̄ − Pₑ) / (1 − Pₑ) with P̄ the mean over comparisons of the share of
//! agreeing pairs and Pₑ = Σ pⱼ², pⱼ the share of all values in category j. Fleiss has as many values on every comparison; with
//! unequal numbers the same formulas hold, over comparisons with at least two.

use super::ratings::Ratings;

/// κ, at most 1; `None` when no comparison has two values or all values are the same.
pub fn kappa(ratings: &Ratings) -> Option<f64> {
    let categories = ratings.categories();
    let counts = ratings.counts(&categories, 2);
    let agreement = |row: &Vec<f64>| {
        let n: f64 = row.iter().sum();
        row.iter().map(|count| count * (count - 1.0)).sum::<f64>() / (n * (n - 1.0))
    };
    let mean = counts.iter().map(agreement).sum::<f64>() / counts.len() as f64;
    let total: f64 = counts.iter().flatten().sum();
    let share = |j: usize| counts.iter().map(|row| row[j]).sum::<f64>() / total;
    let chance: f64 = (0..categories.len()).map(|j| share(j).powi(2)).sum();
    (chance < 1.0).then(|| (mean - chance) / (1.0 - chance))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Ratings with these counts of categories in each row.
    pub(crate) fn of_counts(counts: &[Vec<usize>]) -> Ratings {
        let row = |row: &Vec<usize>| row.iter().enumerate().flat_map(|(j, n)| std::iter::repeat_n(Some(j as f64), *n)).collect();
        let values: Vec<Vec<Option<f64>>> = counts.iter().map(row).collect();
        Ratings { raters: vec![String::new(); values[0].len()], values }
    }

    #[test]
    fn fourteen_raters_five_categories() {
        // The widely used worked example; statsmodels 0.15.0: fleiss_kappa(table).
        let table = [
            [0, 0, 0, 0, 14],
            [0, 2, 6, 4, 2],
            [0, 0, 3, 5, 6],
            [0, 3, 9, 2, 0],
            [2, 2, 8, 1, 1],
            [7, 7, 0, 0, 0],
            [3, 2, 6, 3, 0],
            [2, 5, 3, 2, 2],
            [6, 5, 2, 1, 0],
            [0, 2, 2, 3, 7],
        ];
        let ratings = of_counts(&table.map(Vec::from));
        assert!((kappa(&ratings).expect("values") - 0.209_930_704_421_955_22).abs() < 1e-14);
    }

    #[test]
    fn nothing_and_one_category_have_no_kappa() {
        assert_eq!(kappa(&of_counts(&[vec![1, 0]])), None);
        assert_eq!(kappa(&of_counts(&[vec![2], vec![3]])), None);
        assert_eq!(kappa(&of_counts(&[vec![2, 0], vec![0, 3]])), Some(1.0));
    }
}
