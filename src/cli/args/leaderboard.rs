//! `farmhand evaluate --annotations` on the command line.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// A leaderboard out of files of judgements.
#[derive(Debug, Args)]
#[command(next_help_heading = "Leaderboards from annotation files")]
pub struct LeaderboardArgs {
    /// Files of finished judgements of any number of models, for one leaderboard: AlpacaEval's `annotations.json`, or anything that
    /// `--judgements` reads; also JSONL, .gz, .zst, Parquet.
    #[arg(long, num_args = 1.., value_name = "FILE", conflicts_with_all = ["judgements", "reference"])]
    pub annotations: Vec<PathBuf>,
    /// What the table shows; unset: win_rate,discrete,totals,length,above, and length_controlled with `--lc-data`.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "METRICS", requires = "annotations")]
    pub metrics: Vec<MetricArg>,
    /// How the leaderboard is printed; `csv` is AlpacaEval's `leaderboard.csv`.
    #[arg(long, value_enum, default_value_t = LayoutArg::Table, requires = "tables")]
    pub format: LayoutArg,
    /// The column to rank by, as in the CSV; unset: length_controlled_winrate where there is one, otherwise win_rate.
    #[arg(long, value_name = "COLUMN", requires = "annotations")]
    pub rank_by: Option<String>,
    /// Whose judgements count, where the files have several judges; `all` takes them together.
    #[arg(long, value_name = "NAME", requires = "annotations")]
    pub judge: Option<String>,
    /// The baseline, where the files have several (AlpacaEval's generator_1).
    #[arg(long, value_name = "NAME", requires = "tables")]
    pub baseline: Option<String>,
    /// What becomes of a second verdict of a judge on the same model and instruction.
    #[arg(long, value_enum, default_value_t = DuplicatesArg::Refuse, requires = "annotations")]
    pub duplicates: DuplicatesArg,
    /// Count only instructions on which every model has a verdict.
    #[arg(long, requires = "annotations")]
    pub common_instructions: bool,
    /// Resamples of the instructions for the win rate's interval; 0 takes the normal one.
    #[arg(long, default_value_t = 1000, requires = "annotations")]
    pub resamples: usize,
    /// Tell how many instructions it takes to see a difference of so many percentage points between two of the models.
    #[arg(long, value_name = "POINTS", value_parser = points, requires = "annotations")]
    pub power: Option<f64>,
    /// The folder of AlpacaEval's `instruction_difficulty.csv` and `df_gamed.csv` (also .gz), for length control as published. Where
    /// they do not have all instructions, and without the folder (`--metrics length_controlled`), difficulties are estimated from the
    /// judgements of three models or more, and judged models called like the baseline with `_verbose` or `_concise` behind it take
    /// the place of the gamed ones.
    #[arg(long, value_name = "DIR", requires = "tables")]
    pub lc_data: Option<PathBuf>,
    /// How published difficulties find their rows.
    #[arg(long, value_enum, default_value_t = JoinArg::Instruction, requires = "lc_data")]
    pub lc_join: JoinArg,
    /// Judged models that are verbose or concise versions of the baseline: they tie the slopes of length and difficulty down, in
    /// place of `df_gamed.csv` and of those found by their names.
    #[arg(long, value_delimiter = ',', value_name = "MODELS", requires = "annotations")]
    pub lc_gamed: Vec<String>,
    /// What else is taken out of the verdicts beside the length; needs the texts of the answers.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "PROPERTIES", requires = "annotations")]
    pub lc_covariates: Vec<CovariateArg>,
    /// Write the weights of the fits to this CSV file, as AlpacaEval does; other models' rows in it stay. Estimated difficulties go
    /// beside it, as `instruction_difficulty.csv`.
    #[arg(long, value_name = "FILE", requires = "annotations")]
    pub lc_weights: Option<PathBuf>,
    /// In place of judgements: every model of a file of weights against `--baseline`, over the instructions of `--lc-data`.
    #[arg(long, value_name = "FILE", requires = "lc_data", conflicts_with_all = ["annotations", "judgements", "reference", "outputs"])]
    pub from_weights: Option<PathBuf>,
}

/// `--metrics`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum MetricArg {
    /// Win rate, standard error, 95 % interval.
    WinRate,
    /// Win rate at equal length (AlpacaEval 2), its standard error, and an interval that counts estimation.
    LengthControlled,
    /// Graded verdicts as whole ones, with the exact interval.
    Discrete,
    /// Wins, losses, ties.
    Counts,
    /// Verdicts and failures.
    Totals,
    /// Mean length of the answers in characters.
    Length,
    /// The p value of no difference from the model above, all models corrected together (Holm).
    Above,
    /// Elo points by Bradley and Terry's model, and the ranks the model may have.
    Elo,
    /// The smallest difference from the model above that so many instructions show, four times in five.
    Detectable,
    /// The judge's price and time for 1,000 verdicts.
    Cost,
    /// The win rate on each data set.
    Datasets,
}

/// `--format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LayoutArg {
    /// Columns for a terminal.
    Table,
    /// AlpacaEval's CSV with further columns behind its own, all digits.
    Csv,
    /// The same as `--json`.
    Json,
    /// A Markdown table.
    Md,
}

/// `--duplicates`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DuplicatesArg {
    /// It is an error.
    Refuse,
    /// The first counts.
    First,
    /// The last counts.
    Last,
    /// All count; those on one instruction hang together.
    All,
}

/// `--lc-join`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum JoinArg {
    /// By the instruction.
    Instruction,
    /// By the row's place, as AlpacaEval does: off by some rows where rows are missing.
    Row,
}

/// `--lc-covariates`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CovariateArg {
    /// Items of lists.
    Lists,
    /// Marks of Markdown.
    Markdown,
    /// Whether the answer is in the instruction's language.
    Language,
}

/// A difference in percentage points.
fn points(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number > 0.0 && number <= 100.0 => Ok(number),
        _ => Err("expected a number of percentage points above 0".to_owned()),
    }
}
