//! The ways a request can fail, told apart.

use std::fmt;
use std::time::Duration;

use farmhand_core::{Error, ErrorKind};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Longest part of a server's own words that is shown, in characters.
const SHOWN_CHARS: usize = 300;

/// The ways a request can fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FailureKind {
    /// No connection: nobody listens, the name is unknown, TLS failed, the connection broke.
    Unreachable,
    /// The server took longer than allowed.
    TimedOut,
    /// The server asks for fewer requests (429).
    RateLimited,
    /// The account's money or quota is spent.
    QuotaSpent,
    /// The key is missing, wrong or not allowed to do this (401, 403).
    Unauthorised,
    /// The server has no such model or route (404, 405).
    NotFound,
    /// Prompt and answer do not fit into the model's context.
    ContextTooLong,
    /// The server's content filter refuses the request.
    Filtered,
    /// The server refuses the request for another reason (other 3xx and 4xx).
    Refused,
    /// The server failed (5xx).
    ServerError,
    /// The server's answer cannot be read: no JSON, parts missing.
    Garbage,
    /// The server failed again and again and is left alone for a while.
    CircuitOpen,
    /// The user asked to stop.
    Cancelled,
}

impl FailureKind {
    /// The label used for counting, for example `rate_limited`.
    pub fn label(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::TimedOut => "timed_out",
            Self::RateLimited => "rate_limited",
            Self::QuotaSpent => "quota_spent",
            Self::Unauthorised => "unauthorised",
            Self::NotFound => "not_found",
            Self::ContextTooLong => "context_too_long",
            Self::Filtered => "filtered",
            Self::Refused => "refused",
            Self::ServerError => "server_error",
            Self::Garbage => "garbage",
            Self::CircuitOpen => "circuit_open",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether the same request may succeed later.
    pub fn may_pass(self) -> bool {
        matches!(
            self,
            Self::Unreachable | Self::TimedOut | Self::RateLimited | Self::ServerError | Self::Garbage | Self::CircuitOpen
        )
    }

    fn hint(self) -> &'static str {
        match self {
            Self::Unreachable => "is the server running, and is `base_url` its address?",
            Self::TimedOut => "raise `timeout_secs`, or lower `max_concurrent` so that the server is less busy",
            Self::RateLimited => "lower `max_concurrent`, or run the same command again later",
            Self::QuotaSpent => "the provider's account page shows what is left",
            Self::Unauthorised => "`api_key_env` names the environment variable that holds the key, `api_key_file` the file",
            Self::NotFound => {
                "`base_url` ends with `/v1` for most servers; `model` is a name that the server lists at `/v1/models`"
            }
            Self::ContextTooLong => "shorten the prompt or `max_new_tokens`, or start the server with a longer context",
            Self::Filtered => "the provider refuses this text; leave the instruction out",
            Self::Refused => "the server's own words say what it does not take",
            Self::ServerError => "the server's log says more",
            Self::Garbage => "is `base_url` the address of an OpenAI-compatible server?",
            Self::CircuitOpen => {
                "see to the server and run the same command again; `circuit_failures` says when it is left alone"
            }
            Self::Cancelled => "run the same command again to go on",
        }
    }
}

/// A request that failed, after all its tries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// How it failed.
    pub kind: FailureKind,
    /// The HTTP status, if the server answered.
    pub status: Option<u16>,
    /// The address that was asked.
    pub url: String,
    /// What happened, or the server's own words, shortened and without the key.
    pub message: String,
    /// Tries made.
    pub attempts: u32,
    /// How long the server asked to wait, if it did.
    pub retry_after: Option<Duration>,
}

impl Failure {
    pub(crate) fn new(kind: FailureKind, url: &str, message: impl Into<String>) -> Self {
        Self { kind, status: None, url: url.to_owned(), message: message.into(), attempts: 1, retry_after: None }
    }

    /// Whether another key or place may well do what this one refuses.
    pub(crate) fn is_of_this_place(&self) -> bool {
        matches!(self.kind, FailureKind::Unauthorised | FailureKind::QuotaSpent | FailureKind::NotFound)
    }

    /// What an answer with an error status says.
    pub(crate) fn from_answer(status: u16, url: &str, body: &str) -> Self {
        let (message, code) = server_words(body);
        let kind = kind_of(status, &message, &code);
        Self { status: Some(status), ..Self::new(kind, url, shorten(&message)) }
    }

    /// Whether the same request may succeed later.
    pub fn may_pass(&self) -> bool {
        self.kind.may_pass()
    }
}

/// A text on one line and of bounded length.
pub(crate) fn shorten(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    let line = words.join(" ");
    match line.char_indices().nth(SHOWN_CHARS) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

/// The message and the code (or type) in an error answer: OpenAI's and vLLM's form, older vLLM's, FastAPI's, or plain text.
fn server_words(body: &str) -> (String, String) {
    let Ok(json) = serde_json::from_str::<Value>(body) else { return (body.to_owned(), String::new()) };
    let error = if json["error"].is_object() { &json["error"] } else { &json };
    let text = |value: &Value| match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    };
    let message = text(&error["message"]).or_else(|| text(&json["error"])).or_else(|| text(&json["detail"]));
    let codes = [&error["code"], &error["type"]].into_iter().filter_map(text);
    (message.unwrap_or_else(|| body.to_owned()), codes.collect::<Vec<_>>().join(" "))
}

