//! What was spent, one amount a line, added as it is spent.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::PathBuf;

use crate::error::{Error, Result};

/// The name of a run's ledger in its folder.
pub const SPENDING: &str = "spending.txt";

/// A file of amounts in US dollars. An amount is with the operating system when [`Ledger::add`] returns, so a killed process loses
/// none; a power cut may take those of the last seconds. A line cut short is dropped when the file is opened.
#[derive(Debug)]
pub struct Ledger {
    path: PathBuf,
    file: File,
    sum: f64,
}

impl Ledger {
    /// Opens or makes a ledger and adds up what it holds.
    ///
    /// # Errors
    /// When it cannot be read or written, or a line is no amount.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(|error| Error::io("make folder", parent, error))?;
        }
        let mut file = OpenOptions::new()
            .create(true)
            .read(true)
            .append(true)
            .open(&path)
            .map_err(|error| Error::io("open", &path, error))?;
        let mut text = String::new();
        file.read_to_string(&mut text).map_err(|error| Error::io("read", &path, error))?;
        let whole = text.rfind('\n').map_or(0, |at| at + 1);
        let mut sum = 0.0;
        for (i, line) in text[..whole].lines().enumerate() {
            let amount = line.parse::<f64>().ok().filter(|amount| amount.is_finite() && *amount >= 0.0);
            sum += amount.ok_or_else(|| {
                Error::invalid_data(format!("`{}`, line {}: expected an amount in dollars, got `{line}`", path.display(), i + 1))
                    .with_hint("the file says what the run has spent; remove it to count from 0")
            })?;
        }
        file.set_len(whole as u64).map_err(|error| Error::io("truncate", &path, error))?;
        Ok(Self { path, file, sum })
    }

    /// Writes an amount down.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn add(&mut self, usd: f64) -> Result<()> {
        self.sum += usd;
        self.file.write_all(format!("{usd}\n").as_bytes()).map_err(|error| Error::io("append to", &self.path, error))
    }

    /// All amounts together, in US dollars.
    pub fn sum(&self) -> f64 {
        self.sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_add_up_and_a_line_cut_short_is_dropped() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("deep/spending.txt");
        let mut ledger = Ledger::open(&path).expect("made");
        ledger.add(0.5).expect("written");
        ledger.add(1e-7).expect("written");
        drop(ledger);
        OpenOptions::new().append(true).open(&path).and_then(|mut file| file.write_all(b"12")).expect("torn");
        let mut ledger = Ledger::open(&path).expect("opened");
        assert_eq!(ledger.sum(), 0.500_000_1);
        ledger.add(1.0).expect("written");
        assert_eq!(std::fs::read_to_string(&path).expect("read"), "0.5\n0.0000001\n1\n");
        std::fs::write(&path, "1\n-3\n").expect("written");
        assert!(Ledger::open(&path).expect_err("refused").to_string().contains("line 2"));
    }
}
