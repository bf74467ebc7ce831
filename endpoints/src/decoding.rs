//! How an answer is decoded, in the words of the servers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// How an answer is decoded. Everything is sent in words: a server's own defaults never count.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Decoding {
    /// Tokens of the answer at most, ≥ 1.
    pub max_tokens: u32,
    /// Softmax temperature, ≥ 0; 0 is greedy.
    pub temperature: f64,
    /// Keep the smallest set of tokens whose probability reaches this value, in (0, 1].
    pub top_p: f64,
    /// Seed of this request, where the server takes one.
    pub seed: Option<u64>,
    /// Texts that end an answer.
    pub stop: Vec<String>,
    /// Added to the logits of these tokens (the model's own ids) before sampling, in [−100, 100]; −100 bans a token.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub logit_bias: BTreeMap<u32, f64>,
    /// Ask for the log-probability of every token of the answer, and of this many alternatives to each.
    pub log_probs: Option<u32>,
    /// What only vLLM and its like take.
    pub vllm: Option<VllmDecoding>,
}

impl Default for Decoding {
    fn default() -> Self {
        Self {
            max_tokens: 256,
            temperature: 1.0,
            top_p: 1.0,
            seed: None,
            stop: Vec::new(),
            logit_bias: BTreeMap::new(),
            log_probs: None,
            vllm: None,
        }
    }
}

/// Decoding options beyond OpenAI's. With them the token ids of prompt and answer are asked for, too.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VllmDecoding {
    /// Keep only the k most likely tokens; 0 keeps all.
    pub top_k: u32,
    /// Drop tokens less likely than this fraction of the most likely one, in [0, 1).
    pub min_p: f64,
    /// Divides the positive logits (multiplies the negative ones) of tokens that already occurred, > 0.
    pub repetition_penalty: f64,
    /// Tokens that end an answer, beyond the server's own.
    pub stop_token_ids: Vec<u32>,
}

impl Default for VllmDecoding {
    fn default() -> Self {
        Self { top_k: 0, min_p: 0.0, repetition_penalty: 1.0, stop_token_ids: Vec::new() }
    }
}

impl Decoding {
    /// The fields that completions and chats share; the limit of tokens and log-probabilities are named differently.
    pub(crate) fn fields(&self) -> Map<String, Value> {
        let mut fields = Map::new();
        let mut set = |key: &str, value: Value| fields.insert(key.to_owned(), value);
        set("temperature", json!(self.temperature));
        set("top_p", json!(self.top_p));
        if let Some(seed) = self.seed {
            set("seed", json!(seed));
        }
        if !self.stop.is_empty() {
            set("stop", json!(self.stop));
        }
        if !self.logit_bias.is_empty() {
            set("logit_bias", json!(self.logit_bias));
        }
        if let Some(vllm) = &self.vllm {
            set("top_k", json!(vllm.top_k));
            set("min_p", json!(vllm.min_p));
            set("repetition_penalty", json!(vllm.repetition_penalty));
            set("stop_token_ids", json!(vllm.stop_token_ids));
            set("return_token_ids", json!(true));
        }
        fields
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_sent_and_extensions_only_when_asked_for() {
        let plain = Value::Object(Decoding::default().fields());
        assert_eq!(plain, json!({ "temperature": 1.0, "top_p": 1.0 }));
        let full = Decoding {
            seed: Some(3),
            stop: vec!["x".to_owned()],
            logit_bias: [(7, -100.0), (30, 5.0)].into(),
            vllm: Some(VllmDecoding::default()),
            ..Decoding::default()
        };
        let expected = json!({
            "temperature": 1.0, "top_p": 1.0, "seed": 3, "stop": ["x"], "logit_bias": { "7": -100.0, "30": 5.0 },
            "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0, "stop_token_ids": [], "return_token_ids": true,
        });
        assert_eq!(Value::Object(full.fields()), expected);
    }
}
