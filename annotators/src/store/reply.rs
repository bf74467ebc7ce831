//! One reply as it is kept: what a server answered, or how it failed, and what that cost.

use farmhand_core::{Error, ErrorKind};
use farmhand_endpoints::{Date, Usage};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What came of one question.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StoredReply {
    /// The answer, or why there is none.
    pub outcome: ReplyOutcome,
    /// The model that was asked.
    pub model: String,
    /// Requests and tokens.
    pub usage: Usage,
    /// What it cost, in US dollars; unset: unknown, which is not nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost_usd: Option<f64>,
    /// Seconds from asking to the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_secs: Option<f64>,
    /// When it came.
    pub date: Date,
}

/// An answer or a typed failure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReplyOutcome {
    /// The answer as JSON: whatever its reader needs to read it again.
    Answer(Value),
    /// Why there is none.
    Failure(ReplyFailure),
}

/// Why a question has no answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplyFailure {
    /// What kind of failure it was.
    pub kind: ErrorKind,
    /// What went wrong.
    pub message: String,
    /// Whether it may pass by itself: a busy server, a lost connection.
    pub may_pass: bool,
}

impl StoredReply {
    /// The answer, if there is one.
    pub fn answer(&self) -> Option<&Value> {
        match &self.outcome {
            ReplyOutcome::Answer(answer) => Some(answer),
            ReplyOutcome::Failure(_) => None,
        }
    }

    /// Whether this reply settles its question, so that it is not asked again: an answer does. A failure does unless it may
    /// pass by itself or the user wants failures retried.
    pub fn settles(&self, retry_failures: bool) -> bool {
        match &self.outcome {
            ReplyOutcome::Answer(_) => true,
            ReplyOutcome::Failure(failure) => !failure.may_pass && !retry_failures,
        }
    }
}

impl ReplyFailure {
    /// The failure that an error is.
    pub fn of(error: &Error) -> Self {
        Self { kind: error.kind(), message: error.to_string(), may_pass: error.is_retryable() }
    }

    /// The error that was kept.
    pub fn to_error(&self) -> Error {
        let error = Error::new(self.kind, self.message.clone());
        if self.may_pass { error.retryable() } else { error }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_settle_a_question_unless_they_may_pass_or_are_wanted_again() {
        let reply = |outcome| StoredReply {
            outcome,
            model: "m".to_owned(),
            usage: Usage::default(),
            cost_usd: None,
            time_secs: None,
            date: Date::from_unix(0),
        };
        let failed = |error: Error| reply(ReplyOutcome::Failure(ReplyFailure::of(&error)));
        let refused = Error::new(ErrorKind::UnparsableAnswer, "the model refused");
        let busy = Error::new(ErrorKind::RemoteService, "busy").retryable();
        let settles = |reply: StoredReply| [false, true].map(|retry_failures| reply.settles(retry_failures));
        assert_eq!(settles(reply(ReplyOutcome::Answer(Value::Null))), [true, true]);
        assert_eq!(settles(failed(refused)), [true, false]);
        assert_eq!(settles(failed(busy)), [false, false]);
    }

    #[test]
    fn a_kept_failure_is_the_error_it_was() {
        let error = Error::new(ErrorKind::RemoteService, "busy").retryable();
        let back = ReplyFailure::of(&error).to_error();
        assert_eq!((back.kind(), back.message(), back.is_retryable()), (ErrorKind::RemoteService, "busy", true));
    }
}
