//! The half of `farmhand` that does the work: linked with libtorch, started by `farmhand` once the command line is in order.

use std::process::ExitCode;

fn main() -> ExitCode {
    farmhand::main()
}
