//! Files of JSON records as tables: a column a key, objects taken apart (`annotation.cost_usd`), lists as JSON text.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use farmhand_core::data::{RecordError, Records};
use farmhand_core::{Error, Result};
use polars::prelude::*;
use serde_json::Value;

use super::columns::frame;
use super::source::{Source, select};
use crate::parquet::{Record, read_parquet_records};

/// Hands each record of a file to a function, with its place in the file.
///
/// # Errors
/// When the file cannot be read, a record is none, or the function refuses it.
pub(super) fn visit_records(path: &Path, mut visit: impl FnMut(Record, &dyn std::fmt::Display) -> Result<()>) -> Result<()> {
    for record in Records::open(path, Some(read_parquet_records))? {
        match record {
            Ok(record) => visit(record.fields, &record.location)?,
            Err(RecordError::Fatal(error)) => return Err(error),
            Err(RecordError::Bad(bad)) => {
                return Err(Error::invalid_data(format!("`{}`, {}: {}", path.display(), bad.location, bad.message)));
            }
        }
    }
    Ok(())
}

/// The first record of a file; `None` of an empty one.
pub(super) fn first_record(path: &Path) -> Result<Option<Record>> {
    match Records::open(path, Some(read_parquet_records))?.next() {
        None => Ok(None),
        Some(Ok(record)) => Ok(Some(record.fields)),
        Some(Err(RecordError::Fatal(error))) => Err(error),
        Some(Err(RecordError::Bad(bad))) => {
            Err(Error::invalid_data(format!("`{}`, {}: {}", path.display(), bad.location, bad.message)))
        }
    }
}

/// A file of records, read whole when it is asked for, because its columns follow from all of its records.
pub(super) struct RecordFile {
    path: PathBuf,
    read: OnceLock<DataFrame>,
}

impl RecordFile {
    /// The table of a file.
    pub(super) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), read: OnceLock::new() }
    }

    fn frame(&self) -> Result<&DataFrame> {
        if let Some(frame) = self.read.get() {
            return Ok(frame);
        }
        let mut columns = Columns::default();
        visit_records(&self.path, |record, _| {
            columns.push(record);
            Ok(())
        })?;
        let frame = columns.finish()?;
        Ok(self.read.get_or_init(|| frame))
    }
}

impl Source for RecordFile {
    fn schema(&self) -> Result<SchemaRef> {
        Ok(Arc::clone(self.frame()?.schema()))
    }

    fn read(&self, columns: Option<&[PlSmallStr]>) -> Result<DataFrame> {
        select(self.frame()?, columns)
    }
}

/// The values of a column, of the narrowest kind that holds all so far.
enum Values {
    Missing(usize),
    Truth(Vec<Option<bool>>),
    Whole(Vec<Option<i64>>),
    Number(Vec<Option<f64>>),
    Text(Vec<Option<String>>),
}

impl Values {
    fn len(&self) -> usize {
        match self {
            Self::Missing(n) => *n,
            Self::Truth(values) => values.len(),
            Self::Whole(values) => values.len(),
            Self::Number(values) => values.len(),
            Self::Text(values) => values.len(),
        }
    }

    fn push_missing(&mut self) {
        match self {
            Self::Missing(n) => *n += 1,
            Self::Truth(values) => values.push(None),
            Self::Whole(values) => values.push(None),
            Self::Number(values) => values.push(None),
            Self::Text(values) => values.push(None),
        }
    }

    fn push(&mut self, value: Value) {
        match (&mut *self, value) {
            (_, Value::Null) => self.push_missing(),
            (Self::Truth(values), Value::Bool(value)) => values.push(Some(value)),
            (Self::Whole(values), Value::Number(number)) if number.is_i64() => values.push(number.as_i64()),
            (Self::Number(values), Value::Number(number)) => values.push(number.as_f64()),
            (Self::Text(values), value) => values.push(Some(text(value))),
            (_, value) => {
                self.widen(&value);
                self.push(value);
            }
        }
    }

