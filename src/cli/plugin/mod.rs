//! `farmhand plugin`: crates of one's own as shared libraries.

mod check;
mod compile;
mod new_crate;

use std::path::{Path, PathBuf};

use farmhand_core::{Error, Result};

use super::args::{Cli, PluginArgs, PluginCommand};
use super::terminal::Terminal;

/// Does what the subcommand says.
pub(super) fn plugin(args: &PluginArgs, cli: &Cli, terminal: &Terminal) -> Result<()> {
    match &args.command {
        PluginCommand::New(args) => new_crate::new(args, cli),
        PluginCommand::Build(args) => compile::build(args, cli, terminal),
        PluginCommand::Check(args) => check::check(&args.paths, cli),
    }
}

/// The folder of farmhand's sources: the one that is named, or the one this program was built in.
fn sources(named: Option<&Path>) -> Result<PathBuf> {
    let folder = named.unwrap_or(Path::new(env!("CARGO_MANIFEST_DIR")));
    let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    if folder.join("core/Cargo.toml").is_file() && folder.join("Cargo.lock").is_file() {
        return Ok(folder);
    }
    Err(Error::missing_input(format!("`{}` does not hold farmhand's sources, which a plugin is built against", folder.display()))
        .with_hint("name their folder with `--farmhand DIR`; they must be those this program was built from"))
}
