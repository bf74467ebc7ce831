//! Chat templates: a tokenizer's Jinja template, rendered as transformers renders it.
//!
//! The environment follows `apply_chat_template`: blocks trimmed (`trim_blocks`, `lstrip_blocks`), Python's string
//! methods, loop controls, `raise_exception`, a `tojson` that writes as Python's `json.dumps`, and the
//! `{% generation %}` mark, which renders its content. One thing differs on purpose: `strftime_now` tells
//! [`TEMPLATE_DATE`](crate::TEMPLATE_DATE) and not today, so that a prompt does not depend on the day it was made.

use std::collections::BTreeMap;

use farmhand_core::types::{Message, Role};
use farmhand_core::{Error, Result};
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, ErrorKind, Value};

use crate::template_functions::{strftime, tojson};

const NAME: &str = "chat";

/// A compiled chat template.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    environment: Environment<'static>,
}

impl ChatTemplate {
    /// Compiles a template. `special_tokens` are the variables it may use, such as `bos_token`.
    ///
    /// # Errors
    /// When the template is not valid Jinja.
    pub fn new(source: &str, special_tokens: &BTreeMap<String, String>) -> Result<Self> {
        let mut environment = Environment::new();
        environment
            .set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().expect("the usual delimiters"));
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |message: String| -> Result<Value, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_function("strftime_now", |format: String| strftime(&format));
        environment.add_filter("tojson", tojson);
        for (name, token) in special_tokens {
            environment.add_global(name.clone(), token.clone());
        }
        environment
            .add_template_owned(NAME, without_generation_marks(source))
            .map_err(|error| Error::invalid_data("the chat template is not valid").with_source(error))?;
        Ok(Self { environment })
    }

    /// The text of a conversation; with `add_generation_prompt`, up to where the model's next turn begins.
    ///
    /// # Errors
    /// When the template refuses the conversation, for example because it wants roles to alternate.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        let template = self.environment.get_template(NAME).expect("added when compiled");
        let context = minijinja::context! {
            messages => messages.iter().map(turn).collect::<Vec<Value>>(),
            tools => (),
            documents => (),
            add_generation_prompt => add_generation_prompt,
        };
        template.render(context).map_err(|error| {
            let reason = error.detail().map_or_else(|| error.to_string(), str::to_owned);
            let roles: Vec<&str> = messages.iter().map(|message| message.role.name()).collect();
            Error::invalid_data(format!("the chat template refuses a conversation of {}: {reason}", roles.join(", ")))
                .with_hint("check the order of the turns, or use another prompt format")
        })
    }

    /// What the template writes between the generation prompt and an answer (for example one space), and after it.
    /// The second is `None` when an answer does not appear in the rendered conversation as it is.
    pub(crate) fn around_answer(&self) -> Result<(String, Option<String>)> {
        const PROBE: &str = "farmhand0probe";
        let turn = |role, content: &str| Message { role, content: content.to_owned() };
        let question = [turn(Role::User, "question")];
        let prompt = self.render(&question, true)?;
        let full = self.render(&[question[0].clone(), turn(Role::Assistant, PROBE)], false)?;
        let Some((head, tail)) = full.rsplit_once(PROBE) else { return Ok((String::new(), None)) };
        let between = head.strip_prefix(prompt.as_str()).filter(|text| text.trim().is_empty()).unwrap_or_default();
        Ok((between.to_owned(), Some(tail.to_owned())))
    }
}

fn turn(message: &Message) -> Value {
    Value::from_pairs([("role", message.role.name()), ("content", message.content.as_str())])
}

/// `{% generation %}` marks what the model wrote, for masks made by others; here it becomes a condition that always holds,
/// which keeps the tag's whitespace control.
fn without_generation_marks(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start);
        let Some(end) = tag.find("%}") else { break };
        let (tag, after) = tag.split_at(end + 2);
        out.push_str(before);
        match tag[2..end].trim_matches(['-', '+']).trim() {
            "generation" => out.push_str(&tag.replacen("generation", "if true", 1)),
            "endgeneration" => out.push_str(&tag.replacen("endgeneration", "endif", 1)),
            _ => out.push_str(tag),
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize)]
    struct Golden {
        name: String,
        template: String,
        special_tokens: BTreeMap<String, String>,
        cases: Vec<Case>,
    }

    #[derive(Deserialize)]
    struct Case {
        messages: Vec<Message>,
        add_generation_prompt: bool,
        text: Option<String>,
        error: Option<String>,
    }

    /// Made by `tests/golden_text/make_goldens.py`.
    fn goldens() -> Vec<Golden> {
        serde_json::from_str(include_str!("../tests/golden_text/chat_templates.json")).expect("goldens")
    }

    #[test]
    fn texts_and_refusals_are_those_of_transformers() {
        let mut n_cases = 0;
        for golden in goldens() {
            let template = ChatTemplate::new(&golden.template, &golden.special_tokens).expect(&golden.name);
            for (index, case) in golden.cases.iter().enumerate() {
                let ours = template.render(&case.messages, case.add_generation_prompt);
                match (&case.text, &case.error, ours) {
                    (Some(text), None, Ok(ours)) => assert_eq!(&ours, text, "{} {index}", golden.name),
                    (None, Some(reason), Err(error)) => assert!(error.message().contains(reason.as_str()), "{error}"),
                    (_, _, ours) => panic!("{} {index}: {ours:?}", golden.name),
                }
                n_cases += 1;
            }
        }
        assert!(n_cases >= 100);
    }

    #[test]
    fn the_places_around_an_answer_are_found() {
        let around = |name: &str| {
            let golden = goldens().into_iter().find(|golden| golden.name == name).expect("known");
            ChatTemplate::new(&golden.template, &golden.special_tokens).expect("compiles").around_answer().expect("renders")
        };
        assert_eq!(around("smollm2"), (String::new(), Some("<|im_end|>\n".to_owned())));
        assert_eq!(around("mistral"), (" ".to_owned(), Some("</s>".to_owned())));
        assert_eq!(around("zephyr"), (String::new(), Some("</s>\n".to_owned())));
    }

    #[test]
    fn a_broken_template_is_an_error() {
        let error = ChatTemplate::new("{% for m in messages %}", &BTreeMap::new()).expect_err("not closed");
        assert_eq!(error.kind(), farmhand_core::ErrorKind::InvalidData);
    }
}
