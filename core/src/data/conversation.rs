//! Conversations in the spellings the field uses, and how they become an instruction with earlier turns.

use serde_json::Value;

use super::fields::{FieldProblem, Fields, list, object, text};
use crate::types::{Instruction, Message, Role};

/// A role in any of the usual spellings (OpenAI, ShareGPT, Open Assistant, Gemma).
fn role(name: &str) -> Option<Role> {
    match name.to_ascii_lowercase().as_str() {
        "system" => Some(Role::System),
        "user" | "human" | "prompter" => Some(Role::User),
        "assistant" | "gpt" | "model" | "bot" | "chatgpt" => Some(Role::Assistant),
        _ => None,
    }
}

/// One message: `{role, content}`, or ShareGPT's `{from, value}`.
fn message(value: &Value, path: &str) -> Result<Message, FieldProblem> {
    let fields = object(value, path)?;
    let share_gpt = fields.contains_key("from") && !fields.contains_key("role");
    let (role_key, content_key) = if share_gpt { ("from", "value") } else { ("role", "content") };
    let name = text(fields, role_key).map_err(|problem| problem.under(path))?;
    let role = role(name).ok_or_else(|| {
        FieldProblem::new(format!("{path}.{role_key}"), format!("expected `system`, `user` or `assistant`, got `{name}`"))
    })?;
    let content = text(fields, content_key).map_err(|problem| problem.under(path))?.to_owned();
    Ok(Message { role, content })
}

/// The messages under `key`, at least one.
pub(super) fn messages(fields: &Fields, key: &str) -> Result<Vec<Message>, FieldProblem> {
    let values = list(fields, key)?;
    if values.is_empty() {
        return Err(FieldProblem::new(key, "expected at least one message, got none"));
    }
    values.iter().enumerate().map(|(i, value)| message(value, &format!("{key}[{i}]"))).collect()
}

/// The instruction that a conversation ending with a user turn asks.
pub(super) fn asked(mut turns: Vec<Message>, field: &str) -> Result<Instruction, FieldProblem> {
    match turns.pop() {
        Some(Message { role: Role::User, content }) => Ok(Instruction::with_history(content, None, turns)),
        Some(last) => {
            let got = last.role.name();
            Err(FieldProblem::new(field, format!("expected a user turn before the answer, got one of `{got}`")))
        }
        None => Err(FieldProblem::new(field, "expected a user turn before the answer, got none")),
    }
}

/// A conversation that ends with an answer, split before it.
pub(super) fn answered(mut turns: Vec<Message>, field: &str) -> Result<(Instruction, String), FieldProblem> {
    match turns.pop() {
        Some(Message { role: Role::Assistant, content }) => Ok((asked(turns, field)?, content)),
        Some(last) => {
            Err(FieldProblem::new(field, format!("expected an assistant turn at the end, got one of `{}`", last.role.name())))
        }
        None => Err(FieldProblem::new(field, "expected an assistant turn at the end, got none")),
    }
}

/// The instruction under `key`: a text, an hh-rlhf transcript that ends with the assistant's turn to come, or messages.
pub(super) fn prompt(fields: &Fields, key: &str) -> Result<Instruction, FieldProblem> {
    match fields.get(key) {
        Some(Value::Array(_)) => asked(messages(fields, key)?, key),
        _ => {
            let text = text(fields, key)?;
            match transcript(text) {
                Some(mut turns) if is_transcript(text) => {
                    // `\n\nAssistant:` at the end is the cue to answer, not a turn.
                    if turns.last().is_some_and(|last| last.role == Role::Assistant && last.content.is_empty()) {
                        turns.pop();
                    }
                    asked(turns, key)
                }
                _ => Ok(Instruction::new(text, None)),
            }
        }
    }
}

/// The answer under `key`: a text, one message of the assistant, or a list with that one message.
pub(super) fn answer(fields: &Fields, key: &str) -> Result<String, FieldProblem> {
    let message = match fields.get(key) {
        Some(value @ Value::Object(_)) => message(value, key)?,
        Some(Value::Array(_)) => {
            let mut turns = messages(fields, key)?;
            let last = turns.pop();
            match last.filter(|_| turns.is_empty()) {
                Some(message) => message,
                None => return Err(FieldProblem::new(key, format!("expected one message, got {}", turns.len() + 1))),
            }
        }
        _ => return text(fields, key).map(str::to_owned),
    };
    match message.role {
        Role::Assistant => Ok(message.content),
        other => Err(FieldProblem::new(key, format!("expected an assistant turn, got one of `{}`", other.name()))),
    }
}