    /// Makes room for a value that the kind so far does not hold.
    fn widen(&mut self, value: &Value) {
        *self = match (std::mem::replace(self, Self::Missing(0)), value) {
            (Self::Missing(n), Value::Bool(_)) => Self::Truth(vec![None; n]),
            (Self::Missing(n), Value::Number(number)) if number.is_i64() => Self::Whole(vec![None; n]),
            (Self::Missing(n), Value::Number(_)) => Self::Number(vec![None; n]),
            (Self::Missing(n), _) => Self::Text(vec![None; n]),
            (Self::Whole(values), Value::Number(_)) => {
                Self::Number(values.into_iter().map(|value| value.map(|value| value as f64)).collect())
            }
            (Self::Truth(values), _) => Self::Text(texts(values)),
            (Self::Whole(values), _) => Self::Text(texts(values)),
            (Self::Number(values), _) => Self::Text(texts(values)),
            (Self::Text(values), _) => Self::Text(values),
        };
    }

    fn column(self, name: &str) -> Column {
        match self {
            Self::Missing(n) => Column::new(name.into(), vec![None::<&str>; n]),
            Self::Truth(values) => Column::new(name.into(), values),
            Self::Whole(values) => Column::new(name.into(), values),
            Self::Number(values) => Column::new(name.into(), values),
            Self::Text(values) => Column::new(name.into(), values),
        }
    }
}

fn texts<T: std::fmt::Display>(values: Vec<Option<T>>) -> Vec<Option<String>> {
    values.into_iter().map(|value| value.map(|value| value.to_string())).collect()
}

fn text(value: Value) -> String {
    match value {
        Value::String(text) => text,
        other => other.to_string(),
    }
}

/// Columns that grow with every record.
#[derive(Default)]
struct Columns {
    height: usize,
    names: Vec<String>,
    values: Vec<Values>,
    places: HashMap<String, usize>,
}

impl Columns {
    fn push(&mut self, record: Record) {
        self.push_fields(record, "");
        self.height += 1;
        for values in &mut self.values {
            if values.len() < self.height {
                values.push_missing();
            }
        }
    }

    fn push_fields(&mut self, record: Record, above: &str) {
        for (key, value) in record {
            let name = if above.is_empty() { key } else { format!("{above}.{key}") };
            match value {
                Value::Object(fields) => self.push_fields(fields, &name),
                value => self.push_value(name, value),
            }
        }
    }

    fn push_value(&mut self, name: String, value: Value) {
        let place = match self.places.get(&name) {
            Some(place) => *place,
            None => {
                self.places.insert(name.clone(), self.names.len());
                self.names.push(name);
                self.values.push(Values::Missing(self.height));
                self.names.len() - 1
            }
        };
        // A key that stands twice in a record (`{"a.b": 1, "a": {"b": 2}}`): the first value counts.
        if self.values[place].len() == self.height {
            self.values[place].push(value);
        }
    }

    fn finish(self) -> Result<DataFrame> {
        let columns = self.names.iter().zip(self.values).map(|(name, values)| values.column(name));
        frame(self.height, columns.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn kinds_widen_keys_may_come_late_and_objects_are_taken_apart() {
        let mut columns = Columns::default();
        for record in [
            json!({"a": 1, "b": true, "c": {"d": "x", "e": {"f": 2}}, "l": [1, "y"]}),
            json!({"a": 0.5, "b": 7, "late": null}),
            json!({"late": -3, "c": {"d": null}, "a": u64::MAX}),
        ] {
            let Value::Object(record) = record else { panic!("an object") };
            columns.push(record);
        }
        let frame = columns.finish().expect("a frame");
        let types: Vec<(String, String)> =
            frame.columns().iter().map(|column| (column.name().to_string(), column.dtype().to_string())).collect();
        let expected = [("a", "f64"), ("b", "str"), ("c.d", "str"), ("c.e.f", "i64"), ("l", "str"), ("late", "i64")];
        assert_eq!(types, expected.map(|(name, kind)| (name.to_owned(), kind.to_owned())));
        let texts = |name: &str| -> Vec<Option<String>> {
            frame.column(name).and_then(|column| column.str()).expect("text").iter().map(|text| text.map(str::to_owned)).collect()
        };
        assert_eq!(texts("b"), [Some("true".to_owned()), Some("7".to_owned()), None]);
        assert_eq!(texts("l"), [Some("[1,\"y\"]".to_owned()), None, None]);
        assert_eq!(frame.column("late").expect("there").i64().expect("whole").to_vec(), [None, None, Some(-3)]);
    }
}
