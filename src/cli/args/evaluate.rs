//! `farmhand evaluate` on the command line.

use std::path::PathBuf;

use clap::{ArgGroup, Args, Subcommand};

use super::{AnnotatorsArgs, Common, JudgeArgs, LeaderboardArgs, TransferArgs};

/// `farmhand evaluate`.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    group = ArgGroup::new("tables").multiple(true).args(["annotations", "from_weights"]),
    after_help = "\
Examples:
  farmhand evaluate --outputs dpo/completions.jsonl --reference sft/completions.jsonl --out eval --model my-sft
  farmhand evaluate --judgements annotations.json --out eval
  farmhand evaluate --annotations llama/annotations.json gpt4/annotations.json
  farmhand evaluate --annotations results.parquet --lc-data alpaca_eval_lc --format csv
  farmhand evaluate --annotations a.jsonl.gz b.jsonl.gz --metrics win_rate,elo,datasets --power 3
  farmhand evaluate --annotations a.json b.json --lc-data alpaca_eval_lc --lc-weights weights.csv
  farmhand evaluate --from-weights weights.csv --lc-data alpaca_eval_lc --baseline gpt4_1106_preview"
)]
pub struct EvaluateArgs {
    /// Other things to measure.
    #[command(subcommand)]
    pub command: Option<EvaluateCommand>,
    /// The evaluated model's answers; with `--annotations`, files of the models' answers, whose mean length the leaderboard shows.
    #[arg(long, num_args = 1.., value_name = "FILE", conflicts_with = "judgements")]
    pub outputs: Vec<PathBuf>,
    /// The reference's answers.
    #[arg(long)]
    pub reference: Option<PathBuf>,
    /// Finished judgements (ours or AlpacaEval's) instead of answers to judge.
    #[arg(long, required_unless_present_any = ["outputs", "annotations", "from_weights"])]
    pub judgements: Option<PathBuf>,
    /// The folder to write `judgements.jsonl` and `report.json` to; with `--annotations`, where `leaderboard.csv`, `.json` and `.md` go.
    #[arg(long, required_unless_present_any = ["annotations", "from_weights"])]
    pub out: Option<PathBuf>,
    /// Leaderboards.
    #[command(flatten)]
    pub leaderboard: LeaderboardArgs,
    /// Judges.
    #[command(flatten)]
    pub judge: JudgeArgs,
    /// Common options.
    #[command(flatten)]
    pub common: Common,
}

/// The subcommands of `farmhand evaluate`.
#[derive(Debug, Subcommand)]
pub enum EvaluateCommand {
    /// Judge the judges: agreement with people, leanings, price, rankings.
    Annotators(Box<AnnotatorsArgs>),
    /// Whether the ranking of methods under one annotator holds under another.
    Transfer(Box<TransferArgs>),
}

impl EvaluateArgs {
    /// Whether a leaderboard out of files is asked for, which needs no model.
    pub fn is_leaderboard(&self) -> bool {
        !self.leaderboard.annotations.is_empty() || self.leaderboard.from_weights.is_some()
    }
}
