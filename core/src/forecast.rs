//! What judging would take, said before anyone is asked.

use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

/// A guess with its bounds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Range {
    /// Hardly less than this.
    pub low: f64,
    /// The best guess.
    pub expected: f64,
    /// Hardly more than this.
    pub high: f64,
}

impl AddAssign for Range {
    fn add_assign(&mut self, other: Self) {
        self.low += other.low;
        self.expected += other.expected;
        self.high += other.high;
    }
}

/// What judging a set of comparisons would take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Forecast {
    /// Comparisons.
    pub n_comparisons: usize,
    /// Those whose verdict is known: kept from an earlier time.
    pub n_cached: usize,
    /// Those that need no judge: identical answers, labels replaced by noise.
    pub n_settled: usize,
    /// Those that would be judged.
    pub n_asked: usize,
    /// Requests to paid or remote models.
    pub n_requests: usize,
    /// Tokens of their prompts, estimated.
    pub prompt_tokens: Range,
    /// Tokens of their answers, estimated.
    pub completion_tokens: Range,
    /// What they would cost, in US dollars, as far as prices are known.
    pub cost_usd: Range,
    /// Requests whose price is not known.
    pub n_unpriced: usize,
}

impl Forecast {
    /// A judge that asks no server: everything is judged, and costs nothing.
    pub fn local(n_comparisons: usize) -> Self {
        Self { n_comparisons, n_asked: n_comparisons, ..Self::default() }
    }

    /// The same with comparisons that need no judge.
    #[must_use]
    pub fn with_settled(mut self, n: usize) -> Self {
        self.n_comparisons += n;
        self.n_settled += n;
        self
    }

    /// The same with comparisons whose verdict is known.
    #[must_use]
    pub fn with_cached(mut self, n: usize) -> Self {
        self.n_comparisons += n;
        self.n_cached += n;
        self
    }
}

impl AddAssign for Forecast {
    fn add_assign(&mut self, other: Self) {
        self.n_comparisons += other.n_comparisons;
        self.n_cached += other.n_cached;
        self.n_settled += other.n_settled;
        self.n_asked += other.n_asked;
        self.n_requests += other.n_requests;
        self.prompt_tokens += other.prompt_tokens;
        self.completion_tokens += other.completion_tokens;
        self.cost_usd += other.cost_usd;
        self.n_unpriced += other.n_unpriced;
    }
}
