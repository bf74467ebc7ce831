//! What every learner needs around its loop: records that fit, options in range, a reference, the part that
//! is trained, memory.

mod log_prob_cache;
mod memory;
mod micro_batching;
mod options;
mod records;
mod reference;
mod trained_part;

use farmhand_core::Seed;
use farmhand_models::{BatchLayout, StepPlan, computed_tokens};

pub use memory::{MemoryNeeds, Trainee, held};
pub use micro_batching::MicroBatching;
pub use options::Ranges;
pub use records::{Record, TokenLimit, admit, ids_of};
pub use reference::{Reference, is_same_model, load_reference};
pub use trained_part::{in_training, start_training};

/// The records of every optimiser step: `batch_size` of them, or as many as `batch_tokens` tokens allow. A pair's prompt counts
/// once, and no padding counts, so that the plan does not depend on how texts lie in a forward pass.
pub fn plan_steps<const N: usize>(
    records: &[Record<N>],
    batch_size: usize,
    batch_tokens: Option<usize>,
    epochs: u32,
    seed: Seed,
) -> StepPlan {
    let epochs = u64::from(epochs);
    match batch_tokens {
        None => StepPlan::new(records.len(), batch_size, epochs, seed),
        Some(max_tokens) => {
            let tokens = |record: &Record<N>| computed_tokens(&record.texts, BatchLayout::Packed);
            StepPlan::by_tokens(&records.iter().map(tokens).collect::<Vec<_>>(), max_tokens, epochs, seed)
        }
    }
}

/// Records seen in the first `step` optimiser steps of a plan, repeated ones counted again; for progress.
pub fn items_before(plan: &StepPlan, step: u64) -> u64 {
    (0..step).map(|step| plan.items(step).len() as u64).sum()
}
