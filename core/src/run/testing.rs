//! What the tests of this folder share.

use super::StageDir;
use crate::{CancelFlag, Device, NoEvents, PollingExecutor, RunContext, Seed};

/// Runs a test in a stage of its own.
pub(super) fn with_stage(test: impl FnOnce(&RunContext<'_>)) {
    let dir = tempfile::tempdir().expect("a folder");
    let (stage, cancel) = (StageDir::create(dir.path().join("stage")).expect("made"), CancelFlag::new());
    let (seed, device, executor) = (Seed::root(0), Device::Cpu, &PollingExecutor);
    test(&RunContext { stage: &stage, seed, device, events: &NoEvents, cancel: &cancel, executor });
}
