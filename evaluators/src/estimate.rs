//! A mean with its standard error and interval.

use farmhand_core::types::Metric;

/// The 97.5 % point of the standard normal distribution.
pub const NORMAL_975: f64 = 1.959_963_984_540_054;

/// The mean of some numbers and how well it is known.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// The arithmetic mean.
    pub mean: f64,
    /// Sample standard deviation (divisor n − 1) over √n; `None` for a single number.
    pub std_error: Option<f64>,
    /// How many numbers.
    pub n: usize,
}

impl Estimate {
    /// The mean of `values`; `None` when there are none.
    ///
    /// Two passes (mean first, then squared deviations), so that a large mean costs no digits.
    pub fn of_mean(values: &[f64]) -> Option<Self> {
        let n = values.len();
        if n == 0 {
            return None;
        }
        let mean = values.iter().sum::<f64>() / n as f64;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let std_error = (n > 1).then(|| (squares / (n - 1) as f64 / n as f64).sqrt());
        Some(Self { mean, std_error, n })
    }

    /// The normal 95 % interval: mean ± 1.96 standard errors. It leans on the central limit theorem, so it is too
    /// narrow for a few numbers, and it has no width when all of them are equal.
    pub fn interval(&self) -> Option<[f64; 2]> {
        self.std_error.map(|error| [self.mean - NORMAL_975 * error, self.mean + NORMAL_975 * error])
    }

    /// The estimate as a metric.
    pub fn metric(&self, name: &str, unit: &str, higher_is_better: Option<bool>) -> Metric {
        Metric {
            name: name.to_owned(),
            value: self.mean,
            std_error: self.std_error,
            interval: self.interval(),
            n: self.n,
            unit: unit.to_owned(),
            higher_is_better,
        }
    }
}

/// A metric without uncertainty: a count, or a statistic for which none is computed.
pub fn plain_metric(name: &str, value: f64, n: usize, unit: &str, higher_is_better: Option<bool>) -> Metric {
    Metric { name: name.to_owned(), value, std_error: None, interval: None, n, unit: unit.to_owned(), higher_is_better }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_of_one_to_four_is_known_by_hand() {
        // Deviations 1.5, 0.5, 0.5, 1.5: variance 5/3, standard error √(5/12).
        let estimate = Estimate::of_mean(&[1.0, 2.0, 3.0, 4.0]).expect("there are numbers");
        assert_eq!(estimate.mean, 2.5);
        let error = estimate.std_error.expect("more than one");
        assert!((error - (5.0_f64 / 12.0).sqrt()).abs() < 1e-15);
        let [low, high] = estimate.interval().expect("more than one");
        assert!((high - low - 2.0 * NORMAL_975 * error).abs() < 1e-14);
        assert!((high + low - 5.0).abs() < 1e-14);
    }

    #[test]
    fn nothing_has_no_mean_and_one_number_no_uncertainty() {
        assert_eq!(Estimate::of_mean(&[]), None);
        let one = Estimate::of_mean(&[3.0]).expect("a number");
        assert_eq!((one.mean, one.std_error, one.interval()), (3.0, None, None));
    }

    #[test]
    fn a_large_mean_costs_no_digits() {
        let estimate = Estimate::of_mean(&[1e9 + 1.0, 1e9 + 3.0]).expect("there are numbers");
        assert_eq!(estimate.std_error, Some(1.0));
    }
}
