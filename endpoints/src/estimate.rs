//! What a request will use, guessed before it is sent.

use farmhand_core::{Forecast, Range};

use crate::usage::Prices;

/// Tokens that a request will use, by rule of thumb: a token of English text is about 4 characters, between 3 and 5. No tokenizer
/// is asked, for servers do not give theirs away.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RequestEstimate {
    /// Tokens of the prompt.
    pub prompt_tokens: Range,
    /// Tokens of the answer: between one and the limit; half of the limit is the best guess where nothing else is known.
    pub completion_tokens: Range,
}

impl RequestEstimate {
    /// A request whose messages have so many characters (Unicode code points) together, with at most `max_tokens` in its answer.
    pub fn of(prompt_chars: usize, max_tokens: u32) -> Self {
        let (chars, limit) = (prompt_chars as f64, f64::from(max_tokens));
        // Every message has a few tokens of its own around it.
        let prompt_tokens = Range { low: chars / 5.0, expected: chars / 4.0 + 4.0, high: chars / 3.0 + 16.0 };
        let completion_tokens = Range { low: limit.min(1.0), expected: (limit / 2.0).ceil(), high: limit };
        Self { prompt_tokens, completion_tokens }
    }

    /// What it will cost, in US dollars. `high` is what to reserve of a budget.
    pub fn cost(&self, prices: &Prices) -> Range {
        let cost = |prompt: f64, completion: f64| (prompt * prices.prompt + completion * prices.completion) * 1e-6;
        let cached = prices.cached_prompt.unwrap_or(prices.prompt).min(prices.prompt);
        Range {
            low: (self.prompt_tokens.low * cached + self.completion_tokens.low * prices.completion) * 1e-6,
            expected: cost(self.prompt_tokens.expected, self.completion_tokens.expected),
            high: cost(self.prompt_tokens.high, self.completion_tokens.high),
        }
    }

    /// Adds this request to what judging would take; `prices` is `None` where they are not known.
    pub fn add_to(&self, forecast: &mut Forecast, prices: Option<&Prices>) {
        forecast.n_requests += 1;
        forecast.prompt_tokens += self.prompt_tokens;
        forecast.completion_tokens += self.completion_tokens;
        match prices {
            Some(prices) => forecast.cost_usd += self.cost(prices),
            None => forecast.n_unpriced += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_hold_the_guess_and_unknown_prices_are_counted() {
        let estimate = RequestEstimate::of(4000, 100);
        let prices = Prices { prompt: 10.0, cached_prompt: Some(5.0), completion: 30.0 };
        let cost = estimate.cost(&prices);
        assert!(cost.low < cost.expected && cost.expected < cost.high);
        assert!((cost.expected - (1004.0 * 10.0 + 50.0 * 30.0) * 1e-6).abs() < 1e-12);
        let mut forecast = Forecast::default();
        estimate.add_to(&mut forecast, Some(&prices));
        estimate.add_to(&mut forecast, None);
        assert_eq!((forecast.n_requests, forecast.n_unpriced, forecast.cost_usd), (2, 1, cost));
        assert_eq!(forecast.completion_tokens.high, 200.0);
    }
}
