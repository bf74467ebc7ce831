//! Arguments of `farmhand compare`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// `farmhand compare`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  farmhand compare runs/quickstart dpo ppo                       two methods of a run, over all their seeds
  farmhand compare runs/quickstart runs/beta-02 --method dpo     one method of two runs
  farmhand compare dpo-evaluation ppo-evaluation                 two folders of `farmhand evaluate`
  farmhand compare gpt4.json claude.json --format md             two files of annotations, AlpacaEval's among them
  farmhand compare annotations.json gpt4 claude                  two models of one file

Both are compared on the instructions (and seeds) that both were judged on. With one repetition, interval and p value are those of
the paired bootstrap over instructions; with several seeds, both count instructions and seeds. A failed judgement is no verdict and
its instruction is left out; a tie is half a win.")]
pub struct CompareArgs {
    /// A source and two of its models, or two sources. A source is a run directory, an evaluation folder or a file of judgements.
    #[arg(required = true, num_args = 2..=3, value_names = ["SOURCE", "A", "B"])]
    pub what: Vec<PathBuf>,
    /// The method or model to compare, where two sources hold several.
    #[arg(long, value_name = "NAME")]
    pub method: Option<String>,
    /// How the result is written.
    #[arg(long, value_enum, default_value_t = ComparisonFormat::Text)]
    pub format: ComparisonFormat,
    /// Fixes the resamples of the bootstrap.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}

/// How a comparison is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ComparisonFormat {
    /// Plain text.
    Text,
    /// Markdown.
    Md,
    /// JSON, as with `--json`.
    Json,
}
