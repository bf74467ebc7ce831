//! Whom a judge asks: the options that every judge behind a server has.

use std::path::PathBuf;

use farmhand_core::{Error, Problem, Result};
use farmhand_endpoints::{AnswerFormat, Api, Decoding, EndpointOptions, PriceOptions};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Whom a judge asks, and where what was answered is kept. Part of the options of each of our own judges.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct AskOptions {
    /// The model's name at the server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The server.
    pub server: EndpointOptions,
    /// Softmax temperature of the reply, ≥ 0; 0 is greedy.
    pub temperature: f64,
    /// Tokens of a reply at most, ≥ 1.
    pub max_tokens: u32,
    /// Send a seed with every question, which follows from the run's seed and the question. Unset: none is sent, and the run's
    /// seed only tells samples apart.
    pub send_seed: bool,
    /// In what form the reply is asked for: `text`, the default, `json` or `json_schema`, where the server can hold to one.
    pub format: ReplyFormat,
    /// What replies cost, and where they are kept.
    #[serde(flatten)]
    pub keep: KeepOptions,
}

/// How questions go, what replies cost, and where they are kept. A judge's options take these in with `#[serde(flatten)]`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct KeepOptions {
    /// What tokens cost.
    #[serde(flatten)]
    pub price: PriceOptions,
    /// The store of replies, in which a question that was answered before is found again; unset: `judgements.db` in the cache
    /// folder, which all runs share, or beside the configuration where there is no such folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store: Option<PathBuf>,
    /// Send questions in batches: the server answers within a day and, at OpenAI, for half the price. Unset: one request a question.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch: Option<Batching>,
    /// Ask again what failed for good before (a refusal, an answer that cannot be read, a text that is too long): once more a run. What was
    /// answered stays in the store. Failures that may pass are always asked again.
    pub retry_failures: bool,
}

/// How questions go in batches, by OpenAI's interface for them. A stopped or killed run finds its batches again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Batching {
    /// Questions of one batch at most, in [1, 50000].
    pub max_requests: usize,
    /// Seconds between two looks at the batches, > 0.
    pub poll_secs: f64,
}

impl Default for Batching {
    fn default() -> Self {
        Self { max_requests: 20_000, poll_secs: 30.0 }
    }
}

impl KeepOptions {
    /// Everything out of range with this server, paths relative to the table that holds these options.
    pub(super) fn problems(&self, server: Option<&EndpointOptions>) -> Vec<Problem> {
        let mut problems = self.price.problems();
        let Some(batch) = &self.batch else { return problems };
        if !(1..=50_000).contains(&batch.max_requests) {
            problems.push(Problem::new("batch.max_requests", format!("expected 1 to 50000, got {}", batch.max_requests)));
        }
        if !(batch.poll_secs > 0.0 && batch.poll_secs <= 86_400.0) {
            problems.push(Problem::new("batch.poll_secs", format!("expected a number in (0, 86400], got {}", batch.poll_secs)));
        }
        if server.is_some_and(|server| server.api == Api::Anthropic) {
            problems.push(
                Problem::new("batch", "Anthropic's interface is asked one request at a time").with_hint("leave `batch` out"),
            );
        }
        problems
    }
}

/// In what form a reply is asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReplyFormat {
    /// Any text; the prompt says what it has to hold.
    #[default]
    Text,
    /// The server is asked for a JSON object.
    Json,
    /// The server is asked for JSON that keeps the judge's schema.
    JsonSchema,
}

impl Default for AskOptions {
    fn default() -> Self {
        Self {
            model: None,
            server: EndpointOptions::default(),
            temperature: 0.0,
            max_tokens: 256,
            send_seed: false,
            format: ReplyFormat::Text,
            keep: KeepOptions::default(),
        }
    }
}

impl AskOptions {
    /// Everything out of range, paths relative to the table that holds these options.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems: Vec<Problem> = self.server.problems().into_iter().map(|problem| problem.under("server")).collect();
        if self.model.as_ref().is_none_or(String::is_empty) {
            problems.push(
                Problem::new("model", "a judge behind a server needs the name of a model")
                    .with_hint("a name that the server lists at `/v1/models`"),
            );
        }
        if !(0.0..=10.0).contains(&self.temperature) {
            problems.push(Problem::new("temperature", format!("expected a number in [0, 10], got {}", self.temperature)));
        }
        if self.max_tokens == 0 {
            problems.push(Problem::new("max_tokens", "expected at least 1, got 0"));
        }
        problems.extend(self.keep.problems(Some(&self.server)));
        problems
    }

    /// The model's name.
    ///
    /// # Errors
    /// When there is none.
    pub(super) fn model(&self) -> Result<&str> {
        self.model.as_deref().filter(|name| !name.is_empty()).ok_or_else(|| {
            Error::invalid_config("`model`: a judge behind a server needs the name of a model")
                .with_hint("a name that the server lists at `/v1/models`")
        })
    }

    /// How a reply is decoded, without a seed.
    pub(super) fn decoding(&self) -> Decoding {
        Decoding { max_tokens: self.max_tokens, temperature: self.temperature, ..Decoding::default() }
    }

    /// The form of a reply whose JSON Schema is `schema`.
    pub(super) fn format(&self, name: &str, schema: impl FnOnce() -> Value) -> AnswerFormat {
        match self.format {
            ReplyFormat::Text => AnswerFormat::Text,
            ReplyFormat::Json => AnswerFormat::Json,
            ReplyFormat::JsonSchema => AnswerFormat::JsonSchema { name: name.to_owned(), schema: schema() },
        }
    }
}
