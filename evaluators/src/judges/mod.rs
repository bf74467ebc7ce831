//! Judging the judges: how each agrees with people, what it leans to, what it costs, and how it ranks models.
//!
//! * [`verdicts`]: verdicts of several judges on the same pairs of answers.
//! * [`measure`]: everything about one judge.
//! * [`two_raters`]: κ and α of a judge and the people.
//! * [`leanings`]: places, lengths, lists, own answers.
//! * [`rankings`]: win rates of models under a judge, against people's or a given ranking.
//! * [`pairwise`]: every two judges.

pub mod leanings;
pub mod measure;
pub mod pairwise;
pub mod rankings;
pub mod two_raters;
pub mod verdicts;

#[cfg(test)]
mod tests;

pub use measure::{JudgeOptions, JudgeReport, measure};
pub use verdicts::{Pair, Verdict, Verdicts};
