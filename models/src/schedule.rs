//! Learning-rate schedules with warm-up: constant, linear, cosine.
//!
//! The factors are those of transformers' `get_scheduler`: step k (from 0) of a warm-up of w steps has factor k / w, so the
//! very first step of a warm-up moves nothing; afterwards linear and cosine fall to 0 at the last step.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How the learning rate goes after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// It stays.
    Constant,
    /// It falls in a straight line to 0.
    Linear,
    /// It falls along half a cosine to 0.
    #[default]
    Cosine,
}

impl Schedule {
    /// The factor on the learning rate at optimiser step `step` (from 0) of `total` steps, the first `warmup` of which rise.
    pub fn factor(self, step: u64, warmup: u64, total: u64) -> f64 {
        if step < warmup {
            return step as f64 / warmup as f64;
        }
        let span = total.saturating_sub(warmup).max(1) as f64;
        match self {
            Self::Constant => 1.0,
            Self::Linear => total.saturating_sub(step) as f64 / span,
            Self::Cosine => {
                let progress = (step - warmup) as f64 / span;
                (0.5 * (1.0 + (std::f64::consts::PI * progress).cos())).max(0.0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct Golden {
        schedule: Schedule,
        warmup: u64,
        total: u64,
        factors: Vec<f64>,
    }

    #[test]
    fn factors_are_those_of_transformers() {
        let goldens: Vec<Golden> = serde_json::from_str(include_str!("../tests/golden_text/schedules.json")).expect("goldens");
        assert_eq!(goldens.len(), 9);
        for golden in goldens {
            for (step, expected) in golden.factors.iter().enumerate() {
                let factor = golden.schedule.factor(step as u64, golden.warmup, golden.total);
                assert!((factor - expected).abs() < 1e-12, "{:?} {step}: {factor} {expected}", golden.schedule);
            }
        }
    }

    #[test]
    fn no_step_count_divides_by_zero() {
        for schedule in [Schedule::Constant, Schedule::Linear, Schedule::Cosine] {
            for (step, warmup, total) in [(0, 0, 0), (5, 5, 5), (9, 2, 3), (0, 9, 3)] {
                let factor = schedule.factor(step, warmup, total);
                assert!((0.0..=1.0).contains(&factor), "{schedule:?} {factor}");
            }
        }
    }
}
