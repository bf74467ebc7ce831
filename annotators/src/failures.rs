//! One failure shared by several comparisons.

use farmhand_core::{Error, Result};

/// The same failure once for each of `n` comparisons.
pub(crate) fn repeat<T>(error: &Error, n: usize) -> Vec<Result<T>> {
    (0..n).map(|_| Err(copy(error))).collect()
}

/// The same failure once more, its sources as text.
pub(crate) fn copy(error: &Error) -> Error {
    let mut copy = Error::new(error.kind(), error.to_string());
    if let Some(hint) = error.hint() {
        copy = copy.with_hint(hint);
    }
    if let Some(judging) = error.judging() {
        copy = copy.with_judging(judging.clone());
    }
    if error.is_retryable() { copy.retryable() } else { copy }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_says_the_same() {
        let error = Error::invalid_data("bad").with_source(Error::other("deep")).with_hint("fix it").retryable();
        for copy in repeat::<()>(&error, 2) {
            let copy = copy.expect_err("a failure");
            assert_eq!((copy.kind(), copy.to_string()), (error.kind(), "bad: deep".to_owned()));
            assert_eq!((copy.hint(), copy.is_retryable()), (Some("fix it"), true));
        }
    }
}
