//! The half of `farmhand` that does the work: linked with libtorch, started by `farmhand` once the command line is in order.

use std::io::Write;
use std::process::ExitCode;

use farmhand::cli;

fn main() -> ExitCode {
    // Before anything touches a tensor: libtorch decides once whether there is CUDA.
    farmhand_core::open_globally("libtorch_cuda.so");
    farmhand_models::silence_out_of_memory_panics();
    let cli = match cli::args::parse() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    let installed = ctrlc::set_handler(|| {
        if farmhand::pipeline::CANCEL.is_cancelled() {
            stop_at_once();
        }
        farmhand::pipeline::CANCEL.cancel();
        notice("stopping after this step; press Ctrl-C again to stop at once");
    });
    if let Err(error) = installed {
        notice(&format!("warning: Ctrl-C will stop at once, without saving first: {error}"));
    }
    cli::main(&cli)
}

#[expect(clippy::disallowed_methods, reason = "the second Ctrl-C means now; what is on the disk is whole at any moment")]
fn stop_at_once() -> ! {
    std::process::exit(130)
}

fn notice(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "\n{text}");
}
