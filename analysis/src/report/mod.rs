//! The report of one run: a self-contained page, the leaderboard as Markdown, CSV and JSON, paired differences as CSV, the charts as
//! files.

mod costs;
mod details;
mod figures;
mod over_optimisation;
mod page;
mod reward_models;
mod samples;

use std::path::{Path, PathBuf};

use farmhand_core::run::StageDir;
use farmhand_core::{Error, Result};

use self::over_optimisation::OverOptimisation;
use crate::leaderboard::{Leaderboard, entries_of};
use crate::paired::{self, paired_differences};
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

/// Reads a run directory and writes its report into `stage`: `index.html`, `leaderboard.{md,csv,json}`,
/// `paired_differences.csv`, `over_optimisation.csv` and `charts/*.{svg,png}`. What the run does not have is left out. The same run gives the same bytes.
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
    let ranked: Vec<&str> = (0..board.len()).filter_map(|row| board.text("model", row)).collect();
    let pairs = paired_differences(&run, &ranked);
    if !pairs.is_empty() {
        write(stage, "paired_differences.csv", paired::csv(&pairs).as_bytes())?;
    }
    let optimised = OverOptimisation::of(&run, &board);
    if let Some(csv) = optimised.csv() {
        write(stage, "over_optimisation.csv", csv.as_bytes())?;
    }
    let figures = figures::figures(&run, &board, &optimised)?;
    for figure in &figures {
        write(stage, &format!("charts/{}.svg", figure.name), figure.svg.as_bytes())?;
        write(stage, &format!("charts/{}.png", figure.name), &figure.png)?;
    }
    let index_html = write(stage, "index.html", page::page(&run, &board, &pairs, &figures, &optimised).as_bytes())?;
    Ok(ReportSummary { leaderboard_markdown, leaderboard_terminal: board.terminal(), index_html })
}

fn write(stage: &StageDir, name: &str, bytes: &[u8]) -> Result<PathBuf> {
    stage.write(name, |out| out.write_all(bytes).map_err(|error| Error::io("write", &stage.path().join(name), error)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::fixture;

    fn report_of(run: &Path) -> (ReportSummary, BTreeMap<String, Vec<u8>>) {
        let stage = StageDir::create(run.join("report")).expect("made");
        let summary = write_report(run, &stage).expect("written");
        let mut files = BTreeMap::new();
        for folder in [stage.path().to_owned(), stage.path().join("charts")] {
            for entry in std::fs::read_dir(&folder).into_iter().flatten() {
                let path = entry.expect("listed").path();
                if path.is_file() {
                    let name = path.strip_prefix(run).expect("inside").display().to_string();
                    files.insert(name, std::fs::read(&path).expect("readable"));
                }
            }
        }
        (summary, files)
    }

    fn text<'a>(files: &'a BTreeMap<String, Vec<u8>>, name: &str) -> &'a str {
        std::str::from_utf8(&files[name]).expect("text")
    }

    #[test]
    fn the_same_run_in_two_folders_gives_the_same_bytes() {
        let (first, second) = (fixture::run(), fixture::run());
        let (summary, a) = report_of(first.path());
        let (_, b) = report_of(second.path());
        let names: Vec<&str> = a.keys().map(String::as_str).collect();
        assert_eq!(
            names,
            [
                "report/charts/length_win_rate.png",
                "report/charts/length_win_rate.svg",
                "report/charts/losses.png",
                "report/charts/losses.svg",
                "report/charts/reward_kl.png",
                "report/charts/reward_kl.svg",
                "report/charts/win_rates.png",
                "report/charts/win_rates.svg",
                "report/index.html",
                "report/leaderboard.csv",
                "report/leaderboard.json",
                "report/leaderboard.md",
                "report/paired_differences.csv",
            ]
        );
        assert!(a == b, "some file differs");
        assert_eq!(text(&a, "report/leaderboard.md"), summary.leaderboard_markdown);
        let page = text(&a, "report/index.html");
        assert!(!page.contains(first.path().to_str().expect("text")), "no path of this machine");
        assert_eq!(summary.index_html, first.path().join("report/index.html"));
    }

    #[test]
    fn what_a_model_wrote_stays_text() {
        let dir = fixture::run();
        let (_, files) = report_of(dir.path());
        let page = text(&files, "report/index.html");
        assert!(!page.contains("<script") && !page.contains("<topic") && !page.contains("# <b>"));
        assert!(page.contains("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt; &amp; &quot;quotes&quot; &lt;/pre&gt;"));
        for tag in ["section", "article", "pre", "details", "table", "figure", "div", "svg"] {
            assert_eq!(page.matches(&format!("<{tag}")).count(), page.matches(&format!("</{tag}>")).count(), "{tag}");
        }
    }

    #[test]
    fn the_page_needs_nothing_from_outside() {
        let dir = fixture::run();
        let (_, files) = report_of(dir.path());
        let page = text(&files, "report/index.html");
        for outside in [" src=", "<link", "@import", "url("] {
            assert!(!page.contains(outside), "{outside}");
        }
        let links: Vec<&str> = page.split("href=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        assert!(links.iter().all(|link| link.starts_with('#')) && !links.is_empty(), "{links:?}");
    }

    #[test]
    fn an_empty_run_gives_a_page_that_says_so() {
        let dir = tempfile::tempdir().expect("a folder");
        let (summary, files) = report_of(dir.path());
        assert!(text(&files, "report/index.html").contains("No model has been evaluated"));
        assert!(!files.keys().any(|name| name.contains("charts/")));
        assert_eq!(summary.leaderboard_markdown.lines().count(), 2);
    }

    #[test]
    fn repetitions_are_one_row_and_the_page_tells_their_seeds() {
        let dir = fixture::repeated_run();
        let (summary, files) = report_of(dir.path());
        assert_eq!(summary.leaderboard_markdown.lines().count(), 2 + 3, "{}", summary.leaderboard_markdown);
        let page = text(&files, "report/index.html");
        assert!(page.contains("3 times, with the seeds 0, 1, 2") && page.contains("Win rates with the seeds 0, 1, 2"));
        assert!(page.contains("from 3 seeds") && !page.contains("This is one run"));
        assert!(page.contains("<h2>Paired differences</h2>"));
        assert_eq!(text(&files, "report/paired_differences.csv").lines().count(), 1 + 3);
    }

    #[test]
    fn failures_ties_and_caveats_are_told() {
        let dir = fixture::run();
        let (_, files) = report_of(dir.path());
        let page = text(&files, "report/index.html");
        assert!(page.contains("… unparsable answer"));
        assert!(page.contains("simulated") && page.contains("<strong>pool</strong>"));
        assert!(page.contains("This is one run, with seed 7."));
    }
}
