//! A table of text cells, written as Markdown, as plain text for a terminal, or as HTML.

use crate::html::escape;

/// Where the cells of a column stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    /// At the left, for words.
    Left,
    /// At the right, for numbers.
    Right,
}

/// A table; every row has one cell a column, an empty cell for what is not known.
#[derive(Debug, Clone, Default)]
pub(crate) struct Table {
    columns: Vec<(String, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these rows. Columns in which no row has anything are left out.
    pub(crate) fn new(columns: Vec<(String, Align)>, rows: Vec<Vec<String>>) -> Self {
        let filled: Vec<bool> = (0..columns.len()).map(|index| rows.iter().any(|row| !row[index].is_empty())).collect();
        let kept = |cells: Vec<String>| cells.into_iter().zip(&filled).filter(|(_, keep)| **keep).map(|(cell, _)| cell).collect();
        let rows = if rows.is_empty() { rows } else { rows.into_iter().map(kept).collect() };
        let columns = columns.into_iter().zip(&filled).filter(|(_, keep)| **keep || rows.is_empty()).map(|(column, _)| column);
        Self { columns: columns.collect(), rows }
    }

    /// A table with these rows and every column.
    pub(crate) fn whole(columns: Vec<(String, Align)>, rows: Vec<Vec<String>>) -> Self {
        Self { columns, rows }
    }

    /// GitHub's Markdown, its columns aligned in the source too.
    pub(crate) fn markdown(&self) -> String {
        let cells = |row: &[String]| row.iter().map(|cell| markdown_cell(cell)).collect::<Vec<_>>();
        let headers = cells(&self.headers());
        let rows: Vec<Vec<String>> = self.rows.iter().map(|row| cells(row)).collect();
        let widths = widths(&headers, &rows, 3);
        let line = |cells: &[String]| format!("| {} |\n", self.padded(cells, &widths).join(" | "));
        let rule = self.columns.iter().zip(&widths).map(|((_, align), width)| match align {
            Align::Left => format!(":{}", "-".repeat(width - 1)),
            Align::Right => format!("{}:", "-".repeat(width - 1)),
        });
        let rule = format!("| {} |\n", rule.collect::<Vec<_>>().join(" | "));
        std::iter::once(line(&headers)).chain([rule]).chain(rows.iter().map(|row| line(row))).collect()
    }

    /// Plain text: columns two spaces apart under a rule.
    pub(crate) fn terminal(&self) -> String {
        let headers = self.headers();
        let rows: Vec<Vec<String>> = self.rows.iter().map(|row| row.iter().map(|cell| one_line(cell)).collect()).collect();
        let widths = widths(&headers, &rows, 1);
        let line = |cells: &[String]| format!("{}\n", self.padded(cells, &widths).join("  ").trim_end());
        let rule = format!("{}\n", widths.iter().map(|width| "─".repeat(*width)).collect::<Vec<_>>().join("  "));
        std::iter::once(line(&headers)).chain([rule]).chain(rows.iter().map(|row| line(row))).collect()
    }

    /// An HTML table; every cell is escaped.
    pub(crate) fn html(&self) -> String {
        let cell = |tag: &str, text: &str, align: Align| match align {
            Align::Left => format!("<{tag}>{}</{tag}>", escape(text)),
            Align::Right => format!("<{tag} class=\"num\">{}</{tag}>", escape(text)),
        };
        let row = |tag: &str, cells: &[String]| {
            let cells = cells.iter().zip(&self.columns).map(|(text, (_, align))| cell(tag, text, *align));
            format!("<tr>{}</tr>\n", cells.collect::<String>())
        };
        let body: String = self.rows.iter().map(|cells| row("td", cells)).collect();
        let head = row("th", &self.headers());
        format!("<div class=\"table\"><table>\n<thead>{head}</thead>\n<tbody>\n{body}</tbody>\n</table></div>\n")
    }

    /// A LaTeX table.
    pub(crate) fn latex(&self) -> String {
        crate::latex::tabular(self)
    }

    /// Headers and where their columns stand.
    pub(crate) fn columns(&self) -> &[(String, Align)] {
        &self.columns
    }

    /// The rows, one cell a column.
    pub(crate) fn rows(&self) -> &[Vec<String>] {
        &self.rows
    }

    fn headers(&self) -> Vec<String> {
        self.columns.iter().map(|(header, _)| header.clone()).collect()
    }

    fn padded(&self, cells: &[String], widths: &[usize]) -> Vec<String> {
        // Not `{cell:<width$}`, which panics beyond 65,535 characters.
        let pad = |((cell, width), (_, align)): ((&String, &usize), &(String, Align))| {
            let blank = " ".repeat(width.saturating_sub(cell.chars().count()));
            match align {
                Align::Left => format!("{cell}{blank}"),
                Align::Right => format!("{blank}{cell}"),
            }
        };
        cells.iter().zip(widths).zip(&self.columns).map(pad).collect()
    }
}

fn widths(headers: &[String], rows: &[Vec<String>], least: usize) -> Vec<usize> {
    let width = |index: usize| {
        let cells = rows.iter().map(|row| row[index].chars().count());
        cells.chain([headers[index].chars().count(), least]).max().unwrap_or(least)
    };
    (0..headers.len()).map(width).collect()
}

/// Text without line breaks and other control characters, which would tear a row apart or reach the terminal.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn markdown_cell(text: &str) -> String {
    let mut out = String::new();
    for c in one_line(text).chars() {
        if matches!(c, '|' | '\\' | '`' | '*' | '<' | '[') {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(rows: &[[&str; 3]]) -> Table {
        let columns = vec![("Model".into(), Align::Left), ("n".into(), Align::Right), ("Note".into(), Align::Left)];
        Table::new(columns, rows.iter().map(|row| row.iter().map(|cell| (*cell).to_owned()).collect()).collect())
    }

    #[test]
    fn markdown_is_aligned_escaped_and_without_empty_columns() {
        let text = table(&[["a|b", "5", ""], ["long\nname", "12345", ""]]).markdown();
        assert_eq!(text, "| Model     |     n |\n| :-------- | ----: |\n| a\\|b      |     5 |\n| long name | 12345 |\n");
    }

    #[test]
    fn terminal_text_lets_no_control_character_through() {
        let text = table(&[["\u{1b}[31mred", "1", "x"]]).terminal();
        assert_eq!(text, "Model     n  Note\n────────  ─  ────\n [31mred  1  x\n");
    }

    #[test]
    fn html_is_escaped_and_an_empty_table_keeps_its_headers() {
        assert!(table(&[["<b>", "1", ""]]).html().contains("<td>&lt;b&gt;</td><td class=\"num\">1</td>"));
        assert!(table(&[]).html().contains("<th>Note</th>"));
        assert_eq!(table(&[]).markdown().lines().count(), 2);
    }
}
