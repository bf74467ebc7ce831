//! Streams the records of a data file: JSON Lines, a JSON list, an object around a list, each also gzip or zstd, or
//! Parquet through a reader that is handed in.
//!
//! Compression and Parquet are told by the file's first bytes, never by its name. The name decides only one thing:
//! `….jsonl` and `….ndjson` that do not start with `[` are read line by line whatever the first line holds.
//! A byte order mark, blank lines and CR-LF are fine. JSON Lines are read line by line; a JSON document's text is
//! held in memory, its records are parsed one at a time.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::json_list;
use super::report::{BadRecord, Location, ParquetReader};
use crate::error::{Error, Result};

/// One record of a data file.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// Its fields.
    pub fields: Map<String, Value>,
    /// Where it stands.
    pub location: Location,
}

/// Why the next record cannot be had.
#[derive(Debug)]
pub enum RecordError {
    /// This record is bad; the ones after it can be read.
    Bad(BadRecord),
    /// The file cannot be read any further.
    Fatal(Error),
}

/// The records of a file, in order.
pub struct Records {
    path: PathBuf,
    layout: Layout,
    /// Nothing comes after the end or a fatal error.
    ended: bool,
}

enum Layout {
    Lines { reader: Box<dyn BufRead>, line: u64, offset: u64 },
    List { text: String, at: usize, index: u64 },
    Rows { rows: std::iter::Enumerate<std::vec::IntoIter<Map<String, Value>>>, index: fn(u64) -> Location },
}

/// Fields that hold a list inside one record, so an object with such a list is a record and not a wrapper around records.
const LISTS_IN_RECORDS: &[&str] = &[
    "messages",
    "conversations",
    "conversation_a",
    "conversation_b",
    "prompt",
    "chosen",
    "rejected",
    "completion",
    "responses",
    "history",
    "votes",
    "passages",
    "all_preferences_unprocessed",
];

impl Records {
    /// Opens a data file.
    ///
    /// # Errors
    /// When it cannot be read, is Parquet and `parquet` is absent, or is neither JSON nor JSON Lines.
    pub fn open(path: &Path, parquet: Option<ParquetReader>) -> Result<Self> {
        let file = File::open(path).map_err(|error| Error::io("read", path, error))?;
        let mut reader = BufReader::new(file);
        let start = reader.fill_buf().map_err(|error| Error::io("read", path, error))?;
        if start.starts_with(b"PAR1") {
            let rows = parquet.ok_or_else(|| unsupported_parquet(path))?(path)?;
            return Ok(Self::rows(path, rows, Location::Row));
        }
        let reader: Box<dyn BufRead> = if start.starts_with(&[0x1f, 0x8b]) {
            Box::new(BufReader::new(flate2::bufread::MultiGzDecoder::new(reader)))
        } else if start.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
            let decoder = zstd::Decoder::with_buffer(reader).map_err(|error| Error::io("decompress", path, error))?;
            Box::new(BufReader::new(decoder))
        } else {
            Box::new(reader)
        };
        Self::read(path, reader)
    }

    fn rows(path: &Path, rows: Vec<Map<String, Value>>, index: fn(u64) -> Location) -> Self {
        Self { path: path.to_owned(), layout: Layout::Rows { rows: rows.into_iter().enumerate(), index }, ended: false }
    }

    /// The records in decompressed bytes; `path` names them in messages.
    fn read(path: &Path, mut reader: Box<dyn BufRead>) -> Result<Self> {
        let io = |error| Error::io("read", path, error);
        // The head is everything up to and with the first line that is not blank.
        let mut head = Vec::new();
        while head.iter().all(|byte| is_blank(*byte)) {
            if reader.read_until(b'\n', &mut head).map_err(io)? == 0 {
                break;
            }
            if head.starts_with(BYTE_ORDER_MARK) {
                head[..BYTE_ORDER_MARK.len()].fill(b' ');
            }
        }
        let first = head.iter().copied().find(|byte| !is_blank(*byte));
        let lines_by_name = has_lines_name(path);
        let lines = match first {
            Some(b'[') => false,
            Some(b'{') => {
                lines_by_name || serde_json::from_slice::<serde::de::IgnoredAny>(&head).is_ok() && !is_last(&mut reader, path)?
            }
            None => true,
            Some(_) if lines_by_name => true,
            Some(_) => return Err(not_json(path, &head)),
        };
        if lines {
            let reader = Box::new(std::io::Cursor::new(head).chain(reader));
            return Ok(Self { path: path.to_owned(), layout: Layout::Lines { reader, line: 0, offset: 0 }, ended: false });
        }
        let mut bytes = head;
        reader.read_to_end(&mut bytes).map_err(io)?;
        let text = String::from_utf8(bytes).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            Error::invalid_data(format!("`{}`, byte {at}: not valid UTF-8", path.display()))
        })?;
        let start = text.find(|c: char| !c.is_ascii_whitespace()).unwrap_or(text.len());
        if first == Some(b'[') {
            return Ok(Self { path: path.to_owned(), layout: Layout::List { text, at: start + 1, index: 0 }, ended: false });
        }
        let rows = rows_of_object(path, &text)?;
        Ok(Self::rows(path, rows, Location::Index))
    }
}

