//! What requests cost: counts of requests and tokens, and their price.

use farmhand_core::Problem;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Counts of requests and tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Usage {
    /// Requests answered.
    pub n_requests: u64,
    /// Requests that failed after all their tries.
    pub n_failed: u64,
    /// Tries beyond the first.
    pub n_retries: u64,
    /// Tokens of prompts, those from the server's cache included.
    pub prompt_tokens: u64,
    /// Tokens of prompts that came from the server's cache.
    pub cached_prompt_tokens: u64,
    /// Tokens of answers.
    pub completion_tokens: u64,
}

impl std::ops::AddAssign for Usage {
    fn add_assign(&mut self, other: Self) {
        self.n_requests += other.n_requests;
        self.n_failed += other.n_failed;
        self.n_retries += other.n_retries;
        self.prompt_tokens += other.prompt_tokens;
        self.cached_prompt_tokens += other.cached_prompt_tokens;
        self.completion_tokens += other.completion_tokens;
    }
}

/// What tokens cost, in US dollars per million.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Prices {
    /// A million tokens of prompts, in US dollars, ≥ 0.
    pub prompt: f64,
    /// A million tokens of prompts from the server's cache, in US dollars, ≥ 0; unset: as much as others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cached_prompt: Option<f64>,
    /// A million tokens of answers, in US dollars, ≥ 0.
    pub completion: f64,
}

impl Prices {
    /// The price of what was used, in US dollars.
    pub fn cost(&self, usage: &Usage) -> f64 {
        let cached = usage.cached_prompt_tokens.min(usage.prompt_tokens);
        let million = 1e-6;
        (usage.prompt_tokens - cached) as f64 * self.prompt * million
            + cached as f64 * self.cached_prompt.unwrap_or(self.prompt) * million
            + usage.completion_tokens as f64 * self.completion * million
    }

    /// Everything out of range, paths relative to this table.
    pub fn problems(&self) -> Vec<Problem> {
        let entries =
            [("prompt", Some(self.prompt)), ("cached_prompt", self.cached_prompt), ("completion", Some(self.completion))];
        let wrong = |(path, price): (&str, Option<f64>)| {
            let price = price.filter(|price| !(price.is_finite() && *price >= 0.0))?;
            Some(Problem::new(path, format!("expected a number ≥ 0, got {price}")))
        };
        entries.into_iter().filter_map(wrong).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cached_tokens_have_their_own_price() {
        let usage =
            Usage { prompt_tokens: 3_000_000, cached_prompt_tokens: 1_000_000, completion_tokens: 500_000, ..Usage::default() };
        let mut prices = Prices { prompt: 2.0, cached_prompt: None, completion: 8.0 };
        assert!((prices.cost(&usage) - 10.0).abs() < 1e-12);
        prices.cached_prompt = Some(0.5);
        assert!((prices.cost(&usage) - 8.5).abs() < 1e-12);
        assert_eq!(prices.problems(), []);
        assert_eq!(Prices { prompt: -1.0, cached_prompt: Some(f64::NAN), completion: 0.0 }.problems().len(), 2);
    }
}
