//! The command `farmhand`: reads the command line, answers help and mistakes at once, makes tables out of files itself, and hands
//! what may need a model to `farmhand-engine`, the same command with libtorch, whose loading takes longer than a leaderboard.

#[path = "cli/tables.rs"]
#[expect(dead_code, unreachable_pub, reason = "the engine reads the other fields")]
mod cli;

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
    // libgomp's threads spin while they wait, which ruins every other program on a small machine. libgomp reads this
    // when it is loaded, so it must be set before the engine starts.
    if std::env::var_os("OMP_WAIT_POLICY").is_none() {
        command.env("OMP_WAIT_POLICY", "PASSIVE");
    }
    // With this much scratch space per stream cuBLAS gives the same bits every time; read when CUDA starts.
    if std::env::var_os("CUBLAS_WORKSPACE_CONFIG").is_none() {
        command.env("CUBLAS_WORKSPACE_CONFIG", ":4096:8");
    }
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
