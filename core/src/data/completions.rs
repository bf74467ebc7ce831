//! Reads answers of models: outputs, several samples an instruction, scored answers, ranked lists.

use std::collections::HashMap;
use std::path::Path;

use serde_json::Value;

use super::conversation::{answer, answered, messages, prompt};
use super::fields::{
    FieldProblem, Fields, is_list, is_object, is_text, list, number, numbers, object, optional_text, text, texts, typed,
};
use super::form::{Form, Origin, Parsed, read};
use super::instructions::{instruction, with_dataset, with_ids, with_true_id};
use super::report::{ReadOptions, ReadReport};
use crate::error::Result;
use crate::types::{Completion, FinishReason, Instruction, RankedList, ScoredCompletion};

const COMPLETIONS: &[Form<Completion>] = &[
    Form {
        name: "farmhand",
        keys: "`instruction {instruction, …}`, `output`, `model`, `sample`, `finish`, `n_tokens`, `log_prob`?",
        fits: |fields| is_object(fields, "instruction") && fields.contains_key("finish"),
        parse: |fields, _| {
            let completion: Completion = typed(with_ids(fields))?;
            Ok(Parsed::One(renewed(completion)))
        },
    },
    Form {
        name: "outputs",
        keys: "`instruction`, `input`?, `output` (a text), `generator`?, `dataset`?",
        fits: |fields| fields.contains_key("instruction") && is_text(fields, "output"),
        parse: |fields, origin| {
            Ok(Parsed::One(completion(instruction(fields)?, text(fields, "output")?.to_owned(), generator(fields, origin)?)))
        },
    },
    Form {
        name: "samples",
        keys: "`instruction`, `input`?, `output` (a list of texts), `generator`?",
        fits: |fields| fields.contains_key("instruction") && is_list(fields, "output"),
        parse: |fields, origin| {
            let (instruction, generator) = (instruction(fields)?, generator(fields, origin)?);
            let outputs = texts(fields, "output")?.into_iter();
            Ok(Parsed::Many(outputs.map(|output| completion(instruction.clone(), output, generator.clone())).collect()))
        },
    },
    Form {
        name: "prompt_completion",
        keys: "`prompt`, `completion`: texts or messages, `generator`?",
        fits: |fields| fields.contains_key("prompt") && fields.contains_key("completion"),
        parse: |fields, origin| {
            let instruction = with_dataset(prompt(fields, "prompt")?, fields)?;
            Ok(Parsed::One(completion(instruction, answer(fields, "completion")?, generator(fields, origin)?)))
        },
    },
];

const RANKED: &[Form<RankedList>] = &[
    Form {
        name: "outputs_scores",
        keys: "`instruction` (or `prompt`), `outputs`, `scores`: two lists of one length",
        fits: |fields| is_list(fields, "outputs") && fields.contains_key("scores"),
        parse: |fields, _| ranked(any_instruction(fields)?, texts(fields, "outputs")?, numbers(fields, "scores")?),
    },
    Form {
        name: "responses_scores",
        keys: "`instruction` (or `prompt`), `responses`, `scores`: two lists of one length",
        fits: |fields| is_list(fields, "responses") && fields.contains_key("scores"),
        parse: |fields, _| ranked(any_instruction(fields)?, texts(fields, "responses")?, numbers(fields, "scores")?),
    },
    Form {
        name: "responses",
        keys: "`instruction` (or `prompt`), `responses [{output, score, model?}]`",
        fits: |fields| is_list(fields, "responses"),
        parse: |fields, _| {
            let answers = responses(fields)?;
            let (outputs, scores) = answers.into_iter().map(|(_, output, score)| (output, score)).unzip();
            ranked(any_instruction(fields)?, outputs, scores)
        },
    },
];

