//! Reads answers that were judged on their own: called good or bad, or rated on several attributes.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use super::completions::{any_instruction, completion, generator, label, number_samples, renewed};
use super::conversation::{answer, answered, messages, prompt};
use super::fields::{FieldProblem, Fields, is_list, is_object, is_text, object, present, text, typed};
use super::form::{Form, Parsed, read};
use super::instructions::{instruction, with_dataset, with_ids};
use super::report::{ReadOptions, ReadReport};
use crate::error::Result;
use crate::types::{Completion, LabelledCompletion, RatedCompletion};

const LABELLED: &[Form<LabelledCompletion>] = &[
    Form {
        name: "farmhand",
        keys: "`instruction {instruction, …}`, `output`, `model`, `sample`, `finish`, `n_tokens`, `log_prob`?, `desirable`",
        fits: |fields| is_object(fields, "instruction") && fields.contains_key("desirable"),
        parse: |fields, _| {
            let desirable = typed::<Desirable>(Value::Object(fields.clone()))?.desirable;
            let completion: Completion = typed(with_ids(fields))?;
            Ok(Parsed::One(LabelledCompletion { completion: renewed(completion), desirable }))
        },
    },
    Form {
        name: "unpaired",
        keys: "`prompt`, `completion`: texts or messages, `label` (true: good, false: bad)",
        fits: |fields| fields.contains_key("prompt") && fields.contains_key("completion") && fields.contains_key("label"),
        parse: |fields, origin| {
            let instruction = with_dataset(prompt(fields, "prompt")?, fields)?;
            let completion = completion(instruction, answer(fields, "completion")?, generator(fields, origin)?);
            Ok(Parsed::One(LabelledCompletion { completion, desirable: label(fields)? }))
        },
    },
    Form {
        name: "unpaired_messages",
        keys: "`messages [{role, content}]`, `label` (true: good, false: bad)",
        fits: |fields| is_list(fields, "messages") && fields.contains_key("label"),
        parse: |fields, origin| {
            let (instruction, output) = answered(messages(fields, "messages")?, "messages")?;
            let completion = completion(with_dataset(instruction, fields)?, output, generator(fields, origin)?);
            Ok(Parsed::One(LabelledCompletion { completion, desirable: label(fields)? }))
        },
    },
    Form {
        name: "outputs",
        keys: "`instruction`, `input`?, `output`, `label` (true: good, false: bad), `generator`?",
        fits: |fields| fields.contains_key("instruction") && is_text(fields, "output") && fields.contains_key("label"),
        parse: |fields, origin| {
            let completion = completion(instruction(fields)?, text(fields, "output")?.to_owned(), generator(fields, origin)?);
            Ok(Parsed::One(LabelledCompletion { completion, desirable: label(fields)? }))
        },
    },
];

#[derive(serde::Deserialize)]
struct Desirable {
    desirable: bool,
}

/// The attributes of HelpSteer's rows.
const HELPSTEER: [&str; 5] = ["helpfulness", "correctness", "coherence", "complexity", "verbosity"];

const RATED: &[Form<RatedCompletion>] = &[
    Form {
        name: "farmhand",
        keys: "`instruction {instruction, …}`, `output`, `model`, `sample`, `finish`, `n_tokens`, `log_prob`?, `ratings {name: number}`",
        fits: |fields| is_object(fields, "instruction") && fields.contains_key("finish") && is_object(fields, "ratings"),
        parse: |fields, _| {
            let ratings = ratings(fields)?;
            let completion: Completion = typed(with_ids(fields))?;
            Ok(Parsed::One(RatedCompletion { completion: renewed(completion), ratings }))
        },
    },
    Form {
        name: "ratings",
        keys: "`instruction` (or `prompt`), `input`?, `output` (or `response`), `ratings {name: number}`, `generator`?",
        fits: |fields| is_object(fields, "ratings"),
        parse: |fields, origin| {
            let output = if fields.contains_key("output") { "output" } else { "response" };
            let completion = completion(any_instruction(fields)?, text(fields, output)?.to_owned(), generator(fields, origin)?);
            Ok(Parsed::One(RatedCompletion { completion, ratings: ratings(fields)? }))
        },
    },
    Form {
        name: "helpsteer",
        keys: "`prompt`, `response`, and numbers under some of `helpfulness`, `correctness`, `coherence`, `complexity`, `verbosity`",
        fits: |fields| is_text(fields, "response") && HELPSTEER.iter().any(|name| fields.contains_key(*name)),
        parse: |fields, origin| {
            let completion =
                completion(any_instruction(fields)?, text(fields, "response")?.to_owned(), generator(fields, origin)?);
            let rated = HELPSTEER.iter().filter_map(|name| Some(((*name).to_owned(), present(fields, name)?)));
            let ratings = rated.map(|(name, value)| rating(&name, value).map(|value| (name, value)));
            Ok(Parsed::One(RatedCompletion { completion, ratings: ratings.collect::<Result<_, _>>()? }))
        },
    },
];

