//! `farmhand query`: SQL over run directories and files.

use std::io::IsTerminal;
use std::path::PathBuf;

use farmhand_analysis::{QueryResult, ResultFormat, TableDescription, Tables};
use farmhand_core::{Error, Result};
use serde_json::json;

use super::Terminal;
use super::args::{Cli, QueryArgs, QueryFormatArg};

/// Answers the query, or lists the tables.
pub(super) fn query(args: &QueryArgs, cli: &Cli, terminal: &Terminal) -> Result<()> {
    let (inputs, sql) = if args.tables { (args.inputs.as_slice(), None) } else { split_query(args)? };
    let inputs: Vec<PathBuf> = inputs.iter().map(PathBuf::from).collect();
    // The query's own panics are told as errors; what the standard hook would print besides only confuses.
    std::panic::set_hook(Box::new(|_| {}));
    let answered = Tables::open(&inputs, &args.named).and_then(|tables| match sql {
        Some(sql) => tables.query(sql).map(Answer::Rows),
        None => tables.describe().map(Answer::Tables),
    });
    let _ = std::panic::take_hook();
    match answered? {
        Answer::Rows(rows) => show(&rows, args, cli, terminal),
        Answer::Tables(tables) if cli.json => super::print_json(&tables),
        Answer::Tables(tables) => super::print(&tables.iter().map(described).collect::<String>()),
    }
}

enum Answer {
    Rows(QueryResult),
    Tables(Vec<TableDescription>),
}

/// The inputs, and the query after them.
fn split_query(args: &QueryArgs) -> Result<(&[String], Option<&str>)> {
    let Some((sql, inputs)) = args.inputs.split_last() else { return Err(Error::missing_input("there is no query")) };
    if inputs.is_empty() && args.named.is_empty() || PathBuf::from(sql).exists() {
        return Err(Error::missing_input(format!("there is no query after `{sql}`"))
            .with_hint("name run directories or files, then the query in quotes: \"select * from judgements limit 5\""));
    }
    Ok((inputs, Some(sql)))
}

fn show(rows: &QueryResult, args: &QueryArgs, cli: &Cli, terminal: &Terminal) -> Result<()> {
    if let Some(path) = &args.out {
        rows.write(path)?;
        if cli.json {
            return super::print_json(&json!({ "file": path, "rows": rows.n_rows() }));
        }
        terminal.note(&format!("{} rows in {}", rows.n_rows(), path.display()));
        return Ok(());
    }
    let format = match args.format {
        Some(QueryFormatArg::Csv) => ResultFormat::Csv,
        Some(QueryFormatArg::Jsonl) => ResultFormat::Jsonl,
        Some(QueryFormatArg::Md) => ResultFormat::Markdown,
        Some(QueryFormatArg::Json) => ResultFormat::Json,
        None if cli.json => ResultFormat::Json,
        None => return super::print(&rows.terminal(width(), (args.rows > 0).then_some(args.rows))),
    };
    super::print(&rows.text(format)?)
}

/// Characters in a line of the terminal; none where stdout is a file or a pipe, which may have long lines.
fn width() -> Option<usize> {
    if !std::io::stdout().is_terminal() {
        return None;
    }
    terminal_size::terminal_size().map(|(terminal_size::Width(width), _)| width.into())
}

fn described(table: &TableDescription) -> String {
    let columns: Vec<String> = table.columns.iter().map(|(name, kind)| format!("{name} {kind}")).collect();
    let mut text = format!("{}  {} rows\n", table.name, table.n_rows);
    let mut line = String::from("  ");
    for (i, column) in columns.iter().enumerate() {
        let comma = if i + 1 < columns.len() { ", " } else { "" };
        if line.chars().count() + column.chars().count() + comma.len() > 100 {
            text += &format!("{}\n", line.trim_end());
            line = String::from("  ");
        }
        line += &format!("{column}{comma}");
    }
    text + &line + "\n"
}
