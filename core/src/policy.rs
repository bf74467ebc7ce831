//! The policy contract: something that answers instructions.

use crate::component::BuildContext;
use crate::context::RunContext;
use crate::error::{Problem, Result};
use crate::types::{Completion, Instruction, SamplingParams};

/// Answers instructions. `Send`, not `Sync`: a tensor may move between threads but not be shared.
pub trait Policy: Send {
    /// The name answers carry, for example the checkpoint's folder or the remote model.
    fn model(&self) -> &str;

    /// `sampling.n` answers per instruction, grouped by instruction, in input order, samples from 0.
    ///
    /// An answer depends on its instruction, its sample index and `ctx.seed`, never on what else is in the batch.
    ///
    /// # Errors
    /// When an instruction cannot be answered (too long for the model), a server fails, or on cancellation.
    fn generate(
        &mut self,
        instructions: &[Instruction],
        sampling: &SamplingParams,
        ctx: &RunContext<'_>,
    ) -> Result<Vec<Completion>>;
}

/// The options of a policy, as `[policy.NAME]` holds them.
#[typetag::serde]
pub trait PolicyConfig: std::fmt::Debug + Send + Sync {
    /// Loads what the options name.
    ///
    /// # Errors
    /// When a file is missing or does not fit.
    fn build(&self, ctx: &BuildContext<'_>) -> Result<Box<dyn Policy>>;

    /// Values out of range and combinations that make no sense, paths relative to the options; touches no resources.
    fn problems(&self) -> Vec<Problem> {
        Vec::new()
    }
}