const SCORED: &[Form<ScoredCompletion>] = &[
    Form {
        name: "farmhand",
        keys: "`instruction {instruction, …}`, `output`, `model`, `sample`, `finish`, `n_tokens`, `log_prob`?, `score`",
        fits: |fields| is_object(fields, "instruction") && fields.contains_key("finish") && fields.contains_key("score"),
        parse: |fields, _| {
            let score = number(fields, "score")?;
            let completion: Completion = typed(with_ids(fields))?;
            Ok(Parsed::One(ScoredCompletion { completion: renewed(completion), score }))
        },
    },
    Form {
        name: "output_score",
        keys: "`instruction`, `input`?, `output`, `score` (or `reward`), `generator`?",
        fits: |fields| fields.contains_key("instruction") && fields.contains_key("output") && score_key(fields).is_some(),
        parse: |fields, origin| {
            let score = number(fields, score_key(fields).unwrap_or("score"))?;
            let completion = completion(instruction(fields)?, text(fields, "output")?.to_owned(), generator(fields, origin)?);
            Ok(Parsed::One(ScoredCompletion { completion, score }))
        },
    },
    Form {
        name: "responses",
        keys: "`instruction` (or `prompt`), `responses [{output, score, model?}]`",
        fits: |fields| is_list(fields, "responses") && !fields.contains_key("scores"),
        parse: |fields, origin| {
            let instruction = any_instruction(fields)?;
            let scored = |(model, output, score): (Option<String>, String, f64)| {
                let model = model.unwrap_or_else(|| origin.stem.clone());
                ScoredCompletion { completion: completion(instruction.clone(), output, model), score }
            };
            Ok(Parsed::Many(responses(fields)?.into_iter().map(scored).collect()))
        },
    },
    Form {
        name: "unpaired",
        keys: "`prompt`, `completion`: texts or messages, `label` (true: good, false: bad)",
        fits: |fields| fields.contains_key("prompt") && fields.contains_key("completion") && fields.contains_key("label"),
        parse: |fields, origin| {
            let instruction = with_dataset(prompt(fields, "prompt")?, fields)?;
            labelled(completion(instruction, answer(fields, "completion")?, generator(fields, origin)?), fields)
        },
    },
    Form {
        name: "unpaired_messages",
        keys: "`messages [{role, content}]`, `label` (true: good, false: bad)",
        fits: |fields| is_list(fields, "messages") && fields.contains_key("label"),
        parse: |fields, origin| {
            let (instruction, output) = answered(messages(fields, "messages")?, "messages")?;
            labelled(completion(with_dataset(instruction, fields)?, output, generator(fields, origin)?), fields)
        },
    },
];

/// Reads completions. Where the file does not say who answered (`generator`), the model is the file's name without
/// its ending; answers of one model to one instruction are numbered in the order of the file; what is not known
/// about an answer is as if it had ended by itself (`finish: stop`, `n_tokens: 0`).
///
/// Known forms: our own; AlpacaEval's outputs `instruction, input?, output, generator?, dataset?` (and Alpaca's);
/// AlpacaFarm's samples with a list under `output`; `prompt, completion`.
///
/// # Errors
/// When the file cannot be read, has no known form, holds a bad record that is not skipped, or holds nothing.
pub fn read_completions(path: &Path, options: &ReadOptions) -> Result<(Vec<Completion>, ReadReport)> {
    let (mut completions, report) = read(path, options, "completions", COMPLETIONS)?;
    if report.form != COMPLETIONS[0].name {
        number_samples(completions.iter_mut());
    }
    Ok((completions, report))
}

/// Reads ranked lists and puts each in order, best first; answers of equal score keep their order.
///
/// Known forms: `instruction` (or `prompt`) with `outputs` and `scores` (our own), with `responses` and `scores`, or with
/// `responses [{output, score}]`. At least two answers a list.
///
/// # Errors
/// When the file cannot be read, has no known form, holds a bad record that is not skipped, or holds nothing.
pub fn read_ranked_lists(path: &Path, options: &ReadOptions) -> Result<(Vec<RankedList>, ReadReport)> {
    read(path, options, "ranked lists", RANKED)
}

