//! What an evaluation measured.

use serde::{Deserialize, Serialize};

/// One measured number with its uncertainty.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Metric {
    /// What was measured, for example `win_rate`.
    pub name: String,
    /// The number.
    pub value: f64,
    /// Its standard error, in the same unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub std_error: Option<f64>,
    /// A 95 % interval, in the same unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<[f64; 2]>,
    /// How many items it was measured on.
    pub n: usize,
    /// The unit, for example `%` or `characters`; empty for a plain number.
    #[serde(default)]
    pub unit: String,
    /// Whether more is better; `None` when neither is (a length).
    #[serde(default)]
    pub higher_is_better: Option<bool>,
}

/// What one evaluator measured on one model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EvalReport {
    /// Who was evaluated.
    pub model: String,
    /// Against whom, where it was a comparison.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// By whom, where someone judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotator: Option<String>,
    /// The numbers.
    pub metrics: Vec<Metric>,
}

impl EvalReport {
    /// The metric of that name.
    pub fn metric(&self, name: &str) -> Option<&Metric> {
        self.metrics.iter().find(|metric| metric.name == name)
    }
}
