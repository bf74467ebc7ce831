//! The built-in evaluators: pure functions from judgements, answers and rewards to numbers with uncertainty.
//!
//! * [`win_rate`]: how often the model's answers are preferred to the reference's, as AlpacaEval computes it.
//! * [`mean_reward`]: what a reward model gives the answers.
//! * [`agreement`]: how far several raters agree: raw, κ, α, and AlpacaEval's definitions.
//! * [`length`]: how long the answers are and how they end.
//! * [`length_controlled`]: the win rate at equal length, AlpacaEval 2's.
//! * [`estimate`]: means with standard errors and intervals, which the others share.

pub mod agreement;
pub mod estimate;
pub mod length;
pub mod length_controlled;
pub mod mean_reward;
pub mod win_rate;
