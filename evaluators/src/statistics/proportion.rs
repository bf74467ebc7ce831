//! Exact intervals of a share: Clopper and Pearson, 1934, <https://doi.org/10.1093/biomet/26.4.404>.

/// The exact 95 % interval of a share of which `n_hits` out of `n` were seen, `None` for n = 0. It covers the truth at least 19
/// times in 20, also at shares near 0 and 1, where the normal interval fails.
pub fn exact_interval(n_hits: usize, n: usize) -> Option<[f64; 2]> {
    if n == 0 || n_hits > n {
        return None;
    }
    // P(at least k hits of n | share p) = I_p(k, n − k + 1), the regularised incomplete beta function.
    let at_least = |k: usize, p: f64| if k == 0 { 1.0 } else { beta_share(p, k as f64, (n - k + 1) as f64) };
    let low = if n_hits == 0 { 0.0 } else { rising_root(|p| at_least(n_hits, p), 0.025) };
    let high = if n_hits == n { 1.0 } else { rising_root(|p| at_least(n_hits + 1, p), 0.975) };
    Some([low, high])
}

/// The exact two-sided p value of `n_hits` out of `n` against a share of one half: the sign test. Ties are left out of both.
pub fn sign_test(n_hits: usize, n: usize) -> f64 {
    if n == 0 {
        return 1.0;
    }
    let extreme = n_hits.max(n - n_hits);
    let tail = beta_share(0.5, extreme as f64, (n - extreme + 1) as f64);
    (2.0 * tail).min(1.0)
}

/// Where a rising function of [0, 1] reaches `value`.
fn rising_root(f: impl Fn(f64) -> f64, value: f64) -> f64 {
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..80 {
        let middle = 0.5 * (low + high);
        if f(middle) < value { low = middle } else { high = middle }
    }
    0.5 * (low + high)
}

/// I_x(a, b), by Lentz's continued fraction (Press et al., *Numerical Recipes*, section 6.4).
fn beta_share(x: f64, a: f64, b: f64) -> f64 {
    if x <= 0.0 || x >= 1.0 {
        return f64::from(u8::from(x >= 1.0));
    }
    let front = (ln_gamma(a + b) - ln_gamma(a) - ln_gamma(b) + a * x.ln() + b * (-x).ln_1p()).exp();
    // The fraction converges fast on the near side of the mean.
    if x < (a + 1.0) / (a + b + 2.0) { front * fraction(x, a, b) / a } else { 1.0 - front * fraction(1.0 - x, b, a) / b }
}

fn fraction(x: f64, a: f64, b: f64) -> f64 {
    const TINY: f64 = 1e-300;
    let away = |value: f64| if value.abs() < TINY { TINY } else { value };
    let mut c = 1.0;
    let mut d = 1.0 / away(1.0 - (a + b) * x / (a + 1.0));
    let mut value = d;
    for m in 1..=10_000 {
        let m = f64::from(m);
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        for step in [even, odd] {
            d = 1.0 / away(1.0 + step * d);
            c = away(1.0 + step / c);
            value *= c * d;
        }
        if (c * d - 1.0).abs() < 1e-15 {
            break;
        }
    }
    value
}

/// log Γ(x) for x > 0, by Lanczos' approximation with g = 7 and nine terms.
fn ln_gamma(x: f64) -> f64 {
    const TERMS: [f64; 9] = [
        0.999_999_999_999_809_9,
        676.520_368_121_885_1,
        -1_259.139_216_722_402_8,
        771.323_428_777_653_1,
        -176.615_029_162_140_6,
        12.507_343_278_686_905,
        -0.138_571_095_265_720_12,
        9.984_369_578_019_572e-6,
        1.505_632_735_149_311_6e-7,
    ];
    let x = x - 1.0;
    let t = x + 7.5;
    let sum = TERMS.iter().enumerate().skip(1).fold(TERMS[0], |sum, (i, term)| sum + term / (x + i as f64));
    0.5 * (2.0 * std::f64::consts::PI).ln() + (x + 0.5) * t.ln() - t + sum.ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// P(at least k of n), summed.
    fn tail(k: usize, n: usize, p: f64) -> f64 {
        let choose = |i: usize| (1..=i).fold(1.0, |c, j| c * (n - i + j) as f64 / j as f64);
        (k..=n).map(|i| choose(i) * p.powi(i as i32) * (1.0 - p).powi((n - i) as i32)).sum()
    }

    #[test]
    fn the_ends_leave_exactly_two_and_a_half_percent_outside() {
        for (k, n) in [(3, 10), (1, 20), (19, 20), (25, 50)] {
            let [low, high] = exact_interval(k, n).expect("some");
            assert!((tail(k, n, low) - 0.025).abs() < 1e-12, "{k} of {n}");
            assert!((tail(k + 1, n, high) - 0.975).abs() < 1e-12, "{k} of {n}");
        }
        let [low, high] = exact_interval(0, 10).expect("some");
        assert!(low == 0.0 && (high - (1.0 - 0.025_f64.powf(0.1))).abs() < 1e-13, "{high}");
        assert_eq!(exact_interval(10, 10).map(|[low, high]| (1.0 - high, low > 0.69)), Some((0.0, true)));
        assert_eq!((exact_interval(0, 0), exact_interval(3, 2)), (None, None));
        // Large numbers: close to the normal interval.
        let [low, high] = exact_interval(400_000, 1_000_000).expect("some");
        assert!((low - (0.4 - 1.96 * 0.000_489_9)).abs() < 2e-6 && (high - (0.4 + 1.96 * 0.000_489_9)).abs() < 2e-6);
    }

    #[test]
    fn signs_by_hand() {
        // 9 or 10, 1 or 0 of 10: (10 + 1) · 2 / 1024.
        assert!((sign_test(9, 10) - 22.0 / 1024.0).abs() < 1e-14);
        assert!((sign_test(1, 10) - sign_test(9, 10)).abs() < 1e-15);
        assert_eq!((sign_test(5, 10), sign_test(0, 0)), (1.0, 1.0));
    }
}
