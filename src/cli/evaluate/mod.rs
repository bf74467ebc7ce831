//! `farmhand evaluate`: numbers with uncertainty from answers and judgements, one way a file.

mod answers;

use farmhand_core::Result;

use super::Terminal;
use super::args::{Cli, EvaluateArgs};

/// Measures what the command line names.
pub(super) fn evaluate(args: &EvaluateArgs, cli: &Cli, terminal: Terminal) -> Result<()> {
    answers::answers(args, cli, terminal)
}
