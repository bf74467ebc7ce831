//! Chats: the next turn of a conversation.

use std::future::Future;
use std::sync::atomic::Ordering;

use farmhand_core::types::Message;
use serde_json::{Value, json};

use crate::answer::{Answer, Finish, TokenLogProb, finish, only_choice, token_ids, usage};
use crate::client::{Client, Request};
use crate::decoding::Decoding;
use crate::failure::{Failure, FailureKind};

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
}

impl ChatRequest {
    /// A conversation, answered as by default.
    pub fn new(model: impl Into<String>, messages: Vec<Message>) -> Self {
        Self { model: model.into(), messages, decoding: Decoding::default(), format: AnswerFormat::Text }
    }

    fn body(&self, limit: &str) -> Value {
        let mut body = self.decoding.fields();
        body.insert("model".to_owned(), json!(self.model));
        body.insert("messages".to_owned(), json!(self.messages));
        body.insert(limit.to_owned(), json!(self.decoding.max_tokens));
        if let Some(alternatives) = self.decoding.log_probs {
            body.insert("logprobs".to_owned(), json!(true));
            body.insert("top_logprobs".to_owned(), json!(alternatives));
        }
        let format = match &self.format {
            AnswerFormat::Text => None,
            AnswerFormat::Json => Some(json!({ "type": "json_object" })),
            AnswerFormat::JsonSchema { name, schema } => {
                Some(json!({ "type": "json_schema", "json_schema": { "name": name, "schema": schema, "strict": true } }))
            }
        };
        if let Some(format) = format {
            body.insert("response_format".to_owned(), format);
        }
        Value::Object(body)
    }
}

impl Client {
    /// Asks for the next turn of a conversation, at `/v1/chat/completions`. The limit of tokens is sent as `max_tokens`, which
    /// every server knows, and as `max_completion_tokens` once the server asks for that name.
    pub fn chat(&self, request: ChatRequest) -> impl Future<Output = Result<Answer, Failure>> + Send + 'static {
        let client = self.clone();
        async move {
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

    async fn chat_once(&self, request: ChatRequest, limit: &'static str) -> Result<Answer, Failure> {
        let has_stop_texts = !request.decoding.stop.is_empty();
        let sending = Request::post(self.url().api("chat/completions"), move || request.body(limit));
        let answer = self.send(sending, move |json| read(json, has_stop_texts)).await;
        answer.inspect(|answer| self.count_tokens(answer))
    }
}

fn asks_for_the_other_name(failure: &Failure) -> bool {
    failure.kind == FailureKind::Refused && failure.message.contains("max_completion_tokens")
}

fn read(json: &Value, has_stop_texts: bool) -> Result<Answer, String> {
    let choice = only_choice(json)?;
    let message = choice["message"].as_object().ok_or("no `message`")?;
    let text = message.get("content").and_then(Value::as_str);
    let refuses = message.get("refusal").is_some_and(Value::is_string);
    let finish = if refuses { Finish::Filtered } else { finish(choice, has_stop_texts)? };
    let (n_prompt_tokens, n_completion_tokens, usage) = usage(json);
    Ok(Answer {
        text: text.unwrap_or_default().to_owned(),
        finish,
        log_probs: log_probs(&choice["logprobs"]["content"])?,
        token_ids: token_ids(&choice["token_ids"]),
        prompt_token_ids: token_ids(&json["prompt_token_ids"]),
        n_prompt_tokens,
        n_completion_tokens,
        usage,
    })
}

fn log_probs(value: &Value) -> Result<Option<Vec<TokenLogProb>>, String> {
    let Some(entries) = value.as_array() else { return Ok(None) };
    let token = |entry: &Value| Some((entry["token"].as_str()?.to_owned(), entry["logprob"].as_f64()?));
    let read = |entry: &Value| {
        let (name, log_prob) = token(entry)?;
        let alternatives = entry["top_logprobs"].as_array().into_iter().flatten().filter_map(token).collect();
        Some(TokenLogProb { token: name, log_prob, alternatives })
    };
    entries.iter().map(read).collect::<Option<_>>().map(Some).ok_or_else(|| "a token without a log-probability".to_owned())
}

#[cfg(test)]
mod tests {
    use farmhand_core::types::Role;

    use super::*;

    #[test]
    fn messages_format_and_log_probabilities_are_asked_for_in_openais_words() {
        let mut request = ChatRequest::new("m", vec![Message { role: Role::User, content: "hi".to_owned() }]);
        request.decoding.log_probs = Some(5);
        request.format = AnswerFormat::JsonSchema { name: "verdict".to_owned(), schema: json!({ "type": "object" }) };
        let body = request.body("max_tokens");
        assert_eq!(body["messages"], json!([{ "role": "user", "content": "hi" }]));
        assert_eq!([&body["logprobs"], &body["top_logprobs"], &body["max_tokens"]], [&json!(true), &json!(5), &json!(256)]);
        assert_eq!(body["response_format"]["json_schema"]["name"], "verdict");
        request.format = AnswerFormat::Json;
        assert_eq!(request.body("max_completion_tokens")["response_format"], json!({ "type": "json_object" }));
        assert_eq!(request.body("max_completion_tokens")["max_completion_tokens"], json!(256));
    }

    #[test]
    fn an_answer_with_alternatives_is_read_and_a_refusal_is_no_answer() {
        let json = json!({
            "choices": [{
                "index": 0, "finish_reason": "stop",
                "message": { "role": "assistant", "content": "m", "refusal": null },
                "logprobs": { "content": [{ "token": "m", "logprob": -0.1, "bytes": [109], "top_logprobs": [
                    { "token": "m", "logprob": -0.1 }, { "token": "M", "logprob": -2.4 },
                ] }] },
            }],
            "usage": { "prompt_tokens": 20, "completion_tokens": 1 }, "prompt_token_ids": [1, 2],
        });
        let answer = read(&json, false).expect("read");
        assert_eq!((answer.text.as_str(), &answer.finish), ("m", &Finish::EndOfSequence));
        assert_eq!(answer.prompt_token_ids, Some(vec![1, 2]));
        assert_eq!(answer.log_probs.expect("given")[0].alternatives, [("m".to_owned(), -0.1), ("M".to_owned(), -2.4)]);
        let refusal = json!({ "choices": [{ "finish_reason": "stop", "message": { "content": null, "refusal": "I cannot." } }] });
        assert_eq!(read(&refusal, false).expect("read").finish, Finish::Filtered);
        assert!(read(&json!({ "choices": [{ "finish_reason": "stop" }] }), false).is_err());
    }
}
