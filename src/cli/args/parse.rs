//! Reading the command line. Help and mistakes are answered at once; a mistake as JSON where `--json` asks for it.

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

use super::Cli;

/// The command line, or the exit code after help was shown or a mistake told.
///
/// # Errors
/// The exit code: 0 after help, 2 after a mistake.
pub fn parse() -> Result<Cli, ExitCode> {
    let args: Vec<OsString> = std::env::args_os().collect();
    Cli::try_parse_from(&args).map_err(|error| {
        if error.use_stderr() && args.iter().any(|arg| arg == "--json") {
            // There is no one left to tell when stderr is closed.
            let _ = writeln!(std::io::stderr().lock(), "{}", as_json(&error));
        } else {
            let _ = error.print();
        }
        ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
    })
}

/// The mistake in the form in which all errors are told under `--json`.
fn as_json(error: &clap::Error) -> serde_json::Value {
    let text = error.render().to_string();
    let mut paragraphs = text.split("\n\n").map(|paragraph| paragraph.split_whitespace().collect::<Vec<_>>().join(" "));
    let message = paragraphs.next().unwrap_or_default();
    let message = message.strip_prefix("error: ").unwrap_or(&message).to_owned();
    let hint = paragraphs.filter(|paragraph| !paragraph.is_empty()).collect::<Vec<_>>().join("; ");
    serde_json::json!({ "error": { "kind": "invalid_arguments", "message": message, "hint": hint } })
}
