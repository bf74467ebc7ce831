//! `farmhand report`: the leaderboard, charts and HTML page of a run directory.

use std::path::Path;

use farmhand_analysis::Leaderboard;
use farmhand_core::run::{RunDir, StageDir};
use farmhand_core::{Error, Result};
use serde_json::json;

use super::args::{Cli, ReportArgs};

/// Writes the report again from what the run left, and prints the leaderboard.
pub(super) fn report(args: &ReportArgs, cli: &Cli) -> Result<()> {
    if !args.run.join("run.toml").is_file() {
        return Err(Error::missing_input(format!("`{}` is not a run directory", args.run.display()))
            .with_hint("name the folder that `farmhand run` made, for example `runs/quickstart`"));
    }
    let _held = RunDir::open(&args.run)?;
    let stage = StageDir::create(args.run.join("report"))?;
    farmhand_analysis::write_report(&args.run, &stage)?;
    print_leaderboard(&args.run, cli)
}

/// Prints a run's leaderboard and where its report is.
pub(super) fn print_leaderboard(run: &Path, cli: &Cli) -> Result<()> {
    let leaderboard = Leaderboard::load(&[run])?;
    let page = run.join("report/index.html");
    if cli.json {
        let rows: serde_json::Value =
            serde_json::from_str(&leaderboard.json()).map_err(|e| Error::other("the leaderboard is not JSON").with_source(e))?;
        return super::print_json(&json!({ "leaderboard": rows, "report": page }));
    }
    super::print(&format!("\n{}\nreport: {}\n", leaderboard.terminal(), page.display()))
}
