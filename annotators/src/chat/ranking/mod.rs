//! A judge that ranks answers: two of them as an annotator, any number as a reward model.
//!
//! As an annotator it is AlpacaEval 1's judge with a prompt of our own. As a reward model it is shown all answers to an
//! instruction at once, which costs one question for n answers in place of n (n − 1) / 2, and gives ranked lists
//! (`[feedback] scores`) and best-of-n what they need.

mod list;
mod pair;
mod ranks;

use std::path::PathBuf;

use farmhand_core::{BuildContext, Problem, Result, RunContext};
use farmhand_endpoints::AnswerFormat;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::ask::{Asker, Question};
use super::ask_options::{AskOptions, ReplyFormat};
use super::own_prompt::read_prompt;
use super::own_question::question;
use super::prompt::{PromptFile, Variables};

pub use list::ListRankingConfig;
pub use pair::RankingConfig;
pub use ranks::read_ranks;

const EMBEDDED: &str = include_str!("../prompts/ranking.toml");
const VARIABLES: Variables = Variables { needed: &["instruction", "answers"], other: &[] };

/// What both uses of the judge have in common.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct RankOptions {
    /// The prompt, in place of the embedded one: a TOML file with `[[messages]]`, which can show `instruction` and `answers`, a
    /// list of answers with `name` and `output`. The reply is a JSON list of `model`, a name, and `rank`, 1 for the best.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt: Option<PathBuf>,
    /// Whom it asks.
    #[serde(flatten)]
    pub ask: AskOptions,
}

impl Default for RankOptions {
    fn default() -> Self {
        Self { prompt: None, ask: AskOptions { max_tokens: 256, ..AskOptions::default() } }
    }
}

/// A judge that is ready to rank.
pub(super) struct Ranker {
    ask: AskOptions,
    pub(super) asker: Asker,
    prompt: PromptFile,
}

impl Ranker {
    fn build(options: &RankOptions, ctx: &BuildContext<'_>) -> Result<Self> {
        options.ask.model()?;
        let prompt = read_prompt(options.prompt.as_deref(), EMBEDDED, VARIABLES, ctx)?;
        Ok(Self { ask: options.ask.clone(), asker: Asker::new(&options.ask.server, &options.ask.keep, ctx)?, prompt })
    }

    /// The question that shows these answers, named `model_1`, `model_2`, … in their order.
    fn question(&self, instruction: &str, outputs: &[&str], ctx: &RunContext<'_>) -> Result<(Question, u64)> {
        let answer = |(i, output): (usize, &&str)| json!({ "name": name(i), "output": output });
        let answers: Vec<Value> = outputs.iter().enumerate().map(answer).collect();
        let prompt = self.prompt.fill(&json!({ "instruction": instruction, "answers": answers }))?;
        question(&self.ask, prompt, self.format(outputs.len()), ctx)
    }

    /// A list cannot stand alone where a server promises an object; the schema puts it into one.
    fn format(&self, n: usize) -> AnswerFormat {
        match self.ask.format {
            ReplyFormat::Json => AnswerFormat::Text,
            _ => self.ask.format("ranking", || schema(n)),
        }
    }
}

impl RankOptions {
    fn problems(&self) -> Vec<Problem> {
        self.ask.problems()
    }
}

/// The name under which the judge sees the answer of this index.
fn name(index: usize) -> String {
    format!("model_{}", index + 1)
}

/// The reply's JSON Schema.
fn schema(n: usize) -> Value {
    let names: Vec<String> = (0..n).map(name).collect();
    let entry = json!({
        "type": "object", "additionalProperties": false, "required": ["model", "rank"],
        "properties": { "model": { "enum": names }, "rank": { "type": "number" } },
    });
    json!({
        "type": "object", "additionalProperties": false, "required": ["ranking"],
        "properties": { "ranking": { "type": "array", "items": entry } },
    })
}