const HUMAN: &str = "\n\nHuman:";
const ASSISTANT: &str = "\n\nAssistant:";

/// Whether a text is one of hh-rlhf's transcripts.
pub(super) fn is_transcript(text: &str) -> bool {
    text.starts_with(HUMAN) || (text.starts_with(&HUMAN[2..]) && text.contains(ASSISTANT))
}

/// The turns of an hh-rlhf transcript (`\n\nHuman: … \n\nAssistant: …`), each without the blanks around it;
/// `None` when the text does not start with a marker.
pub(super) fn transcript(text: &str) -> Option<Vec<Message>> {
    let mut turns = Vec::new();
    let mut rest = text.trim_start();
    let mut role = if let Some(after) = rest.strip_prefix(&HUMAN[2..]) {
        rest = after;
        Role::User
    } else {
        rest = rest.strip_prefix(&ASSISTANT[2..])?;
        Role::Assistant
    };
    loop {
        let markers = [(HUMAN, Role::User), (ASSISTANT, Role::Assistant)];
        let next =
            markers.iter().filter_map(|(marker, role)| rest.find(marker).map(|at| (at, marker, *role))).min_by_key(|m| m.0);
        let content = &rest[..next.map_or(rest.len(), |(at, ..)| at)];
        turns.push(Message { role, content: content.trim().to_owned() });
        match next {
            Some((at, marker, next_role)) => (rest, role) = (&rest[at + marker.len()..], next_role),
            None => return Some(turns),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fields(value: Value) -> Fields {
        value.as_object().expect("an object").clone()
    }

    #[test]
    fn transcripts_split_into_turns() {
        let turns = transcript("\n\nHuman: hi\n\nthere\n\nAssistant: yes?  \n\nHuman: bye\n\nAssistant:").expect("a transcript");
        let texts: Vec<(&str, &str)> = turns.iter().map(|turn| (turn.role.name(), turn.content.as_str())).collect();
        assert_eq!(texts, [("user", "hi\n\nthere"), ("assistant", "yes?"), ("user", "bye"), ("assistant", "")]);
        assert!(transcript("plain text").is_none());
    }

    #[test]
    fn share_gpt_and_open_ai_spellings_are_one() {
        let ours = messages(&fields(json!({"m": [{"role": "user", "content": "a"}]})), "m");
        assert_eq!(ours, messages(&fields(json!({"m": [{"from": "human", "value": "a"}]})), "m"));
        let problem = messages(&fields(json!({"m": [{"role": "tool", "content": "a"}]})), "m").expect_err("no such role");
        assert_eq!(problem.to_string(), "field `m[0].role`: expected `system`, `user` or `assistant`, got `tool`");
        let problem = messages(&fields(json!({"m": [{"role": "user", "content": 1}]})), "m").expect_err("no text");
        assert_eq!(problem.to_string(), "field `m[0].content`: expected a text, got the number 1");
    }

    #[test]
    fn prompts_are_texts_transcripts_or_messages() {
        let plain = prompt(&fields(json!({"prompt": "Human: rights"})), "prompt").expect("read");
        assert_eq!(plain.instruction, "Human: rights");
        let turns =
            prompt(&fields(json!({"prompt": "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant:"})), "prompt").expect("read");
        assert_eq!((turns.instruction.as_str(), turns.history.len()), ("c", 2));
        let chat = json!({"prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "c"}]});
        assert_eq!(prompt(&fields(chat), "prompt").expect("read").history[0].role, Role::System);
        let ends = json!({"prompt": [{"role": "assistant", "content": "s"}]});
        assert!(prompt(&fields(ends), "prompt").is_err());
    }

    #[test]
    fn answers_are_texts_or_one_assistant_message() {
        for value in [json!("b"), json!({"role": "assistant", "content": "b"}), json!([{"from": "gpt", "value": "b"}])] {
            assert_eq!(answer(&fields(json!({"a": value})), "a").expect("read"), "b");
        }
        for value in [json!(1), json!({"role": "user", "content": "b"}), json!([])] {
            assert!(answer(&fields(json!({"a": value})), "a").is_err());
        }
    }
}
