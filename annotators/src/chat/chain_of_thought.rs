//! A judge that gives its reasons before its verdict.
//!
//! Reasons first make a judge better at what has to be worked out (Zheng et al., 2023, section 3.4), and the only way to see what
//! it goes by. They are kept with the verdict, under `explanation` in its notes.

use std::collections::BTreeMap;
use std::path::PathBuf;

use farmhand_core::types::{Comparison, Preference};
use farmhand_core::{Annotator, AnnotatorConfig, BuildContext, Problem, Result, RunContext, register};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::tie_if_identical::TieIfIdentical;

use super::ask::{Asker, Question};
use super::ask_options::AskOptions;
use super::json_reply::document;
use super::judging::{Interview, Sheet, Verdict, Verdicts};
use super::one_by_one::{OneByOne, Singly};
use super::own_prompt::read_prompt;
use super::own_question::question;
use super::parsers::{Reply, Unreadable};
use super::prompt::{PromptFile, Variables, asked};

register! {
    kind: Annotator, name: "chain_of_thought", config: ChainOfThoughtConfig,
    summary: "a language model behind a server that gives its reasons before its verdict",
    paper: "https://arxiv.org/abs/2306.05685",
}

const EMBEDDED: &str = include_str!("prompts/chain_of_thought.toml");
const VARIABLES: Variables = Variables { needed: &["instruction", "output_1", "output_2"], other: &[] };

/// Options of `[annotator.chain_of_thought]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub struct ChainOfThoughtConfig {
    /// The name its annotations carry.
    pub name: String,
    /// The prompt, in place of the embedded one: a TOML file with `[[messages]]`, which can show `instruction`, `output_1` and
    /// `output_2`. The reply is a JSON object with `explanation` and `better`: `"A"` for the answer shown first, `"B"` for the
    /// second, or `"tie"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt: Option<PathBuf>,
    /// Whom it asks.
    #[serde(flatten)]
    pub ask: AskOptions,
}

impl Default for ChainOfThoughtConfig {
    fn default() -> Self {
        let ask = AskOptions { max_tokens: 512, ..AskOptions::default() };
        Self { name: "chain_of_thought".to_owned(), prompt: None, ask }
    }
}

#[typetag::serde(name = "chain_of_thought")]
impl AnnotatorConfig for ChainOfThoughtConfig {
    fn build(&self, ctx: &BuildContext<'_>) -> Result<Box<dyn Annotator>> {
        self.ask.model()?;
        let prompt = read_prompt(self.prompt.as_deref(), EMBEDDED, VARIABLES, ctx)?;
        Ok(TieIfIdentical::around(OneByOne(ChainOfThought {
            asker: Asker::new(&self.ask.server, &self.ask.keep, ctx)?,
            config: self.clone(),
            prompt,
        })))
    }

    fn problems(&self) -> Vec<Problem> {
        let mut problems = self.ask.problems();
        if self.name.is_empty() {
            problems.push(Problem::new("name", "expected a name, got an empty text"));
        }
        problems
    }
}

struct ChainOfThought {
    config: ChainOfThoughtConfig,
    asker: Asker,
    prompt: PromptFile,
}

impl Interview for ChainOfThought {
    fn id(&self) -> &str {
        &self.config.name
    }

    fn write(&self, shown: &[Comparison], _: &Sheet, ctx: &RunContext<'_>) -> Result<(Question, u64)> {
        let Comparison { instruction, output_1, output_2, .. } = &shown[0];
        let values = json!({ "instruction": asked(instruction), "output_1": output_1, "output_2": output_2 });
        question(&self.config.ask, self.prompt.fill(&values)?, self.config.ask.format("verdict", schema), ctx)
    }

    fn read(&self, reply: Reply<'_>, _: &Sheet) -> Verdicts {
        Ok(vec![verdict(reply.text)])
    }
}

impl Singly for ChainOfThought {
    fn asker(&self) -> &Asker {
        &self.asker
    }
}

/// The reply's JSON Schema.
fn schema() -> Value {
    json!({
        "type": "object", "additionalProperties": false, "required": ["explanation", "better"],
        "properties": { "explanation": { "type": "string" }, "better": { "enum": ["A", "B", "tie"] } },
    })
}

fn verdict(text: &str) -> Result<Verdict, Unreadable> {
    let reply = document(text, '{')?;
    let better = reply["better"].as_str().ok_or_else(|| Unreadable::Unparsable("the reply has no `better`".to_owned()))?;
    let preference = match better.trim() {
        "A" | "a" => Preference::First,
        "B" | "b" => Preference::Second,
        word if word.eq_ignore_ascii_case("tie") => Preference::Tie,
        _ => return Err(Unreadable::Unparsable("`better` is neither `A`, `B` nor `tie`".to_owned())),
    };
    let explanation = reply.get("explanation").filter(|reasons| reasons.is_string());
    let notes: BTreeMap<String, Value> =
        explanation.map(|reasons| ("explanation".to_owned(), reasons.clone())).into_iter().collect();
    Ok(Verdict { notes, ..Verdict::from(preference) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verdict_and_its_reasons_are_read() {
        let read = verdict("Well.\n{\"explanation\": \"B is wrong.\", \"better\": \"A\"}").expect("a verdict");
        assert_eq!((read.preference, &read.notes["explanation"]), (Preference::First, &json!("B is wrong.")));
        assert_eq!(verdict("{'better': 'B'}").expect("a verdict").preference, Preference::Second);
        assert_eq!(verdict(r#"{"better": "Tie"}"#).expect("a verdict").preference, Preference::Tie);
        for text in ["", "A", r#"{"better": "C"}"#, r#"{"explanation": "x"}"#, r#"{"better": 1}"#] {
            assert!(verdict(text).is_err(), "{text}");
        }
    }
}
