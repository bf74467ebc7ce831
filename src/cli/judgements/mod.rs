//! `farmhand judgements`: what can be done with a judgement store, one subcommand a file.

mod export;
mod import;
mod list;
mod stats;
mod verify;

use farmhand_core::Result;

use super::args::{Cli, JudgementsArgs, JudgementsCommand};

/// Does what the subcommand says.
pub(super) fn judgements(args: &JudgementsArgs, cli: &Cli) -> Result<()> {
    match &args.command {
        JudgementsCommand::Import(args) => import::import(args, cli),
        JudgementsCommand::Export(args) => export::export(args, cli),
        JudgementsCommand::List(args) => list::list(args, cli),
        JudgementsCommand::Stats(args) => stats::stats(args, cli),
        JudgementsCommand::Verify(args) => verify::verify(args, cli),
    }
}
