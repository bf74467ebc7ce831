//! The records of a file one by one, without keeping them: a JSON list, JSON Lines, both also packed, or Parquet.

use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use farmhand_core::data::Location;
use farmhand_core::{Error, Result};
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, SeqAccess, Visitor};

use super::line::{Item, Line};
use crate::parquet::read_parquet_records;

/// How messages about numbers begin that JSON does not have.
pub(super) const NOT_FINITE: &str = "a number that is not finite";

/// Whether the next record is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow {
    GoOn,
    Stop,
}

/// Who takes the records.
pub(super) trait Take {
    /// Takes a record.
    fn take(&mut self, location: Location, item: Item<'_>) -> Result<Flow>;

    /// Is told of a line that is no JSON; an error ends the reading.
    fn bad(&mut self, location: Location, message: String) -> Result<()>;
}

/// Passes every record of a file on. False when the file is neither a list nor lines of JSON, nothing of which was passed on.
///
/// # Errors
/// When the file cannot be read, a list is broken, or whoever takes the records refuses.
pub(super) fn read_each(path: &Path, taker: &mut impl Take) -> Result<bool> {
    if starts_with(path, b"PAR1")? {
        return parquet(path, taker).map(|()| true);
    }
    let mut reader = decompressed(path)?;
    let io = |error| Error::io("read", path, error);
    let mut head = Vec::new();
    while head.iter().all(u8::is_ascii_whitespace) {
        if reader.read_until(b'\n', &mut head).map_err(io)? == 0 {
            break;
        }
        if head.starts_with(&[0xef, 0xbb, 0xbf]) {
            head[..3].fill(b' ');
        }
    }
    if head.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[') {
        let mut bytes = head;
        // A packed file needs more, which is no harm.
        bytes.reserve(std::fs::metadata(path).map_or(0, |file| usize::try_from(file.len()).unwrap_or(0)));
        reader.read_to_end(&mut bytes).map_err(io)?;
        return list(path, &bytes, taker).map(|()| true);
    }
    if !head.is_empty() && serde_json::from_slice::<Item<'_>>(&head).is_err() {
        return Ok(false);
    }
    lines(path, head, reader, taker).map(|()| true)
}

/// JSON Lines, of which `head` are the first.
fn lines(path: &Path, head: Vec<u8>, mut reader: impl BufRead, taker: &mut impl Take) -> Result<()> {
    let n_blank = head.iter().take_while(|byte| byte.is_ascii_whitespace()).filter(|byte| **byte == b'\n').count();
    let (mut line, mut number) = (head, n_blank as u64);
    loop {
        number += 1;
        if !line.iter().all(u8::is_ascii_whitespace) {
            match serde_json::from_slice::<Item<'_>>(&line) {
                Ok(item) => {
                    if taker.take(Location::Line(number), item)? == Flow::Stop {
                        return Ok(());
                    }
                }
                Err(error) => taker.bad(Location::Line(number), json_problem(&line, &error))?,
            }
        }
        line.clear();
        if reader.read_until(b'\n', &mut line).map_err(|error| Error::io("read", path, error))? == 0 {
            return Ok(());
        }
    }
}

/// A JSON list.
fn list(path: &Path, bytes: &[u8], taker: &mut impl Take) -> Result<()> {
    let mut end = None;
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let read = ListSeed { taker, end: &mut end }.deserialize(&mut deserializer).and_then(|()| deserializer.end());
    match end {
        Some(Err(error)) => Err(error),
        Some(Ok(())) => Ok(()),
        None => read.map_err(|error| json_error(path, error.line() as u64, nth_line(bytes, error.line()), error)),
    }
}

fn parquet(path: &Path, taker: &mut impl Take) -> Result<()> {
    for (row, record) in read_parquet_records(path)?.into_iter().enumerate() {
        let line = Line::deserialize(serde_json::Value::Object(record))
            .map_err(|error| Error::invalid_data(format!("`{}`, row {row}", path.display())).with_source(error))?;
        if taker.take(Location::Row(row as u64), Item::Line(Box::new(line)))? == Flow::Stop {
            return Ok(());
        }
    }
    Ok(())
}

/// Passes the elements of a list on one by one.
struct ListSeed<'s, T> {
    taker: &'s mut T,
    /// How the reading ended before the list did: our own error, which serde's cannot carry, or at the taker's wish.
    end: &'s mut Option<Result<()>>,
}

impl<'de, T: Take> DeserializeSeed<'de> for ListSeed<'_, T> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de, T: Take> Visitor<'de> for ListSeed<'_, T> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of records")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let mut index = 0;
        while let Some(item) = list.next_element::<Item<'de>>()? {
            let end = match self.taker.take(Location::Index(index), item) {
                Ok(Flow::GoOn) => None,
                Ok(Flow::Stop) => Some(Ok(())),
                Err(error) => Some(Err(error)),
            };
            if end.is_some() {
                *self.end = end;
                return Err(A::Error::custom("stopped"));
            }
            index += 1;
        }
        Ok(())
    }
}

pub(super) fn starts_with(path: &Path, magic: &[u8]) -> Result<bool> {
    let mut reader = BufReader::new(File::open(path).map_err(|error| Error::io("read", path, error))?);
    Ok(reader.fill_buf().map_err(|error| Error::io("read", path, error))?.starts_with(magic))
}

/// A file's bytes, unpacked when its first ones say that it is gzip or zstd.
pub(crate) fn decompressed(path: &Path) -> Result<Box<dyn BufRead>> {
    let mut reader = BufReader::with_capacity(1 << 16, File::open(path).map_err(|error| Error::io("read", path, error))?);
    let start = reader.fill_buf().map_err(|error| Error::io("read", path, error))?;
    if start.starts_with(&[0x1f, 0x8b]) {
        return Ok(Box::new(BufReader::with_capacity(1 << 16, flate2::bufread::MultiGzDecoder::new(reader))));
    }
    if start.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        let decoder = zstd::Decoder::with_buffer(reader).map_err(|error| Error::io("decompress", path, error))?;
        return Ok(Box::new(BufReader::with_capacity(1 << 16, decoder)));
    }
    Ok(Box::new(reader))
}

/// What is wrong with a piece of JSON, where `error` found it.
pub(super) fn json_error(path: &Path, line: u64, text: &[u8], error: serde_json::Error) -> Error {
    let problem = json_problem(text, &error);
    let error = Error::invalid_data(format!("`{}`, line {line}: {problem}", path.display()));
    if problem.starts_with(NOT_FINITE) {
        return error.with_hint("write null where there is no number");
    }
    error.with_hint("a data file is a JSON list of objects, or one JSON object a line")
}

fn json_problem(line: &[u8], error: &serde_json::Error) -> String {
    let at = error.column().saturating_sub(1).min(line.len());
    let near = &line[at.saturating_sub(9)..(at + 9).min(line.len())];
    let is_not_finite = [&b"NaN"[..], b"Infinity"].iter().any(|word| near.windows(word.len()).any(|part| part == *word));
    if is_not_finite {
        return format!("{NOT_FINITE} at column {}, which JSON does not have", error.column());
    }
    let words = error.to_string();
    format!("not valid JSON at column {}: {}", error.column(), words.split(" at line ").next().unwrap_or(&words))
}

/// A line of a text, by its number from 1.
fn nth_line(bytes: &[u8], number: usize) -> &[u8] {
    bytes.split(|byte| *byte == b'\n').nth(number.saturating_sub(1)).unwrap_or_default()
}
