//! JSON records to Parquet.

use std::path::Path;

use farmhand_core::run::write_atomic;
use farmhand_core::{Error, Result};
use polars::prelude::*;
use polars_arrow::datatypes::{ArrowDataType, ArrowSchema, Field as ArrowField};
use polars_io::parquet::write::{KeyValueMetadata, ParquetWriter};
use polars_parquet::write::schema_to_metadata_key;
use serde_json::Value;

use super::Record;

/// What a column holds, as far as the records so far tell.
#[derive(Debug, Clone, PartialEq)]
enum Kind {
    Unknown,
    Truth,
    Whole,
    Number,
    Text,
    List(Box<Kind>),
    Object(Vec<(String, Kind)>),
}

/// Writes records as a Parquet file that pandas, polars and `datasets` read: a column a key, whole or not at all.
/// A key that a record does not have, and null, are missing values. The columns stand in the order in which the
/// keys come.
///
/// # Errors
/// When a key holds different kinds of values in different records, an object has no keys, a whole number is beyond
/// 64 bits with sign, or the disk refuses.
pub fn write_parquet_records(path: &Path, records: &[Record]) -> Result<()> {
    let mut kinds: Vec<(String, Kind)> = Vec::new();
    for (index, record) in records.iter().enumerate() {
        merge_fields(&mut kinds, record, "").map_err(|error| error.context(format!("record {}", index + 1)))?;
    }
    let mut columns = Vec::with_capacity(kinds.len());
    for (name, kind) in &kinds {
        let dtype = dtype(kind, name)?;
        let values: Vec<AnyValue<'static>> =
            records.iter().map(|record| cell(record.get(name).unwrap_or(&Value::Null), &dtype)).collect();
        columns.push(
            Series::from_any_values_and_dtype(name.as_str().into(), &values, &dtype, true).map_err(frame_error)?.into_column(),
        );
    }
    let mut frame = DataFrame::new(if columns.is_empty() { 0 } else { records.len() }, columns).map_err(frame_error)?;
    write_atomic(path, |out| {
        let failed = |error| Error::other(format!("`{}` cannot be written as Parquet", path.display())).with_source(error);
        ParquetWriter::new(out).with_key_value_metadata(Some(described(&frame))).finish(&mut frame).map(|_| ()).map_err(failed)
    })
}

/// The file's own description of its columns. polars would name its newest types (`string_view`), which older
/// pyarrow and `datasets` do not know; the pages are the same for the plain ones.
pub(crate) fn described(frame: &DataFrame) -> KeyValueMetadata {
    let columns = frame.columns().iter().map(|column| {
        let field = column.field().to_arrow(CompatLevel::oldest());
        let field = ArrowField::new(field.name.clone(), plain(field.dtype()), true);
        (field.name.clone(), field)
    });
    let schema: ArrowSchema = columns.collect();
    let entry = schema_to_metadata_key(&schema);
    KeyValueMetadata::from_static(vec![(entry.key, entry.value.unwrap_or_default())])
}

fn plain(dtype: &ArrowDataType) -> ArrowDataType {
    let inner = |field: &ArrowField| ArrowField::new(field.name.clone(), plain(field.dtype()), true);
    match dtype {
        ArrowDataType::LargeUtf8 | ArrowDataType::Utf8View => ArrowDataType::Utf8,
        ArrowDataType::LargeList(field) => ArrowDataType::List(Box::new(inner(field))),
        ArrowDataType::Struct(fields) => ArrowDataType::Struct(fields.iter().map(inner).collect()),
        other => other.clone(),
    }
}

fn merge_fields(kinds: &mut Vec<(String, Kind)>, record: &Record, above: &str) -> Result<()> {
    for (name, value) in record {
        let path = if above.is_empty() { name.clone() } else { format!("{above}.{name}") };
        match kinds.iter_mut().find(|(known, _)| known == name) {
            Some((_, kind)) => merge(kind, value, &path)?,
            None => {
                let mut kind = Kind::Unknown;
                merge(&mut kind, value, &path)?;
                kinds.push((name.clone(), kind));
            }
        }
    }
    Ok(())
}

/// Widens a kind so that it holds the value too.
fn merge(kind: &mut Kind, value: &Value, path: &str) -> Result<()> {
    let found = match value {
        Value::Null => return Ok(()),
        Value::Bool(_) => Kind::Truth,
        Value::Number(number) if number.is_i64() => Kind::Whole,
        Value::Number(number) if number.is_u64() => {
            return Err(Error::invalid_data(format!("`{path}` holds {number}, more than a column of whole numbers can"))
                .with_hint("write it as text"));
        }
        Value::Number(_) => Kind::Number,
        Value::String(_) => Kind::Text,
        Value::Array(_) => Kind::List(Box::new(Kind::Unknown)),
        Value::Object(_) => Kind::Object(Vec::new()),
    };
    match (&mut *kind, found) {
        (Kind::Unknown, found) => *kind = found,
        (Kind::Whole, Kind::Number) => *kind = Kind::Number,
        (Kind::Number, Kind::Whole) | (Kind::List(_), Kind::List(_)) | (Kind::Object(_), Kind::Object(_)) => {}
        (known, found) if *known == found => {}
        (known, found) => {
            let message =
                format!("`{path}` holds {}, but {} before; a column of Parquet holds one kind", words(&found), words(known));
            return Err(Error::invalid_data(message).with_hint("write JSONL instead, or make the records alike"));
        }
    }
    match (kind, value) {
        (Kind::List(inner), Value::Array(values)) => {
            values.iter().try_for_each(|value| merge(inner, value, &format!("{path}[]")))
        }
        (Kind::Object(fields), Value::Object(record)) => merge_fields(fields, record, path),
        _ => Ok(()),
    }
}

