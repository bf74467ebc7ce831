//! The models that a training keeps on its way, where its stage asks for them: the points of a method's curve.

use farmhand_core::run::StageDir;
use farmhand_core::{Result, RunContext};
use farmhand_models::{LanguageModel, TextCodec, write_checkpoint};

/// A policy in training, with what else its checkpoints hold.
pub struct KeptCheckpoints<'a> {
    policy: &'a LanguageModel,
    codec: &'a TextCodec,
    made_by: &'static str,
    stage: &'a StageDir,
}

impl<'a> KeptCheckpoints<'a> {
    /// The checkpoints of a training that goes on after `first` steps; one that begins forgets those of an earlier attempt.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn of(
        policy: &'a LanguageModel,
        codec: &'a TextCodec,
        made_by: &'static str,
        first: u64,
        ctx: &RunContext<'a>,
    ) -> Result<Self> {
        if first == 0 {
            ctx.stage.clear_kept_checkpoints()?;
        }
        Ok(Self { policy, codec, made_by, stage: ctx.stage })
    }

    /// Keeps the policy as it is after `step` steps, where that is due. A training that goes on from there writes the same bytes
    /// again.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn after(&self, step: u64) -> Result<()> {
        match self.stage.kept_checkpoint_dir(step) {
            Some(dir) => write_checkpoint(&dir, self.policy, self.codec, self.made_by).map(drop),
            None => Ok(()),
        }
    }
}
