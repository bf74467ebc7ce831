//! farmhand with an annotator of one's own: every command, every built-in component, and `fewer_words` beside them.

// A plugin is a module, or a crate: `use my_plugin as _;` is all that links one.
mod fewer_words;

fn main() -> std::process::ExitCode {
    farmhand::main()
}
