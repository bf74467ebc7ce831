//! `farmhand query` on the command line.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// `farmhand query`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  farmhand query runs/quickstart --tables
  farmhand query runs/quickstart \"select method, avg(p_win) as win_rate from judgements group by method order by win_rate\"
  farmhand query runs/a runs/b \"select run, model, win_rate, standard_error from leaderboard order by win_rate desc\"
  farmhand query runs/quickstart \"select step, value from scalars where name = 'ppo/reward'\" --format csv
  farmhand query runs/quickstart \"select * from judgements\" --out judgements.parquet
  farmhand query annotations.json.gz \"select generator_2, avg(preference) - 1 from annotations group by generator_2\"
  farmhand query --table old=a.parquet --table new=b.csv \"select * from old join new on old.id = new.id\"

Run directories give the tables judgements, completions, metrics, leaderboard, scalars and instructions; a file gives one,
named as the file is. SQL is what polars understands: select, join, group by, window functions, with, union. Names of columns
with dots or capitals stand in double quotes, texts in single ones. Only what the query names is read.")]
pub struct QueryArgs {
    /// Run directories and files (JSON, JSONL, CSV, also .gz and .zst; Parquet), and then the query.
    #[arg(required = true, value_name = "RUN|FILE … SQL")]
    pub inputs: Vec<String>,
    /// A file and the name of its table. May be repeated.
    #[arg(long = "table", value_name = "NAME=FILE", value_parser = named_file)]
    pub named: Vec<(String, PathBuf)>,
    /// List the tables with their columns, types and numbers of rows; there is no query then.
    #[arg(long, conflicts_with_all = ["out", "format"])]
    pub tables: bool,
    /// The format of what is printed; unset: a table.
    #[arg(long, value_enum)]
    pub format: Option<QueryFormatArg>,
    /// Write the rows to this file instead: .parquet, .csv, .jsonl, .json or .md.
    #[arg(long, value_name = "FILE", conflicts_with = "format")]
    pub out: Option<PathBuf>,
    /// Rows that a table on the terminal shows at most; 0 shows all.
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub rows: usize,
}

/// `--format` of `farmhand query`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum QueryFormatArg {
    /// Comma-separated values.
    Csv,
    /// A list of objects.
    Json,
    /// One object a line.
    Jsonl,
    /// A table in Markdown.
    Md,
}

/// `NAME=FILE`.
fn named_file(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, file)) if !name.is_empty() && !file.is_empty() => Ok((name.to_owned(), PathBuf::from(file))),
        _ => Err("expected NAME=FILE, for example `gpt4=annotations.json`".to_owned()),
    }
}
