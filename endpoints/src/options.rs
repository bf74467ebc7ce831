//! Where a server is and how it is asked: what every component that uses one lets its users set.

use farmhand_core::Problem;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::server_url::ServerUrl;

/// Where a server is and how it is asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EndpointOptions {
    /// The server's address up to and with `/v1`, as OpenAI's own client takes it.
    pub base_url: String,
    /// The environment variable that holds the API key; unset: no key is sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_key_env: Option<String>,
    /// Requests under way at a time, ≥ 1.
    pub max_concurrent: usize,
    /// Seconds one request may take, > 0.
    pub timeout_secs: f64,
    /// Further tries of a request that failed in a way that may pass: a rate limit, an overloaded server, a lost connection,
    /// an unreadable answer. A request that ran out of time is tried once more at most.
    pub retries: u32,
}

impl Default for EndpointOptions {
    fn default() -> Self {
        Self {
            base_url: "http://127.0.0.1:8000/v1".to_owned(),
            api_key_env: None,
            max_concurrent: 32,
            timeout_secs: 600.0,
            retries: 5,
        }
    }
}

impl EndpointOptions {
    /// Everything out of range, paths relative to these options.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        if let Err(message) = ServerUrl::parse(&self.base_url) {
            problems.push(Problem::new("base_url", message).with_hint("for example `http://127.0.0.1:8000/v1`"));
        }
        if let Some(name) = &self.api_key_env
            && (name.is_empty() || name.contains(['=', '\0', ' ']))
        {
            let message = "expected the name of an environment variable";
            problems.push(Problem::new("api_key_env", message).with_hint("the key itself never stands in a configuration"));
        }
        if self.max_concurrent == 0 {
            problems.push(Problem::new("max_concurrent", "expected at least 1, got 0"));
        }
        if !(self.timeout_secs > 0.0 && self.timeout_secs <= 1e6) {
            problems.push(Problem::new("timeout_secs", format!("expected a number in (0, 1e6], got {}", self.timeout_secs)));
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_work_is_found_before_anything_is_asked() {
        assert_eq!(EndpointOptions::default().problems(), []);
        let options = EndpointOptions {
            base_url: "localhost:8000".to_owned(),
            api_key_env: Some("sk-12 34".to_owned()),
            max_concurrent: 0,
            timeout_secs: f64::NAN,
            retries: 0,
        };
        let paths: Vec<String> = options.problems().into_iter().map(|problem| problem.path).collect();
        assert_eq!(paths, ["base_url", "api_key_env", "max_concurrent", "timeout_secs"]);
    }
}
