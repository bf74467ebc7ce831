//! `farmhand evaluate transfer`: whether a ranking of methods under one annotator holds under another.

use farmhand_analysis::{
    add_judged, read_options, read_rates, transfer_charts, transfer_csv, transfer_markdown, transfer_terminal,
};
use farmhand_core::{Error, EventSink, Result, Seed};
use farmhand_evaluators::transfer::{Judged, Side, TableRow, Transfer, transfer, transfer_of_table};
use serde_json::json;

use crate::cli::Terminal;
use crate::cli::args::{Cli, TableFormat, TransferArgs};

/// Prints win rates under two annotators and how far the rankings agree.
pub(super) fn compare(args: &TransferArgs, cli: &Cli, terminal: &Terminal) -> Result<()> {
    let found = match &args.table {
        Some(file) => {
            let (rows, left_out) = read_rates(file)?;
            note_left_out(&left_out, terminal);
            transfer_of_table(&chosen(rows, args.methods.as_deref())?, args.resamples, Seed::root(args.seed))
        }
        None => from_judgements(args, terminal)?,
    };
    if let Some(folder) = &args.charts {
        for chart in transfer_charts(&found, [&args.name_a, &args.name_b])? {
            for file in chart.write(folder)? {
                terminal.info(&format!("wrote {}", file.display()));
            }
        }
    }
    if found.methods.len() < 3 {
        terminal.info("two methods are in the same order or not, so no correlation is told");
    } else if found.metric("spearman").is_none() {
        terminal.info("all methods have the same win rate under one of the annotators, so no correlation is defined");
    }
    match args.format {
        Some(TableFormat::Csv) if !cli.json => crate::cli::print(&transfer_csv(&found)),
        Some(TableFormat::Md) if !cli.json => crate::cli::print(&transfer_markdown(&found)),
        None if !cli.json => crate::cli::print(&transfer_terminal(&found)),
        _ => crate::cli::print_json(&json!(found)),
    }
}

fn from_judgements(args: &TransferArgs, terminal: &Terminal) -> Result<Transfer> {
    let bad_records = read_options(args.skip_bad_records).bad_records;
    let mut judged = Judged::default();
    add_judged(&mut judged, Side::A, &args.a, args.annotator_a.as_deref(), bad_records)?;
    add_judged(&mut judged, Side::B, &args.b, args.annotator_b.as_deref(), bad_records)?;
    let methods = judged.methods(args.methods.as_deref())?;
    if args.methods.is_none() {
        note_left_out(&methods.left_out, terminal);
    }
    for (side, n) in ["A", "B"].into_iter().zip(methods.n_failed).filter(|(_, n)| *n > 0) {
        terminal.info(&format!("annotator {side} has no verdict on {n} comparisons; they count for nobody"));
    }
    Ok(transfer(&methods, args.resamples, Seed::root(args.seed)))
}

fn note_left_out(names: &[String], terminal: &Terminal) {
    if !names.is_empty() {
        terminal.info(&format!("left out, for one of the two annotators did not judge them: {}", names.join(", ")));
    }
}

fn chosen(rows: Vec<TableRow>, wanted: Option<&[String]>) -> Result<Vec<TableRow>> {
    let Some(wanted) = wanted else { return Ok(rows) };
    if let Some(unknown) = wanted.iter().find(|name| rows.iter().all(|row| row.method != **name)) {
        let known: Vec<String> = rows.iter().map(|row| format!("`{}`", row.method)).collect();
        return Err(Error::invalid_config(format!("method `{unknown}` is not in the table"))
            .with_hint(format!("methods with both win rates: {}", known.join(", "))));
    }
    let kept: Vec<TableRow> = rows.into_iter().filter(|row| wanted.contains(&row.method)).collect();
    if kept.len() < 2 {
        return Err(Error::invalid_config("`--methods` names one method, and a ranking needs at least two"));
    }
    Ok(kept)
}