const BYTE_ORDER_MARK: &[u8] = &[0xef, 0xbb, 0xbf];

fn is_blank(byte: u8) -> bool {
    byte.is_ascii_whitespace()
}

fn has_lines_name(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_ascii_lowercase();
    let name = name.strip_suffix(".gz").or(name.strip_suffix(".zst")).unwrap_or(&name);
    name.ends_with(".jsonl") || name.ends_with(".ndjson")
}

/// Whether nothing but blanks follows.
fn is_last(reader: &mut Box<dyn BufRead>, path: &Path) -> Result<bool> {
    let mut blanks = Vec::new();
    let last = loop {
        let buffer = reader.fill_buf().map_err(|error| Error::io("read", path, error))?;
        if buffer.is_empty() {
            break true;
        }
        if !buffer.iter().all(|byte| is_blank(*byte)) {
            break false;
        }
        blanks.extend_from_slice(buffer);
        let n = buffer.len();
        reader.consume(n);
    };
    // What was consumed is put back, so that line numbers and byte positions stay right.
    let rest = std::mem::replace(reader, Box::new(std::io::empty()));
    *reader = Box::new(std::io::Cursor::new(blanks).chain(rest));
    Ok(last)
}

fn unsupported_parquet(path: &Path) -> Error {
    Error::invalid_data(format!("`{}` is a Parquet file, which is not read here", path.display()))
        .with_hint("convert it to JSON Lines, or give it to a command that reads Parquet")
}

fn not_json(path: &Path, head: &[u8]) -> Error {
    let start: String = String::from_utf8_lossy(head).trim().chars().take(30).collect();
    Error::invalid_data(format!("`{}` is neither JSON, JSON Lines nor Parquet; it starts with `{start}`", path.display()))
        .with_hint("a data file is a JSON list of objects, or one JSON object a line (also .gz or .zst)")
}

/// A document that is one object: the list of objects under its one such field, or the object itself as the only record.
fn rows_of_object(path: &Path, text: &str) -> Result<Vec<Map<String, Value>>> {
    let broken = |error: serde_json::Error| {
        Error::invalid_data(format!("`{}`, line {}, column {}: not valid JSON", path.display(), error.line(), error.column()))
            .with_source(error)
            .with_hint("a data file is a JSON list of objects, or one JSON object a line")
    };
    let object: Map<String, Value> = serde_json::from_str(text).map_err(broken)?;
    let is_records = |key: &str, value: &Value| {
        let objects = value.as_array().is_some_and(|list| !list.is_empty() && list.iter().all(Value::is_object));
        objects && !LISTS_IN_RECORDS.contains(&key)
    };
    let keys: Vec<String> = object.iter().filter(|(key, value)| is_records(key, value)).map(|(key, _)| key.clone()).collect();
    match keys.as_slice() {
        [] => Ok(vec![object]),
        [key] => {
            let mut object = object;
            let Some(Value::Array(list)) = object.remove(key) else { return Ok(vec![object]) };
            Ok(list.into_iter().filter_map(|value| if let Value::Object(fields) = value { Some(fields) } else { None }).collect())
        }
        several => Err(Error::invalid_data(format!(
            "`{}` is an object with several lists of records: `{}`",
            path.display(),
            several.join("`, `")
        ))
        .with_hint("keep one of them a file")),
    }
}

