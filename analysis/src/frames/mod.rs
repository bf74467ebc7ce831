//! Run directories and judgement files of any size as tables that SQL is asked of, one table a file here.
//!
//! [`Tables`] knows names and where things are, and reads what a query names, when it is asked.

mod columns;
mod completions;
mod csv_file;
mod instructions;
mod judgements;
mod leaderboard;
mod metrics;
mod parquet_file;
mod query;
mod query_result;
mod record_file;
mod run_table;
mod scalars;
mod shown;
mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use farmhand_core::{Error, Result};
use serde::Serialize;

pub use query_result::{QueryResult, ResultFormat};

use crate::run_files::run_name;
use csv_file::CsvFile;
use leaderboard::LeaderboardTable;
use parquet_file::ParquetTable;
use record_file::RecordFile;
use run_table::{RecordTable, RunFolder};
use source::Source;

/// Tables by name.
#[derive(Default)]
pub struct Tables {
    sources: BTreeMap<String, Arc<dyn Source>>,
}

/// What [`Tables::describe`] tells of a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TableDescription {
    /// Its name in a query.
    pub name: String,
    /// How many rows it has.
    pub n_rows: usize,
    /// Its columns, and the type of each as polars names it: `str`, `f64`, `i64`, `bool`.
    pub columns: Vec<(String, String)>,
}

impl Tables {
    /// The tables of these run directories and files.
    ///
    /// Run directories give `judgements`, `completions`, `metrics`, `leaderboard`, `scalars` and `instructions`, with
    /// the run's name in the column `run`. A file gives one table, named by its stem or by `named`, pairs of a name
    /// and a file: JSON, JSON Lines, CSV (also .gz and .zst) or Parquet.
    ///
    /// # Errors
    /// When something is not there, is neither a run directory nor such a file, or two tables have one name.
    pub fn open(inputs: &[PathBuf], named: &[(String, PathBuf)]) -> Result<Self> {
        let mut tables = Self::default();
        let (folders, files): (Vec<&PathBuf>, Vec<&PathBuf>) = inputs.iter().partition(|path| path.is_dir());
        if !folders.is_empty() {
            tables.add_runs(run_folders(&folders)?);
        }
        for file in files {
            let name = table_name(file);
            tables.add_file(&name, file)?;
        }
        for (name, file) in named {
            tables.add_file(name, file)?;
        }
        Ok(tables)
    }

    /// What there is: every table with its columns and how many rows it has.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn describe(&self) -> Result<Vec<TableDescription>> {
        let describe = |(name, source): (&String, &Arc<dyn Source>)| {
            let schema = source.schema()?;
            let columns = schema.iter().map(|(name, dtype)| (name.to_string(), dtype.to_string())).collect();
            Ok(TableDescription { name: name.clone(), n_rows: source.n_rows()?, columns })
        };
        self.sources.iter().map(describe).collect()
    }

    fn add_runs(&mut self, runs: Arc<[RunFolder]>) {
        let mut add = |name: &str, source: Arc<dyn Source>| self.sources.insert(name.to_owned(), source);
        add("judgements", Arc::new(RecordTable::of_runs(&runs, &judgements::COLUMNS, judgements::visit)));
        add("completions", Arc::new(RecordTable::of_runs(&runs, &completions::COLUMNS, completions::visit)));
        add("metrics", Arc::new(RecordTable::of_runs(&runs, &metrics::COLUMNS, metrics::visit)));
        add("scalars", Arc::new(RecordTable::of_runs(&runs, &scalars::COLUMNS, scalars::visit)));
        add("instructions", Arc::new(RecordTable::of_runs(&runs, &instructions::COLUMNS, instructions::visit)));
        add("leaderboard", Arc::new(LeaderboardTable::new(runs)));
    }

    fn add_file(&mut self, name: &str, path: &Path) -> Result<()> {
        if self.sources.contains_key(name) {
            return Err(Error::invalid_config(format!("`{}` is a second table with the name `{name}`", path.display()))
                .with_hint(format!("name it: `--table OTHER_NAME={}`", path.display())));
        }
        self.sources.insert(name.to_owned(), file_source(path)?);
        Ok(())
    }
}

/// The run directories by name; those that share one, by their path.
fn run_folders(folders: &[&PathBuf]) -> Result<Arc<[RunFolder]>> {
    let mut runs = Vec::new();
    for path in folders {
        if !path.join("run.toml").is_file() {
            return Err(Error::missing_input(format!("`{}` is not a run directory", path.display()))
                .with_hint("name a folder that `farmhand run` made, for example `runs/quickstart`, or files"));
        }
        runs.push(RunFolder { path: path.to_path_buf(), name: run_name(path)?.into() });
    }
    let mut seen = BTreeSet::new();
    let shared: BTreeSet<Arc<str>> =
        runs.iter().filter(|run| !seen.insert(Arc::clone(&run.name))).map(|run| Arc::clone(&run.name)).collect();
    for run in &mut runs {
        if shared.contains(&run.name) {
            run.name = run.path.display().to_string().into();
        }
    }
    Ok(runs.into())
}

/// A file's name up to its first dot, with `_` for what a name in a query cannot hold unquoted.
fn table_name(path: &Path) -> String {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let mut stem = name.as_str();
    for suffix in [".gz", ".zst", ".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet"] {
        stem = stem.strip_suffix(suffix).unwrap_or(stem);
    }
    let plain: String = stem.chars().map(|c| if c.is_alphanumeric() { c } else { '_' }).collect();
    if plain.starts_with(|c: char| c.is_ascii_digit()) || plain.is_empty() { format!("_{plain}") } else { plain }
}

/// How a file is read, told by its first bytes; CSV by its name.
fn file_source(path: &Path) -> Result<Arc<dyn Source>> {
    let mut start = Vec::new();
    let file = std::fs::File::open(path).map_err(|error| Error::io("read", path, error))?;
    std::io::Read::read_to_end(&mut std::io::Read::take(file, 4), &mut start).map_err(|error| Error::io("read", path, error))?;
    if start.starts_with(b"PAR1") {
        return Ok(Arc::new(ParquetTable::open(path)?));
    }
    if CsvFile::is_named_so(path) {
        return Ok(Arc::new(CsvFile::new(path)));
    }
    if record_file::first_record(path)?.is_some_and(|record| judgements::is_judgement(&record)) {
        let path = path.to_owned();
        let visit = Box::new(move |each: &mut dyn FnMut(&judgements::Row)| judgements::visit_file(&path, each));
        return Ok(Arc::new(RecordTable { columns: judgements::file_columns(), visit }));
    }
    Ok(Arc::new(RecordFile::new(path)))
}
