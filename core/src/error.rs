//! The one error that crosses a contract: what went wrong, where, what was expected, and a hint.

use std::fmt;

use crate::types::Judging;

/// Shorthand for results that carry [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What kind of failure it is; stable labels for scripts and for counting failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ErrorKind {
    /// A configuration that cannot be run: unknown name, wrong type, value out of range.
    InvalidConfig,
    /// Something a component needs was not given: a file, a checkpoint, a reward model.
    MissingInput,
    /// Data that does not hold what its format promises.
    InvalidData,
    /// A server that cannot be reached or answers with an error.
    RemoteService,
    /// A judge's answer from which no verdict can be read.
    UnparsableAnswer,
    /// A judge or its server that declined to answer: a content filter, a refusal in so many words.
    RefusedAnswer,
    /// A paid request that the budget does not allow any more; nothing was sent.
    BudgetSpent,
    /// A loss, gradient, reward or probability that is not a finite number.
    NonFinite,
    /// A plugin built for another version of farmhand.
    IncompatiblePlugin,
    /// A component that broke the promise of its contract.
    BrokenContract,
    /// Memory ran out, or is sure to.
    OutOfMemory,
    /// The operating system refused: disk full, permission, interrupted write.
    Io,
    /// The user asked to stop; the work so far is saved.
    Cancelled,
    /// Anything else.
    Other,
}

impl ErrorKind {
    /// The label used in files and JSON output, for example `invalid_config`.
    pub fn label(self) -> &'static str {
        match self {
            Self::InvalidConfig => "invalid_config",
            Self::MissingInput => "missing_input",
            Self::InvalidData => "invalid_data",
            Self::RemoteService => "remote_service",
            Self::UnparsableAnswer => "unparsable_answer",
            Self::RefusedAnswer => "refused_answer",
            Self::BudgetSpent => "budget_spent",
            Self::NonFinite => "non_finite",
            Self::IncompatiblePlugin => "incompatible_plugin",
            Self::BrokenContract => "broken_contract",
            Self::OutOfMemory => "out_of_memory",
            Self::Io => "io",
            Self::Cancelled => "cancelled",
            Self::Other => "other",
        }
    }
}

/// An error with a kind, a message, the context it happened in, and what to do about it.
///
/// Messages are lowercase fragments without a full stop that read well after "failed: ";
/// keys, values and paths stand in backticks.
pub struct Error {
    inner: Box<Inner>,
}

