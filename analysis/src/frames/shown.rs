//! A frame as a table of text.

use polars::prelude::*;

use super::query_result::json;
use crate::table::{Align, Table};

/// Characters of a cell, where a table is wider than the terminal.
const CUT_CELL: usize = 32;

/// A table for a terminal, with a line below that says what was left out.
pub(super) fn terminal(frame: &DataFrame, width: Option<usize>, n_rows: Option<usize>) -> String {
    let n_shown = n_rows.map_or(frame.height(), |n| n.min(frame.height()));
    let mut columns: Vec<(String, Align, Vec<String>)> =
        frame.columns().iter().map(|column| (column.name().to_string(), align(column), cells(column, n_shown, "null"))).collect();
    let widths = |columns: &[(String, Align, Vec<String>)]| -> Vec<usize> {
        let of = |text: &String| text.chars().count();
        columns.iter().map(|(name, _, cells)| cells.iter().map(of).chain([of(name)]).max().unwrap_or(0)).collect()
    };
    let total = |widths: &[usize]| widths.iter().sum::<usize>() + 2 * widths.len().saturating_sub(1);
    if let Some(width) = width
        && total(&widths(&columns)) > width
    {
        for (_, _, cells) in &mut columns {
            cells.iter_mut().for_each(|cell| cut(cell, CUT_CELL));
        }
        let mut kept = widths(&columns);
        while kept.len() > 1 && total(&kept) > width {
            kept.pop();
        }
        columns.truncate(kept.len());
    }
    let mut text = table(&columns, n_shown).terminal();
    let mut left_out = Vec::new();
    if n_shown < frame.height() {
        left_out.push(format!("{n_shown} of {} rows", frame.height()));
    }
    if columns.len() < frame.width() {
        left_out.push(format!("{} of {} columns", columns.len(), frame.width()));
    }
    if !left_out.is_empty() {
        text += &format!("({}; `--format csv` or `--out FILE` has everything)\n", left_out.join(", "));
    }
    text
}

/// A table in GitHub's Markdown, whole.
pub(super) fn markdown(frame: &DataFrame) -> String {
    let height = frame.height();
    let columns: Vec<(String, Align, Vec<String>)> =
        frame.columns().iter().map(|column| (column.name().to_string(), align(column), cells(column, height, ""))).collect();
    table(&columns, height).markdown()
}

fn table(columns: &[(String, Align, Vec<String>)], height: usize) -> Table {
    let rows = (0..height).map(|row| columns.iter().map(|(_, _, cells)| cells[row].clone()).collect()).collect();
    Table::whole(columns.iter().map(|(name, align, _)| (name.clone(), *align)).collect(), rows)
}

fn align(column: &Column) -> Align {
    if column.dtype().is_numeric() { Align::Right } else { Align::Left }
}

fn cells(column: &Column, n: usize, missing: &str) -> Vec<String> {
    let cell = |row| match column.get(row) {
        Ok(AnyValue::Null) | Err(_) => missing.to_owned(),
        Ok(AnyValue::Float64(value)) => rounded(value),
        Ok(AnyValue::Float32(value)) => rounded(value.into()),
        Ok(AnyValue::String(text)) => text.to_owned(),
        Ok(other) => match json(&other) {
            serde_json::Value::String(text) => text,
            value => value.to_string(),
        },
    };
    (0..n).map(cell).collect()
}

/// With six significant digits, and no zeros behind them.
fn rounded(value: f64) -> String {
    if !value.is_finite() {
        return value.to_string();
    }
    let exponent = if value == 0.0 { 0.0 } else { value.abs().log10().floor() };
    if !(-5.0..15.0).contains(&exponent) {
        return format!("{value:.5e}");
    }
    let text = format!("{value:.*}", (5.0 - exponent).max(0.0) as usize);
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

fn cut(cell: &mut String, n: usize) {
    if let Some((at, _)) = cell.char_indices().nth(n)
        && cell.chars().count() > n
    {
        let start = cell.char_indices().nth(n - 1).map_or(at, |(at, _)| at);
        cell.truncate(start);
        cell.push('…');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame() -> DataFrame {
        let names = Column::new("name".into(), ["a", "a name that is longer than anybody would want it to be"]);
        let nothing = Column::new("nothing".into(), [None::<f64>, None]);
        let value = Column::new("value".into(), [Some(0.1 + 0.2), Some(1234.0)]);
        DataFrame::new(2, vec![names, value, nothing]).expect("a frame")
    }

    #[test]
    fn a_wide_table_is_cut_and_says_so() {
        let text = terminal(&frame(), Some(40), Some(1));
        assert_eq!(
            text,
            "name  value  nothing\n────  ─────  ───────\na       0.3     null\n(1 of 2 rows; `--format csv` or `--out FILE` has everything)\n"
        );
        let text = terminal(&frame(), Some(44), None);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[3], "a name that is longer than anyb…   1234");
        assert!(lines[4].starts_with("(2 of 3 columns;"), "{text}");
        assert!(terminal(&frame(), None, None).contains("want it to be"));
    }

    #[test]
    fn markdown_keeps_empty_columns() {
        assert!(markdown(&frame()).starts_with("| name"));
        assert!(markdown(&frame()).lines().next().expect("a head").contains("nothing"));
    }

    #[test]
    fn numbers_are_rounded_and_stay_numbers() {
        for (value, text) in
            [(0.0, "0"), (2.0, "2"), (100_000_000.0, "100000000"), (53.123_456_7, "53.1235"), (-1e-9, "-1.00000e-9")]
        {
            assert_eq!(rounded(value), text);
        }
    }
}