/// Reads scored completions.
///
/// Known forms: our own; `instruction, output, score` (or `reward`); `responses [{output, score, model?}]`; and unpaired
/// feedback: `prompt, completion` or `messages`, with a `label` (true scores 1, false 0).
///
/// # Errors
/// When the file cannot be read, has no known form, holds a bad record that is not skipped, or holds nothing.
pub fn read_scored_completions(path: &Path, options: &ReadOptions) -> Result<(Vec<ScoredCompletion>, ReadReport)> {
    let (mut scored, report) = read(path, options, "scored completions", SCORED)?;
    if report.form != SCORED[0].name {
        number_samples(scored.iter_mut().map(|scored| &mut scored.completion));
    }
    Ok((scored, report))
}

/// Numbers the answers of each model to each instruction from 0, in order.
pub(super) fn number_samples<'a>(completions: impl Iterator<Item = &'a mut Completion>) {
    let mut next: HashMap<(String, String), u32> = HashMap::new();
    for completion in completions {
        let count = next.entry((completion.instruction.id.clone(), completion.model.clone())).or_default();
        completion.sample = *count;
        *count += 1;
    }
}

pub(super) fn completion(instruction: Instruction, output: String, model: String) -> Completion {
    Completion { instruction, output, model, sample: 0, finish: FinishReason::Stop, n_tokens: 0, log_prob: None }
}

pub(super) fn renewed(completion: Completion) -> Completion {
    Completion { instruction: with_true_id(completion.instruction), ..completion }
}

pub(super) fn generator(fields: &Fields, origin: &Origin) -> Result<String, FieldProblem> {
    for key in ["generator", "model"] {
        if let Some(name) = optional_text(fields, key)? {
            return Ok(name.to_owned());
        }
    }
    Ok(origin.stem.clone())
}

fn score_key(fields: &Fields) -> Option<&'static str> {
    ["score", "reward"].into_iter().find(|key| fields.contains_key(*key))
}

pub(super) fn any_instruction(fields: &Fields) -> Result<Instruction, FieldProblem> {
    if !fields.contains_key("instruction") && fields.contains_key("prompt") {
        return with_dataset(prompt(fields, "prompt")?, fields);
    }
    instruction(fields)
}

fn labelled(completion: Completion, fields: &Fields) -> Result<Parsed<ScoredCompletion>, FieldProblem> {
    Ok(Parsed::One(ScoredCompletion { completion, score: f64::from(u8::from(label(fields)?)) }))
}

/// Whether the answer was called good.
pub(super) fn label(fields: &Fields) -> Result<bool, FieldProblem> {
    match fields.get("label") {
        Some(Value::Bool(good)) => Ok(*good),
        _ => match number(fields, "label") {
            Ok(label @ (0.0 | 1.0)) => Ok(label == 1.0),
            _ => Err(FieldProblem::new("label", "expected true (good) or false (bad)")),
        },
    }
}

/// The model, answer and score of each response.
fn responses(fields: &Fields) -> Result<Vec<(Option<String>, String, f64)>, FieldProblem> {
    let response = |(i, value): (usize, &Value)| {
        let path = format!("responses[{i}]");
        let response = object(value, &path)?;
        let read = || {
            let model = optional_text(response, "model")?.map(str::to_owned);
            Ok((model, text(response, "output")?.to_owned(), number(response, "score")?))
        };
        read().map_err(|problem: FieldProblem| problem.under(&path))
    };
    list(fields, "responses")?.iter().enumerate().map(response).collect()
}

