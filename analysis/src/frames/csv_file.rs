//! CSV files as tables, plain or compressed; types follow from all rows.

use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use farmhand_core::{Error, Result};
use polars::prelude::*;
use polars_io::SerReader;
use polars_io::csv::read::{CsvParseOptions, CsvReadOptions};

use super::source::{Source, select};
use crate::judgement_table::decompressed;

/// A CSV file, read whole when it is asked for.
pub(super) struct CsvFile {
    path: PathBuf,
    read: OnceLock<DataFrame>,
}

impl CsvFile {
    /// The table of a file.
    pub(super) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), read: OnceLock::new() }
    }

    /// Whether a file is one by its name: `.csv` or `.tsv`, perhaps `.gz` or `.zst`.
    pub(super) fn is_named_so(path: &Path) -> bool {
        separator(path).is_some()
    }

    fn frame(&self) -> Result<&DataFrame> {
        if let Some(frame) = self.read.get() {
            return Ok(frame);
        }
        let mut bytes = Vec::new();
        decompressed(&self.path)?.read_to_end(&mut bytes).map_err(|error| Error::io("read", &self.path, error))?;
        let parse = CsvParseOptions::default().with_separator(separator(&self.path).unwrap_or(b','));
        let options = CsvReadOptions::default().with_infer_schema_length(None).with_parse_options(parse);
        let frame = options.into_reader_with_file_handle(Cursor::new(bytes)).finish().map_err(|error| {
            Error::invalid_data(format!("`{}` is not a CSV file that can be read", self.path.display()))
                .with_source(error)
                .with_hint("its first line names the columns, and every row has a value for each; texts with commas are quoted")
        })?;
        Ok(self.read.get_or_init(|| frame))
    }
}

impl Source for CsvFile {
    fn schema(&self) -> Result<SchemaRef> {
        Ok(Arc::clone(self.frame()?.schema()))
    }

    fn read(&self, columns: Option<&[PlSmallStr]>) -> Result<DataFrame> {
        select(self.frame()?, columns)
    }
}

fn separator(path: &Path) -> Option<u8> {
    let name = path.file_name()?.to_str()?.to_ascii_lowercase();
    let name = name.strip_suffix(".gz").or(name.strip_suffix(".zst")).unwrap_or(&name);
    match name.rsplit_once('.')?.1 {
        "csv" => Some(b','),
        "tsv" => Some(b'\t'),
        _ => None,
    }
}
