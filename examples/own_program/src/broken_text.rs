//! How often a model writes bytes that form no character: byte-level tokenizers let it, and texts show U+FFFD in their place.

use farmhand::core::types::{EvalReport, Metric};
use farmhand::core::{BuildContext, Error, EvaluationInputs, Evaluator, EvaluatorConfig, Result, register};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

// ANCHOR: register
register! {
    kind: Evaluator, name: "broken_text", config: BrokenTextConfig,
    summary: "how often the answers hold bytes that form no character",
}

/// Options of `[evaluator.broken_text]`.
///
/// Metric: `broken_text` (% of the answers).
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct BrokenTextConfig {
    /// Broken characters that an answer may hold and still count as whole.
    tolerance: usize,
}

#[typetag::serde(name = "broken_text")]
impl EvaluatorConfig for BrokenTextConfig {
    fn build(&self, _: &BuildContext<'_>) -> Result<Box<dyn Evaluator>> {
        Ok(Box::new(BrokenText { tolerance: self.tolerance }))
    }
}
// ANCHOR_END: register

// ANCHOR: evaluate
struct BrokenText {
    tolerance: usize,
}

impl Evaluator for BrokenText {
    fn evaluate(&self, inputs: &EvaluationInputs<'_>) -> Result<EvalReport> {
        let n = inputs.completions.len();
        if n == 0 {
            return Err(Error::missing_input(format!("no answers of `{}` to measure", inputs.model)));
        }
        let is_broken = |output: &str| output.matches(char::REPLACEMENT_CHARACTER).count() > self.tolerance;
        let broken = inputs.completions.iter().filter(|completion| is_broken(&completion.output)).count();
        let share = broken as f64 / n as f64;
        let metric = Metric {
            name: "broken_text".to_owned(),
            value: 100.0 * share,
            std_error: Some(100.0 * (share * (1.0 - share) / n as f64).sqrt()),
            interval: None,
            n,
            unit: "%".to_owned(),
            higher_is_better: Some(false),
        };
        Ok(EvalReport { model: inputs.model.to_owned(), reference: None, annotator: None, metrics: vec![metric] })
    }
}
// ANCHOR_END: evaluate
