//! `farmhand evaluate`: numbers with uncertainty from answers and judgements, one way a file.

mod annotators;
mod answers;
mod leaderboard;
mod transfer;

use farmhand_core::Result;

use super::Terminal;
use super::args::{Cli, EvaluateArgs, EvaluateCommand};

/// Measures what the command line names.
pub(super) fn evaluate(args: &EvaluateArgs, cli: &Cli, terminal: Terminal) -> Result<()> {
    match &args.command {
        Some(EvaluateCommand::Annotators(args)) => return annotators::annotators(args, cli, &terminal),
        Some(EvaluateCommand::Transfer(args)) => return transfer::compare(args, cli, &terminal),
        None => {}
    }
    if args.is_leaderboard() {
        return leaderboard::leaderboard(args, cli, &terminal);
    }
    answers::answers(args, cli, terminal)
}
