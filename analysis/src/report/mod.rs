//! The report of one run: a self-contained page, the leaderboard as Markdown, CSV and JSON, the charts as files.

mod details;
mod page;
mod samples;

use std::path::{Path, PathBuf};

use farmhand_core::run::StageDir;
use farmhand_core::{Error, Result};

use crate::leaderboard::{Leaderboard, entries_of};
use crate::run_files::RunFiles;

/// What a caller shows after a report is written.
#[derive(Debug, Clone)]
pub struct ReportSummary {
    /// The leaderboard as Markdown.
    pub leaderboard_markdown: String,
    /// The leaderboard as plain text, for a terminal.
    pub leaderboard_terminal: String,
    /// Where the page is.
    pub index_html: PathBuf,
}

/// Reads a run directory and writes its report into `stage`: `index.html`, `leaderboard.{md,csv,json}` and
/// `charts/*.{svg,png}`. What the run does not have is left out. The same run gives the same bytes.
///
/// # Errors
/// When the run directory is missing or holds broken files, or the disk refuses.
pub fn write_report(run_dir: &Path, stage: &StageDir) -> Result<ReportSummary> {
    let run = RunFiles::read(run_dir)?;
    let board = Leaderboard::from_entries(&entries_of(&run))?;
    let leaderboard_markdown = board.markdown();
    write(stage, "leaderboard.md", leaderboard_markdown.as_bytes())?;
    write(stage, "leaderboard.csv", board.csv()?.as_bytes())?;
    write(stage, "leaderboard.json", board.json().as_bytes())?;
    let index_html = write(stage, "index.html", page::page(&run, &board).as_bytes())?;
    Ok(ReportSummary { leaderboard_markdown, leaderboard_terminal: board.terminal(), index_html })
}

fn write(stage: &StageDir, name: &str, bytes: &[u8]) -> Result<PathBuf> {
    stage.write(name, |out| out.write_all(bytes).map_err(|error| Error::io("write", &stage.path().join(name), error)))
}
