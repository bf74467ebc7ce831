//! The difference of two models on the same instructions.

use farmhand_core::Seed;

use super::{bootstrap::ClusterSums, normal, proportion};
use crate::estimate::Estimate;

/// A paired difference and what is known of it.
#[derive(Debug, Clone, PartialEq)]
pub struct PairedDifference {
    /// The mean of first − second.
    pub mean: f64,
    /// Its standard error; `None` for a single instruction.
    pub std_error: Option<f64>,
    /// Its bootstrap 95 % interval; `None` where there is none.
    pub interval: Option<[f64; 2]>,
    /// The two-sided p value of the normal test that there is no difference; 1 when all differences are 0.
    pub p_value: f64,
    /// The exact two-sided p value of the sign test: how often each was ahead, ties left out.
    pub sign_p_value: f64,
    /// Instructions on which the first, the second, and neither was ahead.
    pub n_ahead: [usize; 3],
}

/// Compares two models by their numbers on each instruction: `pairs` holds (first, second), one pair an instruction. `None`
/// without a pair.
pub fn compare(pairs: &[(f64, f64)], n_replicates: usize, seed: Seed) -> Option<PairedDifference> {
    let differences: Vec<f64> = pairs.iter().map(|(first, second)| first - second).collect();
    let estimate = Estimate::of_mean(&differences)?;
    let count = |keep: fn(&f64) -> bool| differences.iter().filter(|d| keep(d)).count();
    let n_ahead = [count(|d| *d > 0.0), count(|d| *d < 0.0), count(|d| *d == 0.0)];
    let p_value = match estimate.std_error {
        Some(error) if error > 0.0 => normal::two_sided_p(estimate.mean / error),
        // All alike: no difference at all, or one that never fails.
        Some(_) if estimate.mean != 0.0 => 0.0,
        _ => 1.0,
    };
    Some(PairedDifference {
        mean: estimate.mean,
        std_error: estimate.std_error,
        interval: ClusterSums::of(differences.iter().copied().enumerate()).mean_interval(n_replicates, seed),
        p_value,
        sign_p_value: proportion::sign_test(n_ahead[0], n_ahead[0] + n_ahead[1]),
        n_ahead,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_constant_lead_on_hard_and_easy_instructions_is_certain() {
        let pairs: Vec<(f64, f64)> = (0..50).map(|i| (f64::from(i % 10) / 10.0 + 0.05, f64::from(i % 10) / 10.0)).collect();
        let found = compare(&pairs, 200, Seed::root(0)).expect("some");
        let [low, high] = found.interval.expect("many");
        assert!((found.mean - 0.05).abs() < 1e-12 && low > 0.04 && high < 0.06 && found.p_value < 1e-12);
        assert_eq!(found.n_ahead, [50, 0, 0]);
        assert!(found.sign_p_value < 1e-12);
    }

    #[test]
    fn no_difference_is_no_difference() {
        let found = compare(&[(0.5, 0.5); 20], 200, Seed::root(0)).expect("some");
        assert_eq!((found.mean, found.p_value, found.sign_p_value, found.interval), (0.0, 1.0, 1.0, Some([0.0, 0.0])));
        let turned = |pairs: &[(f64, f64)]| compare(pairs, 200, Seed::root(0)).expect("some");
        let (a, b) = (turned(&[(1.0, 0.0), (0.0, 1.0), (1.0, 0.5)]), turned(&[(0.0, 1.0), (1.0, 0.0), (0.5, 1.0)]));
        assert_eq!((a.mean, a.p_value, a.n_ahead[0]), (-b.mean, b.p_value, b.n_ahead[1]));
        assert_eq!(compare(&[], 10, Seed::root(0)), None);
    }

    #[test]
    fn one_test_in_twenty_finds_what_is_not_there() {
        let mut n_found = 0;
        for world in 0..800 {
            let mut rng = Seed::root(world).rng();
            let pairs: Vec<(f64, f64)> = (0..60).map(|_| (rng.uniform(), rng.uniform())).collect();
            n_found += usize::from(compare(&pairs, 2, Seed::root(0)).expect("some").p_value < 0.05);
        }
        let share = n_found as f64 / 800.0;
        assert!((0.03..0.075).contains(&share), "{share}");
    }
}
