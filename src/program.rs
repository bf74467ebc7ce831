//! The whole program as a function, for `farmhand-engine` and for binaries of one's own.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use crate::{cli, variables};

/// Does what the command line says, with every component that is linked: the built-in ones and those of the crates that the program
/// names. It is all that the `main` of a binary of one's own needs:
///
/// ```no_run
/// // use my_plugin as _;
/// fn main() -> std::process::ExitCode {
///     farmhand::main()
/// }
/// ```
///
/// Exit codes: 0 done, 1 failed, 2 a mistake on the command line, 130 stopped by the user. A program that was started without the
/// environment variables which `farmhand` sets for its engine starts itself again with them, once. Call it first: it decides how
/// libtorch begins, and what Ctrl-C does.
pub fn main() -> ExitCode {
    let cli = match cli::args::parse() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    start_again_with_variables();
    // Before anything touches a tensor: libtorch decides once whether there is CUDA.
    farmhand_core::open_globally("libtorch_cuda.so");
    farmhand_models::silence_out_of_memory_panics();
    let installed = ctrlc::set_handler(|| {
        if crate::pipeline::CANCEL.is_cancelled() {
            stop_at_once();
        }
        crate::pipeline::CANCEL.cancel();
        notice("stopping after this step; press Ctrl-C again to stop at once");
    });
    if let Err(error) = installed {
        notice(&format!("warning: Ctrl-C will stop at once, without saving first: {error}"));
    }
    cli::main(&cli)
}

/// Becomes the same program with the variables that are missing; comes back when none is.
fn start_again_with_variables() {
    let missing = variables::missing();
    let Ok(own) = std::env::current_exe() else { return };
    if missing.is_empty() {
        return;
    }
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_else(|| own.clone().into_os_string());
    let error = Command::new(own).arg0(name).args(arguments).envs(missing).exec();
    notice(&format!("warning: threads may wait busily, for the program cannot start itself again: {error}"));
}

#[expect(clippy::disallowed_methods, reason = "the second Ctrl-C means now; what is on the disk is whole at any moment")]
fn stop_at_once() -> ! {
    std::process::exit(130)
}

fn notice(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "\n{text}");
}
