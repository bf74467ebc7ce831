//! The commands that make tables out of files and need no model: the command line as `farmhand` has it, which is linked without
//! libtorch. The engine has them too, through [`super`].

pub mod args;

#[path = "evaluate/annotators.rs"]
mod annotators;
mod compare;
#[path = "evaluate/leaderboard.rs"]
mod leaderboard;
mod output;
mod query;
mod report;
mod terminal;
#[path = "evaluate/transfer.rs"]
mod transfer;

use std::process::ExitCode;

pub use terminal::Terminal;

use args::{Cli, Command, EvaluateCommand};
use output::{exit_code, print, print_json};

/// Does what the command line says; `None` where that takes the engine.
pub fn main(cli: &Cli) -> Option<ExitCode> {
    let terminal = Terminal::new(cli.quiet);
    let result = match &cli.command {
        Command::Compare(args) => compare::compare_models(args, cli),
        Command::Query(args) => query::query(args, cli, &terminal),
        Command::Report(args) => report::report(args, cli),
        Command::Evaluate(args) => match &args.command {
            Some(EvaluateCommand::Annotators(args)) => annotators::annotators(args, cli, &terminal),
            Some(EvaluateCommand::Transfer(args)) => transfer::compare(args, cli, &terminal),
            None if args.is_leaderboard() => leaderboard::leaderboard(args, cli, &terminal),
            None => return None,
        },
        _ => return None,
    };
    Some(exit_code(result, cli))
}
