//! One answer, read from either interface.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::chat::ToolCall;
use crate::usage::Usage;

/// One answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// The text; empty when the server gave none.
    pub text: String,
    /// Why it ended.
    pub finish: Finish,
    /// The functions that the model called, in its order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
    /// The tokens of the answer with their log-probabilities, if they were asked for and given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_probs: Option<Vec<TokenLogProb>>,
    /// The ids of the answer's tokens, the end-of-sequence token included (vLLM).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_ids: Option<Vec<u32>>,
    /// The ids of the prompt as the server saw it (vLLM).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_token_ids: Option<Vec<u32>>,
    /// Tokens of the prompt, if the server counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n_prompt_tokens: Option<u32>,
    /// Tokens of the answer, if the server counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n_completion_tokens: Option<u32>,
    /// The model that answered, in the server's word; often a dated version of the name that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// What this one answer used.
    pub usage: Usage,
}

/// Why an answer ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// The model ended it.
    EndOfSequence,
    /// One of the request's stop texts appeared.
    StopText,
    /// The model ended it or a stop text appeared; the server does not say which.
    Stop,
    /// The limit of tokens cut it off.
    Length,
    /// The model called functions.
    ToolCalls,
    /// The server's content filter cut it off, or the model refused in so many words.
    Filtered,
    /// Another reason, in the server's word.
    Other(String),
}

/// A token of an answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TokenLogProb {
    /// Its text, as far as a single token has one.
    pub token: String,
    /// Its log-probability, in nats.
    pub log_prob: f64,
    /// The most likely tokens at its place, as many as were asked for.
    pub alternatives: Vec<(String, f64)>,
}

/// The first (and only) choice of an answer, or what is missing.
pub(crate) fn only_choice(json: &Value) -> Result<&Value, String> {
    json["choices"].as_array().and_then(|choices| choices.first()).ok_or_else(|| "no `choices`".to_owned())
}

/// Why a choice ended. vLLM tells the stop text or token in `stop_reason`, SGLang in `matched_stop`; null is the end of sequence.
pub(crate) fn finish(choice: &Value, has_stop_texts: bool) -> Result<Finish, String> {
    let Some(reason) = choice["finish_reason"].as_str() else { return Err("no `finish_reason`".to_owned()) };
    let cause = choice.get("stop_reason").or_else(|| choice.get("matched_stop"));
    Ok(match (reason, cause) {
        ("stop", _) if !has_stop_texts => Finish::EndOfSequence,
        ("stop", Some(Value::String(_))) => Finish::StopText,
        ("stop", Some(_)) => Finish::EndOfSequence,
        ("stop", None) => Finish::Stop,
        ("length", _) => Finish::Length,
        ("tool_calls" | "function_call", _) => Finish::ToolCalls,
        ("content_filter", _) => Finish::Filtered,
        (other, _) => Finish::Other(other.to_owned()),
    })
}

/// A list of token ids; `None` when there is none or it is something else.
pub(crate) fn token_ids(value: &Value) -> Option<Vec<u32>> {
    value.as_array()?.iter().map(|id| id.as_u64().and_then(|id| u32::try_from(id).ok())).collect()
}

/// The tokens a server counted.
pub(crate) fn usage(json: &Value) -> (Option<u32>, Option<u32>, Usage) {
    let count = |value: &Value| value.as_u64().and_then(|count| u32::try_from(count).ok());
    let counts = &json["usage"];
    let (prompt, completion) = (count(&counts["prompt_tokens"]), count(&counts["completion_tokens"]));
    let cached = count(&counts["prompt_tokens_details"]["cached_tokens"]);
    let usage = Usage {
        n_requests: 1,
        prompt_tokens: prompt.unwrap_or(0).into(),
        cached_prompt_tokens: cached.unwrap_or(0).into(),
        completion_tokens: completion.unwrap_or(0).into(),
        ..Usage::default()
    };
    (prompt, completion, usage)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_end_and_a_stop_text_are_told_apart_where_the_server_tells() {
        let cases = [
            (json!({ "finish_reason": "stop", "stop_reason": null }), true, Finish::EndOfSequence),
            (json!({ "finish_reason": "stop", "stop_reason": 2 }), true, Finish::EndOfSequence),
            (json!({ "finish_reason": "stop", "stop_reason": "\n\n" }), true, Finish::StopText),
            (json!({ "finish_reason": "stop", "matched_stop": "\n\n" }), true, Finish::StopText),
            (json!({ "finish_reason": "stop" }), true, Finish::Stop),
            (json!({ "finish_reason": "stop" }), false, Finish::EndOfSequence),
            (json!({ "finish_reason": "length", "stop_reason": null }), true, Finish::Length),
            (json!({ "finish_reason": "tool_calls" }), false, Finish::ToolCalls),
            (json!({ "finish_reason": "content_filter" }), false, Finish::Filtered),
            (json!({ "finish_reason": "abort" }), false, Finish::Other("abort".to_owned())),
        ];
        for (choice, has_stop_texts, expected) in cases {
            assert_eq!(finish(&choice, has_stop_texts), Ok(expected), "{choice}");
        }
        assert!(finish(&json!({ "finish_reason": null }), false).is_err());
    }

    #[test]
    fn an_answer_is_the_same_after_a_round_trip_and_says_nothing_of_what_it_lacks() {
        let call = ToolCall { name: "f".to_owned(), arguments: "{".to_owned() };
        let token = TokenLogProb { token: "a".to_owned(), log_prob: -0.1, alternatives: vec![("b".to_owned(), -2.5)] };
        let full = Answer {
            text: "a".to_owned(),
            finish: Finish::Other("x".to_owned()),
            tool_calls: vec![call],
            log_probs: Some(vec![token]),
            token_ids: Some(vec![1]),
            prompt_token_ids: Some(vec![]),
            n_prompt_tokens: Some(2),
            n_completion_tokens: Some(1),
            model: Some("m".to_owned()),
            usage: Usage { n_requests: 1, ..Usage::default() },
        };
        let bare = r#"{"text":"a","finish":"length","usage":{"n_requests":1}}"#;
        let read = |text: &str| serde_json::from_str::<Answer>(text).expect("an answer");
        let written = |answer: &Answer| serde_json::to_string(answer).expect("JSON");
        assert_eq!(read(&written(&full)), full);
        assert_eq!(read(bare).finish, Finish::Length);
        assert!(!written(&read(bare)).contains("null"), "{}", written(&read(bare)));
        assert_eq!(read(&written(&read(bare))), read(bare));
    }

    #[test]
    fn ids_and_counts_are_read_or_absent_and_never_guessed() {
        assert_eq!(token_ids(&json!([1, 2])), Some(vec![1, 2]));
        assert_eq!(token_ids(&json!([])), Some(vec![]));
        for wrong in [json!(null), json!([1, -2]), json!([1.5]), json!("1")] {
            assert_eq!(token_ids(&wrong), None);
        }
        let json =
            json!({ "usage": { "prompt_tokens": 9, "completion_tokens": 3, "prompt_tokens_details": { "cached_tokens": 8 } } });
        let (prompt, completion, counts) = usage(&json);
        assert_eq!((prompt, completion, counts.cached_prompt_tokens, counts.n_requests), (Some(9), Some(3), 8, 1));
        assert_eq!(usage(&json!({})).0, None);
    }
}