fn kind_of(status: u16, message: &str, code: &str) -> FailureKind {
    let lower = message.to_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| lower.contains(word) || code.contains(word));
    match status {
        401 | 403 => FailureKind::Unauthorised,
        402 => FailureKind::QuotaSpent,
        404 | 405 => FailureKind::NotFound,
        408 => FailureKind::TimedOut,
        429 if says(&["insufficient_quota", "exceeded your current quota"]) => FailureKind::QuotaSpent,
        429 => FailureKind::RateLimited,
        400 | 413 | 422
            if says(&[
                "context_length_exceeded",
                "maximum context length",
                "max_model_len",
                "maximum model length",
                "prompt is too long",
            ]) =>
        {
            FailureKind::ContextTooLong
        }
        400 if says(&["credit balance is too low"]) => FailureKind::QuotaSpent,
        400 if says(&["content_filter", "content_policy"]) => FailureKind::Filtered,
        500.. => FailureKind::ServerError,
        _ => FailureKind::Refused,
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` ", self.url)?;
        match (self.kind, self.status) {
            (FailureKind::Unreachable, _) => write!(f, "cannot be reached")?,
            (FailureKind::TimedOut, status) if status != Some(408) => write!(f, "took too long")?,
            (FailureKind::CircuitOpen, _) => write!(f, "is left alone")?,
            (FailureKind::Garbage, _) => write!(f, "gave an answer that cannot be read")?,
            (_, Some(status)) => write!(f, "answered {status}")?,
            (_, None) => write!(f, "failed")?,
        }
        if self.attempts > 1 {
            write!(f, " {} times", self.attempts)?;
        }
        if !self.message.is_empty() {
            write!(f, ": {}", self.message)?;
        }
        match self.retry_after {
            Some(wait) => write!(f, " (it asks to wait {} s)", wait.as_secs_f64().ceil()),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Failure {}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        if failure.kind == FailureKind::Cancelled {
            return Error::cancelled();
        }
        let error = Error::new(ErrorKind::RemoteService, failure.to_string()).with_hint(failure.kind.hint());
        if failure.may_pass() { error.retryable() } else { error }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_apart_by_status_code_and_words() {
        use FailureKind as K;
        let vllm = |message: &str| {
            serde_json::json!({ "error": { "message": message, "type": "BadRequestError", "code": 400 } }).to_string()
        };
        let openai = |code: &str| serde_json::json!({ "error": { "message": "no", "type": "x", "code": code } }).to_string();
        let anthropic = |message: &str| {
            serde_json::json!({ "type": "error", "error": { "type": "invalid_request_error", "message": message } }).to_string()
        };
        let cases = [
            (400, vllm("This model's maximum context length is 1024 tokens."), K::ContextTooLong),
            (400, vllm("max_tokens=4000 cannot be greater than max_model_len=1024."), K::ContextTooLong),
            (400, vllm("temperature must be non-negative, got -3.0."), K::Refused),
            (400, openai("context_length_exceeded"), K::ContextTooLong),
            (400, openai("content_filter"), K::Filtered),
            (401, openai("invalid_api_key"), K::Unauthorised),
            (403, String::new(), K::Unauthorised),
            (404, openai("model_not_found"), K::NotFound),
            (408, String::new(), K::TimedOut),
            (429, openai("rate_limit_exceeded"), K::RateLimited),
            (429, openai("insufficient_quota"), K::QuotaSpent),
            (302, String::new(), K::Refused),
            (500, "Internal Server Error".to_owned(), K::ServerError),
            (529, String::new(), K::ServerError),
            (400, anthropic("prompt is too long: 208310 tokens > 200000 maximum"), K::ContextTooLong),
            (400, anthropic("Your credit balance is too low to access the Anthropic API."), K::QuotaSpent),
            (400, anthropic("max_tokens: Field required"), K::Refused),
        ];
        for (status, body, kind) in cases {
            assert_eq!(Failure::from_answer(status, "http://h/v1/models", &body).kind, kind, "{status} {body}");
        }
    }

    #[test]
    fn the_servers_words_are_found_in_every_form_and_shortened() {
        let words = |body: &str| Failure::from_answer(400, "u", body).message;
        assert_eq!(words(r#"{"error":{"message":"a\n b"}}"#), "a b");
        assert_eq!(words(r#"{"object":"error","message":"old","code":400}"#), "old");
        assert_eq!(words(r#"{"detail":"Not Found"}"#), "Not Found");
        assert_eq!(words(r#"{"detail":[{"msg":"x"}]}"#), r#"[{"msg":"x"}]"#);
        assert_eq!(words(r#"{"error":"plain"}"#), "plain");
        assert_eq!(words("<html>oops</html>"), "<html>oops</html>");
        assert_eq!(words(&"é".repeat(1000)).chars().count(), SHOWN_CHARS + 1);
    }

    #[test]
    fn an_error_says_what_was_asked_how_often_and_what_to_do() {
        let failure = Failure {
            attempts: 6,
            retry_after: Some(Duration::from_secs(20)),
            ..Failure::from_answer(429, "http://h/v1/completions", "busy")
        };
        let error = Error::from(failure);
        assert_eq!(error.to_string(), "`http://h/v1/completions` answered 429 6 times: busy (it asks to wait 20 s)");
        assert!(error.is_retryable() && error.hint().is_some_and(|hint| hint.contains("`max_concurrent`")));
        let refused = Error::from(Failure::from_answer(401, "http://h", ""));
        assert_eq!((refused.to_string().as_str(), refused.is_retryable()), ("`http://h` answered 401", false));
    }
}
