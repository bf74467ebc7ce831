//! What every learner needs around its loop: records that fit, options in range, a reference.

mod options;
mod records;
mod reference;

use farmhand_models::StepPlan;

pub use options::Ranges;
pub use records::{Record, TokenLimit, admit, ids_of};
pub use reference::load_reference;

/// Records seen in the first `step` optimiser steps of a plan, repeated ones counted again; for progress.
pub fn items_before(plan: &StepPlan, step: u64) -> u64 {
    (0..step).map(|step| plan.items(step).len() as u64).sum()
}
