//! What a request asks, in one canonical form that a store of answers can go by.

use serde_json::{Value, json};

/// Route and body, the keys of every object in order. It names no server and no key: an answer is as good from whichever
/// server gave it, as long as the model's name is the same.
pub(crate) fn question(route: &str, body: Value) -> Value {
    json!({ "body": sorted(body), "route": route })
}

/// The same value with the keys of every object in order, however this build of `serde_json` keeps them.
fn sorted(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let mut fields: Vec<(String, Value)> = fields.into_iter().collect();
            fields.sort_by(|a, b| a.0.cmp(&b.0));
            Value::Object(fields.into_iter().map(|(key, value)| (key, sorted(value))).collect())
        }
        Value::Array(values) => Value::Array(values.into_iter().map(sorted).collect()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use farmhand_core::types::{Message, Role};

    use crate::{AnswerFormat, ChatRequest, CompletionRequest, Decoding, Prompt, Tool, ToolChoice};

    use super::*;

    #[test]
    fn equal_requests_ask_the_same_and_whatever_differs_is_seen() {
        let message = |text: &str| Message { role: Role::User, content: text.to_owned() };
        let plain = ChatRequest::new("m", vec![message("hi")]);
        let tool = |name: &str| Tool { name: name.to_owned(), description: None, parameters: json!({ "b": 1, "a": 2 }) };
        let decoded = |decoding: Decoding| ChatRequest { decoding, ..plain.clone() };
        let d = Decoding::default;
        let requests = [
            plain.clone(),
            ChatRequest::new("n", vec![message("hi")]),
            ChatRequest::new("m", vec![message("ho")]),
            ChatRequest { format: AnswerFormat::Json, ..plain.clone() },
            ChatRequest { tools: vec![tool("a")], ..plain.clone() },
            ChatRequest { tools: vec![tool("b")], ..plain.clone() },
            ChatRequest { tools: vec![tool("a")], tool_choice: ToolChoice::Required, ..plain.clone() },
            decoded(Decoding { max_tokens: 1, ..d() }),
            decoded(Decoding { temperature: 0.5, ..d() }),
            decoded(Decoding { top_p: 0.5, ..d() }),
            decoded(Decoding { seed: Some(1), ..d() }),
            decoded(Decoding { stop: vec!["x".to_owned()], ..d() }),
            decoded(Decoding { log_probs: Some(5), ..d() }),
            decoded(Decoding { logit_bias: [(7, -100.0)].into(), ..d() }),
        ];
        let texts: HashSet<String> = requests.iter().map(|request| request.question().to_string()).collect();
        assert_eq!(texts.len(), requests.len());
        assert!(requests.iter().all(|request| request.question() == request.clone().question()));
        let text = requests[4].question().to_string();
        assert!(text.starts_with(r#"{"body":{"max_tokens":256,"#) && text.contains(r#"{"a":2,"b":1}"#), "{text}");
        let completion = CompletionRequest { model: "m".to_owned(), prompt: Prompt::Text("hi".to_owned()), decoding: d() };
        assert_eq!(completion.question()["route"], "completions");
    }
}
