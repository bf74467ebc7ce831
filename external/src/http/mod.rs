//! A server as a reward model: OpenRLHF's, vLLM's, or a few lines of one's own.
//!
//! Answers go out in batches, several at a time, by the client that asks judges too: it tries again what may pass, waits as long as a
//! server asks, and leaves a failing one alone. A score must depend on its item alone.

mod form;
#[cfg(test)]
mod tests;
mod turns;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use farmhand_core::types::Response;
use farmhand_core::{BuildContext, Error, Problem, Result, RewardModel, RewardModelConfig, RunContext, register};
use farmhand_endpoints::{Client, EndpointOptions, Failure, FailureKind, wait};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use form::Form;
pub use turns::Turns;

register! {
    kind: RewardModel, name: "http", config: HttpRewardModelConfig,
    summary: "a server that scores answers: OpenRLHF's, vLLM's, or one of one's own",
}

/// Options of `[reward_model.http]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HttpRewardModelConfig {
    /// The server; `base_url` is its address, with or without `/v1`, up to `route`. `max_concurrent` requests are under way at a time, 8
    /// by default; `grace_secs` is 0, for scores are asked for again.
    pub server: EndpointOptions,
    /// What it is sent and answers: `plain`, the default, `openrlhf`, `vllm_score`, `vllm_classify` or `vllm_pooling`.
    pub form: Form,
    /// Where it is asked, after the address; unset: `score` for `plain`, `get_reward` for `openrlhf`, and as vLLM calls it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    /// The model's name at the server; unset: none is sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// How a conversation becomes one text, for `openrlhf`, `vllm_classify` and `vllm_pooling`. vLLM's two render it themselves when this
    /// is unset, by the model's own chat template, one conversation a request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub turns: Option<Turns>,
    /// Further fields of every request: any table. vLLM's forms send `use_activation = false` where it says nothing else, for the score
    /// before a sigmoid squeezes it.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub fields: BTreeMap<String, Value>,
    /// Which of several numbers an answer has is its score, for `vllm_classify` and `vllm_pooling`; unset: it must have one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class: Option<usize>,
    /// Items of one request at most, ≥ 1.
    pub batch_size: usize,
}

impl Default for HttpRewardModelConfig {
    fn default() -> Self {
        Self {
            server: EndpointOptions { max_concurrent: 8, grace_secs: 0.0, ..EndpointOptions::default() },
            form: Form::Plain,
            route: None,
            model: None,
            turns: None,
            fields: BTreeMap::new(),
            class: None,
            batch_size: 64,
        }
    }
}

impl HttpRewardModelConfig {
    fn route(&self) -> &str {
        self.route.as_deref().unwrap_or(self.form.route())
    }

    fn scorer(&self, client: Client) -> Scorer {
        Scorer { config: Arc::new(self.clone()), client }
    }
}

#[typetag::serde(name = "http")]
impl RewardModelConfig for HttpRewardModelConfig {
    fn build(&self, ctx: &BuildContext<'_>) -> Result<Box<dyn RewardModel>> {
        Ok(Box::new(self.scorer(Client::from_options(&self.server, ctx)?)))
    }

    fn problems(&self) -> Vec<Problem> {
        let mut problems: Vec<Problem> = self.server.problems().into_iter().map(|problem| problem.under("server")).collect();
        if self.batch_size == 0 {
            problems.push(Problem::new("batch_size", "expected at least 1, got 0"));
        }
        if let Some(route) = &self.route
            && (route.starts_with('/') || route.is_empty() || !route.bytes().all(|byte| byte.is_ascii_graphic()))
        {
            let message = format!("expected what follows the address and a slash, got `{route}`");
            problems.push(Problem::new("route", message).with_hint("for example `get_reward`"));
        }
        match &self.turns {
            Some(_) if !self.form.has_turns() => {
                let message = format!("form `{}` sends instruction and answer apart, so nothing is rendered", self.form.name());
                problems.push(Problem::new("turns", message));
            }
            Some(turns) => problems.extend(turns.problems().into_iter().map(|problem| problem.under("turns"))),
            None if self.form == Form::Openrlhf => {
                let hint = "as its chat template, for example `turns = { user = \"<|im_start|>user\\n{text}<|im_end|>\\n\", \
                            assistant = \"<|im_start|>assistant\\n{text}<|im_end|>\\n\" }`";
                let message =
                    "form `openrlhf` sends whole conversations as text, and this says how the model behind it writes them";
                problems.push(Problem::new("turns", message).with_hint(hint));
            }
            None => {}
        }
        if self.class.is_some() && !self.form.has_classes() {
            problems.push(Problem::new("class", format!("form `{}` answers with one number each", self.form.name())));
        }
        problems
    }
}

