//! The command line, one subcommand a file. Data goes to stdout, everything else to stderr.

pub mod args;

mod agreement;
mod annotate;
mod bench;
mod checkpoint;
mod compare;
mod describe;
mod estimate;
mod evaluate;
mod init;
mod judgements;
mod label;
mod learn;
mod list;
mod option_table;
mod output;
mod paper_index;
mod plugin;
mod query;
mod report;
mod run;
mod samples;
mod score;
mod serve;
mod stage_folder;
mod terminal;

use std::process::ExitCode;

use farmhand_core::Result;

pub use terminal::Terminal;

use args::{Cli, Command};
use output::{exit_code, print, print_json};

/// Does what the command line says; prints errors with their hint. Exit codes: 0 done, 1 failed, 130 stopped by the user.
pub fn main(cli: &Cli) -> ExitCode {
    let terminal = Terminal::new(cli.quiet);
    let loaded = cli.plugins.iter().try_for_each(|path| farmhand_core::plugin::load_plugins(path));
    exit_code(loaded.and_then(|()| do_command(cli, terminal)), cli)
}

fn do_command(cli: &Cli, terminal: Terminal) -> Result<()> {
    match &cli.command {
        Command::Run(args) => run::run(args, cli, terminal),
        Command::Sft(args) => learn::learn("sft", args, None, None, cli, terminal),
        Command::RewardModel(args) => learn::learn("reward_modeling", args, None, None, cli, terminal),
        Command::Learn(args) => {
            learn::learn(&args.method, &args.learn, args.reward_model.as_ref(), args.reference.as_ref(), cli, terminal)
        }
        Command::Sample(args) => samples::sample(args, cli, terminal),
        Command::Annotate(args) => annotate::annotate(args, cli, terminal),
        Command::Label(args) => label::label(args, cli, &terminal),
        Command::Generate(args) => samples::generate(args, cli, terminal),
        Command::Evaluate(args) => evaluate::evaluate(args, cli, terminal),
        Command::Agreement(args) => agreement::agreement(args, cli, &terminal),
        Command::Compare(args) => compare::compare_models(args, cli),
        Command::Report(args) => report::report(args, cli),
        Command::Query(args) => query::query(args, cli, &terminal),
        Command::Serve(args) => serve::serve(args, cli, &terminal),
        Command::Score(args) => score::score(args, cli, terminal),
        Command::Checkpoint(args) => checkpoint::checkpoint(args, cli, terminal),
        Command::Judgements(args) => judgements::judgements(args, cli),
        Command::List(args) => list::list(args, cli),
        Command::Describe(args) => describe::describe(args, cli),
        Command::Init(args) => init::init(args),
        Command::Plugin(args) => plugin::plugin(args, cli, &terminal),
        Command::Bench(args) => bench::run(args, cli, terminal),
        Command::Estimate(args) => estimate::estimate(args, cli),
    }
}