fn ratings(fields: &Fields) -> Result<BTreeMap<String, f64>, FieldProblem> {
    let table = object(fields.get("ratings").unwrap_or(&Value::Null), "ratings")?;
    let rated = table.iter().filter(|(_, value)| !value.is_null());
    let ratings: BTreeMap<String, f64> =
        rated.map(|(name, value)| Ok((name.clone(), rating(&format!("ratings.{name}"), value)?))).collect::<Result<_, _>>()?;
    if ratings.is_empty() {
        return Err(FieldProblem::new("ratings", "expected a number for at least one attribute"));
    }
    Ok(ratings)
}

fn rating(field: &str, value: &Value) -> Result<f64, FieldProblem> {
    let number = value.as_f64().filter(|number| number.is_finite());
    number.ok_or_else(|| FieldProblem::new(field, format!("expected a number, got {}", super::fields::kind(value))))
}

/// Reads answers that were called good or bad, each on its own.
///
/// Known forms: our own; `prompt, completion, label`; `messages, label`; `instruction, input?, output, label`.
///
/// # Errors
/// When the file cannot be read, has no known form, holds a bad record that is not skipped, or holds nothing.
pub fn read_labelled_completions(path: &Path, options: &ReadOptions) -> Result<(Vec<LabelledCompletion>, ReadReport)> {
    let (mut labelled, report) = read(path, options, "labelled completions", LABELLED)?;
    if report.form != LABELLED[0].name {
        number_samples(labelled.iter_mut().map(|labelled| &mut labelled.completion));
    }
    Ok((labelled, report))
}

/// Reads answers with a rating for each of several attributes. An attribute that is missing or null was not rated.
///
/// Known forms: our own; `instruction, output` (or `prompt, response`) with `ratings {name: number}`; HelpSteer's rows.
///
/// # Errors
/// When the file cannot be read, has no known form, holds a bad record that is not skipped, or holds nothing.
pub fn read_rated_completions(path: &Path, options: &ReadOptions) -> Result<(Vec<RatedCompletion>, ReadReport)> {
    let (mut rated, report) = read(path, options, "rated completions", RATED)?;
    if report.form != RATED[0].name {
        number_samples(rated.iter_mut().map(|rated| &mut rated.completion));
    }
    Ok((rated, report))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("x.jsonl");
        std::fs::write(&path, text).expect("written");
        (dir, path)
    }

    #[test]
    fn labels_are_true_or_false_and_our_own_form_reads_back() {
        for text in [
            r#"{"prompt": "p", "completion": "c", "label": true}"#,
            r#"{"messages": [{"role": "user", "content": "p"}, {"role": "assistant", "content": "c"}], "label": 1}"#,
            r#"{"instruction": "p", "output": "c", "label": true}"#,
        ] {
            let (_dir, path) = file(text);
            let (read, _) = read_labelled_completions(&path, &ReadOptions::default()).expect(text);
            assert!(read[0].desirable && read[0].completion.output == "c", "{text}");
            let (_dir, path) = file(&serde_json::to_string(&read[0]).expect("JSON"));
            assert_eq!(read_labelled_completions(&path, &ReadOptions::default()).expect("read").0, read);
        }
        let (_dir, path) = file(r#"{"prompt": "p", "completion": "c", "label": "good"}"#);
        let error = read_labelled_completions(&path, &ReadOptions::default()).expect_err("no label");
        assert!(error.message().contains("expected true (good) or false (bad)"), "{error}");
    }

    #[test]
    fn what_was_not_rated_is_missing_and_our_own_form_reads_back() {
        let expected = BTreeMap::from([("helpfulness".to_owned(), 3.0), ("verbosity".to_owned(), 1.5)]);
        for text in [
            r#"{"prompt": "p", "response": "c", "helpfulness": 3, "correctness": null, "verbosity": 1.5}"#,
            r#"{"instruction": "p", "output": "c", "ratings": {"helpfulness": 3, "verbosity": 1.5, "coherence": null}}"#,
            r#"{"prompt": "p", "response": "c", "ratings": {"helpfulness": 3, "verbosity": 1.5}}"#,
        ] {
            let (_dir, path) = file(text);
            let (read, _) = read_rated_completions(&path, &ReadOptions::default()).expect(text);
            assert_eq!(read[0].ratings, expected, "{text}");
            let (_dir, path) = file(&serde_json::to_string(&read[0]).expect("JSON"));
            assert_eq!(read_rated_completions(&path, &ReadOptions::default()).expect("read").0, read);
        }
        for (text, complaint) in [
            (r#"{"prompt": "p", "response": "c", "ratings": {"helpfulness": "3"}}"#, "ratings.helpfulness"),
            (r#"{"prompt": "p", "response": "c", "ratings": {}}"#, "at least one attribute"),
        ] {
            let (_dir, path) = file(text);
            let error = read_rated_completions(&path, &ReadOptions::default()).expect_err(text);
            assert!(error.to_string().contains(complaint), "{error}");
        }
    }
}
