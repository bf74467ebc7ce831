//! Reads comparisons, judged or not.

use std::path::Path;

use serde_json::Value;

use super::fields::{
    FieldProblem, Fields, is_list, is_object, is_text, number, optional_number, optional_text, present, text, typed,
};
use super::form::{Form, Parsed, read};
use super::instructions::{instruction, with_ids, with_true_id};
use super::report::{ReadOptions, ReadReport};
use crate::error::{ErrorKind, Result};
use crate::types::{Annotation, Comparison, Failure, Judgement, Outcome, Preference};

/// Who judged, where a file does not say.
pub const UNKNOWN_ANNOTATOR: &str = "unknown";

const COMPARISONS: &[Form<Comparison>] = &[
    Form {
        name: "farmhand",
        keys: "`instruction {instruction, …}`, `output_1`, `output_2`, `generator_1`?, `generator_2`?",
        fits: |fields| is_object(fields, "instruction") && has_pair(fields),
        parse: |fields, _| comparison(fields).map(Parsed::One),
    },
    Form {
        name: "farmhand_judgement",
        keys: "`comparison {instruction, output_1, output_2, …}`",
        fits: |fields| is_object(fields, "comparison"),
        parse: |fields, _| {
            let inner = fields.get("comparison").cloned().unwrap_or_default();
            let inner = with_ids(super::fields::object(&inner, "comparison")?);
            typed(inner).map(renewed).map(Parsed::One).map_err(|problem| problem.under("comparison"))
        },
    },
    Form {
        name: "alpaca_farm",
        keys: "`instruction`, `input`?, `output_1`, `output_2`, `generator_1`?, `generator_2`?",
        fits: |fields| is_text(fields, "instruction") && has_pair(fields),
        parse: |fields, _| comparison(fields).map(Parsed::One),
    },
];

/// The forms of judgements; preference pairs are read from them, too.
pub(super) const JUDGEMENTS: &[Form<Judgement>] = &[
    Form {
        name: "farmhand_judgement",
        keys: "`comparison {instruction, output_1, output_2, …}`, `annotation` or `failure`",
        fits: |fields| is_object(fields, "comparison"),
        parse: |fields, _| {
            let judgement: Judgement = typed(with_ids(fields))?;
            Ok(Parsed::One(Judgement { comparison: renewed(judgement.comparison), ..judgement }))
        },
    },
    Form {
        name: "alpaca_eval",
        keys: "`instruction`, `input`?, `output_1`, `output_2`, `preference` (1, 2, 1.5 or 0 for a tie, null for no verdict), \
               `generator_1`?, `generator_2`?, `annotator`?, `raw_completion`?, `price_per_example`?, `time_per_example`?",
        fits: |fields| has_pair(fields) && fields.contains_key("preference"),
        parse: |fields, _| {
            let annotator = annotator(fields)?;
            judgement(fields, annotator, preference(fields, "preference")?).map(Parsed::One)
        },
    },
    Form {
        name: "label",
        keys: "`instruction`, `input`?, `output_1`, `output_2`, `label` (1 or 2)",
        fits: |fields| has_pair(fields) && fields.get("label").is_some_and(Value::is_number),
        parse: |fields, _| judgement(fields, annotator(fields)?, preference(fields, "label")?).map(Parsed::One),
    },
    Form {
        name: "votes",
        keys: "`instruction`, `input`?, `output_1`, `output_2`, `humans` (a list of 1, 2 or 0 for a tie)",
        fits: |fields| has_pair(fields) && is_list(fields, "humans"),
        parse: |fields, _| {
            let votes = super::fields::numbers(fields, "humans")?;
            let vote = |(i, code): (usize, &f64)| {
                let verdict = code_preference(*code, &format!("humans[{i}]"))?;
                judgement(fields, format!("human_{}", i + 1), Some(verdict))
            };
            votes.iter().enumerate().map(vote).collect::<Result<Vec<_>, _>>().map(Parsed::Many)
        },
    },
];

