//! Tables with one row a record: what the stages of runs left, read as it stands.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use farmhand_core::{Error, Result};
use polars::prelude::*;

use super::columns::{Builder, Column, chosen, frame};
use super::source::Source;

/// A run directory and what to call it.
#[derive(Debug, Clone)]
pub(super) struct RunFolder {
    /// The folder.
    pub(super) path: PathBuf,
    /// The run's name, or the folder's path where several runs have the same.
    pub(super) name: Arc<str>,
}

/// A stage of a run: its folder, and the method and the seed in its name.
#[derive(Debug, Clone)]
pub(super) struct Stage {
    /// The run's name.
    pub(super) run: Arc<str>,
    /// The stage's name, for example `evaluate-dpo@1`.
    pub(super) name: Arc<str>,
    /// The method of an evaluation, a generation or a learning: `dpo`.
    pub(super) method: Option<Arc<str>>,
    /// The repetition: 1 of `dpo@1`.
    pub(super) seed: Option<i64>,
}

impl Stage {
    /// A stage by the name of its folder.
    pub(super) fn new(run: &RunFolder, name: &str) -> Self {
        let method = ["evaluate-", "generate-", "learn-"].iter().find_map(|prefix| name.strip_prefix(prefix));
        let (method, seed) = match method.map(|method| (method, method.rsplit_once('@'))) {
            Some((whole, parts)) => match parts.and_then(|(method, seed)| Some((method, seed.parse::<i64>().ok()?))) {
                Some((method, seed)) => (Some(method), Some(seed)),
                None => (Some(whole), None),
            },
            None => (None, None),
        };
        Self { run: Arc::clone(&run.name), name: name.into(), method: method.map(Arc::from), seed }
    }
}

impl RunFolder {
    /// The stages that left this file, by name.
    ///
    /// # Errors
    /// When the folder cannot be listed.
    pub(super) fn stages_with(&self, file: &str) -> Result<Vec<(Stage, PathBuf)>> {
        let mut stages = Vec::new();
        for entry in std::fs::read_dir(&self.path).map_err(|error| Error::io("list", &self.path, error))? {
            let entry = entry.map_err(|error| Error::io("list", &self.path, error))?;
            let path = entry.path().join(file);
            if path.is_file() {
                stages.push((Stage::new(self, &entry.file_name().to_string_lossy()), path));
            }
        }
        stages.sort_by(|(one, _), (other, _)| one.name.cmp(&other.name));
        Ok(stages)
    }
}

/// Hands each record, in order, to a function.
pub(super) type Visit<R> = Box<dyn Fn(&mut dyn FnMut(&R)) -> Result<()> + Send + Sync>;

/// Hands each record of one run, in order, to a function.
pub(super) type VisitRun<R> = fn(&RunFolder, &mut dyn FnMut(&R)) -> Result<()>;

/// A table with one row a record, read anew each time.
pub(super) struct RecordTable<R: 'static> {
    /// What a row shows.
    pub(super) columns: &'static [Column<R>],
    /// The records.
    pub(super) visit: Visit<R>,
}

impl<R> RecordTable<R> {
    /// The records of all runs, one run after the other.
    pub(super) fn of_runs(runs: &Arc<[RunFolder]>, columns: &'static [Column<R>], visit: VisitRun<R>) -> Self {
        let runs = Arc::clone(runs);
        Self { columns, visit: Box::new(move |each| runs.iter().try_for_each(|run| visit(run, each))) }
    }
}

impl<R> Source for RecordTable<R> {
    fn schema(&self) -> Result<SchemaRef> {
        Ok(Arc::new(self.columns.iter().map(|column| Field::new(column.name.into(), column.kind.dtype())).collect()))
    }

    fn read(&self, wanted: Option<&[PlSmallStr]>) -> Result<DataFrame> {
        let columns = chosen(self.columns, wanted);
        let mut builders: Vec<Builder> = columns.iter().map(|column| Builder::new(column.name, column.kind)).collect();
        let mut height = 0;
        (self.visit)(&mut |record| {
            height += 1;
            for (builder, column) in builders.iter_mut().zip(&columns) {
                builder.push((column.cell)(record));
            }
        })?;
        frame(height, builders.into_iter().map(Builder::finish).collect())
    }
}

/// Reads the lines of a file as records, one at a time.
///
/// # Errors
/// When the file cannot be read, or a line is no such record.
pub(super) fn visit_lines<T: serde::de::DeserializeOwned>(path: &Path, mut visit: impl FnMut(T)) -> Result<()> {
    use std::io::BufRead;
    let file = std::fs::File::open(path).map_err(|error| Error::io("read", path, error))?;
    let mut reader = std::io::BufReader::with_capacity(1 << 16, file);
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        if reader.read_until(b'\n', &mut line).map_err(|error| Error::io("read", path, error))? == 0 {
            break;
        }
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        visit(serde_json::from_slice(&line).map_err(|error| {
            Error::invalid_data(format!("`{}`, line {number}: not a record of this kind", path.display())).with_source(error)
        })?);
    }
    Ok(())
}
