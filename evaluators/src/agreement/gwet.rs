//! Gwet's AC1: agreement beyond chance that stays meaningful when nearly all values fall into one category, where κ drops to
//! zero however well raters agree.
//!
//! Gwet, 2008, <https://doi.org/10.1348/000711006X126600>: γ = (pₐ − pₑ) / (1 − pₑ), pₐ as in Fleiss' κ, and
//! pₑ = Σ πₖ (1 − πₖ) / (q − 1), πₖ the mean over comparisons of the share of values in category k of q.

use super::ratings::Ratings;

/// AC1, at most 1; `None` when no comparison has two values. When all values are the same it is 1.
pub fn ac1(ratings: &Ratings) -> Option<f64> {
    let categories = ratings.categories();
    let (twice, all) = (ratings.counts(&categories, 2), ratings.counts(&categories, 1));
    if twice.is_empty() {
        return None;
    }
    if categories.len() == 1 {
        return Some(1.0);
    }
    let agreement = |row: &Vec<f64>| {
        let n: f64 = row.iter().sum();
        row.iter().map(|count| count * (count - 1.0)).sum::<f64>() / (n * (n - 1.0))
    };
    let observed = twice.iter().map(agreement).sum::<f64>() / twice.len() as f64;
    let share = |k: usize| all.iter().map(|row| row[k] / row.iter().sum::<f64>()).sum::<f64>() / all.len() as f64;
    let chance = (0..categories.len()).map(|k| share(k) * (1.0 - share(k))).sum::<f64>() / (categories.len() - 1) as f64;
    Some((observed - chance) / (1.0 - chance))
}

#[cfg(test)]
mod tests {
    use super::super::fleiss::tests::of_counts;
    use super::*;

    #[test]
    fn a_table_where_kappa_fails_by_hand() {
        // 118 both yes, 7 apart, none both no: pₐ = 118/125, π = 243/250, pₑ = 2 π (1 − π) = 0.054432.
        let counts: Vec<Vec<usize>> = std::iter::repeat_n(vec![2, 0], 118).chain(std::iter::repeat_n(vec![1, 1], 7)).collect();
        let expected = (118.0 / 125.0 - 0.054432) / (1.0 - 0.054432);
        assert!((ac1(&of_counts(&counts)).expect("values") - expected).abs() < 1e-14);
        assert!(super::super::fleiss::kappa(&of_counts(&counts)).expect("values") < 0.0);
        assert_eq!((ac1(&of_counts(&[vec![1]])), ac1(&of_counts(&[vec![2]]))), (None, Some(1.0)));
    }
}
