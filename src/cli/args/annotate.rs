//! `farmhand annotate`.

use std::path::PathBuf;

use clap::{ArgGroup, Args, ValueEnum};

use super::{Common, JudgeArgs};

/// `farmhand annotate`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("answers").required(true).args(["data", "samples", "outputs"]))]
#[command(after_help = "\
Examples:
  farmhand annotate --data pairs.json --out annotated --model my-sft
  farmhand annotate --data pairs.json --out annotated --annotator reward_judge --set model.bradley_terry.model=my-rm
  farmhand annotate --samples multisamples.json --out annotated --noise 0.25
  farmhand annotate --outputs rlhf.json --reference sft.json --out head-to-head --format alpaca-eval
  farmhand annotate --samples multisamples.json --out annotated --seeding alpaca-farm

These are AlpacaFarm's `annotate_pairs`, `annotate_samples`, `annotate_head2head` and `set_noise`. All files may be JSON, JSONL
(.gz, .zst) or Parquet, in any of the field's formats. Pairs that occur several times are judged once.

With `--seeding alpaca-farm` the same answers are paired, the same label is replaced by noise, and, where the annotator has an option
`seeding`, the same member judges in the same order as in the Python program.")]
pub struct AnnotateArgs {
    /// Pairs of answers.
    #[arg(long)]
    pub data: Option<PathBuf>,
    /// Several answers to each instruction, of which two are compared.
    #[arg(long)]
    pub samples: Option<PathBuf>,
    /// A model's answers, to be compared with a reference's.
    #[arg(long, requires = "reference")]
    pub outputs: Option<PathBuf>,
    /// The reference's answers; they are the first of each pair.
    #[arg(long, requires = "outputs")]
    pub reference: Option<PathBuf>,
    /// Make more pairs of samples than one an instruction: every two different answers, or, with a seeding of the Python programs,
    /// every answer with another.
    #[arg(long, requires = "samples")]
    pub all_pairs: bool,
    /// The answers of model and reference stand in one order: compare line with line.
    #[arg(long, requires = "outputs")]
    pub ordered: bool,
    /// Replace a share of 2P of the verdicts by a fair coin, so that a share P is flipped, in [0, 0.5].
    #[arg(long, value_name = "P")]
    pub noise: Option<f64>,
    /// Whose random draws: farmhand's own, or those of a Python program. Unset: farmhand's, but the annotator's as its options say.
    #[arg(long, value_enum)]
    pub seeding: Option<SeedingArg>,
    /// The seed of the Python program; farmhand's own draws follow `--seed`.
    #[arg(long, default_value_t = 0, requires = "seeding")]
    pub seeding_seed: u64,
    /// Write the judgements in this form, too. May be repeated.
    #[arg(long, value_enum)]
    pub format: Vec<FormatArg>,
    /// Say how many comparisons are known and how many would be judged, in how many tokens and for how much, and do nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// The folder to write `judgements.jsonl` and `preferences.jsonl` to.
    #[arg(long)]
    pub out: PathBuf,
    /// Judges.
    #[command(flatten)]
    pub judge: JudgeArgs,
    /// Common options.
    #[command(flatten)]
    pub common: Common,
}

/// `--seeding`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SeedingArg {
    /// By the run's seed and the instruction.
    Farmhand,
    /// As AlpacaFarm from 0.2.0 on.
    AlpacaFarm,
    /// As AlpacaFarm before 0.2.0.
    #[value(name = "alpaca-farm-0.1")]
    AlpacaFarm01,
    /// As AlpacaEval.
    AlpacaEval,
}

/// `--format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FormatArg {
    /// `annotations.json` as AlpacaEval writes and reads it.
    AlpacaEval,
    /// `preferences.json` as AlpacaFarm's preference data: 1 or 2, no ties.
    AlpacaFarm,
}
