//! Numbers by model out of a CSV file, such as AlpacaEval's leaderboards.

use std::collections::BTreeMap;
use std::path::Path;

use farmhand_core::{Error, Result};

use crate::csv_rows::CsvRows;

/// The column that is taken where none is named.
const USUAL: &str = "win_rate";

/// Reads a number for each model: models stand in the first column, numbers in `column`; unset: in `win_rate`, or in the only other
/// column. Models without a number are left out.
///
/// # Errors
/// When the file cannot be read, the column is not there, or a model is there twice.
pub fn read_ranking(path: &Path, column: Option<&str>) -> Result<BTreeMap<String, f64>> {
    let csv = CsvRows::read(path)?;
    let column = match (column, csv.find(USUAL)) {
        (Some(name), _) => csv.column(name)?,
        (None, Some(usual)) => usual,
        (None, None) if csv.rows.first().is_some_and(|row| row.len() == 2) => 1,
        (None, None) => return csv.column(USUAL).map(|_| BTreeMap::new()).map_err(|error| error.with_hint(HINT)),
    };
    let mut ranking = BTreeMap::new();
    for row in 0..csv.rows.len() {
        let model = csv.rows[row][0].trim().to_owned();
        if let Some(number) = csv.number(row, column)?
            && ranking.insert(model.clone(), number).is_some()
        {
            let message = format!("`{}`, row {}: model `{model}` is there twice", path.display(), row + 1);
            return Err(Error::invalid_data(message));
        }
    }
    Ok(ranking)
}

const HINT: &str = "name the column of numbers with `--ranking-column`";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaderboards_and_lists_are_read() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("r.csv");
        let read = |text: &str, column: Option<&str>| {
            std::fs::write(&path, text).expect("written");
            read_ranking(&path, column)
        };
        let board = ",win_rate,avg_length\nx,50.5,10\ny,,20\n";
        assert_eq!(read(board, None).expect("read"), [("x".to_owned(), 50.5)].into());
        assert_eq!(read(board, Some("avg_length")).expect("read").len(), 2);
        assert_eq!(read("model,elo\nx,1000\n", None).expect("read")["x"], 1000.0);
        let error = read("model,elo,n\nx,1,2\n", None).expect_err("which one?");
        assert!(error.message().contains("no column `win_rate`") && error.hint() == Some(HINT), "{error}");
        assert!(read("model,elo\nx,1\nx,2\n", None).expect_err("twice").message().contains("row 2: model `x` is there twice"));
    }
}
