//! How many instructions show a difference.
//!
//! Two models are judged on the same instructions; what counts is the standard deviation of the difference of their verdicts,
//! which the user's own data give. For wins and losses against a common reference it is near 0.6 to 0.7; the less two models
//! differ instruction by instruction, the smaller.

use super::normal;

/// The instructions needed so that a true mean difference `difference` is found at two-sided level `alpha` with probability
/// `power`, when single differences have the standard deviation `sd` (in the same unit): ((z₁₋α/₂ + z_power) · sd / d)², rounded
/// up. `None` when something is out of range.
pub fn n_instructions(difference: f64, sd: f64, alpha: f64, power: f64) -> Option<usize> {
    let n = (reach(alpha, power)? * sd / difference).powi(2);
    (difference != 0.0 && sd > 0.0 && n.is_finite()).then(|| n.ceil().max(2.0) as usize)
}

/// The smallest true mean difference that `n` instructions find at level `alpha` with probability `power`.
pub fn detectable_difference(n: usize, sd: f64, alpha: f64, power: f64) -> Option<f64> {
    let difference = reach(alpha, power)? * sd / (n as f64).sqrt();
    (n > 0 && sd >= 0.0 && difference.is_finite()).then_some(difference)
}

/// z₁₋α/₂ + z_power.
fn reach(alpha: f64, power: f64) -> Option<f64> {
    let is_share = |p: f64| p > 0.0 && p < 1.0;
    (is_share(alpha) && is_share(power)).then(|| normal::quantile(1.0 - alpha / 2.0) + normal::quantile(power))
}

#[cfg(test)]
mod tests {
    use farmhand_core::Seed;

    use super::*;

    #[test]
    fn the_textbooks_case() {
        // Effect size 0.5 at 5 % with power 0.8: (1.96 + 0.8416)² / 0.25 = 31.4.
        assert_eq!(n_instructions(0.5, 1.0, 0.05, 0.8), Some(32));
        assert_eq!(n_instructions(-0.5, 1.0, 0.05, 0.8), Some(32));
        let difference = detectable_difference(805, 0.65, 0.05, 0.8).expect("in range");
        assert!((difference - 2.801_585 * 0.65 / 805.0_f64.sqrt()).abs() < 1e-6, "{difference}");
        for wrong in
            [n_instructions(0.0, 1.0, 0.05, 0.8), n_instructions(0.1, 0.0, 0.05, 0.8), n_instructions(0.1, 1.0, 0.0, 0.8)]
        {
            assert_eq!(wrong, None);
        }
    }

    #[test]
    fn the_promised_power_is_the_one_of_a_simulation() {
        let (difference, sd) = (0.15, 0.7);
        let n = n_instructions(difference, sd, 0.05, 0.8).expect("in range");
        let mut rng = Seed::root(4).rng();
        let mut is_found = |_: u32| {
            let values: Vec<f64> = (0..n).map(|_| difference + sd * rng.normal()).collect();
            let estimate = crate::estimate::Estimate::of_mean(&values).expect("some");
            f64::from(u8::from((estimate.mean / estimate.std_error.expect("many")).abs() > 1.96))
        };
        let found = (0..2000).map(&mut is_found).sum::<f64>() / 2000.0;
        assert!((found - 0.8).abs() < 0.03, "{found}");
    }
}
