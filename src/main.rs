//! The command `farmhand`: reads the command line, answers help and mistakes at once, makes tables out of files itself, and hands
//! what may need a model to `farmhand-engine`, the same command with libtorch, whose loading takes longer than a leaderboard.

#[path = "cli/tables.rs"]
#[expect(dead_code, unreachable_pub, reason = "the engine reads the other fields")]
mod cli;
mod variables;

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    let cli = match cli::args::parse() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    // A plugin may need libtorch.
    if cli.plugins.is_empty()
        && let Some(code) = cli::main(&cli)
    {
        return code;
    }
    let engine = engine_path();
    let mut command = Command::new(&engine);
    command.args(std::env::args_os().skip(1));
    // Set before the engine starts, so that it need not start again.
    command.envs(variables::missing());
    let error = command.exec();
    report(&format!("cannot start `{}`: {error}", engine.display()));
    ExitCode::from(1)
}

fn engine_path() -> PathBuf {
    let own = std::env::current_exe().and_then(std::fs::canonicalize).unwrap_or_else(|_| PathBuf::from("farmhand"));
    own.with_file_name("farmhand-engine")
}

#[expect(clippy::print_stderr, reason = "this is where the message to the user goes")]
fn report(message: &str) {
    eprintln!("error: {message}\nhint: `farmhand-engine` lies beside `farmhand`; `cargo xtask build` makes both");
}
