//! A program as an annotator.
//!
//! An item is `{"instruction", "output_1", "output_2"}`, with `"history"` for earlier turns. Its result is AlpacaEval's code, 1 for the
//! first answer, 2 for the second, 1.5 for a tie and in between for how sure it is; or an object with `preference` and, if it likes,
//! `raw`, `scores` (two numbers), `cost_usd`; `null` or `{"failure": "why"}` when it came to no verdict. The request carries `seed`, for
//! programs that draw.

use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use farmhand_core::types::{Annotation, Comparison, Judging, Preference};
use farmhand_core::{Annotator, AnnotatorConfig, BuildContext, Error, ErrorKind, Problem, Result, RunContext, register};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::options::CommandOptions;
use crate::process::Process;

register! {
    kind: Annotator, name: "command", config: CommandAnnotatorConfig,
    summary: "a program of one's own, in any language, that judges pairs of answers",
}

/// Options of `[annotator.command]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub struct CommandAnnotatorConfig {
    /// The name its annotations carry.
    pub name: String,
    /// The program.
    #[serde(flatten)]
    pub program: CommandOptions,
}

impl Default for CommandAnnotatorConfig {
    fn default() -> Self {
        Self { name: "command".to_owned(), program: CommandOptions::default() }
    }
}

#[typetag::serde(name = "command")]
impl AnnotatorConfig for CommandAnnotatorConfig {
    fn build(&self, ctx: &BuildContext<'_>) -> Result<Box<dyn Annotator>> {
        let process = Process::new(self.program.clone(), CommandOptions::folder(ctx), "annotator");
        Ok(Box::new(Judge { name: self.name.clone(), process: Mutex::new(process), batch_size: self.program.batch_size }))
    }

    fn problems(&self) -> Vec<Problem> {
        let mut problems = self.program.problems();
        if self.name.is_empty() {
            problems.push(Problem::new("name", "expected a name, got an empty text"));
        }
        problems
    }
}

struct Judge {
    name: String,
    process: Mutex<Process>,
    batch_size: usize,
}

/// A result in its long form.
#[derive(Deserialize)]
struct Verdict {
    #[serde(default)]
    preference: Option<f64>,
    #[serde(default)]
    failure: Option<String>,
    #[serde(default)]
    raw: Option<String>,
    #[serde(default)]
    scores: Option<[f64; 2]>,
    #[serde(default)]
    cost_usd: Option<f64>,
}

impl Judge {
    fn annotation(&self, result: Value) -> Result<Annotation> {
        let verdict = match result {
            Value::Number(_) | Value::Null => {
                Verdict { preference: result.as_f64(), failure: None, raw: None, scores: None, cost_usd: None }
            }
            other => {
                let written = other.to_string();
                serde_json::from_value(other).map_err(|error| {
                    let message = format!("a program judged `{written}`: {error}");
                    Error::broken_contract(message).with_hint("a result is a number, null, or an object with `preference`")
                })?
            }
        };
        let judging = || Judging {
            annotator: Some(self.name.clone()),
            raw: verdict.raw.clone(),
            cost_usd: verdict.cost_usd,
            ..Judging::default()
        };
        let failed = |kind, message: &str| Error::new(kind, message.to_owned()).with_judging(judging());
        if let Some(reason) = &verdict.failure {
            return Err(failed(ErrorKind::UnparsableAnswer, reason));
        }
        let Some(code) = verdict.preference else {
            return Err(failed(ErrorKind::UnparsableAnswer, "the program came to no verdict"));
        };
        let preference = Preference::from_code(code).map_err(|error| failed(ErrorKind::BrokenContract, error.message()))?;
        Ok(Annotation {
            raw: verdict.raw.clone(),
            scores: verdict.scores,
            cost_usd: verdict.cost_usd,
            ..Annotation::new(self.name.clone(), preference)
        })
    }
}

#[async_trait]
impl Annotator for Judge {
    fn id(&self) -> &str {
        &self.name
    }

