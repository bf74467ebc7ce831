//! What every learner needs around its loop: records that fit, options in range.

mod options;
mod records;

pub use options::Ranges;
pub use records::{Record, TokenLimit, admit, ids_of};
