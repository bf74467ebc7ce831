//! Append-only JSON lines that survive being killed: what a stage has finished so far.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};

/// A file of JSON records, one a line, each batch synced before the call returns. A line cut short by a
/// crash is dropped at the next opening; nothing before it is lost.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
}

impl Journal {
    /// Opens or makes the journal and reads what it holds.
    ///
    /// # Errors
    /// When it cannot be read or written, or a line other than the last is not a record.
    pub fn open<T: DeserializeOwned>(path: impl Into<PathBuf>) -> Result<(Self, Vec<T>)> {
        let path = path.into();
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(|error| Error::io("make folder", parent, error))?;
        }
        let (records, valid_bytes) = read_records(&path)?;
        let file = OpenOptions::new().create(true).append(true).open(&path).map_err(|error| Error::io("open", &path, error))?;
        file.set_len(valid_bytes).map_err(|error| Error::io("truncate", &path, error))?;
        Ok((Self { path, file }, records))
    }

    /// Appends records and waits until they are on the disk.
    ///
    /// # Errors
    /// When the disk refuses; the journal then still holds everything from before.
    pub fn append<T: Serialize>(&mut self, records: &[T]) -> Result<()> {
        let mut text = Vec::new();
        for record in records {
            serde_json::to_writer(&mut text, record).map_err(|error| Error::other("a record is not JSON").with_source(error))?;
            text.push(b'\n');
        }
        self.file.write_all(&text).map_err(|error| Error::io("append to", &self.path, error))?;
        self.file.sync_data().map_err(|error| Error::io("sync", &self.path, error))
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn read_records<T: DeserializeOwned>(path: &Path) -> Result<(Vec<T>, u64)> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok((Vec::new(), 0)),
        Err(error) => return Err(Error::io("read", path, error)),
    };
    let mut reader = BufReader::new(file);
    let (mut records, mut valid_bytes, mut line) = (Vec::new(), 0, Vec::new());
    for number in 1.. {
        line.clear();
        let n = reader.read_until(b'\n', &mut line).map_err(|error| Error::io("read", path, error))?;
        if n == 0 || line.last() != Some(&b'\n') {
            break; // the end, or a line cut short
        }
        let record = serde_json::from_slice(&line).map_err(|error| {
            Error::invalid_data(format!("`{}`, line {number}: not a record of this journal", path.display()))
                .with_source(error)
                .with_hint("the file was changed by hand; remove it to start the stage anew")
        })?;
        records.push(record);
        valid_bytes += n as u64;
    }
    Ok((records, valid_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_cut_short_is_dropped_and_writing_goes_on() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("j.jsonl");
        let (mut journal, none) = Journal::open::<u32>(&path).expect("opened");
        assert!(none.is_empty());
        journal.append(&[1, 2]).expect("appended");
        drop(journal);
        std::fs::OpenOptions::new().append(true).open(&path).and_then(|mut f| f.write_all(b"33")).expect("torn");
        let (mut journal, records) = Journal::open::<u32>(&path).expect("opened");
        assert_eq!(records, [1, 2]);
        journal.append(&[4]).expect("appended");
        assert_eq!(std::fs::read_to_string(&path).expect("readable"), "1\n2\n4\n");
        std::fs::write(&path, "1\nx\n2\n").expect("broken");
        let error = Journal::open::<u32>(&path).expect_err("refused");
        assert!(error.to_string().contains("line 2"), "{error}");
    }
}
