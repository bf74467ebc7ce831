//! A program as an evaluator.
//!
//! The one request of a model carries `model`, `completions` (`instruction`, `output`, `finish`), `judgements` (`instruction`, `output_1`
//! and `output_2`, of which the second is the model's, and `preference`, null without a verdict) and `rewards`. The result is a list of
//! `{"name", "value"}`, with `std_error`, `interval`, `n`, `unit` and `higher_is_better` where they are known.

use std::sync::{Mutex, PoisonError};

use farmhand_core::types::{Completion, EvalReport, Judgement, Metric};
use farmhand_core::{BuildContext, Error, EvaluationInputs, Evaluator, EvaluatorConfig, NoEvents, Problem, Result, register};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::options::CommandOptions;
use crate::process::Process;

register! {
    kind: Evaluator, name: "command", config: CommandEvaluatorConfig,
    summary: "a program of one's own, in any language, that measures a model's answers",
}

/// Options of `[evaluator.command]`. `batch_size` has no effect: all answers go in one request.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub struct CommandEvaluatorConfig {
    /// The program.
    #[serde(flatten)]
    pub program: CommandOptions,
}

#[typetag::serde(name = "command")]
impl EvaluatorConfig for CommandEvaluatorConfig {
    fn build(&self, ctx: &BuildContext<'_>) -> Result<Box<dyn Evaluator>> {
        Ok(Box::new(Measurer(Mutex::new(Process::new(self.program.clone(), CommandOptions::folder(ctx), "evaluator")))))
    }

    fn problems(&self) -> Vec<Problem> {
        self.program.problems()
    }
}

struct Measurer(Mutex<Process>);

/// A metric as a program writes it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Measured {
    name: String,
    value: f64,
    #[serde(default)]
    std_error: Option<f64>,
    #[serde(default)]
    interval: Option<[f64; 2]>,
    #[serde(default)]
    n: Option<usize>,
    #[serde(default)]
    unit: String,
    #[serde(default)]
    higher_is_better: Option<bool>,
}

impl Evaluator for Measurer {
    fn evaluate(&self, inputs: &EvaluationInputs<'_>) -> Result<EvalReport> {
        let EvaluationInputs { model, completions, judgements, rewards } = inputs;
        let request = json!({
            "model": model, "rewards": rewards,
            "completions": completions.iter().map(completion).collect::<Vec<Value>>(),
            "judgements": judgements.iter().map(judgement).collect::<Vec<Value>>(),
        });
        let results = self.0.lock().unwrap_or_else(PoisonError::into_inner).ask(request, &NoEvents, None)?;
        let measured: Vec<Measured> = serde_json::from_value(results).map_err(|error| {
            Error::broken_contract(format!("a program measured `{model}`: {error}"))
                .with_hint("`results` is a list of `{\"name\", \"value\"}` with finite numbers")
        })?;
        let n_usual = if completions.is_empty() { judgements.len() } else { completions.len() };
        let metric = |measured: Measured| Metric {
            name: measured.name,
            value: measured.value,
            std_error: measured.std_error,
            interval: measured.interval,
            n: measured.n.unwrap_or(n_usual),
            unit: measured.unit,
            higher_is_better: measured.higher_is_better,
        };
        let metrics = measured.into_iter().map(metric).collect();
        Ok(EvalReport { model: (*model).to_owned(), reference: None, annotator: None, metrics })
    }
}

fn completion(completion: &Completion) -> Value {
    json!({ "instruction": completion.instruction.text(), "output": completion.output, "finish": completion.finish })
}

fn judgement(judgement: &Judgement) -> Value {
    let comparison = &judgement.comparison;
    json!({
        "instruction": comparison.instruction.text(), "output_1": comparison.output_1, "output_2": comparison.output_2,
        "preference": judgement.annotation().map(|annotation| annotation.preference),
    })
}

#[cfg(test)]
mod tests {
    use farmhand_core::types::{Annotation, Comparison, Instruction, Outcome, Preference};

    use super::*;
    use crate::testing::{Desk, python};

    fn measured(body: &str) -> Result<EvalReport> {
        let desk = Desk::new();
        let config = CommandEvaluatorConfig { program: python(&desk, body) };
        let judged = |output: &str, preference| Judgement {
            comparison: Comparison::new(Instruction::new("i", None), "reference", output),
            outcome: Outcome::Annotation(Annotation::new("judge", preference)),
        };
        let judgements = [judged("a", Preference::Second), judged("bbb", Preference::Tie)];
        let inputs = EvaluationInputs { model: "dpo", completions: &[], judgements: &judgements, rewards: &[0.5, 1.0] };
        config.build(&desk.building()).expect("built").evaluate(&inputs)
    }

    #[test]
    fn it_sees_judgements_and_rewards_and_its_numbers_stand_in_the_report() {
        let report = measured(
            "reply([{'name': 'points', 'value': sum(j['preference'] - 1 for j in request['judgements']), 'unit': 'points'}, \
             {'name': 'best', 'value': max(request['rewards']), 'n': 1, 'interval': [0, 2], 'higher_is_better': True}])",
        )
        .expect("measured");
        assert_eq!((report.model.as_str(), report.metrics.len()), ("dpo", 2));
        assert_eq!((report.metrics[0].value, report.metrics[0].n, report.metrics[0].unit.as_str()), (1.5, 2, "points"));
        assert_eq!((report.metrics[1].interval, report.metrics[1].higher_is_better), (Some([0.0, 2.0]), Some(true)));
    }

    #[test]
    fn metrics_that_are_none_are_refused() {
        let error = measured("reply([{'name': 'x'}])").expect_err("refused");
        assert!(error.to_string().contains("missing field `value`"), "{error}");
        let error = measured("reply([{'name': 'x', 'value': float('nan')}])").expect_err("refused");
        assert!(error.hint().is_some_and(|hint| hint.contains("NaN is no JSON")), "{error}");
    }
}
