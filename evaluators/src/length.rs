//! How long a model's answers are, and how they end.
//!
//! Judges prefer long answers, so a win rate is read beside these numbers (Dubois et al., 2024).

use farmhand_core::types::{Completion, EvalReport, FinishReason};
use farmhand_core::{BuildContext, Error, EvaluationInputs, Evaluator, EvaluatorConfig, Result, register};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::estimate::{Estimate, plain_metric};

register! {
    kind: Evaluator, name: "length", config: LengthConfig,
    summary: "length of the answers in characters and tokens, and how they ended",
    paper: "https://arxiv.org/abs/2404.04475",
}

/// Options of `[evaluator.length]`: none.
///
/// Metrics: `mean_characters` (Unicode code points) and `mean_tokens` (as sampled), with standard errors and normal 95 %
/// intervals; `median_characters`, `median_tokens` (those of tokens only where token counts are known); shares in % with the same uncertainty: `truncated` (cut off by the token
/// limit), `stopped` (ended by the model itself), `stopped_by_string` (ended by a stop string), `empty` (nothing but white space).
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LengthConfig {}

#[typetag::serde(name = "length")]
impl EvaluatorConfig for LengthConfig {
    fn build(&self, _: &BuildContext<'_>) -> Result<Box<dyn Evaluator>> {
        Ok(Box::new(Length))
    }
}

struct Length;

impl Evaluator for Length {
    fn evaluate(&self, inputs: &EvaluationInputs<'_>) -> Result<EvalReport> {
        let completions = inputs.completions;
        let numbers = |of: fn(&Completion) -> f64| completions.iter().map(of).collect::<Vec<f64>>();
        let characters = numbers(|completion| completion.output.chars().count() as f64);
        let tokens = numbers(|completion| f64::from(completion.n_tokens));
        let mean = |values: &[f64]| {
            Estimate::of_mean(values).ok_or_else(|| Error::missing_input(format!("no answers of `{}` to measure", inputs.model)))
        };
        let percent = |keep: fn(&Completion) -> bool| {
            mean(&completions.iter().map(|completion| if keep(completion) { 100.0 } else { 0.0 }).collect::<Vec<f64>>())
        };
        let n = completions.len();
        let mut metrics = vec![
            mean(&characters)?.metric("mean_characters", "characters", None),
            plain_metric("median_characters", median(&characters), n, "characters", None),
        ];
        // Files of other tools hold no token counts; a mean of zeros would be a lie.
        if tokens.iter().any(|count| *count > 0.0) {
            metrics.push(mean(&tokens)?.metric("mean_tokens", "tokens", None));
            metrics.push(plain_metric("median_tokens", median(&tokens), n, "tokens", None));
        }
        metrics.extend([
            percent(|completion| completion.finish == FinishReason::Length)?.metric("truncated", "%", Some(false)),
            percent(|completion| completion.finish == FinishReason::Stop)?.metric("stopped", "%", None),
            percent(|completion| completion.finish == FinishReason::StopString)?.metric("stopped_by_string", "%", None),
            percent(|completion| completion.output.trim().is_empty())?.metric("empty", "%", Some(false)),
        ]);
        Ok(EvalReport { model: inputs.model.to_owned(), reference: None, annotator: None, metrics })
    }
}

/// The middle number, or the mean of the two middle ones; NaN of nothing.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match (sorted.len(), sorted.len() / 2) {
        (0, _) => f64::NAN,
        (n, half) if n % 2 == 1 => sorted[half],
        (_, half) => (sorted[half - 1] + sorted[half]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use farmhand_core::types::Instruction;

    fn completion(output: &str, n_tokens: u32, finish: FinishReason) -> Completion {
        let instruction = Instruction::new("Write.", None);
        Completion { instruction, output: output.into(), model: "sft".into(), sample: 0, finish, n_tokens, log_prob: None }
    }

    #[test]
    fn four_answers_by_hand() {
        let completions = [
            completion("ééé", 2, FinishReason::Stop),
            completion("a long one", 8, FinishReason::Length),
            completion(" ", 1, FinishReason::StopString),
            completion("four", 3, FinishReason::Stop),
        ];
        let inputs = EvaluationInputs { model: "sft", completions: &completions, judgements: &[], rewards: &[] };
        let report = Length.evaluate(&inputs).expect("evaluated");
        let value = |name: &str| report.metric(name).expect(name).value;
        assert_eq!((value("mean_characters"), value("median_characters")), (4.5, 3.5));
        assert_eq!((value("mean_tokens"), value("median_tokens")), (3.5, 2.5));
        assert_eq!((value("truncated"), value("stopped"), value("stopped_by_string"), value("empty")), (25.0, 50.0, 25.0, 25.0));
    }

    #[test]
    fn an_odd_number_has_a_middle() {
        assert_eq!(median(&[9.0, 1.0, 2.0]), 2.0);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn no_answers_are_an_error() {
        let inputs = EvaluationInputs { model: "sft", completions: &[], judgements: &[], rewards: &[] };
        assert_eq!(Length.evaluate(&inputs).expect_err("refused").kind(), farmhand_core::ErrorKind::MissingInput);
    }
}
