//! The reward model contract: something that scores an answer.

use crate::checkpoint::Checkpoint;
use crate::component::BuildContext;
use crate::context::RunContext;
use crate::error::{Problem, Result};
use crate::types::Response;

/// Scores answers: one finite number an item, in input order; higher is better, no fixed scale.
pub trait RewardModel: Send {
    /// The scores of `items`, one each, in order. A score depends on its item alone, never on the batch.
    ///
    /// # Errors
    /// When an item cannot be scored, or on cancellation.
    fn score(&mut self, items: &[Response<'_>], ctx: &RunContext<'_>) -> Result<Vec<f64>>;

    /// The checkpoint behind it, for learners that start a value model from the reward model's body.
    fn checkpoint(&self) -> Option<&Checkpoint> {
        None
    }
}

/// The options of a reward model, as `[reward_model.NAME]` holds them.
#[typetag::serde]
pub trait RewardModelConfig: std::fmt::Debug + Send + Sync {
    /// Loads what the options name.
    ///
    /// # Errors
    /// When a file is missing or does not fit.
    fn build(&self, ctx: &BuildContext<'_>) -> Result<Box<dyn RewardModel>>;

    /// Values out of range and combinations that make no sense, paths relative to the options; touches no resources.
    fn problems(&self) -> Vec<Problem> {
        Vec::new()
    }
}
