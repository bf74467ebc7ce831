//! How often two raters say the same of a comparison: the share of all pairs of values on the same comparison that are equal.

use super::ratings::Ratings;

/// Observed agreement in [0, 1]; `None` when no comparison has two values. A comparison with more raters has more pairs and
/// so more weight.
pub fn observed(ratings: &Ratings) -> Option<f64> {
    let categories = ratings.categories();
    let (mut agree, mut all) = (0.0, 0.0);
    for counts in ratings.counts(&categories, 2) {
        let n: f64 = counts.iter().sum();
        agree += counts.iter().map(|count| count * (count - 1.0)).sum::<f64>();
        all += n * (n - 1.0);
    }
    (all > 0.0).then(|| agree / all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_raters_by_hand() {
        let values = [[Some(1.0), Some(1.0), Some(1.0)], [Some(1.0), Some(2.0), Some(1.0)], [Some(2.0), None, None]];
        let ratings = Ratings { raters: vec![String::new(); 3], values: values.map(Vec::from).to_vec() };
        // Three of three pairs, then one of three; the last has none.
        assert_eq!(observed(&ratings), Some(4.0 / 6.0));
        assert_eq!(observed(&ratings.columns(&[0])), None);
    }
}
