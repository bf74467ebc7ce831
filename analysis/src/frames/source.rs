//! A table that is read when a query needs it, and of which only the columns are read that the query names.

use std::any::Any;
use std::sync::{Arc, Mutex, PoisonError};

use farmhand_core::{Error, Result};
use polars::prelude::*;

/// Something rows can be read from.
pub(super) trait Source: Send + Sync {
    /// Names and types of the columns.
    fn schema(&self) -> Result<SchemaRef>;

    /// All rows; of the columns, the wanted ones in the wanted order, or all.
    fn read(&self, columns: Option<&[PlSmallStr]>) -> Result<DataFrame>;

    /// How many rows there are.
    fn n_rows(&self) -> Result<usize> {
        Ok(self.read(Some(&[]))?.height())
    }
}

/// A frame that is there already.
pub(super) fn select(frame: &DataFrame, columns: Option<&[PlSmallStr]>) -> Result<DataFrame> {
    match columns {
        None => Ok(frame.clone()),
        Some(names) => {
            let columns: PolarsResult<Vec<Column>> = names.iter().map(|name| frame.column(name).cloned()).collect();
            columns
                .and_then(|columns| DataFrame::new(frame.height(), columns))
                .map_err(|error| Error::other("a table lacks a column that it announced").with_source(error))
        }
    }
}

/// The first error of a scan, kept because polars carries text alone.
pub(super) type FirstError = Arc<Mutex<Option<Error>>>;

/// A source as polars scans it.
pub(super) struct Scan {
    source: Arc<dyn Source>,
    first_error: FirstError,
}

impl Scan {
    /// A lazy frame over a source; what goes wrong in reading it is kept in `first_error`.
    pub(super) fn lazy(source: &Arc<dyn Source>, first_error: &FirstError) -> Result<LazyFrame> {
        let scan = Self { source: Arc::clone(source), first_error: Arc::clone(first_error) };
        let args = ScanArgsAnonymous { schema: Some(source.schema()?), name: "FARMHAND", ..ScanArgsAnonymous::default() };
        LazyFrame::anonymous_scan(Arc::new(scan), args)
            .map_err(|error| Error::other("the table cannot be scanned").with_source(error))
    }
}

impl AnonymousScan for Scan {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn scan(&self, args: AnonymousScanArgs) -> PolarsResult<DataFrame> {
        match self.source.read(args.with_columns.as_deref()) {
            Ok(frame) => Ok(args.n_rows.map_or(frame.clone(), |n| frame.head(Some(n)))),
            Err(error) => {
                let text = error.to_string();
                self.first_error.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                Err(PolarsError::ComputeError(text.into()))
            }
        }
    }

    fn allows_projection_pushdown(&self) -> bool {
        true
    }
}
