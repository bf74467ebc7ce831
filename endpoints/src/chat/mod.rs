//! Chats: the next turn of a conversation.

mod anthropic;
pub(crate) mod openai;
mod tools;

use std::future::Future;
use std::sync::atomic::Ordering;

use farmhand_core::types::Message;
use serde_json::Value;

pub use tools::{Tool, ToolCall, ToolChoice};

use crate::answer::Answer;
use crate::client::{Client, Request, Route};
use crate::decoding::Decoding;
use crate::failure::{Failure, FailureKind};
use crate::options::Api;
use crate::question::question;

/// What form a chat's answer has.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum AnswerFormat {
    /// Any text.
    #[default]
    Text,
    /// A JSON object.
    Json,
    /// A JSON value that keeps a schema.
    JsonSchema {
        /// The schema's name: letters, digits, `_` and `-`.
        name: String,
        /// The JSON Schema.
        schema: Value,
    },
}

/// A conversation whose next turn is asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct ChatRequest {
    /// The model's name at the server.
    pub model: String,
    /// The conversation so far, oldest first. The server renders it with its own template.
    pub messages: Vec<Message>,
    /// How the answer is decoded.
    pub decoding: Decoding,
    /// What form the answer has.
    pub format: AnswerFormat,
    /// Functions that the model may call.
    pub tools: Vec<Tool>,
    /// Whether it must call one; without `tools` this says nothing.
    pub tool_choice: ToolChoice,
}

impl ChatRequest {
    /// A conversation, answered as by default.
    pub fn new(model: impl Into<String>, messages: Vec<Message>) -> Self {
        let (decoding, format) = (Decoding::default(), AnswerFormat::Text);
        Self { model: model.into(), messages, decoding, format, tools: Vec::new(), tool_choice: ToolChoice::Auto }
    }

    /// What is asked, in one canonical form: equal requests give equal JSON, whichever server, dialect or key serves them, and
    /// whatever differs in a request differs here. A store of answers goes by it.
    pub fn question(&self) -> Value {
        question("chat/completions", openai::body(self, "max_tokens"))
    }
}

impl Client {
    /// Asks for the next turn of a conversation: at OpenAI's `/v1/chat/completions`, where the limit of tokens is sent as
    /// `max_tokens`, which every server knows, and as `max_completion_tokens` once the server asks for that name; or at
    /// Anthropic's `/v1/messages`, where what that interface has not (log-probabilities, JSON mode) is refused unsent.
    pub fn chat(&self, request: ChatRequest) -> impl Future<Output = Result<Answer, Failure>> + Send + 'static {
        let client = self.clone();
        async move {
            if client.shared.api == Api::Anthropic {
                return client.chat_with_anthropic(&request).await;
            }
            let other_name = &client.shared.counts_completion_tokens;
            if !other_name.load(Ordering::Relaxed) {
                match client.chat_once(request.clone(), "max_tokens").await {
                    Err(failure) if asks_for_the_other_name(&failure) => other_name.store(true, Ordering::Relaxed),
                    result => return result,
                }
            }
            client.chat_once(request, "max_completion_tokens").await
        }
    }

    async fn chat_with_anthropic(&self, request: &ChatRequest) -> Result<Answer, Failure> {
        let unsent = |what: String| self.unsent(&Route::api("messages"), what);
        let body = anthropic::body(request).map_err(unsent)?;
        let sending = Request::post(Route::api("messages"), request.decoding.max_tokens, move || body.clone());
        self.send(sending, anthropic::read).await.inspect(|answer| self.count_tokens(answer))
    }

    async fn chat_once(&self, request: ChatRequest, limit: &'static str) -> Result<Answer, Failure> {
        let has_stop_texts = !request.decoding.stop.is_empty();
        let max_tokens = request.decoding.max_tokens;
        let sending = Request::post(Route::api("chat/completions"), max_tokens, move || openai::body(&request, limit));
        let answer = self.send(sending, move |json| openai::read(json, has_stop_texts)).await;
        answer.inspect(|answer| self.count_tokens(answer))
    }
}

pub(crate) fn asks_for_the_other_name(failure: &Failure) -> bool {
    failure.kind == FailureKind::Refused && failure.message.contains("max_completion_tokens")
}
