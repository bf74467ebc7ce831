//! How often an answer ends as a sentence does. Put your measure in its place.
//!
//! Say here what is measured, cite the paper, and name every metric with its unit. An evaluator is a pure function: no model, network,
//! file or clock.

use farmhand_core::types::EvalReport;
use farmhand_core::{BuildContext, Error, EvaluationInputs, Evaluator, EvaluatorConfig, Problem, Result, register};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::estimate::Estimate;

register! {
    kind: Evaluator, name: "template_evaluator", config: TemplateEvaluatorConfig,
    summary: "how often an answer ends as a sentence does",
    // paper: "https://arxiv.org/abs/…",
}

/// Options of `[evaluator.template_evaluator]`. These comments are the user's documentation: say unit and range.
///
/// Metric: `template_evaluator`, in % of the answers, with standard error and normal 95 % interval.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct TemplateEvaluatorConfig {
    /// The characters that end a sentence; at least one.
    pub ends: String,
}

impl Default for TemplateEvaluatorConfig {
    fn default() -> Self {
        Self { ends: ".!?".to_owned() }
    }
}

#[typetag::serde(name = "template_evaluator")]
impl EvaluatorConfig for TemplateEvaluatorConfig {
    fn build(&self, _: &BuildContext<'_>) -> Result<Box<dyn Evaluator>> {
        Ok(Box::new(TemplateEvaluator(self.clone())))
    }

    fn problems(&self) -> Vec<Problem> {
        let none = self.ends.is_empty().then(|| Problem::new("ends", "expected at least one character, got an empty text"));
        none.into_iter().collect()
    }
}

struct TemplateEvaluator(TemplateEvaluatorConfig);

impl Evaluator for TemplateEvaluator {
    fn evaluate(&self, inputs: &EvaluationInputs<'_>) -> Result<EvalReport> {
        let hits = inputs.completions.iter().map(|completion| percent(&completion.output, &self.0.ends));
        let estimate = Estimate::of_mean(&hits.collect::<Vec<f64>>())
            .ok_or_else(|| Error::missing_input(format!("no answers of `{}` to measure", inputs.model)))?;
        let metrics = vec![estimate.metric("template_evaluator", "%", Some(true))];
        Ok(EvalReport { model: inputs.model.to_owned(), reference: None, annotator: None, metrics })
    }
}

/// 100 for an answer that ends with one of these characters, else 0.
fn percent(output: &str, ends: &str) -> f64 {
    if output.trim_end().ends_with(|last| ends.contains(last)) { 100.0 } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blank_space_after_the_end_does_not_count() {
        let all = ["Yes. ", "Yes", "", "Is it?\n"].map(|output| percent(output, ".?"));
        assert_eq!(all, [100.0, 0.0, 0.0, 100.0]);
    }

    #[test]
    fn no_answers_are_an_error_and_no_ends_a_problem() {
        let evaluator = TemplateEvaluator(TemplateEvaluatorConfig::default());
        let inputs = EvaluationInputs { model: "sft", completions: &[], judgements: &[], rewards: &[] };
        assert!(evaluator.evaluate(&inputs).expect_err("nothing to measure").message().contains("`sft`"));
        assert_eq!(evaluator.0.problems(), []);
        assert_eq!(TemplateEvaluatorConfig { ends: String::new() }.problems()[0].path, "ends");
    }
}
