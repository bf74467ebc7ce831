//! Text made safe for LaTeX, and tables as its `booktabs` package sets them.

use crate::table::{Align, Table};

/// Text as LaTeX shows it literally, in text mode. Signs that our tables use become commands; other characters stay, for UTF-8 is
/// what LaTeX reads.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + text.len() / 8);
    for c in text.chars() {
        match c {
            '&' | '%' | '$' | '#' | '_' | '{' | '}' => out.extend(['\\', c]),
            '\\' => out.push_str("\\textbackslash{}"),
            '~' => out.push_str("\\textasciitilde{}"),
            '^' => out.push_str("\\textasciicircum{}"),
            '<' => out.push_str("\\textless{}"),
            '>' => out.push_str("\\textgreater{}"),
            '|' => out.push_str("\\textbar{}"),
            '"' => out.push_str("\\textquotedbl{}"),
            '–' => out.push_str("--"),
            '−' => out.push_str("$-$"),
            '±' => out.push_str("$\\pm$"),
            '×' => out.push_str("$\\times$"),
            '√' => out.push_str("$\\surd$"),
            '…' => out.push_str("\\ldots{}"),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

/// The table as a `tabular` with the rules of `booktabs`; every cell is escaped. A number's minus sign is a real one.
pub(crate) fn tabular(table: &Table) -> String {
    let align = |align: &Align| if *align == Align::Left { 'l' } else { 'r' };
    let columns: String = table.columns().iter().map(|(_, side)| align(side)).collect();
    let line = |cells: &mut dyn Iterator<Item = String>| format!("{} \\\\\n", cells.collect::<Vec<_>>().join(" & "));
    let head = line(&mut table.columns().iter().map(|(header, _)| escape(header)));
    let cell = |(text, (_, side)): (&String, &(String, Align))| match (side, text.strip_prefix('-')) {
        (Align::Right, Some(number)) => format!("$-${}", escape(number).replace(" -- -", " -- $-$")),
        (Align::Right, None) => escape(text).replace(" -- -", " -- $-$"),
        (Align::Left, _) => escape(text),
    };
    let body: String = table.rows().iter().map(|cells| line(&mut cells.iter().zip(table.columns()).map(cell))).collect();
    format!(
        "% Needs \\usepackage{{booktabs}}.\n\\begin{{tabular}}{{{columns}}}\n\\toprule\n{head}\\midrule\n{body}\\bottomrule\n\\end{{tabular}}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_stays_a_command() {
        assert_eq!(
            escape("a_b & 50% of $x^2$ {\\input}"),
            "a\\_b \\& 50\\% of \\$x\\textasciicircum{}2\\$ \\{\\textbackslash{}input\\}"
        );
        assert_eq!(
            escape("~#<|>\"\n1.0 ± 0.2 – 3 × 4 …"),
            "\\textasciitilde{}\\#\\textless{}\\textbar{}\\textgreater{}\\textquotedbl{} 1.0 $\\pm$ 0.2 -- 3 $\\times$ 4 \\ldots{}"
        );
    }

    #[test]
    fn a_table_has_the_rules_of_booktabs() {
        let columns = vec![("Model".to_owned(), Align::Left), ("Win rate (%)".to_owned(), Align::Right)];
        let rows = vec![vec!["best_of_n".to_owned(), "-1.5".to_owned()], vec!["dpo".to_owned(), "-3.0 – -1.0".to_owned()]];
        let expected = "% Needs \\usepackage{booktabs}.\n\\begin{tabular}{lr}\n\\toprule\nModel & Win rate (\\%) \\\\\n\\midrule\n\
                        best\\_of\\_n & $-$1.5 \\\\\ndpo & $-$3.0 -- $-$1.0 \\\\\n\\bottomrule\n\\end{tabular}\n";
        assert_eq!(tabular(&Table::new(columns, rows)), expected);
    }
}
