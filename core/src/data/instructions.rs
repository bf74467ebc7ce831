//! Reads instructions out of any file that holds them: alone, or with answers, verdicts or scores that are ignored here.

use std::collections::HashSet;
use std::path::Path;

use serde_json::Value;

use super::conversation::{asked, messages, prompt};
use super::fields::{FieldProblem, Fields, is_list, is_object, is_text, object, optional_text, present, text};
use super::form::{Form, Parsed, read};
use super::human_judgements::question;
use super::preferences;
use super::report::{ReadOptions, ReadReport};
use crate::error::Result;
use crate::types::{Instruction, Role};

const FORMS: &[Form<Instruction>] = &[
    Form {
        name: "farmhand",
        keys: "`instruction {instruction, input?, history?, dataset?}`",
        fits: |fields| is_object(fields, "instruction"),
        parse: |fields, _| instruction(fields).map(Parsed::One),
    },
    Form {
        name: "alpaca",
        keys: "`instruction`, `input`?, `history`?, `dataset`?",
        fits: |fields| is_text(fields, "instruction"),
        parse: |fields, _| instruction(fields).map(Parsed::One),
    },
    Form {
        name: "farmhand_comparison",
        keys: "`comparison {instruction, …}`",
        fits: |fields| is_object(fields, "comparison"),
        parse: |fields, _| {
            let inner = present(fields, "comparison").unwrap_or(&Value::Null);
            let inner = object(inner, "comparison")?;
            instruction(inner).map(Parsed::One).map_err(|problem| problem.under("comparison"))
        },
    },
    Form {
        name: "prompt",
        keys: "`prompt`: a text, an hh-rlhf transcript or messages",
        fits: |fields| fields.contains_key("prompt"),
        parse: |fields, _| with_dataset(prompt(fields, "prompt")?, fields).map(Parsed::One),
    },
    Form {
        name: "messages",
        keys: "`messages [{role, content}]`",
        fits: |fields| is_list(fields, "messages"),
        parse: |fields, _| with_dataset(last_asked(fields, "messages")?, fields).map(Parsed::One),
    },
    Form {
        name: "sharegpt",
        keys: "`conversations [{from, value}]`",
        fits: |fields| is_list(fields, "conversations"),
        parse: |fields, _| with_dataset(last_asked(fields, "conversations")?, fields).map(Parsed::One),
    },
    Form {
        name: "question",
        keys: "`question`, `passages [{title, text}]`?",
        fits: |fields| is_text(fields, "question"),
        parse: |fields, _| with_dataset(question(fields)?, fields).map(Parsed::One),
    },
    Form {
        name: "dialogue_pair",
        keys: "`chosen`, `rejected`: two transcripts or two lists of messages",
        fits: |fields| fields.contains_key("chosen") && fields.contains_key("rejected"),
        parse: |fields, _| {
            Ok(match preferences::dialogues(fields, ["chosen", "rejected"])? {
                Ok((instruction, ..)) => Parsed::One(with_dataset(instruction, fields)?),
                Err(why) => Parsed::LeftOut(why),
            })
        },
    },
];

/// Reads instructions. Of repeated ones the first is kept; the others are counted in the report, for a policy would
/// answer them twice with the same words.
///
/// Known forms: `instruction, input?, history?` (Alpaca's, AlpacaEval's and our own), any of our types around an
/// instruction, `prompt`, `messages` and ShareGPT's `conversations` (the last user turn is the instruction), and
/// pairs of dialogues.
///
/// # Errors
/// When the file cannot be read, has no known form, holds a bad record that is not skipped, or holds nothing.
pub fn read_instructions(path: &Path, options: &ReadOptions) -> Result<(Vec<Instruction>, ReadReport)> {
    let (mut instructions, mut report) = read(path, options, "instructions", FORMS)?;
    let mut seen = HashSet::new();
    let before = instructions.len();
    instructions.retain(|instruction| seen.insert(instruction.id.clone()));
    report.n_duplicates = before - instructions.len();
    Ok((instructions, report))
}

/// The instruction of a record: our own object under `instruction`, or Alpaca's fields. Its id follows from its content,
/// whatever a stored id says.
pub(super) fn instruction(fields: &Fields) -> Result<Instruction, FieldProblem> {
    if let Some(inner @ Value::Object(_)) = fields.get("instruction") {
        let inner = object(inner, "instruction")?;
        return flat(inner).map_err(|problem| problem.under("instruction"));
    }
    flat(fields)
}

