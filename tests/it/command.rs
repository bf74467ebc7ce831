//! Runs the built `farmhand` in a folder of its own.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// What a command left behind.
pub(crate) struct Finished {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) code: Option<i32>,
}

impl Finished {
    /// The command must have succeeded.
    #[track_caller]
    pub(crate) fn expect_success(self) -> Self {
        assert_eq!(self.code, Some(0), "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    /// The command line itself must have been refused, with these words.
    #[track_caller]
    pub(crate) fn expect_refused(self, words: &str) -> Self {
        assert_eq!(self.code, Some(2), "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        assert!(self.stderr.contains(words), "no `{words}` in:\n{}", self.stderr);
        self
    }

    /// The command must have failed with one clear error: these words, a hint where `hint` is given, and no panic.
    #[track_caller]
    pub(crate) fn expect_error(self, words: &[&str], hint: Option<&str>) -> Self {
        assert_eq!(self.code, Some(1), "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        assert_eq!(self.stderr.matches("error: ").count(), 1, "one error, got:\n{}", self.stderr);
        assert!(!self.stderr.contains(") panicked at"), "{}", self.stderr);
        for word in words {
            assert!(self.stderr.contains(word), "no `{word}` in:\n{}", self.stderr);
        }
        if let Some(hint) = hint {
            let found = self.stderr.split("hint: ").skip(1).any(|text| text.contains(hint));
            assert!(found, "no hint `{hint}` in:\n{}", self.stderr);
        }
        self
    }
}

impl From<Output> for Finished {
    fn from(output: Output) -> Self {
        Self {
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            code: output.status.code(),
        }
    }
}

/// The command, not yet started, in `dir`.
pub(crate) fn command(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_farmhand"));
    command.current_dir(dir).args(args).env("OMP_NUM_THREADS", "1").env("FARMHAND_CACHE", dir.join("cache"));
    command
}

/// Runs the command in `dir` to its end.
pub(crate) fn farmhand(dir: &Path, args: &[&str]) -> Finished {
    // Named so that cargo builds it: `farmhand` starts it from its own folder.
    let _ = env!("CARGO_BIN_EXE_farmhand-engine");
    command(dir, args).output().expect("farmhand starts").into()
}

/// A file of `tests/fixtures`, or one of the example configurations.
pub(crate) fn fixture(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let own = root.join("tests/fixtures").join(name);
    if own.exists() { own } else { root.join("examples/configs").join(name) }
}

/// Every file below `dir` with its contents, sorted by path.
pub(crate) fn files_below(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder").flatten() {
            if entry.path().is_dir() {
                folders.push(entry.path());
            } else {
                let name = entry.path().strip_prefix(dir).expect("below").to_owned();
                files.push((name, std::fs::read(entry.path()).expect("readable")));
            }
        }
    }
    files.sort();
    files
}
