//! The one error of these tasks: what is missing or went wrong, and what to do about it.

use std::fmt;
use std::path::Path;
use std::process::ExitStatus;

/// Shorthand for results that carry [`Failure`].
pub(crate) type Result<T, E = Failure> = std::result::Result<T, E>;

/// A message, perhaps a hint, and the exit code the program ends with.
#[derive(Debug)]
pub(crate) struct Failure {
    message: String,
    hint: Option<String>,
    pub(crate) code: u8,
}

impl Failure {
    /// A failure that says `message`, a lowercase fragment.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None, code: 1 }
    }

    /// A command line that makes no sense.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self { code: 2, ..Self::new(message) }.with_hint("see `cargo xtask --help`")
    }

    /// A file operation that failed: `cannot create `target`: …`.
    pub(crate) fn io(action: &str, path: &Path, error: &std::io::Error) -> Self {
        let failure = Self::new(format!("cannot {action} `{}`: {error}", path.display()));
        match error.kind() {
            std::io::ErrorKind::StorageFull => failure.with_hint("free some space and run the same command again"),
            _ => failure,
        }
    }

    /// A program that ended badly; it has already said why.
    pub(crate) fn ended(what: &str, status: ExitStatus) -> Self {
        let code = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
        Self { code, ..Self::new(format!("{what} failed ({status})")) }
    }

    /// Adds what to do about it, printed after `hint:`.
    pub(crate) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "\nhint: {hint}"),
            None => Ok(()),
        }
    }
}
