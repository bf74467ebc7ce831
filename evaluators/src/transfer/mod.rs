//! Does a ranking of methods under one annotator hold under another? AlpacaFarm's question whether its simulation holds (Dubois et
//! al., 2023, <https://arxiv.org/abs/2305.14387>, figure 3).
//!
//! * [`judged`]: win rates of methods under both annotators, from verdicts or from a table.
//! * [`correlations`]: how far the two rankings agree, with intervals.

pub mod correlations;
pub mod judged;

pub use correlations::{MethodTransfer, Rate, Transfer, transfer, transfer_of_table};
pub use judged::{Judged, JudgedMethods, Side, TableRow, Verdict};

#[cfg(test)]
mod tests;
