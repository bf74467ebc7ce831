//! One verdict out of several raters': pure functions.
//!
//! * [`votes`]: majority, mean, margins.
//! * [`dawid_skene`]: the likeliest truth when raters differ in how reliable they are, and how reliable each is.

pub mod dawid_skene;
pub mod votes;
