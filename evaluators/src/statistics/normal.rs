//! The standard normal distribution: its distribution function and quantiles.

/// P(Z ≤ z), to about 1e-15: through the continued fraction of Mills' ratio in the tails and a power series in the middle
/// (Abramowitz and Stegun, 26.2.11 and 26.2.14).
pub fn cdf(z: f64) -> f64 {
    if z.is_nan() {
        return f64::NAN;
    }
    let density = (-0.5 * z * z).exp() / (2.0 * std::f64::consts::PI).sqrt();
    if z.abs() < 3.0 {
        // ½ + φ(z) · (z + z³/3 + z⁵/(3·5) + …): terms fall once z² is below the odd number.
        let (mut term, mut sum, mut odd) = (z, z, 3.0);
        while term.abs() > 1e-17 {
            term *= z * z / odd;
            sum += term;
            odd += 2.0;
        }
        return 0.5 + density * sum;
    }
    // φ(x) / (x + 1/(x + 2/(x + 3/(x + …)))).
    let x = z.abs();
    let tail = density / (1..=120).rev().fold(x, |below, k| x + f64::from(k) / below);
    if z > 0.0 { 1.0 - tail } else { tail }
}

/// The z with P(Z ≤ z) = p, for p in (0, 1); ∓∞ at 0 and 1, NaN outside. By bisection on [`cdf`], to the last digits of p.
pub fn quantile(p: f64) -> f64 {
    if !(0.0..=1.0).contains(&p) {
        return f64::NAN;
    }
    if p == 0.0 || p == 1.0 {
        return if p == 0.0 { f64::NEG_INFINITY } else { f64::INFINITY };
    }
    // The lower tail keeps its digits where 1 − p does not.
    if p > 0.5 {
        return -quantile_below_half(1.0 - p);
    }
    quantile_below_half(p)
}

fn quantile_below_half(p: f64) -> f64 {
    let (mut low, mut high) = (-40.0, 0.0);
    while high - low > 1e-15 * (1.0 + f64::abs(low)) {
        let middle = 0.5 * (low + high);
        if middle <= low || middle >= high {
            break;
        }
        if cdf(middle) < p { low = middle } else { high = middle }
    }
    0.5 * (low + high)
}

/// The two-sided p value of a statistic that is standard normal when there is no difference.
pub fn two_sided_p(z: f64) -> f64 {
    (2.0 * cdf(-z.abs())).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values() {
        for (z, p) in [
            (0.0, 0.5),
            (1.0, 0.841_344_746_068_542_9),
            (1.959_963_984_540_054, 0.975),
            (2.999, 0.9986456634662729),
            (-3.5, 2.326_290_790_355_25e-4),
            (-8.0, 6.220_960_574_271_785e-16),
        ] {
            assert!((cdf(z) / p - 1.0).abs() < 1e-12, "{z}: {}", cdf(z));
        }
        assert!((cdf(-2.999_999_999) - cdf(-3.000_000_001)).abs() < 1e-10);
        assert!((quantile(0.975) - 1.959_963_984_540_054).abs() < 1e-12);
        assert!((quantile(1e-10) + 6.361_340_902_404_056).abs() < 1e-10);
        assert_eq!((quantile(0.0), quantile(1.0)), (f64::NEG_INFINITY, f64::INFINITY));
        assert!(quantile(1.1).is_nan() && cdf(f64::NAN).is_nan());
        assert!((two_sided_p(-1.959_963_984_540_054) - 0.05).abs() < 1e-14);
    }

    #[test]
    fn quantiles_turn_the_distribution_round() {
        for i in 1..100 {
            let p = f64::from(i) / 100.0;
            assert!((cdf(quantile(p)) - p).abs() < 1e-14, "{p}");
        }
    }
}
