//! Tests of the store as a whole.

mod keeping;
mod processes;
mod refusals;

use std::path::PathBuf;

use farmhand_core::{Error, ErrorKind};
use farmhand_endpoints::{Usage, wait};
use serde_json::json;

use super::*;

fn key(i: usize) -> QuestionKey {
    QuestionKey::of(&json!({ "question": i }), 0)
}

fn answer(text: &str) -> StoredReply {
    let usage =
        Usage { n_requests: 1, n_retries: 2, prompt_tokens: 300, cached_prompt_tokens: 100, completion_tokens: 5, n_failed: 0 };
    StoredReply {
        outcome: ReplyOutcome::Answer(json!({ "text": text })),
        model: "judge-1".to_owned(),
        usage,
        cost_usd: Some(0.0031),
        time_secs: Some(0.75),
        date: Date::from_unix(1_700_000_000),
    }
}

fn failure(error: &Error) -> StoredReply {
    StoredReply { outcome: ReplyOutcome::Failure(ReplyFailure::of(error)), ..answer("") }
}

fn refusal() -> StoredReply {
    failure(&Error::new(ErrorKind::UnparsableAnswer, "the model refused"))
}

fn folder() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("deep/judgements.db");
    (dir, path)
}