/// Reads comparisons; verdicts in the file are ignored.
///
/// Known forms: our own, our judgements, and AlpacaFarm's `instruction, input?, output_1, output_2`.
///
/// # Errors
/// When the file cannot be read, has no known form, holds a bad record that is not skipped, or holds nothing.
pub fn read_comparisons(path: &Path, options: &ReadOptions) -> Result<(Vec<Comparison>, ReadReport)> {
    read(path, options, "comparisons", COMPARISONS)
}

/// Reads judgements. A tie is a judgement; no verdict (`preference` null, or −1 as AlpacaEval's cache has it) is a
/// judgement with a failure.
///
/// Known forms: our own; AlpacaFarm's and AlpacaEval's `instruction, output_1, output_2, preference` with everything
/// AlpacaEval adds, in its older and newer spellings; the same with `label`; and several people's votes under `humans`
/// (one judgement a vote, annotators `human_1`, `human_2`, …).
///
/// # Errors
/// When the file cannot be read, has no known form, holds a bad record that is not skipped, or holds nothing.
pub fn read_judgements(path: &Path, options: &ReadOptions) -> Result<(Vec<Judgement>, ReadReport)> {
    read(path, options, "judgements", JUDGEMENTS)
}

fn has_pair(fields: &Fields) -> bool {
    fields.contains_key("output_1") && fields.contains_key("output_2")
}

fn comparison(fields: &Fields) -> Result<Comparison, FieldProblem> {
    let mut comparison = Comparison::new(instruction(fields)?, text(fields, "output_1")?, text(fields, "output_2")?);
    comparison.generator_1 = optional_text(fields, "generator_1")?.map(str::to_owned);
    comparison.generator_2 = optional_text(fields, "generator_2")?.map(str::to_owned);
    Ok(comparison)
}

/// The same comparison with the ids that follow from its content.
fn renewed(comparison: Comparison) -> Comparison {
    let Comparison { instruction, output_1, output_2, generator_1, generator_2, .. } = comparison;
    let renewed = Comparison::new(with_true_id(instruction), output_1, output_2);
    Comparison { generator_1, generator_2, ..renewed }
}

/// The verdict under `key`; `None` for null, an absent field and −1.
fn preference(fields: &Fields, key: &str) -> Result<Option<Preference>, FieldProblem> {
    if present(fields, key).is_none() {
        return Ok(None);
    }
    match number(fields, key)? {
        -1.0 => Ok(None),
        code => code_preference(code, key).map(Some),
    }
}

fn code_preference(code: f64, field: &str) -> Result<Preference, FieldProblem> {
    Preference::from_code(code).map_err(|error| FieldProblem::new(field, error.message()))
}

fn annotator(fields: &Fields) -> Result<String, FieldProblem> {
    match optional_text(fields, "annotator")? {
        Some(name) => Ok(name.to_owned()),
        None => Ok(match present(fields, "annotator_index") {
            Some(Value::String(index)) => format!("human_{index}"),
            Some(Value::Number(index)) => format!("human_{index}"),
            _ => UNKNOWN_ANNOTATOR.to_owned(),
        }),
    }
}

fn judgement(fields: &Fields, annotator: String, preference: Option<Preference>) -> Result<Judgement, FieldProblem> {
    let comparison = comparison(fields)?;
    let Some(preference) = preference else {
        let failure = Failure::new(ErrorKind::UnparsableAnswer, "the file records no verdict");
        return Ok(Judgement { comparison, outcome: Outcome::Failure(failure) });
    };
    let either = |newer: &str, older: &str| match optional_number(fields, newer)? {
        Some(value) => Ok(Some(value)),
        None => optional_number(fields, older),
    };
    let mut annotation = Annotation::new(annotator, preference);
    annotation.cost_usd = either("preference_price_per_example", "price_per_example")?;
    annotation.time_secs = either("preference_time_per_example", "time_per_example")?;
    annotation.raw = raw(fields);
    Ok(Judgement { comparison, outcome: Outcome::Annotation(annotation) })
}

