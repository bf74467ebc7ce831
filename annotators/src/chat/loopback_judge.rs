//! A judge on the loopback interface, for the tests of this folder: a server that answers as it is told.

use std::sync::Mutex;

use farmhand_core::BuildContext;
use farmhand_core::Device;
use farmhand_endpoints::EndpointOptions;
use farmhand_endpoints::loopback::{Loopback, Received, Reply};
use serde_json::{Value, json};

use crate::testing::Desk;

/// A running judge.
pub(super) struct LoopbackJudge(Loopback);

impl LoopbackJudge {
    /// Answers each request by what it asks.
    pub(super) fn start(answer: impl Fn(&Received) -> Reply + Send + Sync + 'static) -> Self {
        // One at a time, so that a script may count.
        let answer = Mutex::new(answer);
        Self(Loopback::start(move |request| answer.lock().expect("not poisoned")(request)))
    }

    /// Says a text to every question.
    pub(super) fn saying(text: impl Fn(&str) -> String + Send + Sync + 'static) -> Self {
        Self::start(move |request| said(&text(&question(request))))
    }

    /// How often it was asked.
    pub(super) fn n_asked(&self) -> usize {
        self.0.received().len()
    }

    pub(super) fn received(&self) -> Vec<Received> {
        self.0.received()
    }

    /// The options that lead to it. Nothing is tried twice.
    pub(super) fn options(&self) -> EndpointOptions {
        EndpointOptions { base_url: self.0.base_url(), retries: 0, max_concurrent: 4, ..EndpointOptions::default() }
    }
}

/// The context in which judges are built: relative paths start on the desk.
pub(super) fn building(desk: &Desk) -> BuildContext<'_> {
    BuildContext::new(Device::Cpu, desk.dir.path())
}

/// What was asked: the last turn, or the prompt.
pub(super) fn question(request: &Received) -> String {
    let turns = request.body["messages"].as_array();
    let text = turns.and_then(|turns| turns.last()).map_or(&request.body["prompt"], |turn| &turn["content"]);
    text.as_str().unwrap_or_default().to_owned()
}

/// A chat's answer, or a completion's: both in one.
fn whole(message: &Value, text: &str, log_probs: &Value, finish: &str) -> Reply {
    let choice = json!({ "index": 0, "finish_reason": finish, "message": message, "text": text, "logprobs": log_probs });
    let usage = json!({ "prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110 });
    Reply::json(200, &json!({ "model": "judge-2026", "choices": [choice], "usage": usage }))
}

pub(super) fn said(text: &str) -> Reply {
    whole(&json!({ "role": "assistant", "content": text }), text, &Value::Null, "stop")
}

/// An answer that the server's filter cut off.
pub(super) fn filtered() -> Reply {
    whole(&json!({ "role": "assistant", "content": "" }), "", &Value::Null, "content_filter")
}

/// One token with its alternatives.
pub(super) fn likely(alternatives: &[(&str, f64)]) -> Reply {
    let token = |(name, p): &(&str, f64)| json!({ "token": name, "logprob": p.ln() });
    let listed: Vec<Value> = alternatives.iter().map(token).collect();
    let mut first = listed[0].clone();
    first["top_logprobs"] = json!(listed);
    whole(
        &json!({ "role": "assistant", "content": alternatives[0].0 }),
        alternatives[0].0,
        &json!({ "content": [first] }),
        "stop",
    )
}

/// A function that is called.
pub(super) fn called(name: &str, arguments: &str) -> Reply {
    let call = json!({ "id": "1", "type": "function", "function": { "name": name, "arguments": arguments } });
    whole(&json!({ "role": "assistant", "content": null, "tool_calls": [call] }), "", &Value::Null, "tool_calls")
}
