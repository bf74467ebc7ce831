//! Where the runs are.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use farmhand_core::{Error, Result};
use serde::Serialize;

use crate::refusal::Refusal;

/// Runs listed at most.
const MAX_RUNS: usize = 1000;

/// A folder of runs, or one run.
#[derive(Debug, Clone)]
pub(crate) struct RunsFolder {
    root: PathBuf,
}

/// A run, as the list shows it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct RunEntry {
    /// The folder's name.
    pub(crate) name: String,
    /// When something was last told, in seconds since 1970.
    pub(crate) last: f64,
    /// Whether its process is at work.
    pub(crate) is_running: bool,
}

impl RunsFolder {
    /// # Errors
    /// When there is no such folder, or it holds no run.
    pub(crate) fn open(root: &Path) -> Result<Self> {
        if !root.is_dir() {
            return Err(Error::missing_input(format!("there is no folder `{}`", root.display()))
                .with_hint("name the folder that holds run directories, usually `runs`, or one run directory"));
        }
        // The name of `.` is the name of the folder it stands for.
        let root = root.canonicalize().map_err(|error| Error::io("open", root, error))?;
        Ok(Self { root })
    }

    /// The folder, as found.
    pub(crate) fn path(&self) -> &Path {
        &self.root
    }

    /// The runs, the latest first. A folder that cannot be looked into is no run.
    pub(crate) fn list(&self) -> Vec<RunEntry> {
        let mut runs: Vec<RunEntry> = self.paths().iter().map(|path| entry(path)).collect();
        runs.sort_by(|a, b| b.last.total_cmp(&a.last).then_with(|| a.name.cmp(&b.name)));
        runs.truncate(MAX_RUNS);
        runs
    }

    /// The run of this name.
    ///
    /// # Errors
    /// When there is none. Names are compared with what is there, so that no name leads elsewhere.
    pub(crate) fn find(&self, name: &str) -> Result<PathBuf, Refusal> {
        let found = self.paths().into_iter().find(|path| file_name(path) == name);
        found.ok_or_else(|| Refusal::missing(format!("there is no run `{name}`")))
    }

    fn paths(&self) -> Vec<PathBuf> {
        if is_run(&self.root) {
            return vec![self.root.clone()];
        }
        let entries = std::fs::read_dir(&self.root).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).filter(|path| is_run(path)).collect()
    }
}

/// The last part of a path.
pub(crate) fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn is_run(path: &Path) -> bool {
    ["run.toml", "events.jsonl", "manifest.json"].iter().any(|name| path.join(name).is_file())
}

fn entry(path: &Path) -> RunEntry {
    let changed = |name: &str| std::fs::metadata(path.join(name)).and_then(|data| data.modified()).ok();
    let last = ["events.jsonl", "manifest.json", "run.toml"].into_iter().filter_map(changed).max();
    let secs = |time: SystemTime| time.duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64());
    RunEntry { name: file_name(path), last: last.map_or(0.0, secs), is_running: is_running(path) }
}

/// Whether the process that holds a run is there. Its number stands in the lock file; trying the lock itself could get in
/// the way of a run that is about to start.
pub(crate) fn is_running(run: &Path) -> bool {
    let Ok(text) = std::fs::read_to_string(run.join(".lock")) else { return false };
    let Ok(id) = text.trim().parse::<u32>() else { return false };
    // The name of the process guards against a number that was given out again.
    let command = std::fs::read_to_string(format!("/proc/{id}/cmdline"));
    command.is_ok_and(|command| command.contains("farmhand"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_found_by_the_names_that_are_there() {
        let dir = tempfile::tempdir().expect("a folder");
        for name in ["a", "b", "empty"] {
            std::fs::create_dir_all(dir.path().join("runs").join(name)).expect("made");
        }
        std::fs::write(dir.path().join("runs/a/run.toml"), "").expect("written");
        std::fs::write(dir.path().join("runs/b/events.jsonl"), "").expect("written");
        std::fs::write(dir.path().join("run.toml"), "").expect("written");
        let runs = RunsFolder::open(&dir.path().join("runs")).expect("opened");
        let mut names: Vec<String> = runs.list().into_iter().map(|run| run.name).collect();
        names.sort();
        assert_eq!(names, ["a", "b"]);
        assert!(runs.find("a").is_ok());
        for name in ["..", ".", "", "empty", "a/../b", "/etc"] {
            assert!(runs.find(name).is_err(), "{name}");
        }
        let one = RunsFolder::open(&dir.path().join("runs/a")).expect("opened");
        assert_eq!(one.list().len(), 1);
        assert!(RunsFolder::open(&dir.path().join("none")).is_err());
    }

    #[test]
    fn a_run_is_at_work_when_its_process_is() {
        let dir = tempfile::tempdir().expect("a folder");
        assert!(!is_running(dir.path()));
        std::fs::write(dir.path().join(".lock"), "4294967294").expect("written");
        assert!(!is_running(dir.path()));
        // This test's own process has farmhand in its name.
        std::fs::write(dir.path().join(".lock"), std::process::id().to_string()).expect("written");
        assert!(is_running(dir.path()));
    }
}
