//! What a judgement by people costs, to compare judges with.

/// Price and time of judgements by crowd workers, as AlpacaFarm collected them: 300 dollars and 36,800 seconds per 1,000.
///
/// They are the row `humans` of AlpacaEval's leaderboard of evaluators (columns `Price [$/1000 examples]` and `Time [seconds/1000
/// examples]`). The paper puts its simulated annotators at 45 times cheaper than that (Dubois et al., 2023,
/// <https://arxiv.org/abs/2305.14387>; 50 times in its later version).
#[derive(Debug, Clone, Copy)]
pub struct HumanJudgement;

impl HumanJudgement {
    /// US dollars per 1,000 judgements.
    pub const USD_PER_1000: f64 = 300.0;
    /// Seconds per 1,000 judgements.
    pub const SECS_PER_1000: f64 = 36_800.0;

    /// How many times cheaper than people a judge is that takes so many US dollars per 1,000 judgements, > 0.
    pub fn times_cheaper(usd_per_1000: f64) -> f64 {
        Self::USD_PER_1000 / usd_per_1000
    }
}
