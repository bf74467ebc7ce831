//! `farmhand checkpoint`: what can be done with model folders, one subcommand a file.

mod fetch;
mod merge;
mod recover;
mod show;

use farmhand_core::Result;

use super::Terminal;
use super::args::{CheckpointArgs, CheckpointCommand, Cli};

/// Does what the subcommand says.
pub(super) fn checkpoint(args: &CheckpointArgs, cli: &Cli, terminal: Terminal) -> Result<()> {
    match &args.command {
        CheckpointCommand::Show(args) => show::show(args, cli, terminal),
        CheckpointCommand::Fetch(args) => fetch::fetch(args, cli, terminal),
        CheckpointCommand::Merge(args) => merge::merge(args, cli, terminal),
        CheckpointCommand::Recover(args) => recover::recover(args, cli, terminal),
    }
}