    async fn annotate(&self, comparisons: &[Comparison], ctx: &RunContext<'_>) -> Vec<Result<Annotation>> {
        let mut process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        let mut results = Vec::with_capacity(comparisons.len());
        for batch in comparisons.chunks(self.batch_size.max(1)) {
            let items: Vec<Value> = batch.iter().map(item).collect();
            let request = json!({ "items": items, "seed": ctx.seed.to_i64() });
            match process.ask_for(batch.len(), request, ctx.events, Some(ctx.cancel)) {
                Ok(verdicts) => results.extend(verdicts.into_iter().map(|verdict| self.annotation(verdict))),
                Err(error) => {
                    let copy = || {
                        let copy = Error::new(error.kind(), error.to_string());
                        error.hint().map(str::to_owned).into_iter().fold(copy, Error::with_hint)
                    };
                    results.extend(batch.iter().map(|_| Err(copy())));
                }
            }
        }
        results
    }
}

fn item(comparison: &Comparison) -> Value {
    let Comparison { instruction, output_1, output_2, .. } = comparison;
    let mut item = json!({ "instruction": instruction.text(), "output_1": output_1, "output_2": output_2 });
    if !instruction.history.is_empty() {
        item["history"] = json!(instruction.history);
    }
    item
}

#[cfg(test)]
mod tests {
    use farmhand_core::types::Instruction;

    use super::*;
    use crate::testing::{Desk, python};

    fn judged(body: &str, pairs: &[(&str, &str)]) -> Vec<Result<Annotation>> {
        let desk = Desk::new();
        let program = CommandOptions { batch_size: 2, restarts: 0, ..python(&desk, body) };
        let config = CommandAnnotatorConfig { name: "mine".to_owned(), program };
        let judge = config.build(&desk.building()).expect("built");
        let comparison = |(a, b): &(&str, &str)| Comparison::new(Instruction::new("Say it.", None), *a, *b);
        let comparisons: Vec<Comparison> = pairs.iter().map(comparison).collect();
        desk.with(|ctx| ctx.block_on(judge.annotate(&comparisons, ctx)))
    }

    #[test]
    fn short_and_long_verdicts_failures_and_nonsense_are_told_apart() {
        let body = "reply([{'a': 1, 'b': 2, 'c': 1.5, 'd': 1.25, 'e': None, 'f': {'failure': 'too hard', 'raw': 'hm'}, \
                    'g': {'preference': 2, 'raw': 'B!', 'scores': [1, 2], 'cost_usd': 0.5}, 'h': 7, 'i': 'first'}[i['output_1']] \
                    for i in items])";
        let pairs = ["a", "b", "c", "d", "e", "f", "g", "h", "i"].map(|name| (name, "x"));
        let results = judged(body, &pairs);
        let preferences: Vec<Option<f64>> =
            results.iter().map(|result| result.as_ref().ok().map(|annotation| annotation.preference.code())).collect();
        let expected = [Some(1.0), Some(2.0), Some(1.5), Some(1.25), None, None, Some(2.0), None, None];
        assert_eq!(preferences, expected);
        let kind = |i: usize| results[i].as_ref().expect_err("no verdict").kind();
        assert_eq!([kind(4), kind(5)], [ErrorKind::UnparsableAnswer; 2]);
        assert_eq!([kind(7), kind(8)], [ErrorKind::BrokenContract; 2]);
        let failed = results[5].as_ref().expect_err("no verdict");
        assert_eq!((failed.message(), failed.judging().and_then(|judging| judging.raw.as_deref())), ("too hard", Some("hm")));
        let long = results[6].as_ref().expect("a verdict");
        assert_eq!((long.raw.as_deref(), long.scores, long.cost_usd), (Some("B!"), Some([1.0, 2.0]), Some(0.5)));
        assert_eq!(long.annotator, "mine");
    }

    #[test]
    fn a_batch_that_fails_does_not_lose_the_others() {
        let body = "sys.exit(3) if items[0]['output_1'] == 'die' else reply([1 for i in items])";
        let results = judged(body, &[("a", "x"), ("b", "x"), ("die", "x"), ("c", "x"), ("d", "x")]);
        let there: Vec<bool> = results.iter().map(Result::is_ok).collect();
        assert_eq!(there, [true, true, false, false, true]);
        assert!(results[2].as_ref().expect_err("lost").to_string().contains("exit status: 3"));
    }
}