fn ranked(instruction: Instruction, outputs: Vec<String>, scores: Vec<f64>) -> Result<Parsed<RankedList>, FieldProblem> {
    if outputs.len() != scores.len() {
        return Err(FieldProblem::new(
            "scores",
            format!("expected one for each of the {} answers, got {}", outputs.len(), scores.len()),
        ));
    }
    if outputs.len() < 2 {
        return Err(FieldProblem::new("", format!("expected at least two answers, got {}", outputs.len())));
    }
    let mut answers: Vec<(String, f64)> = outputs.into_iter().zip(scores).collect();
    answers.sort_by(|a, b| b.1.total_cmp(&a.1));
    let (outputs, scores) = answers.into_iter().unzip();
    Ok(Parsed::One(RankedList { instruction, outputs, scores }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, text: &str) -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join(name);
        std::fs::write(&path, text).expect("written");
        (dir, path)
    }

    #[test]
    fn outputs_and_samples_are_numbered_and_named() {
        let text = r#"[{"instruction": "i", "input": "", "output": ["a", "b"]}, {"instruction": "j", "output": ["c"]}]"#;
        let (_dir, path) = file("sft.json", text);
        let (completions, report) = read_completions(&path, &ReadOptions::default()).expect("read");
        let seen: Vec<(&str, u32, &str)> = completions.iter().map(|c| (c.output.as_str(), c.sample, c.model.as_str())).collect();
        assert_eq!(seen, [("a", 0, "sft"), ("b", 1, "sft"), ("c", 0, "sft")]);
        assert_eq!((report.form.as_str(), report.n_records), ("samples", 2));
        let text = r#"[{"instruction": "i", "output": "a", "generator": "m", "dataset": "d", "datasplit": "eval"}]"#;
        let (_dir, path) = file("x.json", text);
        let (completions, _) = read_completions(&path, &ReadOptions::default()).expect("read");
        assert_eq!((completions[0].model.as_str(), completions[0].instruction.dataset.as_deref()), ("m", Some("d")));
        let (_dir, path) = file("x.json", r#"[{"index": 0, "output": "a"}]"#);
        let error = read_completions(&path, &ReadOptions::default()).expect_err("no instruction");
        assert!(error.message().contains("no known form of completions has the fields"), "{error}");
    }

    #[test]
    fn ranked_lists_come_out_best_first() {
        for text in [
            r#"{"instruction": "i", "responses": [{"model": "x", "output": "b", "score": 1}, {"output": "a", "score": 2}]}"#,
            r#"{"instruction": {"instruction": "i"}, "outputs": ["b", "a"], "scores": [1, 2]}"#,
            r#"{"prompt": "i", "responses": ["b", "a"], "scores": [1, 2]}"#,
        ] {
            let (_dir, path) = file("x.jsonl", text);
            let (lists, _) = read_ranked_lists(&path, &ReadOptions::default()).expect(text);
            assert_eq!((lists[0].outputs.join(""), lists[0].scores.clone()), ("ab".to_owned(), vec![2.0, 1.0]));
            assert_eq!(lists[0].instruction, Instruction::new("i", None));
        }
        for (text, expected) in [
            (
                r#"{"instruction": "i", "outputs": ["a", "b"], "scores": [1]}"#,
                "field `scores`: expected one for each of the 2 answers",
            ),
            (r#"{"instruction": "i", "outputs": ["a"], "scores": [1]}"#, "line 1: expected at least two answers, got 1"),
            (
                r#"{"instruction": "i", "responses": [{"output": "a"}]}"#,
                "field `responses[0].score`: expected a number, got none",
            ),
        ] {
            let (_dir, path) = file("x.jsonl", text);
            let error = read_ranked_lists(&path, &ReadOptions::default()).expect_err(text);
            assert!(error.to_string().contains(expected), "{error}");
        }
    }

    #[test]
    fn scores_come_from_rewards_responses_and_labels() {
        let scores = |text: &str| -> Vec<(String, f64)> {
            let (_dir, path) = file("x.jsonl", text);
            let (scored, _) = read_scored_completions(&path, &ReadOptions::default()).expect(text);
            scored.into_iter().map(|scored| (scored.completion.output, scored.score)).collect()
        };
        let a = |score: f64| vec![("a".to_owned(), score)];
        assert_eq!(scores(r#"{"instruction": "i", "output": "a", "reward": 0.5}"#), a(0.5));
        assert_eq!(scores(r#"{"prompt": "i", "completion": "a", "label": true}"#), a(1.0));
        let chat = r#"{"messages": [{"role": "user", "content": "i"}, {"role": "assistant", "content": "a"}], "label": false}"#;
        assert_eq!(scores(chat), a(0.0));
        assert_eq!(scores(r#"{"instruction": "i", "responses": [{"output": "a", "score": 3}]}"#), a(3.0));
    }
}
