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
}

impl StageDir {
    /// The stage in this folder; makes it when it is not there.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn create(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        std::fs::create_dir_all(&path).map_err(|error| Error::io("make folder", &path, error))?;
        Ok(Self { path })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where a learner's result goes.
    pub fn checkpoint_dir(&self) -> PathBuf {
        self.path.join("checkpoint")
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
        let dir = self.state_dir();
        let entries = match std::fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(Error::io("list", &dir, error)),
        };
        let mut states = Vec::new();
        for entry in entries {
            let path = entry.map_err(|error| Error::io("list", &dir, error))?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if let Some(step) = name.strip_prefix("step-").and_then(|step| step.parse().ok()) {
                states.push((step, path));
            }
        }
        states.sort();
        Ok(states)
    }
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
}
