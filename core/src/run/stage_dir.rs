//! The folder of one stage: its outputs, its saved states, its journals.

use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::atomic::{write_atomic, write_dir_atomic};
use super::journal::Journal;
use super::shared_journal::SharedJournal;
use crate::error::{Error, Result};

/// Where one stage writes. Outputs appear whole under their final name; what is only needed to continue an
/// interrupted stage lies under `state/` and goes when the stage is done.
#[derive(Debug, Clone)]
pub struct StageDir {
    path: PathBuf,
    keep_every: Option<u64>,
}

/// The folder of the checkpoints that a learner keeps on its way.
const KEPT: &str = "checkpoints";

impl StageDir {
    /// The stage in this folder; makes it when it is not there.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn create(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        std::fs::create_dir_all(&path).map_err(|error| Error::io("make folder", &path, error))?;
        Ok(Self { path, keep_every: None })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where a learner's result goes.
    pub fn checkpoint_dir(&self) -> PathBuf {
        self.path.join("checkpoint")
    }

    /// The same stage, in which a learner keeps the model of every so many of its steps, ≥ 1, beside its result; by default none.
    #[must_use]
    pub fn keeping_checkpoints(self, every: Option<u64>) -> Self {
        Self { keep_every: every, ..self }
    }

    /// Where the model after `step` steps of a learner goes; `None` when it is not to be kept.
    pub fn kept_checkpoint_dir(&self, step: u64) -> Option<PathBuf> {
        let due = self.keep_every.is_some_and(|every| step > 0 && step.is_multiple_of(every));
        due.then(|| self.path.join(KEPT).join(step.to_string()))
    }

    /// The models that a learner kept on its way, each with the number of steps before it, in their order.
    ///
    /// # Errors
    /// When the folder cannot be listed.
    pub fn kept_checkpoints(&self) -> Result<Vec<(u64, PathBuf)>> {
        numbered(&self.path.join(KEPT), "")
    }

    /// Removes the kept models of an earlier attempt: what a learner does that begins anew.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn clear_kept_checkpoints(&self) -> Result<()> {
        self.remove_dir(KEPT)
    }

    /// Writes one output file, whole or not at all.
    ///
    /// # Errors
    /// When the disk refuses, or `write` does.
    pub fn write(&self, name: &str, write: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<PathBuf> {
        let path = self.path.join(name);
        write_atomic(&path, write)?;
        Ok(path)
    }

    /// Writes records as JSON lines, whole or not at all.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn write_jsonl<T: Serialize>(&self, name: &str, records: &[T]) -> Result<PathBuf> {
        let path = self.path.join(name);
        write_atomic(&path, |out| {
            for record in records {
                serde_json::to_writer(&mut *out, record).map_err(|error| write_error(&path, error))?;
                out.write_all(b"\n").map_err(|error| Error::io("write", &path, error))?;
            }
            Ok(())
        })?;
        Ok(path)
    }

    /// Makes an output folder, whole or not at all; an existing one is replaced.
    ///
    /// # Errors
    /// When the disk refuses, or `fill` does.
    pub fn write_dir(&self, name: &str, fill: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        let path = self.path.join(name);
        write_dir_atomic(&path, fill)?;
        Ok(path)
    }

    /// Removes an output folder; one that is not there is no error.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn remove_dir(&self, name: &str) -> Result<()> {
        remove(&self.path.join(name))
    }

    /// Saves the state after `step` steps: everything needed to go on from there with the same bytes. The states
    /// before it are removed once it is safely on the disk.
    ///
    /// # Errors
    /// When the disk refuses, or `fill` does.
    pub fn save_state(&self, step: u64, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        let states = self.state_dir();
        std::fs::create_dir_all(&states).map_err(|error| Error::io("make folder", &states, error))?;
        let older = self.states()?;
        write_dir_atomic(&states.join(format!("step-{step:09}")), fill)?;
        for (old, path) in older {
            if old != step {
                std::fs::remove_dir_all(&path).map_err(|error| Error::io("remove", &path, error))?;
            }
        }
        Ok(())
    }

    /// The latest saved state: after how many steps, and its folder.
    ///
    /// # Errors
    /// When the folder cannot be listed.
    pub fn latest_state(&self) -> Result<Option<(u64, PathBuf)>> {
        Ok(self.states()?.pop())
    }

    /// Opens a journal of this stage and reads what it holds.
    ///
    /// # Errors
    /// As [`Journal::open`].
    pub fn journal<T: serde::de::DeserializeOwned>(&self, name: &str) -> Result<(Journal, Vec<T>)> {
        Journal::open(self.state_dir().join(name))
    }

    /// A journal of this stage that several processes may read and extend.
    pub fn shared_journal(&self, name: &str) -> SharedJournal {
        SharedJournal::new(self.state_dir().join(name))
    }

    /// Removes saved states and journals; the stage's outputs stay.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn clear_state(&self) -> Result<()> {
        remove(&self.state_dir())
    }

    fn state_dir(&self) -> PathBuf {
        self.path.join("state")
    }

    fn states(&self) -> Result<Vec<(u64, PathBuf)>> {
        numbered(&self.state_dir(), "step-")
    }
}

