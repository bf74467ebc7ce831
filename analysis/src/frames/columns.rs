//! From records to columns: what a table of records shows, and how it becomes a frame.

use std::borrow::Cow;

use farmhand_core::{Error, Result};
use polars::prelude::*;

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// True or false.
    Truth,
    /// A whole number.
    Whole,
    /// A number; one that is not finite is missing.
    Number,
    /// Text.
    Text,
}

impl Kind {
    /// The type in a frame.
    pub(super) fn dtype(self) -> DataType {
        match self {
            Self::Truth => DataType::Boolean,
            Self::Whole => DataType::Int64,
            Self::Number => DataType::Float64,
            Self::Text => DataType::String,
        }
    }
}

/// One value; `None` is a missing one.
pub(super) enum Cell<'a> {
    /// True or false.
    Truth(bool),
    /// A whole number.
    Whole(Option<i64>),
    /// A number.
    Number(Option<f64>),
    /// Text.
    Text(Option<Cow<'a, str>>),
}

impl<'a> Cell<'a> {
    /// Text that is there.
    pub(super) fn text(text: &'a str) -> Self {
        Self::Text(Some(Cow::Borrowed(text)))
    }

    /// Text that may be missing.
    pub(super) fn maybe(text: Option<&'a str>) -> Self {
        Self::Text(text.map(Cow::Borrowed))
    }

    /// How many characters (Unicode code points) a text has.
    pub(super) fn length(text: &str) -> Self {
        Self::Whole(Some(text.chars().count() as i64))
    }
}

/// A column of a table of records.
pub(super) struct Column<R> {
    /// Its name.
    pub(super) name: &'static str,
    /// What it holds.
    pub(super) kind: Kind,
    /// Its value in a record, of the kind above.
    pub(super) cell: fn(&R) -> Cell<'_>,
}

/// Collects the values of one column.
pub(super) enum Builder {
    /// True or false.
    Truth(PlSmallStr, Vec<Option<bool>>),
    /// Whole numbers.
    Whole(PlSmallStr, Vec<Option<i64>>),
    /// Numbers.
    Number(PlSmallStr, Vec<Option<f64>>),
    /// Texts.
    Text(StringChunkedBuilder),
}

impl Builder {
    /// An empty column.
    pub(super) fn new(name: &str, kind: Kind) -> Self {
        match kind {
            Kind::Truth => Self::Truth(name.into(), Vec::new()),
            Kind::Whole => Self::Whole(name.into(), Vec::new()),
            Kind::Number => Self::Number(name.into(), Vec::new()),
            Kind::Text => Self::Text(StringChunkedBuilder::new(name.into(), 0)),
        }
    }

    /// Adds a value; one of another kind than the column's is missing.
    pub(super) fn push(&mut self, cell: Cell<'_>) {
        match (self, cell) {
            (Self::Truth(_, values), cell) => values.push(if let Cell::Truth(value) = cell { Some(value) } else { None }),
            (Self::Whole(_, values), cell) => values.push(if let Cell::Whole(value) = cell { value } else { None }),
            (Self::Number(_, values), cell) => {
                values.push(if let Cell::Number(value) = cell { value.filter(|value| value.is_finite()) } else { None });
            }
            (Self::Text(builder), cell) => builder.append_option(if let Cell::Text(text) = cell { text } else { None }),
        }
    }

    /// The column.
    pub(super) fn finish(self) -> polars::prelude::Column {
        match self {
            Self::Truth(name, values) => polars::prelude::Column::new(name, values),
            Self::Whole(name, values) => polars::prelude::Column::new(name, values),
            Self::Number(name, values) => polars::prelude::Column::new(name, values),
            Self::Text(builder) => builder.finish().into_series().into_column(),
        }
    }
}

/// A frame of these columns, `height` rows high also without a column.
pub(super) fn frame(height: usize, columns: Vec<polars::prelude::Column>) -> Result<DataFrame> {
    DataFrame::new(height, columns).map_err(|error| Error::other("the records cannot be made a table").with_source(error))
}

/// The columns that are wanted, in the wanted order: the named ones, or all.
pub(super) fn chosen<'a, R>(columns: &'a [Column<R>], wanted: Option<&[PlSmallStr]>) -> Vec<&'a Column<R>> {
    match wanted {
        None => columns.iter().collect(),
        Some(names) => names.iter().filter_map(|name| columns.iter().find(|column| column.name == name.as_str())).collect(),
    }
}
