//! What was read from a reply, as far as asking goes.

use farmhand_core::{ErrorKind, Result};

/// What a reader makes of a reply.
pub(crate) trait Reading {
    /// How many of its parts say nothing that can be read: refused, or in no form that is known.
    fn n_unreadable(&self) -> usize;
}

impl<T> Reading for Result<T> {
    fn n_unreadable(&self) -> usize {
        let unreadable = |kind| matches!(kind, ErrorKind::UnparsableAnswer | ErrorKind::RefusedAnswer);
        usize::from(self.as_ref().is_err_and(|error| unreadable(error.kind())))
    }
}

impl<T> Reading for Vec<Result<T>> {
    fn n_unreadable(&self) -> usize {
        self.iter().map(Reading::n_unreadable).sum()
    }
}

/// With what the reply cost.
impl<R: Reading> Reading for (R, Option<f64>) {
    fn n_unreadable(&self) -> usize {
        self.0.n_unreadable()
    }
}
