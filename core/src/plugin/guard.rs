//! Panics caught in the copy of the standard library they belong to, and made errors.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;

use crate::error::{Error, ErrorKind, Result};

/// Whose components this copy of the core holds, for messages.
static OWNER: OnceLock<String> = OnceLock::new();

thread_local! {
    /// What the last panic on this thread said, and where.
    static LAST_PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Makes this copy of the core a plugin's: panics are kept for the error and not printed.
pub(super) fn become_plugin(package: &str) {
    if OWNER.set(package.to_owned()).is_ok() {
        std::panic::set_hook(Box::new(|info| {
            let place = info.location().map(|place| format!(" ({}:{})", place.file(), place.line())).unwrap_or_default();
            let said = info.payload_as_str().unwrap_or("no message");
            LAST_PANIC.with(|last| *last.borrow_mut() = Some(format!("{said}{place}")));
        }));
    }
}

/// The plugin whose copy of the core this is.
pub(super) fn owner() -> Option<&'static str> {
    OWNER.get().map(String::as_str)
}

/// Does `work`; a panic becomes an error that says whose it was.
pub(super) fn guarded<T>(doing: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let caught = match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => return result,
        Err(payload) => payload,
    };
    let said = LAST_PANIC.with(|last| last.borrow_mut().take()).unwrap_or_else(|| {
        let text = caught.downcast_ref::<String>().map(String::as_str).or_else(|| caught.downcast_ref::<&str>().copied());
        text.unwrap_or("no message").to_owned()
    });
    let whose = owner().map_or_else(|| "farmhand".to_owned(), |package| format!("plugin `{package}`"));
    let hint = match owner() {
        Some(_) => "a mistake in the plugin; what was finished before is kept, and the same command goes on once it is mended",
        None => "a mistake in farmhand itself; please report it",
    };
    Err(Error::new(ErrorKind::BrokenContract, format!("{whose} panicked in {doing}: {said}")).with_hint(hint))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_an_error_and_everything_else_passes() {
        assert_eq!(guarded("score", || Ok(7)).expect("no panic"), 7);
        assert!(guarded::<()>("score", || Err(Error::cancelled())).expect_err("passed on").is_cancelled());
        let error = guarded::<()>("score", || panic!("row {} is empty", 3)).expect_err("caught");
        assert_eq!(error.kind(), ErrorKind::BrokenContract);
        assert!(error.to_string().ends_with("panicked in score: row 3 is empty"), "{error}");
    }
}
