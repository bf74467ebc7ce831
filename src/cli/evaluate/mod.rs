//! `farmhand evaluate`: numbers with uncertainty from answers and judgements, one way a file.

mod answers;
mod leaderboard;

use farmhand_core::Result;

use super::Terminal;
use super::args::{Cli, EvaluateArgs};

/// Measures what the command line names.
pub(super) fn evaluate(args: &EvaluateArgs, cli: &Cli, terminal: Terminal) -> Result<()> {
    let board = &args.leaderboard;
    if let Some(weights) = &board.from_weights {
        return leaderboard::from_weights(weights, board, cli);
    }
    if !board.annotations.is_empty() {
        return leaderboard::leaderboard(args, cli, &terminal);
    }
    answers::answers(args, cli, terminal)
}
