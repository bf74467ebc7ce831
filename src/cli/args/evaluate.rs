//! `farmhand evaluate` on the command line.

use std::path::PathBuf;

use clap::Args;

use super::{Common, JudgeArgs};

/// `farmhand evaluate`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  farmhand evaluate --outputs dpo/completions.jsonl --reference sft/completions.jsonl --out eval --model my-sft
  farmhand evaluate --judgements annotations.json --out eval")]
pub struct EvaluateArgs {
    /// The evaluated model's answers.
    #[arg(long, requires = "reference", conflicts_with = "judgements")]
    pub outputs: Option<PathBuf>,
    /// The reference's answers.
    #[arg(long)]
    pub reference: Option<PathBuf>,
    /// Finished judgements (ours or AlpacaEval's) instead of answers to judge.
    #[arg(long, required_unless_present = "outputs")]
    pub judgements: Option<PathBuf>,
    /// The folder to write `judgements.jsonl` and `report.json` to.
    #[arg(long, required = true)]
    pub out: Option<PathBuf>,
    /// Judges.
    #[command(flatten)]
    pub judge: JudgeArgs,
    /// Common options.
    #[command(flatten)]
    pub common: Common,
}
