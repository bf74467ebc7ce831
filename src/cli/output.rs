//! What goes to stdout, and how a command ends.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use farmhand_core::{Error, Result};
use serde::Serialize;
use serde_json::json;

use super::args::Cli;
use super::terminal::print_line;

/// Tells an error with its hint, as JSON where that is asked for. Exit codes: 0 done, 1 failed, 130 stopped by the user.
pub(super) fn exit_code(result: Result<()>, cli: &Cli) -> ExitCode {
    let Err(error) = result else { return ExitCode::SUCCESS };
    if cli.json {
        let value = json!({ "error": { "kind": error.kind().label(), "message": error.to_string(), "hint": error.hint() } });
        print_line(&value.to_string());
    } else {
        print_line(&format!("error: {error}"));
        if let Some(hint) = error.hint() {
            print_line(&format!("hint: {hint}"));
        }
    }
    ExitCode::from(if error.is_cancelled() { 130 } else { 1 })
}

/// Prints data on stdout. A reader that went away (`| head`) is no error.
///
/// # Errors
/// When stdout cannot be written for another reason.
pub(super) fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(Error::io("write", Path::new("stdout"), error)),
        _ => Ok(()),
    }
}

/// Prints a value as one JSON document on stdout.
///
/// # Errors
/// When stdout cannot be written.
pub(super) fn print_json(value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Error::other("the result is not JSON").with_source(error))?;
    print(&format!("{text}\n"))
}
