//! farmhand with a learner, an annotator and an evaluator of one's own: every command, every built-in component, and these.

mod broken_text;
mod fewer_words;
// A crate of components: naming it links it.
use r_dpo as _;

fn main() -> std::process::ExitCode {
    farmhand::main()
}
