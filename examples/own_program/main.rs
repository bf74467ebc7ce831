//! A `farmhand` of one's own: every built-in component, a method from another crate, and an evaluator beside this file.
//!
//! Run it with `cargo run --example own_program -- list`.

use std::process::ExitCode;

mod broken_text;

// In a package of your own the method is a dependency, `r-dpo = { path = "…" }`, and this is `use r_dpo as _;`.
#[path = "../external_plugin/src/lib.rs"]
#[expect(unreachable_pub, reason = "it is a crate of its own")]
mod r_dpo;

fn main() -> ExitCode {
    farmhand::main()
}
