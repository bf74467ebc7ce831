//! `farmhand evaluate annotators` on the command line.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// `farmhand evaluate annotators`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  farmhand evaluate annotators gpt4.jsonl longest/judgements.jsonl --humans votes.jsonl
  farmhand evaluate annotators annotations.json --humans votes.jsonl --noise 0.1,0.25 --format csv
  farmhand evaluate annotators results/a.json results/b.json --shown alpaca-eval --ranking leaderboard.csv --charts charts
  farmhand evaluate annotators pool.jsonl --humans votes.jsonl --members

Files are any that farmhand reads as judgements. Judges and people are matched by what was asked and answered, in either order. One
row a judge; what is not known is left out. Intervals (95 %) are from resampled instructions.

agreement   AlpacaEval's: a verdict against the mode of the people's, 100 × (1 − |difference|); `zero-one` and `squared` are its
            other two rules. People themselves: each against the others.
κ, α        Cohen's and Krippendorff's, of the judge and the people's mode (first, tie, second)
bias        how far the mode of the judge's verdicts on a pair is from the mode of the people's
variance    how far a verdict is from the mode of the judge's others on the same pair; needs several verdicts on a pair
shown first verdicts for the answer that was shown first; only where the order is known, see --shown
longer      verdicts for the longer answer, of pairs that differ by more than 30 characters; list: for the one with a list
own         verdicts for the answer of the judge's own maker, by the names; `more than people`: on the same pairs
failed      comparisons without a verdict; they are no ties and count nowhere else")]
pub struct AnnotatorsArgs {
    /// Files of judgements, several judges in one or one in several.
    #[arg(required = true, value_name = "JUDGEMENTS")]
    pub judgements: Vec<PathBuf>,
    /// Files of people's judgements, taken as the truth; without them nothing is said of agreement with people.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub humans: Vec<PathBuf>,
    /// Take each file as one judge, a pool, and the annotators in it as its members; tells how far the members agree. A pool is called
    /// as its file is, or as its folder where the file is a `judgements.jsonl` or `annotations.json` like all others.
    #[arg(long)]
    pub members: bool,
    /// In which order the judges saw the answers.
    #[arg(long, value_enum, default_value_t = ShownArg::Recorded)]
    pub shown: ShownArg,
    /// Recompute everything with this share of verdicts turned around by label noise, for example `0.1,0.25`; 0.5 at most.
    #[arg(long, value_name = "RATES", value_delimiter = ',', value_parser = flip_rate)]
    pub noise: Vec<f64>,
    /// A CSV file with numbers by model, such as a leaderboard, that the judges' rankings are held against. Models stand in its first
    /// column.
    #[arg(long, value_name = "FILE")]
    pub ranking: Option<PathBuf>,
    /// The column of `--ranking` with the numbers; unset: `win_rate`, or the only one.
    #[arg(long, value_name = "COLUMN", requires = "ranking")]
    pub ranking_column: Option<String>,
    /// Models with fewer verdicts are not ranked.
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub least_verdicts: usize,
    /// Whose answers are a judge's own, in place of what the names say: `JUDGE=GENERATOR`. May be repeated.
    #[arg(long, value_name = "JUDGE=GENERATOR", value_parser = own)]
    pub own: Vec<(String, String)>,
    /// Resamples for the intervals; 0 leaves them out.
    #[arg(long, default_value_t = 1000)]
    pub resamples: usize,
    /// Seed of the resamples, and of label noise where it is drawn.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// How the result is printed; unset: as text for a terminal.
    #[arg(long, value_enum)]
    pub format: Option<TableFormat>,
    /// Write charts as SVG and PNG to this folder: agreement of every two judges, position bias, preference over length, cost.
    #[arg(long, value_name = "DIR")]
    pub charts: Option<PathBuf>,
    /// Count and list bad records instead of stopping at the first.
    #[arg(long)]
    pub skip_bad_records: bool,
}

/// `--shown`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ShownArg {
    /// As farmhand's own files record it; not known of others.
    Recorded,
    /// The first answer first.
    AsGiven,
    /// As AlpacaEval draws it from the instruction, seed 0.
    AlpacaEval,
}

/// `--format` of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TableFormat {
    /// Comma-separated values, every number with all its digits.
    Csv,
    /// JSON; the same as `--json`.
    Json,
    /// Markdown.
    Md,
}

/// A share of verdicts that noise turns around.
fn flip_rate(text: &str) -> Result<f64, String> {
    match text.trim().parse::<f64>() {
        Ok(rate) if (0.0..=0.5).contains(&rate) => Ok(rate),
        _ => Err("expected a share between 0 and 0.5".to_owned()),
    }
}

fn own(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((judge, generator)) if !judge.is_empty() && !generator.is_empty() => Ok((judge.to_owned(), generator.to_owned())),
        _ => Err("expected `JUDGE=GENERATOR`".to_owned()),
    }
}
