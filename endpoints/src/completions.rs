//! Completions: a prompt goes on.

use std::future::Future;

use serde_json::{Value, json};

use crate::answer::{Answer, TokenLogProb, finish, only_choice, token_ids, usage};
use crate::client::{Client, Request, Route};
use crate::decoding::Decoding;
use crate::failure::Failure;
use crate::options::Api;
use crate::question::question;

/// What a completion goes on from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prompt {
    /// A text, which the server tokenises in its own way: it may add tokens, and reads spellings of special tokens.
    Text(String),
    /// Token ids, taken as they are.
    Tokens(Vec<u32>),
}

/// A prompt to go on from.
#[derive(Debug, Clone, PartialEq)]
pub struct CompletionRequest {
    /// The model's name at the server.
    pub model: String,
    /// The prompt.
    pub prompt: Prompt,
    /// How the answer is decoded.
    pub decoding: Decoding,
}

impl CompletionRequest {
    /// What is asked, in one canonical form; see [`ChatRequest::question`](crate::ChatRequest::question).
    pub fn question(&self) -> Value {
        question("completions", self.body())
    }

    fn body(&self) -> Value {
        let mut body = self.decoding.fields();
        body.insert("model".to_owned(), json!(self.model));
        let prompt = match &self.prompt {
            Prompt::Text(text) => json!(text),
            Prompt::Tokens(ids) => json!(ids),
        };
        body.insert("prompt".to_owned(), prompt);
        body.insert("max_tokens".to_owned(), json!(self.decoding.max_tokens));
        if let Some(alternatives) = self.decoding.log_probs {
            body.insert("logprobs".to_owned(), json!(alternatives));
        }
        Value::Object(body)
    }
}

impl Client {
    /// Goes on from a prompt, at `/v1/completions`.
    pub fn complete(&self, request: CompletionRequest) -> impl Future<Output = Result<Answer, Failure>> + Send + 'static {
        let (has_stop_texts, max_tokens) = (!request.decoding.stop.is_empty(), request.decoding.max_tokens);
        let sending = Request::post(Route::api("completions"), max_tokens, move || request.body());
        let (client, answer) = (self.clone(), self.send(sending, move |json| read(json, has_stop_texts)));
        async move {
            if client.shared.api == Api::Anthropic {
                let message = "Anthropic's interface goes on from no prompt; ask it as a chat";
                return Err(client.unsent(&Route::api("completions"), message.to_owned()));
            }
            answer.await.inspect(|answer| client.count_tokens(answer))
        }
    }

    pub(crate) fn count_tokens(&self, answer: &Answer) {
        self.shared.count(|usage| *usage += crate::Usage { n_requests: 0, ..answer.usage });
    }
}

fn read(json: &Value, has_stop_texts: bool) -> Result<Answer, String> {
    let choice = only_choice(json)?;
    let text = choice["text"].as_str().ok_or("no `text`")?;
    let (n_prompt_tokens, n_completion_tokens, usage) = usage(json);
    Ok(Answer {
        text: text.to_owned(),
        finish: finish(choice, has_stop_texts)?,
        tool_calls: Vec::new(),
        log_probs: log_probs(&choice["logprobs"])?,
        token_ids: token_ids(&choice["token_ids"]),
        prompt_token_ids: token_ids(&choice["prompt_token_ids"]),
        n_prompt_tokens,
        n_completion_tokens,
        model: json["model"].as_str().map(str::to_owned),
        usage,
    })
}

fn log_probs(value: &Value) -> Result<Option<Vec<TokenLogProb>>, String> {
    let Some(numbers) = value["token_logprobs"].as_array() else { return Ok(None) };
    let read = |(i, number): (usize, &Value)| {
        let alternatives = value["top_logprobs"][i].as_object().into_iter().flatten();
        Some(TokenLogProb {
            token: value["tokens"][i].as_str().unwrap_or_default().to_owned(),
            log_prob: number.as_f64()?,
            alternatives: alternatives.filter_map(|(token, number)| Some((token.clone(), number.as_f64()?))).collect(),
        })
    };
    numbers
        .iter()
        .enumerate()
        .map(read)
        .collect::<Option<_>>()
        .map(Some)
        .ok_or_else(|| "a log-probability that is no number".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Finish, VllmDecoding};

    #[test]
    fn a_prompt_is_sent_as_ids_or_as_text() {
        let mut request =
            CompletionRequest { model: "m".to_owned(), prompt: Prompt::Tokens(vec![1, 2]), decoding: Decoding::default() };
        request.decoding =
            Decoding { max_tokens: 9, log_probs: Some(0), vllm: Some(VllmDecoding::default()), ..request.decoding };
        let body = request.body();
        assert_eq!([&body["prompt"], &body["max_tokens"], &body["logprobs"]], [&json!([1, 2]), &json!(9), &json!(0)]);
        assert_eq!([&body["model"], &body["return_token_ids"]], [&json!("m"), &json!(true)]);
        request.prompt = Prompt::Text("hi".to_owned());
        assert_eq!(request.body()["prompt"], json!("hi"));
    }

    /// An answer of vLLM 0.32, shortened.
    #[test]
    fn vllms_answer_is_read_whole() {
        let json = json!({
            "id": "cmpl-1", "object": "text_completion", "model": "smol",
            "choices": [{
                "index": 0, "text": "\n#", "finish_reason": "length", "stop_reason": null,
                "logprobs": {
                    "text_offset": [0, 1], "token_logprobs": [-2.73, -1.56], "tokens": ["\n", "#"],
                    "top_logprobs": [{ "\n": -2.73 }, { "#": -1.56, "A": -0.5 }],
                },
                "token_ids": [198, 19], "prompt_logprobs": null, "prompt_token_ids": [1, 9690, 198],
            }],
            "usage": { "prompt_tokens": 3, "total_tokens": 5, "completion_tokens": 2, "prompt_tokens_details": null },
        });
        let answer = read(&json, true).expect("read");
        assert_eq!((answer.text.as_str(), &answer.finish), ("\n#", &Finish::Length));
        assert_eq!((answer.token_ids, answer.prompt_token_ids), (Some(vec![198, 19]), Some(vec![1, 9690, 198])));
        assert_eq!((answer.n_prompt_tokens, answer.n_completion_tokens), (Some(3), Some(2)));
        let log_probs = answer.log_probs.expect("given");
        assert_eq!((log_probs[1].token.as_str(), log_probs[1].log_prob, log_probs[1].alternatives.len()), ("#", -1.56, 2));
    }

    #[test]
    fn what_is_missing_is_named() {
        for (json, part) in [
            (json!({}), "choices"),
            (json!({ "choices": [] }), "choices"),
            (json!({ "choices": [{ "finish_reason": "stop" }] }), "text"),
            (json!({ "choices": [{ "text": "a" }] }), "finish_reason"),
            (
                json!({ "choices": [{ "text": "a", "finish_reason": "stop", "logprobs": { "token_logprobs": [null] } }] }),
                "number",
            ),
        ] {
            assert!(read(&json, false).expect_err("incomplete").contains(part), "{json}");
        }
    }
}