struct Inner {
    kind: ErrorKind,
    message: String,
    hint: Option<String>,
    retryable: bool,
    judging: Option<Judging>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error of `kind` that says `message`.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        let inner = Inner { kind, message: message.into(), hint: None, retryable: false, judging: None, source: None };
        Self { inner: Box::new(inner) }
    }

    /// A configuration that cannot be run.
    pub fn invalid_config(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidConfig, message)
    }

    /// Something needed was not given.
    pub fn missing_input(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::MissingInput, message)
    }

    /// Data that breaks its format.
    pub fn invalid_data(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidData, message)
    }

    /// A number that is not finite.
    pub fn non_finite(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::NonFinite, message)
    }

    /// A component that broke its contract's promise.
    pub fn broken_contract(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::BrokenContract, message)
    }

    /// Any other failure.
    pub fn other(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Other, message)
    }

    /// The user asked to stop.
    pub fn cancelled() -> Self {
        Self::new(ErrorKind::Cancelled, "stopped on request; everything up to the last saved step is kept")
    }

    /// A failed file operation: says what was tried on which path.
    pub fn io(action: &str, path: &std::path::Path, source: std::io::Error) -> Self {
        let full = source.kind() == std::io::ErrorKind::StorageFull;
        let missing = source.kind() == std::io::ErrorKind::NotFound;
        let kind = if missing { ErrorKind::MissingInput } else { ErrorKind::Io };
        let error = Self::new(kind, format!("cannot {action} `{}`", path.display())).with_source(source);
        if full {
            return error
                .with_hint("the disk is full; free some space and run the same command again, it continues where it stopped");
        }
        error
    }

    /// Adds what the user can do about it, printed after `hint:`.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.inner.hint = Some(hint.into());
        self
    }

    /// Adds the error underneath.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.inner.source = Some(source.into());
        self
    }

    /// Marks a failure that may pass when tried again.
    #[must_use]
    pub fn retryable(mut self) -> Self {
        self.inner.retryable = true;
        self
    }

    /// Adds what is known of the judging that came to nothing: an answer that cannot be read was paid for too.
    #[must_use]
    pub fn with_judging(mut self, judging: Judging) -> Self {
        self.inner.judging = Some(judging);
        self
    }

    /// Changes what is known of the judging that came to nothing; of an error that knows of none, from nothing.
    #[must_use]
    pub fn map_judging(mut self, change: impl FnOnce(Judging) -> Judging) -> Self {
        self.inner.judging = Some(change(self.inner.judging.take().unwrap_or_default()));
        self
    }

    /// Puts where it happened in front of the message: `while sampling: …`.
    #[must_use]
    pub fn context(mut self, context: impl fmt::Display) -> Self {
        self.inner.message = format!("{context}: {}", self.inner.message);
        self
    }

    /// The same failure once more, its sources as text: for several items that fail of one thing.
    #[must_use]
    pub fn copy(&self) -> Self {
        let Inner { kind, hint, retryable, judging, .. } = &*self.inner;
        let inner = Inner {
            kind: *kind,
            message: self.to_string(),
            hint: hint.clone(),
            retryable: *retryable,
            judging: judging.clone(),
            source: None,
        };
        Self { inner: Box::new(inner) }
    }

    /// What kind of failure it is.
    pub fn kind(&self) -> ErrorKind {
        self.inner.kind
    }

    /// What to do about it, if we know.
    pub fn hint(&self) -> Option<&str> {
        self.inner.hint.as_deref()
    }

    /// The message without sources and hint.
    pub fn message(&self) -> &str {
        &self.inner.message
    }

    /// What is known of the judging that came to nothing, if a judge failed.
    pub fn judging(&self) -> Option<&Judging> {
        self.inner.judging.as_ref()
    }

    /// Whether the same call may succeed later (a busy server, a rate limit).
    pub fn is_retryable(&self) -> bool {
        self.inner.retryable
    }

    /// Whether the user asked to stop.
    pub fn is_cancelled(&self) -> bool {
        self.kind() == ErrorKind::Cancelled
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.inner.message)?;
        let mut source = self.inner.source.as_deref().map(|s| s as &dyn std::error::Error);
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}] {self}", self.kind().label())?;
        match self.hint() {
            Some(hint) => write!(f, " (hint: {hint})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {}

/// One thing wrong with a configuration, located by its key path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Key path from the top of the file, for example `methods.dpo.learner.dpo.beta`; empty for the whole.
    pub path: String,
    /// What is wrong, as a lowercase fragment.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl Problem {
    /// A problem at `path`.
    pub fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { path: path.into(), message: message.into(), hint: None }
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same problem seen from one level up: `prefix` is put before the path.
    #[must_use]
    pub fn under(mut self, prefix: &str) -> Self {
        self.path = match (prefix.is_empty(), self.path.is_empty()) {
            (true, _) => self.path,
            (false, true) => prefix.to_owned(),
            (false, false) => format!("{prefix}.{}", self.path),
        };
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_shows_context_message_and_sources_but_not_the_hint() {
        let io = std::io::Error::new(std::io::ErrorKind::NotFound, "no such file");
        let error = Error::io("read", std::path::Path::new("a.json"), io).context("data").with_hint("check the path");
        assert_eq!(error.to_string(), "data: cannot read `a.json`: no such file");
        assert_eq!(error.hint(), Some("check the path"));
        assert_eq!(error.kind(), ErrorKind::MissingInput);
    }

    #[test]
    fn problems_nest() {
        assert_eq!(Problem::new("beta", "x").under("learner.dpo").path, "learner.dpo.beta");
        assert_eq!(Problem::new("", "x").under("learner").path, "learner");
    }

    #[test]
    fn a_copy_says_the_same() {
        let error = Error::invalid_data("bad").with_source(Error::other("deep")).with_hint("fix it").retryable();
        let copy = error.copy();
        assert_eq!((copy.kind(), copy.to_string()), (error.kind(), "bad: deep".to_owned()));
        assert_eq!((copy.hint(), copy.is_retryable()), (Some("fix it"), true));
    }
}
