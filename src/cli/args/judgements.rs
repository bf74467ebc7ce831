//! `farmhand judgements` on the command line.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

/// `farmhand judgements`.
#[derive(Debug, Args)]
pub struct JudgementsArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: JudgementsCommand,
}

/// The subcommands of `farmhand judgements`.
#[derive(Debug, Subcommand)]
pub enum JudgementsCommand {
    /// Take in annotation files: AlpacaEval's results and caches, or farmhand's judgements.jsonl.
    Import(ImportArgs),
    /// Write verdicts as AlpacaEval's annotations or farmhand's judgements.
    Export(ExportArgs),
    /// List whose verdicts on whose answers there are.
    List(StoreArgs),
    /// Count verdicts, failures, ties, cost and time by annotator.
    Stats(StoreArgs),
    /// Check that everything can be read.
    Verify(StoreArgs),
}

/// `farmhand judgements import`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  farmhand judgements import judgements.db results/my-model/weighted_alpaca_eval_gpt4_turbo/annotations.json
  farmhand judgements import judgements.db annotations_seed0_configs.json --annotator gpt4

What the store holds stands: a comparison whose annotator it knows is left out. A preference of -1 or null is a failure, 0 and 1.5
are ties. A `cached` annotator uses imported verdicts whose annotator its option `imported` names.")]
pub struct ImportArgs {
    /// The judgement store; made when it is not there.
    pub store: PathBuf,
    /// The files: JSON or JSON Lines (.gz, .zst).
    #[arg(required = true)]
    pub files: Vec<PathBuf>,
    /// The judge's name in place of the one in the files.
    #[arg(long)]
    pub annotator: Option<String>,
}

/// `farmhand judgements export`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  farmhand judgements export judgements.db annotations.json --annotator gpt4 --generator my-model
  farmhand judgements export judgements.db all.jsonl --form farmhand

Comparisons without a verdict come last.")]
pub struct ExportArgs {
    /// The judgement store.
    pub store: PathBuf,
    /// The file to write; one that is there is left alone.
    pub file: PathBuf,
    /// What is written.
    #[arg(long, value_enum, default_value_t = FormArg::AlpacaEval)]
    pub form: FormArg,
    /// Only verdicts of this annotator.
    #[arg(long)]
    pub annotator: Option<String>,
    /// Only comparisons whose second answer this generator gave.
    #[arg(long)]
    pub generator: Option<String>,
}

/// `--form`.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum FormArg {
    /// AlpacaEval's annotations, each as it was imported, else as in its caches.
    AlpacaEval,
    /// As in AlpacaEval's `results/`: `price_per_example`, null without a verdict.
    AlpacaEvalResults,
    /// As in AlpacaEval's caches: `preference_price_per_example`, -1 without a verdict.
    AlpacaEvalCache,
    /// farmhand's judgements, one a line.
    Farmhand,
}

/// A judgement store and nothing else.
#[derive(Debug, Args)]
pub struct StoreArgs {
    /// The judgement store.
    pub store: PathBuf,
}
