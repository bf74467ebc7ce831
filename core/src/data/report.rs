//! What reading a data file found: how many records, which were bad, what was left out and why.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::verdict_scale::VerdictScale;
use crate::error::{Error, Result};

/// What to do with a record that does not fit its form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BadRecords {
    /// Stop with an error that says where it is and what was expected.
    #[default]
    Stop,
    /// Leave it out, count it and list the first few in the report.
    Skip,
}

/// Reads a Parquet file's rows as JSON records. The crate that knows Parquet hands one in.
pub type ParquetReader = fn(&Path) -> Result<Vec<Map<String, Value>>>;

/// How data files are read.
#[derive(Debug, Clone, Copy, Default)]
pub struct ReadOptions {
    /// What to do with bad records.
    pub bad_records: BadRecords,
    /// Reads Parquet; without it a Parquet file is an error.
    pub parquet: Option<ParquetReader>,
    /// The ordinal scale of verdicts that are numbers (`preference`, `label`, votes); without it they are AlpacaEval's codes.
    pub scale: Option<VerdictScale>,
}

/// Where a record stands in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Location {
    /// Line of a JSON Lines file, from 1.
    Line(u64),
    /// Index in a JSON list, from 0.
    Index(u64),
    /// Row of a table, from 0.
    Row(u64),
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(line) => write!(f, "line {line}"),
            Self::Index(index) => write!(f, "list index {index}"),
            Self::Row(row) => write!(f, "row {row}"),
        }
    }
}

/// A record that does not fit its form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadRecord {
    /// Where it stands.
    pub location: Location,
    /// What is wrong, with the field: "field `output`: expected a text, got a number".
    pub message: String,
}

impl BadRecord {
    pub(super) fn new(location: Location, message: impl fmt::Display) -> Self {
        Self { location, message: message.to_string() }
    }

    pub(super) fn into_error(self, path: &Path) -> Error {
        Error::invalid_data(format!("`{}`, {}: {}", path.display(), self.location, self.message))
    }
}

/// What was read. `n_records` counts every record of the file, the ones left out included.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadReport {
    /// The file.
    pub path: PathBuf,
    /// The form its records have, for example `alpaca`.
    pub form: String,
    /// Records in the file.
    pub n_records: usize,
    /// Records skipped because they do not fit the form.
    pub n_bad: usize,
    /// The first few of those.
    pub bad: Vec<BadRecord>,
    /// Ties, which make no preference pair.
    pub n_ties: usize,
    /// Pairs of two identical answers, which make no preference pair.
    pub n_identical: usize,
    /// Comparisons without a verdict, which make no preference pair.
    pub n_no_verdict: usize,
    /// Pairs of dialogues that differ before the last answer, which make no preference pair.
    pub n_parted: usize,
    /// Repeated instructions, of which only the first is kept (only when instructions are read).
    pub n_duplicates: usize,
}

impl ReadReport {
    /// How many bad records are listed with their message.
    pub const LISTED: usize = 5;

    pub(super) fn count_bad(&mut self, bad: BadRecord) {
        self.n_bad += 1;
        if self.bad.len() < Self::LISTED {
            self.bad.push(bad);
        }
    }

    /// What did not become data, in words; empty when everything did.
    pub fn left_out(&self) -> String {
        let counts = [
            (self.n_bad, "bad"),
            (self.n_ties, "ties"),
            (self.n_identical, "with identical answers"),
            (self.n_no_verdict, "without a verdict"),
            (self.n_parted, "that differ before the last answer"),
            (self.n_duplicates, "repeated instructions"),
        ];
        let parts: Vec<String> =
            counts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
        parts.join(", ")
    }
}

impl fmt::Display for ReadReport {
    /// One line: "`pairs.json`: 100 records (alpaca_farm), left out: 3 ties"; then one line for each listed bad record.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`: {} records ({})", self.path.display(), self.n_records, self.form)?;
        let left_out = self.left_out();
        if !left_out.is_empty() {
            write!(f, ", left out: {left_out}")?;
        }
        for bad in &self.bad {
            write!(f, "\n  {}: {}", bad.location, bad.message)?;
        }
        if self.n_bad > self.bad.len() {
            write!(f, "\n  and {} more", self.n_bad - self.bad.len())?;
        }
        Ok(())
    }
}
