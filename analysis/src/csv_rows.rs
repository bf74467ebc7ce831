//! Small CSV files of other tools: a header, then rows; cells may stand in quotes.

use std::io::Read;
use std::path::Path;

use farmhand_core::{Error, Result};

use crate::judgement_table::decompressed;

/// A CSV file, read.
pub(crate) struct CsvRows {
    path: std::path::PathBuf,
    pub(crate) header: Vec<String>,
    /// Each as long as the header.
    pub(crate) rows: Vec<Vec<String>>,
}

impl CsvRows {
    /// Reads a file, also gzip or zstd.
    ///
    /// # Errors
    /// When it cannot be read or a row has another number of cells than the header.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let mut text = String::new();
        decompressed(path)?.read_to_string(&mut text).map_err(|error| Error::io("read", path, error))?;
        let mut rows = parse(text.strip_prefix('\u{feff}').unwrap_or(&text)).into_iter();
        let header = rows.next().ok_or_else(|| Error::invalid_data(format!("`{}` is empty", path.display())))?;
        let rows: Vec<Vec<String>> = rows.filter(|row| row.len() > 1 || !row[0].is_empty() || header.len() == 1).collect();
        if let Some(i) = rows.iter().position(|row| row.len() != header.len()) {
            let message = format!("`{}`, row {}: {} cells under {} columns", path.display(), i + 1, rows[i].len(), header.len());
            return Err(Error::invalid_data(message));
        }
        Ok(Self { path: path.to_owned(), header, rows })
    }

    /// The place of a column, if there is one of that name.
    pub(crate) fn find(&self, name: &str) -> Option<usize> {
        self.header.iter().position(|column| column == name)
    }

    /// The place of a column.
    ///
    /// # Errors
    /// When there is none of that name.
    pub(crate) fn column(&self, name: &str) -> Result<usize> {
        self.find(name).ok_or_else(|| {
            let message = format!("`{}` has no column `{name}`; it has `{}`", self.path.display(), self.header.join("`, `"));
            Error::invalid_data(message)
        })
    }

    /// The name of a column.
    pub(crate) fn name(&self, column: usize) -> &str {
        &self.header[column]
    }

    /// The number in a cell; `None` where it is empty or `nan`.
    ///
    /// # Errors
    /// When it is no finite number.
    pub(crate) fn number(&self, row: usize, column: usize) -> Result<Option<f64>> {
        let cell = self.rows[row][column].trim();
        if cell.is_empty() || cell.eq_ignore_ascii_case("nan") {
            return Ok(None);
        }
        cell.parse::<f64>().ok().filter(|number| number.is_finite()).map(Some).ok_or_else(|| {
            let (path, name) = (self.path.display(), &self.header[column]);
            Error::invalid_data(format!("`{path}`, row {}: column `{name}`: expected a number, got `{cell}`", row + 1))
        })
    }

    /// The number in a cell that must have one.
    ///
    /// # Errors
    /// When it has none.
    pub(crate) fn needed_number(&self, row: usize, column: usize) -> Result<f64> {
        self.number(row, column)?.ok_or_else(|| {
            let (path, name) = (self.path.display(), &self.header[column]);
            Error::invalid_data(format!("`{path}`, row {}: column `{name}` is empty", row + 1))
        })
    }
}

/// The cells of every row, quotes taken off (RFC 4180).
fn parse(text: &str) -> Vec<Vec<String>> {
    let (mut rows, mut row, mut cell) = (Vec::new(), Vec::new(), String::new());
    let (mut quoted, mut letters) = (false, text.chars().peekable());
    while let Some(c) = letters.next() {
        match c {
            '"' if quoted && letters.peek() == Some(&'"') => {
                cell.push('"');
                letters.next();
            }
            '"' if quoted || cell.is_empty() => quoted = !quoted,
            ',' if !quoted => row.push(std::mem::take(&mut cell)),
            '\r' if !quoted && letters.peek() == Some(&'\n') => {}
            '\n' if !quoted => {
                row.push(std::mem::take(&mut cell));
                rows.push(std::mem::take(&mut row));
            }
            c => cell.push(c),
        }
    }
    if !cell.is_empty() || !row.is_empty() {
        row.push(cell);
        rows.push(row);
    }
    rows
}

/// A cell as CSV writes it: in quotes where it needs them.
pub(crate) fn cell(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_and_line_ends_are_understood() {
        let rows = parse("a,\"b,\"\"c\"\"\"\r\n1,\"x\ny\"\n");
        assert_eq!(rows, [vec!["a".to_owned(), "b,\"c\"".to_owned()], vec!["1".to_owned(), "x\ny".to_owned()]]);
        assert_eq!(parse(&format!("{},{}", cell("b,\"c\""), cell("d"))), [["b,\"c\"", "d"]]);
    }

    #[test]
    fn numbers_are_checked_with_their_place() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("x.csv");
        std::fs::write(&path, "index,d\n0,0.5\n1,\n2,inf\n").expect("written");
        let csv = CsvRows::read(&path).expect("read");
        let d = csv.column("d").expect("there");
        assert_eq!((csv.number(0, d).expect("number"), csv.number(1, d).expect("none")), (Some(0.5), None));
        assert!(csv.number(2, d).expect_err("infinite").to_string().contains("x.csv`, row 3: column `d`"));
        assert!(csv.needed_number(1, d).is_err() && csv.column("e").is_err() && csv.find("e").is_none());
        std::fs::write(&path, "a,b\n1\n").expect("written");
        assert!(CsvRows::read(&path).err().expect("short").to_string().contains("1 cells under 2 columns"));
    }
}
