//! One try: a request goes out, an answer comes in and is looked at.

use std::borrow::Cow;
use std::time::Duration;

use reqwest::header::{CONTENT_TYPE, HeaderValue};
use serde_json::Value;

use crate::asked_wait::asked_wait;
use crate::client::{Request, Route};
use crate::failure::{Failure, FailureKind, shorten};
use crate::upstream::Upstream;

/// What came back, whole.
pub(crate) struct Whole {
    status: u16,
    retry_after: Option<Duration>,
    body: Vec<u8>,
}

/// What came back, and from where.
pub(crate) struct Received<'a> {
    upstream: &'a Upstream,
    url: String,
    whole: &'a Whole,
    json: Result<Value, String>,
}

/// Sends a body of a content type, or reads a route.
pub(crate) async fn attempt(
    http: &reqwest::Client,
    upstream: &Upstream,
    request: &Request,
    body: Option<(&str, &[u8])>,
) -> Result<Whole, Failure> {
    let (url, largest) = (request.route.at(upstream), request.largest_answer);
    let request = match body {
        Some((content_type, body)) => {
            let content_type = HeaderValue::from_str(content_type).expect("made of plain letters");
            http.post(&url).header(CONTENT_TYPE, content_type).body(body.to_vec())
        }
        None => http.get(&url),
    };
    let request = request.headers(upstream.headers.clone());
    let mut response = request.send().await.map_err(|error| transport_failure(&url, error))?;
    let (status, retry_after) = (response.status().as_u16(), asked_wait(response.headers()));
    // The server was there, whatever became of the rest.
    let broken_off = |failure: Failure| Failure { status: Some(status), ..failure };
    let mut body = Vec::new();
    while let Some(part) = response.chunk().await.map_err(|error| broken_off(transport_failure(&url, error)))? {
        if body.len() + part.len() > largest {
            return Err(Failure::new(FailureKind::Garbage, &url, format!("more than {largest} bytes")));
        }
        body.extend_from_slice(&part);
    }
    Ok(Whole { status, retry_after, body })
}

impl<'a> Received<'a> {
    pub(crate) fn new(upstream: &'a Upstream, route: &Route, whole: &'a Whole) -> Self {
        let json = serde_json::from_slice(&whole.body).map_err(|error| error.to_string());
        Self { upstream, url: route.at(upstream), whole, json }
    }

    /// The answer's text.
    pub(crate) fn text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.whole.body)
    }

    /// That the server does not say it failed.
    pub(crate) fn accepted(&self) -> Result<&Self, Failure> {
        let retry_after = self.whole.retry_after;
        if !(200..300).contains(&self.whole.status) {
            return Err(Failure { retry_after, ..Failure::from_answer(self.whole.status, &self.url, &self.shown()) });
        }
        // Some gateways answer 200 and put the failure inside. A line of a batch's results is about another request.
        if let Ok(json) = &self.json
            && json["error"].is_object()
            && json.get("custom_id").is_none()
        {
            let inner = json["error"]["code"].as_u64().and_then(|code| u16::try_from(code).ok()).filter(|code| *code >= 400);
            return Err(Failure { retry_after, ..Failure::from_answer(inner.unwrap_or(500), &self.url, &self.shown()) });
        }
        Ok(self)
    }

    /// A failure to read it.
    pub(crate) fn garbage(&self, what: &str) -> Failure {
        let message = format!("{what} in `{}`", shorten(&self.shown()));
        Failure { status: Some(self.whole.status), ..Failure::new(FailureKind::Garbage, &self.url, message) }
    }

    /// Tokens of prompt and answer, if the server counts them.
    pub(crate) fn tokens_used(&self) -> Option<f64> {
        let usage = &self.json.as_ref().ok()?["usage"];
        let count = |key: &str| usage[key].as_f64();
        let sum = |keys: &[&str]| keys.iter().filter_map(|key| count(key)).reduce(|a, b| a + b);
        count("total_tokens").or_else(|| {
            sum(&["prompt_tokens", "completion_tokens", "input_tokens", "cache_creation_input_tokens", "output_tokens"])
        })
    }

    /// Only what goes into a message: an answer's own words stay as they are.
    fn shown(&self) -> String {
        let text = self.text();
        self.upstream.key.as_ref().map_or_else(|| text.to_string(), |key| key.redact(&text))
    }
}

/// Reads an answer that is one JSON value; `read` says what is missing.
pub(crate) fn read_json<T>(received: &Received<'_>, read: &impl Fn(&Value) -> Result<T, String>) -> Result<T, Failure> {
    let json = received.json.as_ref().map_err(|error| received.garbage(error))?;
    read(json).map_err(|what| received.garbage(&what))
}

/// A failure below HTTP.
fn transport_failure(url: &str, error: reqwest::Error) -> Failure {
    let kind = if error.is_timeout() { FailureKind::TimedOut } else { FailureKind::Unreachable };
    let error = error.without_url();
    let mut cause: &dyn std::error::Error = &error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    Failure::new(kind, url, shorten(&cause.to_string()))
}