struct Scorer {
    config: Arc<HttpRewardModelConfig>,
    client: Client,
}

impl RewardModel for Scorer {
    fn score(&mut self, items: &[Response<'_>], ctx: &RunContext<'_>) -> Result<Vec<f64>> {
        let batches = items.chunks(self.config.form.batch_size(&self.config));
        let requests: Vec<_> = batches.map(|batch| self.request(batch)).collect();
        // What is wrong with one answer is wrong with the next one too: no use waiting for the others.
        let stop_at_a_failure = |_: usize, result: &Result<Scored, Failure>| match result {
            Ok(Ok(_)) => ControlFlow::Continue(()),
            _ => ControlFlow::Break(()),
        };
        let answers = wait(self.client.in_parallel(requests, ctx.cancel, stop_at_a_failure));
        for warning in self.client.take_warnings() {
            ctx.events.warn(&warning);
        }
        ctx.cancel.check()?;
        let mut scores = Vec::with_capacity(items.len());
        let mut n_missing = 0;
        for answer in answers {
            match answer {
                Some(Ok(Ok(of_batch))) => scores.extend(of_batch),
                Some(Ok(Err(what))) => return Err(self.broke(&what)),
                Some(Err(failure)) => return Err(self.explained(failure)),
                None => n_missing += 1,
            }
        }
        if n_missing > 0 {
            return Err(Error::other(format!("{n_missing} requests to `{}` were never answered", self.name())));
        }
        Ok(scores)
    }
}

/// The scores of a batch, or what is wrong with the answer.
type Scored = Result<Vec<f64>, String>;

impl Scorer {
    fn request(&self, batch: &[Response<'_>]) -> impl Future<Output = Result<Scored, Failure>> + Send + 'static {
        let (config, n) = (self.config.clone(), batch.len());
        let answer = self.client.post_json(self.config.route(), config.form.request(&config, batch));
        async move { answer.await.map(|answer| config.form.scores(&config, &answer, n)) }
    }

    /// The server, as messages name it.
    fn name(&self) -> String {
        format!("{}/{}", self.config.server.base_url.trim_end_matches('/').trim_end_matches("/v1"), self.config.route())
    }

    fn broke(&self, what: &str) -> Error {
        let hint = format!("`form = \"{}\"` expects {}", self.config.form.name(), self.config.form.answer());
        Error::broken_contract(format!("reward server `{}` {what}", self.name())).with_hint(hint)
    }

    /// The failure with a hint that fits a reward server.
    fn explained(&self, failure: Failure) -> Error {
        let form = self.config.form;
        let hint = match failure.kind {
            FailureKind::Unreachable => "is the server running, and is `server.base_url` its address?".to_owned(),
            FailureKind::NotFound => {
                format!("it is asked at `{}`; `route` says otherwise, and `form` is `{}`", self.name(), form.name())
            }
            FailureKind::Garbage => format!("`form = \"{}\"` expects {}; NaN is no JSON", form.name(), form.answer()),
            FailureKind::TimedOut => "raise `server.timeout_secs`, or lower `batch_size`".to_owned(),
            _ => return Error::from(failure),
        };
        Error::from(failure).with_hint(hint)
    }
}
