//! The options of an optimiser: how weights move from step to step.

use farmhand_core::Problem;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schedule::Schedule;

/// How weights move: AdamW, gradient clipping, learning-rate schedule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OptimConfig {
    /// Learning rate at its highest, ≥ 0.
    pub lr: f64,
    /// Decay of weight matrices per unit of learning rate, λ ≥ 0; biases and normalisation weights never decay.
    pub weight_decay: f64,
    /// Memory of the mean and of the squared gradient, each in [0, 1).
    pub betas: [f64; 2],
    /// Added to the denominator, > 0.
    pub eps: f64,
    /// Norm of all gradients together above which they are scaled down, ≥ 0; 0 never scales.
    pub max_grad_norm: f64,
    /// How the learning rate goes after the warm-up: `constant`, `linear` or `cosine`.
    pub schedule: Schedule,
    /// Steps over which the learning rate rises from 0; not together with `warmup_ratio`.
    pub warmup_steps: u64,
    /// The same as a part of all steps, in [0, 1], rounded up; not together with `warmup_steps`.
    pub warmup_ratio: f64,
}

impl Default for OptimConfig {
    fn default() -> Self {
        Self {
            lr: 2e-5,
            weight_decay: 0.0,
            betas: [0.9, 0.999],
            eps: 1e-8,
            max_grad_norm: 1.0,
            schedule: Schedule::Cosine,
            warmup_steps: 0,
            warmup_ratio: 0.03,
        }
    }
}

impl OptimConfig {
    /// Everything out of range, paths relative to this table.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut check = |ok: bool, key: &str, expected: &str, got: f64| {
            if !ok {
                problems.push(Problem::new(key, format!("expected {expected}, got {got}")));
            }
        };
        let not_negative = |value: f64| value.is_finite() && value >= 0.0;
        check(not_negative(self.lr), "lr", "a number ≥ 0", self.lr);
        check(not_negative(self.weight_decay), "weight_decay", "a number ≥ 0", self.weight_decay);
        for beta in self.betas {
            check((0.0..1.0).contains(&beta), "betas", "numbers in [0, 1)", beta);
        }
        check(self.eps.is_finite() && self.eps > 0.0, "eps", "a number > 0", self.eps);
        check(not_negative(self.max_grad_norm), "max_grad_norm", "a number ≥ 0", self.max_grad_norm);
        check((0.0..=1.0).contains(&self.warmup_ratio), "warmup_ratio", "a number in [0, 1]", self.warmup_ratio);
        if self.warmup_steps > 0 && self.warmup_ratio > 0.0 {
            problems.push(
                Problem::new("warmup_steps", "both `warmup_steps` and `warmup_ratio` are set")
                    .with_hint("set `warmup_ratio = 0` to count the warm-up in steps"),
            );
        }
        problems
    }

    /// Steps of the warm-up in a run of `total_steps`.
    pub fn warmup(&self, total_steps: u64) -> u64 {
        if self.warmup_steps > 0 { self.warmup_steps } else { (total_steps as f64 * self.warmup_ratio).ceil() as u64 }
    }

    /// The learning rate of optimiser step `step` (from 0) of `total_steps`.
    pub fn lr_at(&self, step: u64, total_steps: u64) -> f64 {
        self.lr * self.schedule.factor(step, self.warmup(total_steps), total_steps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_out_of_range_are_all_named() {
        assert_eq!(OptimConfig::default().problems(), []);
        let wrong = OptimConfig { lr: -1.0, betas: [0.9, 1.0], eps: 0.0, warmup_steps: 5, ..OptimConfig::default() };
        let paths: Vec<String> = wrong.problems().into_iter().map(|problem| problem.path).collect();
        assert_eq!(paths, ["lr", "betas", "eps", "warmup_steps"]);
        assert_eq!(OptimConfig { warmup_ratio: 0.03, ..OptimConfig::default() }.warmup(101), 4);
    }
}
