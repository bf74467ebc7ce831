//! One failure shared by several comparisons.

use farmhand_core::{Error, Result};

/// The same failure once for each of `n` comparisons.
pub(crate) fn repeat<T>(error: &Error, n: usize) -> Vec<Result<T>> {
    (0..n).map(|_| Err(error.copy())).collect()
}
