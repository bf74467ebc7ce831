//! The mean of numbers measured on the same instructions in several repetitions, with an interval that counts both: which
//! instructions were asked, and how the repetitions differ.
//!
//! Both are random effects that cross: every repetition answers every instruction. With the mean squares of a two-way analysis of
//! variance, one number a cell, the variance of the grand mean is `(MS_instructions + MS_repetitions − MS_rest) / (n S)`
//! (Searle, Casella and McCulloch, *Variance Components*, 1992, section 4.4). Its degrees of freedom are Satterthwaite's (1946),
//! so that a few repetitions give the wide interval that they deserve.

use farmhand_evaluators::estimate::NORMAL_975;

/// A mean and how well it is known.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct CrossedMean {
    pub(crate) mean: f64,
    /// Its standard error; `None` for a single number.
    pub(crate) std_error: Option<f64>,
    /// Its interval.
    pub(crate) interval: Option<[f64; 2]>,
    /// The degrees of freedom of the standard error; infinite where the normal distribution is used.
    pub(crate) freedom: f64,
}

impl CrossedMean {
    /// The two-sided p value that the mean is 0, by the distribution of the 95 % interval.
    pub(crate) fn p_value(&self) -> Option<f64> {
        let error = self.std_error?;
        if error == 0.0 {
            return Some(if self.mean == 0.0 { 1.0 } else { 0.0 });
        }
        let t = self.mean / error;
        if self.freedom.is_infinite() {
            return Some(farmhand_evaluators::statistics::normal::two_sided_p(t));
        }
        let freedom = self.freedom.max(1.0);
        Some(incomplete_beta(freedom / (freedom + t * t), 0.5 * freedom, 0.5))
    }
}

/// The mean of `values[repetition][instruction]`, all rows of one length, with its 95 % interval; `None` without a number. One
/// repetition gives the usual mean with its normal interval.
pub(crate) fn crossed_mean(values: &[Vec<f64>]) -> Option<CrossedMean> {
    crossed_mean_of_several(values, 1)
}

/// The same with an interval so wide that `n_intervals` of its kind hold together in 95 % of all cases (Bonferroni): for a mean that
/// was picked because it is the largest of so many.
pub(crate) fn crossed_mean_of_several(values: &[Vec<f64>], n_intervals: usize) -> Option<CrossedMean> {
    let tail = 0.025 / n_intervals.max(1) as f64;
    let (n_rows, n) = (values.len(), values.first()?.len());
    if n == 0 {
        return None;
    }
    let (s, size) = (n_rows as f64, n as f64);
    let row_means: Vec<f64> = values.iter().map(|row| row.iter().sum::<f64>() / size).collect();
    let mean = row_means.iter().sum::<f64>() / s;
    let column_means: Vec<f64> = (0..n).map(|i| values.iter().map(|row| row[i]).sum::<f64>() / s).collect();
    let squares = |means: &[f64]| means.iter().map(|value| (value - mean).powi(2)).sum::<f64>();
    if n == 1 {
        return Some(CrossedMean { mean, std_error: None, interval: None, freedom: f64::INFINITY });
    }
    let of_instructions = s * squares(&column_means) / (size - 1.0);
    if n_rows == 1 {
        let error = (of_instructions / size).sqrt();
        let half = error * if n_intervals <= 1 { NORMAL_975 } else { student_quantile(size - 1.0, tail) };
        return Some(CrossedMean {
            mean,
            std_error: Some(error),
            interval: Some([mean - half, mean + half]),
            freedom: if n_intervals <= 1 { f64::INFINITY } else { size - 1.0 },
        });
    }
    let of_rows = size * squares(&row_means) / (s - 1.0);
    let rest_squares: f64 = values
        .iter()
        .zip(&row_means)
        .flat_map(|(row, row_mean)| {
            row.iter().zip(&column_means).map(move |(value, column)| (value - row_mean - column + mean).powi(2))
        })
        .sum();
    let degrees = [size - 1.0, s - 1.0, (size - 1.0) * (s - 1.0)];
    let rest = rest_squares / degrees[2];
    // A component of variance that comes out negative is none.
    let (square, freedom) = match (of_instructions < rest, of_rows < rest) {
        (_, true) => (of_instructions, degrees[0]),
        (true, false) => (of_rows, degrees[1]),
        (false, false) => {
            let square = of_instructions + of_rows - rest;
            let parts = [of_instructions, of_rows, rest].into_iter().zip(degrees).map(|(part, degrees)| part * part / degrees);
            (square, square * square / parts.sum::<f64>())
        }
    };
    let error = (square / (size * s)).sqrt();
    let half = if error > 0.0 { student_quantile(freedom, tail) * error } else { 0.0 };
    Some(CrossedMean { mean, std_error: Some(error), interval: Some([mean - half, mean + half]), freedom })
}

/// Above which lies the share `tail`, in (0, ½), of Student's t distribution with so many degrees of freedom, ≥ 1.
pub(crate) fn student_quantile(freedom: f64, tail: f64) -> f64 {
    let freedom = freedom.max(1.0);
    // P(|T| > t) = I_{ν / (ν + t²)}(ν/2, ½), which falls in t.
    let outside = |t: f64| incomplete_beta(freedom / (freedom + t * t), 0.5 * freedom, 0.5);
    let (mut low, mut high) = (1.0, 13.0);
    while outside(high) > 2.0 * tail && high < 1e9 {
        high *= 2.0;
    }
    for _ in 0..80 {
        let middle: f64 = f64::midpoint(low, high);
        if outside(middle) > 2.0 * tail { low = middle } else { high = middle }
    }
    f64::midpoint(low, high)
}