fn words(kind: &Kind) -> &'static str {
    match kind {
        Kind::Unknown => "nothing",
        Kind::Truth => "true or false",
        Kind::Whole | Kind::Number => "a number",
        Kind::Text => "text",
        Kind::List(_) => "a list",
        Kind::Object(_) => "an object",
    }
}

fn dtype(kind: &Kind, path: &str) -> Result<DataType> {
    Ok(match kind {
        // A column in which every value is missing: text is what readers expect of it.
        Kind::Unknown | Kind::Text => DataType::String,
        Kind::Truth => DataType::Boolean,
        Kind::Whole => DataType::Int64,
        Kind::Number => DataType::Float64,
        Kind::List(inner) => DataType::List(Box::new(dtype(inner, &format!("{path}[]"))?)),
        Kind::Object(fields) if fields.is_empty() => {
            return Err(Error::invalid_data(format!("`{path}` holds objects without keys, which Parquet cannot store"))
                .with_hint("write JSONL instead, or leave the key out"));
        }
        Kind::Object(fields) => {
            let field =
                |(name, kind): &(String, Kind)| Ok(Field::new(name.as_str().into(), dtype(kind, &format!("{path}.{name}"))?));
            DataType::Struct(fields.iter().map(field).collect::<Result<_>>()?)
        }
    })
}

/// The value as polars takes it; `merge` has made sure that it fits.
fn cell(value: &Value, dtype: &DataType) -> AnyValue<'static> {
    match (value, dtype) {
        (Value::Bool(value), DataType::Boolean) => AnyValue::Boolean(*value),
        (Value::Number(number), DataType::Int64) => number.as_i64().map_or(AnyValue::Null, AnyValue::Int64),
        (Value::Number(number), DataType::Float64) => number.as_f64().map_or(AnyValue::Null, AnyValue::Float64),
        (Value::String(text), DataType::String) => AnyValue::StringOwned(text.as_str().into()),
        (Value::Array(values), DataType::List(inner)) => {
            let values: Vec<AnyValue<'static>> = values.iter().map(|value| cell(value, inner)).collect();
            let series = Series::from_any_values_and_dtype(PlSmallStr::EMPTY, &values, inner, true);
            AnyValue::List(series.expect("every value was checked against the column's kind"))
        }
        (Value::Object(record), DataType::Struct(fields)) => {
            let value = |field: &Field| cell(record.get(field.name.as_str()).unwrap_or(&Value::Null), field.dtype());
            AnyValue::StructOwned(Box::new((fields.iter().map(value).collect(), fields.clone())))
        }
        _ => AnyValue::Null,
    }
}

fn frame_error(error: PolarsError) -> Error {
    Error::other("the records cannot be made a table").with_source(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parquet::read_parquet_records;
    use serde_json::json;

    fn records(value: Value) -> Vec<Record> {
        serde_json::from_value(value).expect("a list of objects")
    }

    fn round_trip(written: &[Record]) -> Vec<Record> {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("x.parquet");
        write_parquet_records(&path, written).expect("written");
        let first = std::fs::read(&path).expect("readable");
        write_parquet_records(&path, written).expect("written");
        assert_eq!(first, std::fs::read(&path).expect("readable"), "the same bytes");
        read_parquet_records(&path).expect("read")
    }

    #[test]
    fn records_come_back_as_they_were() {
        let written = records(json!([
            {
                "id": 1, "text": "naïve \u{1F600}\nline", "score": 0.1, "ok": true, "tags": ["a", "b"],
                "messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": ""}], "meta": {"source": "x", "n": 3},
            },
            {"id": -9_007_199_254_740_993_i64, "text": "", "score": 2.0, "ok": null, "tags": [], "messages": [], "meta": {"source": null, "n": 4}},
            {"id": null, "text": null, "score": -1e300, "ok": false, "tags": null, "messages": null, "meta": null},
        ]));
        assert_eq!(round_trip(&written), written);
    }

    #[test]
    fn missing_keys_are_null_and_whole_numbers_widen() {
        let read = round_trip(&records(json!([{"a": 1, "l": [[1], []]}, {"b": "x", "a": 2.5, "l": [[0.5]]}, {}])));
        let expected = records(
            json!([{"a": 1.0, "b": null, "l": [[1.0], []]}, {"a": 2.5, "b": "x", "l": [[0.5]]}, {"a": null, "b": null, "l": null}]),
        );
        assert_eq!(read, expected);
        assert_eq!(
            round_trip(&records(json!([{"a": null}, {"a": []}, {"a": [null]}]))),
            records(json!([{"a": null}, {"a": []}, {"a": [null]}]))
        );
    }

    #[test]
    fn no_record_makes_an_empty_file() {
        assert!(round_trip(&[]).is_empty());
    }

    #[test]
    fn mixed_kinds_are_refused_with_the_place() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("x.parquet");
        let error = write_parquet_records(&path, &records(json!([{"a": [{"b": 1}]}, {"a": [{"b": "x"}]}]))).expect_err("refused");
        assert_eq!(error.to_string(), "record 2: `a[].b` holds text, but a number before; a column of Parquet holds one kind");
        let error = write_parquet_records(&path, &records(json!([{"a": {}}]))).expect_err("refused");
        assert!(error.to_string().contains("`a` holds objects without keys"), "{error}");
        let error = write_parquet_records(&path, &records(json!([{"a": u64::MAX}]))).expect_err("refused");
        assert!(error.to_string().contains("18446744073709551615"), "{error}");
        assert!(!path.exists());
    }
}
