//! What is known about a number: pure functions, one method a file.
//!
//! * [`bootstrap`]: intervals of any statistic by drawing its clusters anew.
//! * [`joint_bootstrap`]: the same for many means at once, over parts too.
//! * [`proportion`]: exact intervals of a share.
//! * [`multiple_comparisons`]: many tests at once.
//! * [`power`]: how many instructions show a difference.
//! * [`paired`]: differences on the same instructions.
//! * [`bradley_terry`]: strengths of many models from pairwise verdicts, Elo's scale, intervals of ranks.
//! * [`correlation`]: Pearson, Spearman, Kendall.
//! * [`normal`]: the normal distribution.

pub mod bootstrap;
pub mod bradley_terry;
pub mod correlation;
pub mod joint_bootstrap;
pub mod multiple_comparisons;
pub mod normal;
pub mod paired;
pub mod power;
pub mod proportion;
