//! Where servers are and how they are asked: what every component that uses one lets its users set.

use std::path::PathBuf;

use farmhand_core::Problem;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::server_url::ServerUrl;

/// Where servers are and how they are asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub struct EndpointOptions {
    /// The interface that the server speaks: `openai`, the default, or `anthropic`.
    pub api: Api,
    /// The server's address up to and with `/v1`, as OpenAI's own client takes it.
    pub base_url: String,
    /// As whom it is asked.
    #[serde(flatten)]
    pub account: Account,
    /// Further places that serve the same model: requests go to whichever is least busy, and when one fails, to the others.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<FurtherEndpoint>,
    /// Requests under way at a time, over all keys and endpoints, ≥ 1.
    pub max_concurrent: usize,
    /// Requests sent with each key in any minute, ≥ 1; unset: as many as there are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests_per_minute: Option<u32>,
    /// Tokens of prompts and answers with each key in any minute, ≥ 1; unset: as many as there are. Before a request a token is
    /// taken to be four bytes and an answer as long as it may be; afterwards the server's own count replaces that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_per_minute: Option<u32>,
    /// Seconds one try of a request may take, > 0.
    pub timeout_secs: f64,
    /// Seconds all tries of a request may take with the waits between them, from its turn on, > 0; unset: as long as they do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_timeout_secs: Option<f64>,
    /// Further tries of a request that failed in a way that may pass: a rate limit, an overloaded server, a lost connection,
    /// an unreadable answer. A request that ran out of time is tried once more at most.
    pub retries: u32,
    /// Failures in a row (no connection, no answer in time, status 5xx) after which a server is left alone for a while; then
    /// one request finds out whether it is back. When it is not after `retries` such trials, all requests fail at once.
    /// 0: it is asked on and on.
    pub circuit_failures: u32,
    /// Seconds that requests under way are waited for when the user asks to stop, ≥ 0: their answers are paid for.
    pub grace_secs: f64,
}

/// As whom a server is asked, and who pays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Account {
    /// The environment variable that holds the API key; unset: no key is sent. Several keys, separated by commas, share the
    /// requests, and when one is refused the others go on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_key_env: Option<String>,
    /// The file that holds the API key, or several, one a line, instead of an environment variable. Others than its owner and
    /// group must not be able to read it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_key_file: Option<PathBuf>,
    /// The organisation that pays, sent as `OpenAI-Organization`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub organization: Option<String>,
    /// The project that pays, sent as `OpenAI-Project`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
}

/// The interface that a server speaks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Api {
    /// OpenAI's, as vLLM, llama.cpp and most others speak it.
    #[default]
    Openai,
    /// Anthropic's messages.
    Anthropic,
}

/// A further place that serves the same model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub struct FurtherEndpoint {
    /// Its address; unset: the same, for another key or organisation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_url: Option<String>,
    /// As whom it is asked.
    #[serde(flatten)]
    pub account: Account,
    /// Its share of the requests beside a key of the first endpoint, which has 1; > 0.
    pub weight: f64,
}

impl Default for FurtherEndpoint {
    fn default() -> Self {
        Self { base_url: None, account: Account::default(), weight: 1.0 }
    }
}

impl Default for EndpointOptions {
    fn default() -> Self {
        Self {
            api: Api::Openai,
            base_url: "http://127.0.0.1:8000/v1".to_owned(),
            account: Account::default(),
            endpoints: Vec::new(),
            max_concurrent: 32,
            requests_per_minute: None,
            tokens_per_minute: None,
            timeout_secs: 600.0,
            total_timeout_secs: None,
            retries: 5,
            circuit_failures: 10,
            grace_secs: 60.0,
        }
    }
}

