//! The built-in annotators: who says which of two answers is better.
//!
//! Those that judge:
//! * [`rater`]: a simulated rater with its own taste, a weighted sum of documented [`features`] of each answer.
//! * [`reward_judge`]: any reward model as a judge.
//! * [`from_file`]: recorded judgements, replayed.
//! * [`human`]: people's recorded verdicts, several raters made one by the functions of [`aggregation`].
//! * [`chat`]: language models behind a server, with AlpacaEval's settings or prompts of our own.
//!
//! Those around others:
//! * [`pool`]: several annotators, one chosen for each instruction; its default is the embedded pool of simulated raters.
//! * [`label_noise`]: a share of the verdicts flipped.
//! * [`counted`]: what a learner asks, counted.
//! * [`both_orders`]: asked in both orders; what turns with the order is a tie.
//! * [`order_swap`]: which answer is shown first, drawn for each instruction.
//! * [`cached`]: verdicts kept in a file and not asked for twice.
//!
//! [`python_random`] has Python's random numbers, for those who want AlpacaFarm's very draws.
//! What was asked and answered is kept in a [`store`].
//!
//! All of them follow AlpacaFarm's scheme (Dubois et al., 2023, section 3): whatever is random is drawn from the seed and the
//! *text* of the example, never from its position, and identical answers are a tie without asking anyone.

pub mod aggregation;
pub mod alpaca_farm_pairs;
pub mod both_orders;
pub mod cached;
pub mod chat;
pub mod counted;
pub mod features;
pub mod from_file;
pub mod human;
pub mod label_noise;
pub mod order_swap;
pub mod pool;
pub mod python_random;
pub mod rater;
pub mod reward_judge;
pub mod seeding;
pub mod store;
pub mod tie_if_identical;

mod default_pool;
mod failures;
mod join_all;
mod mersenne_twister;
mod model_scores;

#[cfg(test)]
mod testing;
