//! `farmhand report`: the leaderboard, charts, tables and HTML page of run directories.

use std::path::{Path, PathBuf};

use farmhand_analysis::{Leaderboard, ReportSummary};
use farmhand_core::run::{RunDir, StageDir};
use farmhand_core::{Error, Result};
use serde_json::json;

use super::args::{Cli, ReportArgs};

/// Writes the report again from what the runs left, and prints the leaderboard.
pub(super) fn report(args: &ReportArgs, cli: &Cli) -> Result<()> {
    for run in &args.runs {
        if !run.join("run.toml").is_file() {
            return Err(Error::missing_input(format!("`{}` is not a run directory", run.display()))
                .with_hint("name the folder that `farmhand run` made, for example `runs/quickstart`"));
        }
    }
    refuse_repeated(&args.runs)?;
    let summary = match (args.runs.as_slice(), &args.out) {
        (runs, Some(out)) => farmhand_analysis::write_report_of_runs(runs, &StageDir::create(out)?)?,
        ([run], None) => {
            let _held = RunDir::open(run)?;
            farmhand_analysis::write_report(run, &StageDir::create(run.join("report"))?)?
        }
        (runs, None) => {
            return Err(Error::missing_input(format!("a report of {} runs needs a folder of its own", runs.len()))
                .with_hint("name one with `--out DIR`"));
        }
    };
    print_summary(&summary, cli)
}

/// A run named twice would be compared with itself.
fn refuse_repeated(runs: &[PathBuf]) -> Result<()> {
    let mut seen = Vec::new();
    for run in runs {
        let path = std::fs::canonicalize(run).map_err(|error| Error::io("resolve", run, error))?;
        if seen.contains(&path) {
            return Err(Error::invalid_config(format!("the run `{}` is named twice", run.display())));
        }
        seen.push(path);
    }
    Ok(())
}

fn print_summary(summary: &ReportSummary, cli: &Cli) -> Result<()> {
    if cli.json {
        return print_as_json(&summary.leaderboard_json, &summary.index_html);
    }
    super::print(&format!("\n{}\nreport: {}\n", summary.leaderboard_terminal, summary.index_html.display()))
}

/// Prints a run's leaderboard and where its report is.
pub(super) fn print_leaderboard(run: &Path, cli: &Cli) -> Result<()> {
    let leaderboard = Leaderboard::load(&[run])?;
    let page = run.join("report/index.html");
    if cli.json {
        return print_as_json(&leaderboard.json(), &page);
    }
    super::print(&format!("\n{}\nreport: {}\n", leaderboard.terminal(), page.display()))
}

fn print_as_json(leaderboard: &str, page: &Path) -> Result<()> {
    let rows: serde_json::Value =
        serde_json::from_str(leaderboard).map_err(|error| Error::other("the leaderboard is not JSON").with_source(error))?;
    super::print_json(&json!({ "leaderboard": rows, "report": page }))
}
