//! Range checks of options.

use farmhand_core::Problem;

/// Collects options that are out of range. Keys are relative to the component's table.
#[derive(Debug, Default)]
pub struct Ranges(Vec<Problem>);

impl Ranges {
    /// Nothing wrong so far.
    pub fn new() -> Self {
        Self::default()
    }

    /// A count that must be 1 or more.
    #[must_use]
    pub fn at_least_one(self, key: &str, value: usize) -> Self {
        self.require(key, value >= 1, "a whole number ≥ 1", value)
    }

    /// `batch_size`, at least 1, and `batch_tokens`, at least 1 when it is set; then `batch_size` stays at its default.
    #[must_use]
    pub fn batch(self, batch_size: usize, default: usize, batch_tokens: Option<usize>) -> Self {
        let both = batch_tokens.is_some() && batch_size != default;
        self.at_least_one("batch_size", batch_size).at_least_one("batch_tokens", batch_tokens.unwrap_or(1)).require(
            "batch_tokens",
            !both,
            "one of `batch_size` and `batch_tokens`",
            "both",
        )
    }

    /// A number above 0.
    #[must_use]
    pub fn positive(self, key: &str, value: f64) -> Self {
        self.require(key, value > 0.0 && value.is_finite(), "a number > 0", value)
    }

    /// A number that is 0 or more.
    #[must_use]
    pub fn not_negative(self, key: &str, value: f64) -> Self {
        self.require(key, value >= 0.0 && value.is_finite(), "a number ≥ 0", value)
    }

    /// A number between 0 and 1, both included.
    #[must_use]
    pub fn fraction(self, key: &str, value: f64) -> Self {
        self.require(key, (0.0..=1.0).contains(&value), "a number in [0, 1]", value)
    }

    /// Any other condition.
    #[must_use]
    pub fn require(mut self, key: &str, fits: bool, expected: &str, got: impl std::fmt::Display) -> Self {
        if !fits {
            self.0.push(Problem::new(key, format!("expected {expected}, got {got}")));
        }
        self
    }

    /// Problems found elsewhere, their paths under `key`.
    #[must_use]
    pub fn nested(mut self, key: &str, problems: Vec<Problem>) -> Self {
        self.0.extend(problems.into_iter().map(|problem| problem.under(key)));
        self
    }

    /// Everything out of range.
    pub fn problems(self) -> Vec<Problem> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_option_out_of_range_is_reported_with_its_path() {
        let inner = vec![Problem::new("lr", "expected a number > 0, got 0")];
        let problems = Ranges::new()
            .at_least_one("epochs", 0)
            .batch(32, 32, Some(100))
            .batch(8, 32, Some(100))
            .batch(32, 32, Some(0))
            .positive("beta", f64::NAN)
            .not_negative("weight", -1.0)
            .fraction("lambda", 1.0)
            .nested("optim", inner)
            .problems();
        let paths: Vec<&str> = problems.iter().map(|problem| problem.path.as_str()).collect();
        assert_eq!(paths, ["epochs", "batch_tokens", "batch_tokens", "beta", "weight", "optim.lr"]);
        assert_eq!(problems[0].message, "expected a whole number ≥ 1, got 0");
    }
}