/// A record, when the value is an object.
pub(super) fn object(value: Value, location: Location) -> Result<Record, RecordError> {
    match value {
        Value::Object(fields) => Ok(Record { fields, location }),
        other => {
            Err(RecordError::Bad(BadRecord::new(location, format!("expected an object, got {}", super::fields::kind(&other)))))
        }
    }
}

impl Iterator for Records {
    type Item = Result<Record, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let item = match &mut self.layout {
            Layout::Lines { reader, line, offset } => next_line(&self.path, reader.as_mut(), line, offset),
            Layout::List { text, at, index } => json_list::next_item(&self.path, text, at, index),
            Layout::Rows { rows, index } => rows.next().map(|(i, fields)| Ok(Record { fields, location: index(i as u64) })),
        };
        self.ended = matches!(item, None | Some(Err(RecordError::Fatal(_))));
        item
    }
}

fn next_line(path: &Path, reader: &mut dyn BufRead, line: &mut u64, offset: &mut u64) -> Option<Result<Record, RecordError>> {
    let mut bytes = Vec::new();
    loop {
        bytes.clear();
        let start = *offset;
        match reader.read_until(b'\n', &mut bytes) {
            Ok(0) => return None,
            Ok(n) => *offset += n as u64,
            Err(error) => {
                let error = Error::io("read", path, error).context(format!("after line {line}"));
                return Some(Err(RecordError::Fatal(error)));
            }
        }
        *line += 1;
        if bytes.iter().all(|byte| is_blank(*byte)) {
            continue;
        }
        let location = Location::Line(*line);
        let bad = |message: String| Some(Err(RecordError::Bad(BadRecord::new(location, message))));
        let text = match std::str::from_utf8(&bytes) {
            Ok(text) => text,
            Err(error) => return bad(format!("not valid UTF-8 at byte {} of the file", start + error.valid_up_to() as u64)),
        };
        return match serde_json::from_str(text) {
            Ok(value) => Some(object(value, location)),
            Err(error) => bad(format!("not valid JSON at column {}: {}", error.column(), without_position(&error))),
        };
    }
}

