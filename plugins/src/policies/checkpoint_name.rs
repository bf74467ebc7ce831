//! The name that answers of a checkpoint carry.

use std::path::Path;

use farmhand_core::Checkpoint;

/// The model's folder, or the stage's when that is just called `checkpoint`.
pub(crate) fn checkpoint_name(checkpoint: &Checkpoint) -> String {
    let path = checkpoint.path();
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    match name(path) {
        Some(own) if own == "checkpoint" => path.parent().and_then(name).unwrap_or(own),
        Some(own) => own,
        None => path.display().to_string(),
    }
}