fn flat(fields: &Fields) -> Result<Instruction, FieldProblem> {
    let words = text(fields, "instruction")?;
    let input = optional_text(fields, "input")?;
    let history = match present(fields, "history") {
        Some(Value::Array(turns)) if turns.is_empty() => Vec::new(),
        Some(_) => messages(fields, "history")?,
        None => Vec::new(),
    };
    with_dataset(Instruction::with_history(words, input, history), fields)
}

/// Marks an instruction with the record's `dataset`, when it names one.
pub(super) fn with_dataset(instruction: Instruction, fields: &Fields) -> Result<Instruction, FieldProblem> {
    Ok(match optional_text(fields, "dataset")? {
        Some(dataset) => instruction.from_dataset(dataset),
        None => instruction,
    })
}

/// The last user turn with what came before it; an answer after it is ignored.
fn last_asked(fields: &Fields, key: &str) -> Result<Instruction, FieldProblem> {
    let mut turns = messages(fields, key)?;
    while turns.last().is_some_and(|last| last.role == Role::Assistant) {
        turns.pop();
    }
    asked(turns, key)
}

/// A record of our own form as JSON, with ids put in where they are missing, so that hand-written records need none. Their
/// values do not matter: [`with_true_id`] and its like replace them.
pub(super) fn with_ids(fields: &Fields) -> Value {
    let mut fields = fields.clone();
    if let Some(Value::Object(instruction)) = fields.get_mut("instruction") {
        instruction.entry("id").or_insert_with(|| Value::from(""));
    }
    if let Some(Value::Object(comparison)) = fields.get_mut("comparison") {
        *comparison = match with_ids(comparison) {
            Value::Object(comparison) => comparison,
            _ => Fields::new(),
        };
    }
    fields.entry("id").or_insert_with(|| Value::from(""));
    Value::Object(fields)
}

/// The same instruction with the id that follows from its content.
pub(super) fn with_true_id(instruction: Instruction) -> Instruction {
    let Instruction { instruction, input, history, dataset, .. } = instruction;
    let mut renewed = Instruction::with_history(instruction, input.as_deref(), history);
    renewed.dataset = dataset;
    renewed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> Result<(Vec<Instruction>, ReadReport)> {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("x.jsonl");
        std::fs::write(&path, text).expect("written");
        read_instructions(&path, &ReadOptions::default())
    }

    #[test]
    fn every_form_gives_the_same_instruction() {
        let expected = Instruction::new("Add.", Some("1 2"));
        for line in [
            r#"{"instruction": "Add.", "input": "1 2", "output": "3"}"#,
            r#"{"id": "stale", "instruction": "Add.", "input": "1 2"}"#,
            r#"{"instruction": {"instruction": "Add.", "input": "1 2"}, "output": "3"}"#,
            r#"{"comparison": {"instruction": {"instruction": "Add.", "input": "1 2"}}}"#,
        ] {
            assert_eq!(read_text(line).expect(line).0, std::slice::from_ref(&expected), "{line}");
        }
        let expected = Instruction::new("Add.", None);
        for line in [
            r#"{"instruction": "Add.", "input": null, "history": [], "dataset": null}"#,
            r#"{"prompt": "Add."}"#,
            r#"{"prompt": [{"role": "user", "content": "Add."}], "completion": "3"}"#,
            r#"{"messages": [{"role": "user", "content": "Add."}, {"role": "assistant", "content": "3"}]}"#,
            r#"{"conversations": [{"from": "human", "value": "Add."}, {"from": "gpt", "value": "3"}]}"#,
            r#"{"chosen": "\n\nHuman: Add.\n\nAssistant: 3", "rejected": "\n\nHuman: Add.\n\nAssistant: 4"}"#,
        ] {
            assert_eq!(read_text(line).expect(line).0, std::slice::from_ref(&expected), "{line}");
        }
    }

    #[test]
    fn repeated_instructions_are_counted() {
        let (instructions, report) =
            read_text("{\"instruction\": \"a\"}\n{\"instruction\": \"a\", \"input\": \"\"}").expect("read");
        assert_eq!((instructions.len(), report.n_records, report.n_duplicates), (1, 2, 1));
    }
}
