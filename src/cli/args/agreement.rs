//! `farmhand agreement` on the command line.

use std::path::PathBuf;

use clap::Args;

/// `farmhand agreement`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  farmhand agreement votes.jsonl                          several raters in one file
  farmhand agreement people.jsonl judge/judgements.jsonl  people and a judge, matched by what was asked and answered
  farmhand agreement ratings.jsonl --scale 1..7 --json

Any file that farmhand reads as judgements: its own, AlpacaFarm's and AlpacaEval's, votes of several people, hh-rlhf, LLMBar,
HelpSteer2, Chatbot Arena, FineGrainedRLHF. Where a file names no rater and there are several files, the rater is the file.

Intervals are from resampled comparisons. \"against the rest\" is AlpacaEval's leave-one-out agreement. \"reliability\" is how often
a rater is right by Dawid and Skene's model, which knows the raters' verdicts alone.")]
pub struct AgreementArgs {
    /// Files of judgements.
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// The ordinal scale of verdicts that are numbers, for example `1..4` or `-3..3`; unset: 1, 2, and 1.5 or 0 for a tie.
    #[arg(long, value_name = "LOW..HIGH", allow_hyphen_values = true)]
    pub scale: Option<String>,
    /// Resamples for the intervals; 0 leaves them out.
    #[arg(long, default_value_t = 1000)]
    pub resamples: usize,
    /// Seed of the resamples.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Give each rater one accuracy in Dawid and Skene's model, in place of a matrix; for raters with few verdicts.
    #[arg(long)]
    pub one_coin: bool,
    /// Count and list bad records instead of stopping at the first.
    #[arg(long)]
    pub skip_bad_records: bool,
}
