//! Reads answers to imitate.

use std::path::Path;

use super::conversation::{answer, answered, messages, prompt};
use super::fields::{is_list, is_object, is_text, text};
use super::form::{Form, Parsed, read};
use super::instructions::{instruction, with_dataset};
use super::report::{ReadOptions, ReadReport};
use crate::error::Result;
use crate::types::Demonstration;

const FORMS: &[Form<Demonstration>] = &[
    Form {
        name: "farmhand",
        keys: "`instruction {instruction, input?, history?, dataset?}`, `output`",
        fits: |fields| is_object(fields, "instruction") && fields.contains_key("output"),
        parse: |fields, _| one(instruction(fields)?, text(fields, "output")?.to_owned()),
    },
    Form {
        name: "alpaca",
        keys: "`instruction`, `input`?, `output`",
        fits: |fields| is_text(fields, "instruction") && fields.contains_key("output"),
        parse: |fields, _| one(instruction(fields)?, text(fields, "output")?.to_owned()),
    },
    Form {
        name: "prompt_completion",
        keys: "`prompt`, `completion`: texts or messages",
        fits: |fields| fields.contains_key("prompt") && fields.contains_key("completion"),
        parse: |fields, _| one(with_dataset(prompt(fields, "prompt")?, fields)?, answer(fields, "completion")?),
    },
    Form {
        name: "messages",
        keys: "`messages [{role, content}]`",
        fits: |fields| is_list(fields, "messages"),
        parse: |fields, _| {
            let (instruction, output) = answered(messages(fields, "messages")?, "messages")?;
            one(with_dataset(instruction, fields)?, output)
        },
    },
    Form {
        name: "sharegpt",
        keys: "`conversations [{from, value}]`",
        fits: |fields| is_list(fields, "conversations"),
        parse: |fields, _| {
            let (instruction, output) = answered(messages(fields, "conversations")?, "conversations")?;
            one(with_dataset(instruction, fields)?, output)
        },
    },
];

fn one(instruction: crate::types::Instruction, output: String) -> Result<Parsed<Demonstration>, super::fields::FieldProblem> {
    Ok(Parsed::One(Demonstration { instruction, output }))
}

/// Reads demonstrations.
///
/// Known forms: our own, Alpaca's `instruction, input?, output`, `prompt, completion`, `messages`, and ShareGPT's
/// `conversations`. Of a conversation the last assistant turn is the answer and what comes before it the history;
/// earlier assistant turns are context, not answers to imitate.
///
/// # Errors
/// When the file cannot be read, has no known form, holds a bad record that is not skipped, or holds nothing.
pub fn read_demonstrations(path: &Path, options: &ReadOptions) -> Result<(Vec<Demonstration>, ReadReport)> {
    read(path, options, "demonstrations", FORMS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Instruction;

    fn read_text(text: &str) -> Result<(Vec<Demonstration>, ReadReport)> {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("x.jsonl");
        std::fs::write(&path, text).expect("written");
        read_demonstrations(&path, &ReadOptions::default())
    }

    #[test]
    fn every_form_gives_the_same_demonstration() {
        let expected = Demonstration { instruction: Instruction::new("Add 1 and 2.", None), output: "3".to_owned() };
        let ours = serde_json::to_string(&expected).expect("serialises");
        for line in [
            ours.as_str(),
            r#"{"instruction": "Add 1 and 2.", "input": "", "output": "3"}"#,
            r#"{"prompt": "Add 1 and 2.", "completion": "3"}"#,
            r#"{"prompt": [{"role": "user", "content": "Add 1 and 2."}], "completion": [{"role": "assistant", "content": "3"}]}"#,
            r#"{"messages": [{"role": "user", "content": "Add 1 and 2."}, {"role": "assistant", "content": "3"}]}"#,
            r#"{"conversations": [{"from": "human", "value": "Add 1 and 2."}, {"from": "gpt", "value": "3"}]}"#,
        ] {
            assert_eq!(read_text(line).expect(line).0, std::slice::from_ref(&expected), "{line}");
        }
    }

    #[test]
    fn missing_and_mistyped_answers_are_named() {
        let message = |text: &str| read_text(text).expect_err("refused").to_string();
        let good = r#"{"instruction": "a", "output": "b"}"#;
        assert!(
            message(&format!("{good}\n{{\"instruction\": \"a\"}}"))
                .ends_with("line 2: field `output`: expected a text, got none")
        );
        assert!(message(r#"{"instruction": "a", "output": ["b"]}"#).ends_with("field `output`: expected a text, got a list"));
        assert!(message(r#"{"instruction": "a", "input": 3, "output": "b"}"#).contains("field `input`"));
        assert!(message(r#"{"messages": [{"role": "user", "content": "a"}]}"#).contains("expected an assistant turn at the end"));
    }
}