/// The regularised incomplete beta function `I_x(a, b)`, by its continued fraction (Abramowitz and Stegun 26.5.8, evaluated as
/// Lentz does).
fn incomplete_beta(x: f64, a: f64, b: f64) -> f64 {
    if x <= 0.0 || x >= 1.0 {
        return x.clamp(0.0, 1.0);
    }
    if x > (a + 1.0) / (a + b + 2.0) {
        return 1.0 - incomplete_beta(1.0 - x, b, a);
    }
    let front = (a * x.ln() + b * (1.0 - x).ln() + ln_gamma(a + b) - ln_gamma(a) - ln_gamma(b)).exp() / a;
    let away_from_zero = |value: f64| if value.abs() < 1e-300 { 1e-300 } else { value };
    let (mut c, mut d) = (1.0, 1.0 / away_from_zero(1.0 - (a + b) * x / (a + 1.0)));
    let mut fraction = d;
    for m in 1..1000 {
        let m = f64::from(m);
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        let before = fraction;
        for step in [even, odd] {
            d = 1.0 / away_from_zero(1.0 + step * d);
            c = away_from_zero(1.0 + step / c);
            fraction *= c * d;
        }
        if (fraction - before).abs() <= 1e-15 * fraction.abs() {
            break;
        }
    }
    front * fraction
}

/// `ln Γ(x)` for x > 0: Stirling's series after moving x up.
fn ln_gamma(x: f64) -> f64 {
    let (mut x, mut shift) = (x, 0.0);
    while x < 10.0 {
        shift -= x.ln();
        x += 1.0;
    }
    let square = x * x;
    let series = 1.0 / (12.0 * x) * (1.0 - 1.0 / (30.0 * square) * (1.0 - 2.0 / (7.0 * square) * (1.0 - 3.0 / (4.0 * square))));
    shift + (x - 0.5) * x.ln() - x + 0.5 * (2.0 * std::f64::consts::PI).ln() + series
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_students_distribution_are_the_tables() {
        for (freedom, expected) in [(1.0, 12.706_204_736), (2.0, 4.302_652_730), (10.0, 2.228_138_852), (100.0, 1.983_971_519)] {
            assert!(
                (student_quantile(freedom, 0.025) - expected).abs() < 1e-7,
                "{freedom}: {}",
                student_quantile(freedom, 0.025)
            );
        }
        assert!((student_quantile(1e7, 0.025) - NORMAL_975).abs() < 1e-5);
    }

    #[test]
    fn one_repetition_is_the_usual_mean() {
        let found = crossed_mean(&[vec![1.0, 2.0, 3.0, 4.0]]).expect("numbers");
        assert_eq!(found.mean, 2.5);
        assert!((found.std_error.expect("four") - (5.0_f64 / 12.0).sqrt()).abs() < 1e-15);
        assert_eq!(crossed_mean(&[vec![1.0], vec![3.0]]).expect("numbers").std_error, None);
        assert_eq!(crossed_mean(&[]), None);
        assert_eq!(crossed_mean(&[vec![]]), None);
    }

    #[test]
    fn repetitions_that_agree_leave_the_error_of_the_instructions() {
        let row = vec![0.0, 1.0, 1.0, 0.5, 0.0];
        let alone = crossed_mean(std::slice::from_ref(&row)).expect("numbers");
        let thrice = crossed_mean(&[row.clone(), row.clone(), row]).expect("numbers");
        assert!((alone.mean - thrice.mean).abs() < 1e-15);
        assert!((alone.std_error.expect("five") - thrice.std_error.expect("five")).abs() < 1e-12);
    }

    #[test]
    fn repetitions_that_differ_widen_the_interval_by_hand() {
        // Every instruction gives 1 in the first repetition and 3 in the second: all variance is between repetitions, so the
        // standard error is sd(1, 3) / √2 = 1 with one degree of freedom.
        let found = crossed_mean(&[vec![1.0; 50], vec![3.0; 50]]).expect("numbers");
        assert!((found.std_error.expect("two") - 1.0).abs() < 1e-12);
        let [low, high] = found.interval.expect("two");
        assert!((high - low - 2.0 * 12.706_204_736).abs() < 1e-6);
        // Cells 0 1 / 1 0 2: MS by hand. Rows 0,1,2 and 1,1,4: means 1 and 2, columns .5, 1, 3, grand 1.5.
        let found = crossed_mean(&[vec![0.0, 1.0, 2.0], vec![1.0, 1.0, 4.0]]).expect("numbers");
        let (instructions, rows, rest) = (2.0 * (1.0 + 0.25 + 2.25) / 2.0, 3.0 * 0.5, (0.0 + 0.25 + 0.25) * 2.0 / 2.0);
        let expected: f64 = (instructions + rows - rest) / 6.0;
        assert!((found.std_error.expect("six") - expected.sqrt()).abs() < 1e-12, "{found:?}");
    }

    #[test]
    fn equal_numbers_have_no_width() {
        let found = crossed_mean(&[vec![50.0; 4], vec![50.0; 4]]).expect("numbers");
        assert_eq!((found.std_error, found.interval), (Some(0.0), Some([50.0, 50.0])));
    }
}
