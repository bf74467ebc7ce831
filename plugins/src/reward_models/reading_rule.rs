//! Where a scalar reward model reads its reward; kept in its checkpoint, so that scoring follows training.

use std::path::Path;

use farmhand_core::{Error, Result, RunContext};
use farmhand_models::Ending;
use serde::{Deserialize, Serialize};

const FILE: &str = "reward_model.json";

/// Where the reward is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReadingRule {
    /// At an end-of-sequence token after the answer, instead of at the answer's last token.
    pub with_eos: bool,
}

impl ReadingRule {
    /// How answers are encoded under this rule.
    pub fn ending(self) -> Ending {
        if self.with_eos { Ending::WithEos } else { Ending::Open }
    }

    /// Writes the rule into the checkpoint of the context's stage.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn save(self, ctx: &RunContext<'_>) -> Result<()> {
        let path = ctx.stage.checkpoint_dir().join(FILE);
        farmhand_core::run::write_atomic(&path, |out| {
            serde_json::to_writer_pretty(&mut *out, &self).map_err(|error| Error::io("write", &path, error.into()))?;
            out.write_all(b"\n").map_err(|error| Error::io("write", &path, error))
        })
    }

    /// The rule in a model folder; without one, the reward is read at the answer's last token.
    ///
    /// # Errors
    /// When there is one that cannot be read.
    pub fn load(dir: &Path) -> Result<Self> {
        let path = dir.join(FILE);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(Error::io("read", &path, error)),
        };
        serde_json::from_str(&text).map_err(|error| {
            Error::invalid_data(format!("`{}` does not say where rewards are read", path.display())).with_source(error)
        })
    }
}