/// What in a folder is called `prefix` and a number, by number; nothing when there is no folder.
fn numbered(dir: &Path, prefix: &str) -> Result<Vec<(u64, PathBuf)>> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io("list", dir, error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| Error::io("list", dir, error))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if let Some(step) = name.strip_prefix(prefix).and_then(|step| step.parse().ok()) {
            found.push((step, path));
        }
    }
    found.sort();
    Ok(found)
}

/// Removes a folder and what is in it.
fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", path, error)),
        _ => Ok(()),
    }
}

fn write_error(path: &Path, error: serde_json::Error) -> Error {
    if error.is_io() { Error::io("write", path, error.into()) } else { Error::other("a record is not JSON").with_source(error) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_state_survives_a_failed_save_and_older_ones_go() {
        let dir = tempfile::tempdir().expect("a folder");
        let stage = StageDir::create(dir.path().join("03-dpo")).expect("made");
        let fill = |dir: &Path| std::fs::write(dir.join("x"), "1").map_err(|e| Error::io("write", dir, e));
        assert!(stage.latest_state().expect("listed").is_none());
        stage.save_state(10, fill).expect("saved");
        stage.save_state(20, fill).expect("saved");
        assert!(stage.save_state(30, |_| Err(Error::other("no"))).is_err());
        let (step, path) = stage.latest_state().expect("listed").expect("there");
        assert_eq!(step, 20);
        assert!(path.join("x").exists());
        assert_eq!(stage.states().expect("listed").len(), 1);
        stage.clear_state().expect("cleared");
        assert!(stage.latest_state().expect("listed").is_none());
        stage.write_dir("out", fill).expect("made");
        stage.remove_dir("out").expect("removed");
        assert!(!stage.path().join("out").exists() && stage.remove_dir("out").is_ok());
    }

    #[test]
    fn checkpoints_are_kept_where_the_stage_asks_for_them_and_listed_by_their_step() {
        let dir = tempfile::tempdir().expect("a folder");
        let stage = StageDir::create(dir.path()).expect("made");
        assert_eq!(stage.kept_checkpoint_dir(20), None);
        let stage = stage.keeping_checkpoints(Some(20));
        assert_eq!([0, 10].map(|step| stage.kept_checkpoint_dir(step)), [None, None]);
        for step in [120, 20] {
            std::fs::create_dir_all(stage.kept_checkpoint_dir(step).expect("due")).expect("made");
        }
        let steps = |stage: &StageDir| stage.kept_checkpoints().expect("listed").into_iter().map(|(step, _)| step).collect();
        let listed: Vec<u64> = steps(&stage);
        assert_eq!(listed, [20, 120]);
        stage.clear_kept_checkpoints().expect("removed");
        let listed: Vec<u64> = steps(&stage);
        assert!(listed.is_empty());
    }
}
