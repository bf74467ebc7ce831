//! The built-in evaluators: pure functions from judgements, answers and rewards to numbers with uncertainty.
//!
//! * [`win_rate`]: how often the model's answers are preferred to the reference's, as AlpacaEval computes it.
//! * [`mean_reward`]: what a reward model gives the answers.
//! * [`agreement`]: how far several raters agree: raw, κ, α, and AlpacaEval's definitions.
//! * [`judges`]: what is known of judges: agreement with people, leanings, price, rankings.
//! * [`length`]: how long the answers are and how they end.
//! * [`preference_bias`]: what a judge leans to beside quality: length, lists, places.
//! * [`length_controlled`]: the win rate at equal length, AlpacaEval 2's.
//! * [`by_dataset`]: the win rate on each data set that the instructions come from.
//! * [`diversity`]: how varied answers are.
//! * [`transfer`]: whether a ranking of methods under one annotator holds under another.
//! * [`refusal`]: how often they refuse.
//! * [`estimate`]: means with standard errors and intervals, which the others share.
//! * [`statistics`]: bootstrap, exact intervals, many tests at once, power, Bradley–Terry, correlations.

pub mod agreement;
pub mod by_dataset;
pub mod diversity;
pub mod estimate;
pub mod judges;
pub mod length;
pub mod length_controlled;
pub mod mean_reward;
pub mod preference_bias;
pub mod refusal;
pub mod statistics;
pub mod transfer;
pub mod win_rate;
