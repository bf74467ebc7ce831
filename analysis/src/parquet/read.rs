//! Parquet to JSON records, through the page reader of polars.

use std::fs::File;
use std::io::{Read, Seek};
use std::path::Path;

use farmhand_core::Result;
use farmhand_core::data::{BadRecords, ReadOptions};

use super::Record;
use super::file::ParquetFile;
use super::values::json_values;

/// Reads a Parquet file into records, one a row, with every column as a key. Lists become lists, structs
/// objects, maps lists of `key` and `value`, dates and times ISO 8601 text, missing values and non-finite numbers null.
///
/// # Errors
/// When the file cannot be read, is not Parquet, or has a column of a type that JSON cannot hold.
pub fn read_parquet_records(path: &Path) -> Result<Vec<Record>> {
    let file: ParquetFile<File> = ParquetFile::open(path)?;
    records(&file, path)
}

/// How data files are read: every format, Parquet included.
pub fn read_options(skip_bad_records: bool) -> ReadOptions {
    let bad_records = if skip_bad_records { BadRecords::Skip } else { BadRecords::Stop };
    ReadOptions { bad_records, parquet: Some(read_parquet_records), scale: None }
}

fn records<R: Read + Seek>(file: &ParquetFile<R>, path: &Path) -> Result<Vec<Record>> {
    let place = |field: &str| format!("`{}`: column `{field}`", path.display());
    let mut records: Vec<Record> = Vec::new();
    for group in 0..file.n_groups() {
        let start = records.len();
        for field in file.fields() {
            let mut values = Vec::new();
            for array in file.arrays(group, field)? {
                values.extend(json_values(array.as_ref()).map_err(|error| error.context(place(&field.name)))?);
            }
            records.resize_with(start + values.len(), Record::new);
            for (record, value) in records[start..].iter_mut().zip(values) {
                record.insert(field.name.to_string(), value);
            }
        }
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;
    use serde_json::json;

    /// Written by pyarrow 26, in groups of two rows, with snappy:
    ///
    /// ```python
    /// messages = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
    /// table = pa.table({
    ///     "messages": pa.array([[{"role": "user", "content": "hi"}, {"role": "assistant", "content": "grüß"}], [], None], messages),
    ///     "small": pa.array([1, None, -3], pa.int8()),
    ///     "big": pa.array([2**63, 0, 7], pa.uint64()),
    ///     "half": pa.array([0.1, None, float("nan")], pa.float32()),
    ///     "name": pa.array(["a", "b", "a"]).dictionary_encode(),
    ///     "when": pa.array([datetime(2024, 2, 29, 12, 30, 1, 250000), None, datetime(1969, 12, 31, 23, 59, 59)], pa.timestamp("us", tz="UTC")),
    ///     "day": pa.array([date(2024, 2, 29), None, date(1, 1, 1)], pa.date32()),
    ///     "clock": pa.array([time(1, 2, 3, 500000), None, time(0, 0)], pa.time64("us")),
    ///     "ok": pa.array([True, False, None]),
    ///     "nothing": pa.array([None, None, None], pa.null()),
    ///     "grid": pa.array([[[1, 2], []], None, [None, [3]]], pa.list_(pa.list_(pa.int32()))),
    ///     "pair": pa.array([[0.5, 1.0], [2.0, 3.0], None], pa.list_(pa.float64(), 2)),
    ///     "extra": pa.array([[("k", 1)], [], None], pa.map_(pa.string(), pa.int64())),
    ///     "price": pa.array([Decimal("1.25"), None, Decimal("-0.50")], pa.decimal128(9, 2)),
    ///     "long": pa.array(["x" * 40, "", None], pa.large_string()),
    ///     "raw": pa.array([b"bytes", None, b""], pa.binary()),
    /// })
    /// ```
    const PYARROW: &[u8] = include_bytes!("pyarrow.parquet");

    #[test]
    fn a_file_written_by_pyarrow_is_read_with_all_its_types() {
        let expected = json!([
            {
                "messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "grüß"}],
                "small": 1, "big": 9_223_372_036_854_775_808_u64, "half": 0.1, "name": "a", "when": "2024-02-29T12:30:01.250Z",
                "day": "2024-02-29", "clock": "01:02:03.500", "ok": true, "nothing": null, "grid": [[1, 2], []],
                "pair": [0.5, 1.0], "extra": [{"key": "k", "value": 1}], "price": 1.25, "long": "x".repeat(40), "raw": "bytes",
            },
            {
                "messages": [], "small": null, "big": 0, "half": null, "name": "b", "when": null, "day": null, "clock": null,
                "ok": false, "nothing": null, "grid": null, "pair": [2.0, 3.0], "extra": [], "price": null, "long": "", "raw": null,
            },
            {
                "messages": null, "small": -3, "big": 7, "half": null, "name": "a", "when": "1969-12-31T23:59:59Z",
                "day": "0001-01-01", "clock": "00:00:00", "ok": null, "nothing": null, "grid": [null, [3]], "pair": null,
                "extra": null, "price": -0.5, "long": null, "raw": "",
            },
        ]);
        let path = Path::new("x.parquet");
        let file = ParquetFile::new(path, Cursor::new(PYARROW)).expect("opened");
        let read = records(&file, path).expect("read");
        for (read, expected) in read.iter().zip(expected.as_array().expect("a list")) {
            for (key, value) in expected.as_object().expect("an object") {
                assert_eq!(&read[key], value, "{key}");
            }
        }
        assert_eq!(read.len(), 3);
    }

    #[test]
    fn what_is_no_parquet_file_is_one_clear_error() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("x.parquet");
        let missing = read_parquet_records(&path).expect_err("refused");
        assert_eq!(missing.kind(), farmhand_core::ErrorKind::MissingInput);
        let broken: [(&str, Vec<u8>); 4] = [
            ("empty", Vec::new()),
            ("text", b"{\"a\": 1}\n".to_vec()),
            ("cut at its end", PYARROW[..PYARROW.len() - 7].to_vec()),
            ("cut at its start", PYARROW[100..].to_vec()),
        ];
        for (what, bytes) in broken {
            std::fs::write(&path, bytes).expect("written");
            let error = read_parquet_records(&path).expect_err(what);
            assert_eq!(error.kind(), farmhand_core::ErrorKind::InvalidData, "{what}");
            assert!(error.to_string().contains("x.parquet"), "{what}: {error}");
        }
    }

    #[test]
    fn a_file_with_flipped_bits_gives_records_or_an_error() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("x.parquet");
        for at in (4..PYARROW.len()).step_by(101) {
            let mut bytes = PYARROW.to_vec();
            bytes[at] ^= 0x55;
            std::fs::write(&path, bytes).expect("written");
            if let Err(error) = read_parquet_records(&path) {
                assert!(error.to_string().contains("x.parquet"), "{error}");
            }
        }
    }
}
