//! What a policy answers, and how it was sampled.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Instruction;
use crate::error::Problem;

/// The name of whatever produced an answer: a method, a checkpoint, a remote model.
pub type ModelId = String;

/// Why a completion ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The model ended its answer itself (end-of-sequence token).
    Stop,
    /// A stop string appeared.
    StopString,
    /// The token limit cut it off; such an answer has no end-of-sequence token.
    Length,
}

/// One answer of a policy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Completion {
    /// What was asked.
    pub instruction: Instruction,
    /// The answer, without special tokens.
    pub output: String,
    /// Who answered.
    pub model: ModelId,
    /// Which of the n answers to this instruction it is, from 0.
    pub sample: u32,
    /// Why it ended.
    pub finish: FinishReason,
    /// Tokens sampled, the end-of-sequence token included when there is one.
    pub n_tokens: u32,
    /// Log-probability of the sampled tokens under exactly the distribution they were drawn from, in nats.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_prob: Option<f64>,
}

/// How answers are sampled. The order is temperature, repetition penalty first on the logits, then top-k,
/// top-p and min-p, each on what the one before left.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SamplingParams {
    /// Answers per instruction, ≥ 1.
    pub n: u32,
    /// Softmax temperature, ≥ 0; 0 takes the most likely token each time (greedy).
    pub temperature: f64,
    /// Keep only the k most likely tokens; 0 keeps all.
    pub top_k: u32,
    /// Keep the smallest set of tokens whose probability reaches this value, in (0, 1]; 1 keeps all.
    pub top_p: f64,
    /// Drop tokens less likely than this fraction of the most likely one, in [0, 1); 0 keeps all.
    pub min_p: f64,
    /// Divides the positive logits (multiplies the negative ones) of tokens that already occurred, > 0; 1 does nothing.
    pub repetition_penalty: f64,
    /// Tokens per answer at most, ≥ 1.
    pub max_new_tokens: u32,
    /// Texts that end an answer; they are not part of it.
    pub stop: Vec<String>,
    /// Record the log-probability of each answer.
    pub log_probs: bool,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            n: 1,
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            max_new_tokens: 256,
            stop: Vec::new(),
            log_probs: false,
        }
    }
}

impl SamplingParams {
    /// Whether the most likely token is always taken.
    pub fn is_greedy(&self) -> bool {
        self.temperature == 0.0
    }

    /// Everything out of range, paths relative to this table.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut check = |ok: bool, key: &str, expected: &str, got: String| {
            if !ok {
                problems.push(Problem::new(key, format!("expected {expected}, got {got}")));
            }
        };
        check(self.n >= 1, "n", "at least 1", self.n.to_string());
        check(
            self.temperature >= 0.0 && self.temperature.is_finite(),
            "temperature",
            "a number ≥ 0",
            self.temperature.to_string(),
        );
        check(self.top_p > 0.0 && self.top_p <= 1.0, "top_p", "a number in (0, 1]", self.top_p.to_string());
        check((0.0..1.0).contains(&self.min_p), "min_p", "a number in [0, 1)", self.min_p.to_string());
        check(
            self.repetition_penalty > 0.0 && self.repetition_penalty.is_finite(),
            "repetition_penalty",
            "a number > 0",
            self.repetition_penalty.to_string(),
        );
        check(self.max_new_tokens >= 1, "max_new_tokens", "at least 1", self.max_new_tokens.to_string());
        check(self.stop.iter().all(|text| !text.is_empty()), "stop", "texts that are not empty", "an empty one".to_owned());
        problems
    }
}
