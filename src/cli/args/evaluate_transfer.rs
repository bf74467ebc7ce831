//! `farmhand evaluate transfer` on the command line.

use std::path::PathBuf;

use clap::Args;

use super::TableFormat;

/// `farmhand evaluate transfer`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  farmhand evaluate transfer --a runs/simulated --b human/ppo.jsonl human/dpo.jsonl --charts charts
  farmhand evaluate transfer --a all.jsonl --annotator-a pool --b all.jsonl --annotator-b human
  farmhand evaluate transfer --table rates.csv --name-a simulation --name-b people --charts charts

Win rates of every method under two annotators, against one reference, and how far the two rankings agree: Spearman's ρ, Kendall's τ,
R². Intervals (95 %) are from instructions drawn anew, the same for all methods and both annotators.

A run directory holds its methods' judgements; in a file, a method is the generator of the second answer. Methods that only one of
the two judged are left out and named. A table is CSV: `method,a,b` in %, and `a_se,b_se` where standard errors are known.")]
pub struct TransferArgs {
    /// Under annotator A, whose ranking is tested: run directories or files of judgements.
    #[arg(long, value_name = "RUN|FILE", num_args = 1.., requires = "b", required_unless_present = "table", conflicts_with = "table")]
    pub a: Vec<PathBuf>,
    /// Under annotator B, against whom: people, or another judge.
    #[arg(long, value_name = "RUN|FILE", num_args = 1.., requires = "a")]
    pub b: Vec<PathBuf>,
    /// Win rates under both, from a CSV file.
    #[arg(long, value_name = "FILE")]
    pub table: Option<PathBuf>,
    /// Of several annotators in A's files, only this one.
    #[arg(long, value_name = "NAME", requires = "a")]
    pub annotator_a: Option<String>,
    /// Of several annotators in B's files, only this one.
    #[arg(long, value_name = "NAME", requires = "b")]
    pub annotator_b: Option<String>,
    /// Compare these methods only.
    #[arg(long, value_delimiter = ',', value_name = "METHODS")]
    pub methods: Option<Vec<String>>,
    /// What A is called in the chart.
    #[arg(long, default_value = "annotator A")]
    pub name_a: String,
    /// What B is called in the chart.
    #[arg(long, default_value = "annotator B")]
    pub name_b: String,
    /// Resamples for the intervals; 0 leaves them out.
    #[arg(long, default_value_t = 1000)]
    pub resamples: usize,
    /// Seed of the resamples.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// How the result is printed; unset: as text for a terminal.
    #[arg(long, value_enum)]
    pub format: Option<TableFormat>,
    /// Write charts as SVG and PNG to this folder: win rates under both against each other, length against win rate under each.
    #[arg(long, value_name = "DIR")]
    pub charts: Option<PathBuf>,
    /// Count and list bad records instead of stopping at the first.
    #[arg(long)]
    pub skip_bad_records: bool,
}