/// What the judge said: its words, or the JSON of a structured reply.
fn raw(fields: &Fields) -> Option<String> {
    let value = present(fields, "preference_raw_completion").or_else(|| present(fields, "raw_completion"))?;
    Some(value.as_str().map_or_else(|| value.to_string(), str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("x.json");
        std::fs::write(&path, text).expect("written");
        (dir, path)
    }

    fn judgements(text: &str) -> Result<Vec<Judgement>> {
        let (_dir, path) = file(text);
        read_judgements(&path, &ReadOptions::default()).map(|(judgements, _)| judgements)
    }

    #[test]
    fn alpaca_eval_annotations_keep_price_time_and_words() {
        for prefix in ["", "preference_"] {
            let text = format!(
                r#"[{{"instruction": "i", "output_1": "a", "generator_1": "base", "dataset": "d", "output_2": "b", "generator_2": "m",
                "annotator": "gpt4", "preference": 1.75, "{prefix}price_per_example": 0.01, "{prefix}time_per_example": 1.5,
                "{prefix}raw_completion": {{"text": "m"}}}}]"#
            );
            let judgement = judgements(&text).expect("read").remove(0);
            assert_eq!(judgement.comparison.generator_2.as_deref(), Some("m"));
            assert_eq!(judgement.comparison.instruction.dataset.as_deref(), Some("d"));
            let annotation = judgement.annotation().expect("a verdict");
            assert_eq!(annotation.preference, Preference::Graded(0.75));
            assert_eq!((annotation.cost_usd, annotation.time_secs), (Some(0.01), Some(1.5)));
            assert_eq!((annotation.annotator.as_str(), annotation.raw.as_deref()), ("gpt4", Some("{\"text\":\"m\"}")));
        }
    }

    #[test]
    fn verdicts_ties_and_failures_are_told_apart() {
        let record =
            |preference: &str| format!(r#"{{"instruction": "i", "output_1": "a", "output_2": "b", "preference": {preference}}}"#);
        let all: Vec<String> = ["1", "2.0", "0", "1.5", "null", "-1"].iter().map(|code| record(code)).collect();
        let read: Vec<Option<Preference>> =
            judgements(&format!("[{}]", all.join(","))).expect("read").iter().map(Judgement::preference).collect();
        let (first, second, tie) = (Some(Preference::First), Some(Preference::Second), Some(Preference::Tie));
        assert_eq!(read, [first, second, tie, tie, None, None]);
        let error = judgements(&record("3")).expect_err("no such code");
        assert!(error.to_string().contains("list index 0: field `preference`: expected a preference of 0"), "{error}");
    }

    #[test]
    fn votes_make_one_judgement_each() {
        let text = r#"{"instruction": "i", "output_1": "a", "output_2": "b", "humans": [1, 0, 2]}"#;
        let judgements = judgements(text).expect("read");
        let names: Vec<&str> = judgements.iter().filter_map(|j| j.annotation()).map(|a| a.annotator.as_str()).collect();
        assert_eq!(names, ["human_1", "human_2", "human_3"]);
        assert_eq!(judgements[1].preference(), Some(Preference::Tie));
    }

    #[test]
    fn comparisons_come_from_judged_and_unjudged_files() {
        let own = Comparison::new(crate::types::Instruction::new("i", None), "a", "b");
        let judged = Judgement::new(own.clone(), Ok(Annotation::new("x", Preference::First)));
        for text in [
            serde_json::to_string(&own).expect("serialises"),
            serde_json::to_string(&judged).expect("serialises"),
            r#"{"instruction": "i", "input": "", "output_1": "a", "output_2": "b"}"#.to_owned(),
            r#"{"instruction": {"instruction": "i"}, "output_1": "a", "output_2": "b"}"#.to_owned(),
            r#"{"comparison": {"instruction": {"instruction": "i"}, "output_1": "a", "output_2": "b"}}"#.to_owned(),
        ] {
            let (_dir, path) = file(&text);
            let (read, _) = read_comparisons(&path, &ReadOptions::default()).expect(&text);
            assert_eq!(read, std::slice::from_ref(&own), "{text}");
        }
    }
}