impl EndpointOptions {
    /// Everything out of range, paths relative to these options.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = address_problems(&self.base_url);
        problems.extend(self.account.problems());
        for (i, endpoint) in self.endpoints.iter().enumerate() {
            problems.extend(endpoint.problems().into_iter().map(|problem| problem.under(&format!("endpoints.{i}"))));
        }
        let mut at_least_one = |path: &str, value: Option<u64>| {
            if value == Some(0) {
                problems.push(Problem::new(path, "expected at least 1, got 0"));
            }
        };
        at_least_one("max_concurrent", Some(self.max_concurrent as u64));
        at_least_one("requests_per_minute", self.requests_per_minute.map(u64::from));
        at_least_one("tokens_per_minute", self.tokens_per_minute.map(u64::from));
        let mut seconds = |path: &str, value: f64, may_be_zero: bool| {
            if !(value <= 1e6 && (value > 0.0 || may_be_zero && value == 0.0)) {
                let open = if may_be_zero { '[' } else { '(' };
                problems.push(Problem::new(path, format!("expected a number in {open}0, 1e6], got {value}")));
            }
        };
        seconds("timeout_secs", self.timeout_secs, false);
        seconds("total_timeout_secs", self.total_timeout_secs.unwrap_or(1.0), false);
        seconds("grace_secs", self.grace_secs, true);
        problems
    }
}

impl FurtherEndpoint {
    fn problems(&self) -> Vec<Problem> {
        let mut problems = self.base_url.as_deref().map(address_problems).unwrap_or_default();
        problems.extend(self.account.problems());
        if !(self.weight > 0.0 && self.weight.is_finite()) {
            problems.push(Problem::new("weight", format!("expected a number > 0, got {}", self.weight)));
        }
        if self.base_url.is_none() && self.account == Account::default() {
            problems.push(Problem::new("", "names neither an address nor a key, so it is the first endpoint again"));
        }
        problems
    }
}

impl Account {
    /// Whether it has a key of its own.
    pub(crate) fn has_key(&self) -> bool {
        self.api_key_env.is_some() || self.api_key_file.is_some()
    }

    fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        if let Some(name) = &self.api_key_env {
            if name.is_empty() || name.contains(['=', '\0', ' ', ',']) {
                let message = "expected the name of an environment variable";
                problems.push(Problem::new("api_key_env", message).with_hint("the key itself never stands in a configuration"));
            }
            if self.api_key_file.is_some() {
                problems.push(Problem::new("api_key_file", "expected nothing beside `api_key_env`: a key comes from one place"));
            }
        }
        let is_wrong = |text: &str| text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic());
        for (path, text) in [("organization", &self.organization), ("project", &self.project)] {
            if text.as_deref().is_some_and(is_wrong) {
                problems.push(Problem::new(path, "expected an id of letters, digits, `-` and `_`"));
            }
        }
        problems
    }
}

fn address_problems(base_url: &str) -> Vec<Problem> {
    let wrong = ServerUrl::parse(base_url).err();
    let problem = |message| Problem::new("base_url", message).with_hint("for example `http://127.0.0.1:8000/v1`");
    wrong.into_iter().map(problem).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_work_is_found_before_anything_is_asked() {
        assert_eq!(EndpointOptions::default().problems(), []);
        let options = EndpointOptions {
            base_url: "localhost:8000".to_owned(),
            account: Account {
                api_key_env: Some("sk-12 34".to_owned()),
                api_key_file: Some("key".into()),
                organization: Some(String::new()),
                project: Some("a b".to_owned()),
            },
            endpoints: vec![
                FurtherEndpoint { base_url: Some("ftp://h".to_owned()), weight: 0.0, ..FurtherEndpoint::default() },
                FurtherEndpoint::default(),
            ],
            max_concurrent: 0,
            requests_per_minute: Some(0),
            tokens_per_minute: Some(0),
            timeout_secs: f64::NAN,
            total_timeout_secs: Some(0.0),
            grace_secs: -1.0,
            ..EndpointOptions::default()
        };
        let paths: Vec<String> = options.problems().into_iter().map(|problem| problem.path).collect();
        let expected = [
            "base_url",
            "api_key_env",
            "api_key_file",
            "organization",
            "project",
            "endpoints.0.base_url",
            "endpoints.0.weight",
            "endpoints.1",
            "max_concurrent",
            "requests_per_minute",
            "tokens_per_minute",
            "timeout_secs",
            "total_timeout_secs",
            "grace_secs",
        ];
        assert_eq!(paths, expected);
    }
}