/// What is wrong with the JSON, without serde's own line and column.
pub(super) fn without_position(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.split(" at line ").next().unwrap_or(&text).to_owned()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn write(name: &str, bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).expect("written");
        (dir, path)
    }

    fn read(name: &str, bytes: &[u8]) -> Result<Vec<Result<Record, RecordError>>> {
        let (_dir, path) = write(name, bytes);
        Ok(Records::open(&path, None)?.collect())
    }

    fn numbers(name: &str, bytes: &[u8]) -> Vec<i64> {
        let records = read(name, bytes).expect("opened");
        records.into_iter().map(|record| record.expect("good").fields["a"].as_i64().expect("a number")).collect()
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).expect("compressed");
        encoder.finish().expect("compressed")
    }

    #[test]
    fn every_layout_gives_the_same_records() {
        let list = b"\xef\xbb\xbf \n[ {\"a\": 1},\r\n {\"a\": 2} ]\n";
        let lines = b"\xef\xbb\xbf{\"a\": 1}\r\n\r\n{\"a\": 2}";
        let wrapped = b"{\n \"version\": 1, \"data\": [{\"a\": 1}, {\"a\": 2}]}";
        for name in ["x.json", "x.jsonl", "x", "x.gz"] {
            assert_eq!(numbers(name, list), [1, 2], "{name}");
            assert_eq!(numbers(name, lines), [1, 2], "{name}");
            assert_eq!(numbers(name, &gzip(lines)), [1, 2], "{name}");
            assert_eq!(numbers(name, &zstd::encode_all(&list[..], 1).expect("compressed")), [1, 2], "{name}");
        }
        assert_eq!(numbers("x.json", wrapped), [1, 2]);
        assert_eq!(numbers("x.json", b"{\"a\": 7}\n"), [7]);
        assert_eq!(numbers("x.json", b"{\"a\": 1}\n\n\n{\"a\": 2}\n"), [1, 2]);
        assert_eq!(numbers("two.gz", &[gzip(b"{\"a\": 1}\n"), gzip(b"{\"a\": 2}\n")].concat()), [1, 2]);
        assert!(numbers("x.json", b"[]").is_empty());
        assert!(numbers("x.jsonl", b"\n \n").is_empty());
    }

    #[test]
    fn an_object_around_a_conversation_is_one_record() {
        let records = read("x.json", b"{\"messages\": [{\"role\": \"user\"}], \"label\": true}").expect("opened");
        assert_eq!(records.len(), 1);
        let error = read("x.json", b"{\"train\": [{}], \"test\": [{}]}").expect_err("refused");
        assert!(error.to_string().contains("several lists"), "{error}");
    }

    #[test]
    fn bad_lines_say_where_and_reading_goes_on() {
        let records = read("x.jsonl", b"{\"a\": 1}\n\n{\"a\": \n[2]\n{\"b\": \"\xff\"}\n{\"a\": 3}\n").expect("opened");
        let messages: Vec<String> = records
            .iter()
            .map(|record| match record {
                Ok(record) => record.location.to_string(),
                Err(RecordError::Bad(bad)) => format!("{}: {}", bad.location, bad.message),
                Err(RecordError::Fatal(error)) => format!("fatal {error}"),
            })
            .collect();
        assert_eq!(messages[0], "line 1");
        assert!(messages[1].starts_with("line 3: not valid JSON at column "), "{messages:?}");
        assert_eq!(messages[2], "line 4: expected an object, got a list");
        assert_eq!(messages[3], "line 5: not valid UTF-8 at byte 28 of the file");
        assert_eq!(messages[4], "line 6");
    }

    #[test]
    fn a_broken_list_ends_with_its_line_and_column() {
        for (text, expected) in [
            ("[{\"a\": 1}\n {\"a\": 2}]", "line 2, column 2"),
            ("[{\"a\": 1},\n {\"a\": x}]", "line 2, column 8"),
            ("[{\"a\": 1},", "ends before its `]`"),
            ("[{\"a\": 1}", "ends before its `]`"),
            ("[{\"a\": 1}] x", "follows its `]`"),
        ] {
            let records = read("x.json", text.as_bytes()).expect("opened");
            let Some(Err(RecordError::Fatal(error))) = records.last() else { panic!("{text}: {records:?}") };
            assert!(error.to_string().contains(expected), "{text}: {error}");
        }
        let records = read("x.json", b"[1, {\"a\": 1}, true]").expect("opened");
        assert!(matches!(&records[..], [Err(RecordError::Bad(_)), Ok(_), Err(RecordError::Bad(_))]), "{records:?}");
    }

    #[test]
    fn other_files_are_refused() {
        let refused = |name: &str, bytes: &[u8]| read(name, bytes).expect_err("refused").to_string();
        assert!(refused("x.csv", b"instruction,output\n").contains("neither JSON"));
        assert!(refused("x.parquet", b"PAR1....").contains("Parquet"));
        assert!(refused("x.json", b"{\"a\":\n 1,}").contains("line 2, column"));
        assert!(refused("x.json", b"[\"\xff\"]").contains("byte 2: not valid UTF-8"));
        let cut = gzip(&b"{\"a\": 1}\n".repeat(100));
        let records = read("x.jsonl", &cut[..cut.len() - 9]);
        let fatal = match records {
            Ok(records) => matches!(records.last(), Some(Err(RecordError::Fatal(_)))),
            Err(_) => true,
        };
        assert!(fatal, "a truncated gzip file must not look whole");
        assert!(Records::open(Path::new("none.jsonl"), None).err().expect("missing").to_string().contains("none.jsonl"));
        let (_dir, path) = write("x.parquet", b"PAR1....");
        let rows: ParquetReader = |_| Ok(vec![Map::new()]);
        let records: Vec<_> = Records::open(&path, Some(rows)).expect("opened").collect();
        assert!(matches!(&records[..], [Ok(Record { location: Location::Row(0), .. })]));
    }
}
