//! What a query gave, as text in several formats and as files.

use std::io::Write;
use std::path::Path;

use farmhand_core::run::write_atomic;
use farmhand_core::{Error, Result};
use polars::prelude::*;
use polars_io::SerWriter;
use polars_io::csv::write::CsvWriter;
use polars_io::parquet::write::ParquetWriter;
use serde_json::Value;

use super::shown;
use crate::parquet::described;

/// The rows that answer a query.
#[derive(Debug, Clone)]
pub struct QueryResult {
    frame: DataFrame,
}

/// A format of text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResultFormat {
    /// Comma-separated, numbers with all their digits, missing values empty.
    Csv,
    /// A list of objects.
    Json,
    /// One object a line.
    Jsonl,
    /// A table in GitHub's Markdown.
    Markdown,
}

impl QueryResult {
    pub(super) fn new(frame: DataFrame) -> Self {
        Self { frame }
    }

    /// The rows.
    pub fn frame(&self) -> &DataFrame {
        &self.frame
    }

    /// How many rows there are.
    pub fn n_rows(&self) -> usize {
        self.frame.height()
    }

    /// A table for a terminal: the first `n_rows` rows (all without it), cut to `width` characters a line where given;
    /// below it stands what was left out.
    pub fn terminal(&self, width: Option<usize>, n_rows: Option<usize>) -> String {
        shown::terminal(&self.frame, width, n_rows)
    }

    /// The rows as text.
    ///
    /// # Errors
    /// When a column holds lists, which CSV has no form for.
    pub fn text(&self, format: ResultFormat) -> Result<String> {
        let mut out = Vec::new();
        match format {
            ResultFormat::Markdown => return Ok(shown::markdown(&self.frame)),
            ResultFormat::Csv => self.write_csv(&mut out)?,
            ResultFormat::Json => self.write_json(&mut out)?,
            ResultFormat::Jsonl => self.write_jsonl(&mut out)?,
        }
        String::from_utf8(out).map_err(|error| Error::other("the rows are not text").with_source(error))
    }

    /// Writes the rows as the file's ending says: `.parquet`, `.csv`, `.jsonl`, `.json` or `.md`; whole or not at all.
    ///
    /// # Errors
    /// When the ending is another, the format has no form for a column, or the disk refuses.
    pub fn write(&self, path: &Path) -> Result<()> {
        let ending = path.extension().map(|ending| ending.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
        let write: fn(&Self, &mut dyn Write) -> Result<()> = match ending.as_str() {
            "parquet" => Self::write_parquet,
            "csv" => Self::write_csv,
            "jsonl" | "ndjson" => Self::write_jsonl,
            "json" => Self::write_json,
            "md" => |result, out| write_all(out, shown::markdown(&result.frame).as_bytes()),
            _ => {
                return Err(Error::invalid_config(format!("`{}`: the ending does not tell a format", path.display()))
                    .with_hint("`.parquet`, `.csv`, `.jsonl`, `.json` and `.md` do"));
            }
        };
        write_atomic(path, |out| write(self, out).map_err(|error| error.context(format!("`{}`", path.display()))))
    }

    fn write_parquet(&self, out: &mut dyn Write) -> Result<()> {
        let mut frame = self.frame.clone();
        ParquetWriter::new(out)
            .with_key_value_metadata(Some(described(&frame)))
            .finish(&mut frame)
            .map(|_| ())
            .map_err(|error| Error::other("the rows cannot be written as Parquet").with_source(error))
    }

    fn write_csv(&self, out: &mut dyn Write) -> Result<()> {
        if let Some(column) = self.frame.columns().iter().find(|column| column.dtype().is_nested()) {
            return Err(Error::invalid_data(format!("column `{}` holds lists, which CSV has no form for", column.name()))
                .with_hint("write JSON Lines or Parquet, or leave it out"));
        }
        CsvWriter::new(out)
            .finish(&mut self.frame.clone())
            .map_err(|error| Error::other("the rows cannot be written as CSV").with_source(error))
    }

    fn write_json(&self, out: &mut dyn Write) -> Result<()> {
        let rows: Vec<String> = (0..self.n_rows()).map(|row| format!("\n  {}", self.object(row))).collect();
        let end = if rows.is_empty() { "" } else { "\n" };
        write_all(out, format!("[{}{end}]\n", rows.join(",")).as_bytes())
    }

    fn write_jsonl(&self, out: &mut dyn Write) -> Result<()> {
        (0..self.n_rows()).try_for_each(|row| write_all(out, format!("{}\n", self.object(row)).as_bytes()))
    }

    /// A row as a JSON object, its keys in the order of the columns.
    fn object(&self, row: usize) -> String {
        let field = |column: &Column| {
            let value = column.get(row).map_or(Value::Null, |value| json(&value));
            format!("{}: {value}", Value::from(column.name().as_str()))
        };
        format!("{{{}}}", self.frame.columns().iter().map(field).collect::<Vec<_>>().join(", "))
    }
}

fn write_all(out: &mut dyn Write, bytes: &[u8]) -> Result<()> {
    out.write_all(bytes).map_err(|error| Error::other("the rows cannot be written").with_source(error))
}

/// A value as JSON; null for a missing one and for a number that is not finite.
pub(super) fn json(value: &AnyValue<'_>) -> Value {
    match value {
        AnyValue::Null => Value::Null,
        AnyValue::Boolean(value) => (*value).into(),
        AnyValue::String(text) => (*text).into(),
        AnyValue::StringOwned(text) => text.as_str().into(),
        AnyValue::Float32(value) => value.to_string().parse::<f64>().map_or(Value::Null, Value::from),
        AnyValue::Float64(value) => Value::from(*value),
        AnyValue::List(values) => Value::Array(values.iter().map(|value| json(&value)).collect()),
        AnyValue::UInt64(value) => (*value).into(),
        other => match other.extract::<i64>() {
            Some(value) if other.is_integer() => value.into(),
            _ => other.to_string().into(),
        },
    }
}
