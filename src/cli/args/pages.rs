//! The subcommands that serve pages to a browser, on the command line.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::Args;

/// Where a page is served.
#[derive(Debug, Args)]
pub struct ListenArgs {
    /// The address to listen on. Anything but a loopback address lets other machines in, unencrypted.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    pub listen: IpAddr,
}

/// `farmhand label`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  farmhand label samples/comparisons.jsonl                        into samples/comparisons.labels
  farmhand label pairs.jsonl --out labels --overlap 3             three raters for each comparison
  farmhand label pairs.jsonl --gold known.jsonl --rubric rubric.toml
  farmhand label pairs.jsonl --out labels --export                write the files from the journal, serve nothing

Two addresses are printed: one for raters, one for you with progress, agreement and files. Raters never see who wrote an
answer. Every click is on the disk before it is acknowledged; the same command goes on where it stopped. Ctrl-C ends and
writes judgements.jsonl, annotations.json, labels.csv, summary.json and, with a rubric, ratings.jsonl.")]
pub struct LabelArgs {
    /// Comparisons: two answers to an instruction each, in any of the field's formats.
    pub data: PathBuf,
    /// The folder to record in; unset: beside the data, its name with `.labels`.
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// Judgements whose verdict is known, mixed in to see how well raters judge.
    #[arg(long)]
    pub gold: Option<PathBuf>,
    /// One question in so many is a gold question.
    #[arg(long, default_value_t = 10, value_name = "N")]
    pub gold_every: usize,
    /// How many raters judge each comparison.
    #[arg(long, default_value_t = 1, value_name = "K")]
    pub overlap: usize,
    /// Guidance, a question and attributes on which each answer gets a value: a TOML file.
    #[arg(long)]
    pub rubric: Option<PathBuf>,
    /// Root of the random orders; unset: 0, or what the labels were begun with.
    #[arg(long)]
    pub seed: Option<u64>,
    /// The port; 0 takes a free one.
    #[arg(long, default_value_t = 7171)]
    pub port: u16,
    /// Where the page is served.
    #[command(flatten)]
    pub listen: ListenArgs,
    /// Write the files from what was labelled and end.
    #[arg(long)]
    pub export: bool,
    /// Count and list bad records instead of stopping at the first.
    #[arg(long)]
    pub skip_bad_records: bool,
}

/// `farmhand serve`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  farmhand serve                         the runs in `runs`
  farmhand serve runs/quickstart         one run
  farmhand serve /data/runs --port 0

Shows stages, curves, answers side by side, judgements with what the judge said, leaderboards, and where two runs differ,
also of runs that are at work. Nothing is changed.")]
pub struct ServeArgs {
    /// The folder of run directories, or one run directory.
    #[arg(default_value = "runs")]
    pub runs: PathBuf,
    /// The port; 0 takes a free one.
    #[arg(long, default_value_t = 7272)]
    pub port: u16,
    /// Where the page is served.
    #[command(flatten)]
    pub listen: ListenArgs,
}
