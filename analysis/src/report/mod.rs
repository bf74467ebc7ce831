//! The report of one or several runs: a self-contained page, Markdown, tables as CSV, JSON and LaTeX, the charts as files.
//!
//! * `page`: the HTML; `sorting`: its one script; `markdown`: the same for a repository.
//! * `figures`: which charts a run has data for.
//! * the others: a part of the page each.

mod across_runs;
mod by_dataset;
mod costs;
mod details;
mod figures;
mod length_controlled;
mod markdown;
mod over_optimisation;
mod page;
mod ranks;
mod reward_models;
mod rewards;
mod samples;
mod sorting;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use farmhand_core::run::StageDir;
use farmhand_core::{Error, Result};

use self::across_runs::AcrossRuns;
use self::by_dataset::ByDataset;
use self::figures::Figure;
use self::over_optimisation::OverOptimisation;
use self::ranks::Ranks;
use crate::leaderboard::{Leaderboard, entries_of};
use crate::paired::{self, PairedDifference, paired_differences};
use crate::run_files::RunFiles;

/// What a caller shows after a report is written.
#[derive(Debug, Clone)]
pub struct ReportSummary {
    /// The leaderboard as Markdown.
    pub leaderboard_markdown: String,
    /// The leaderboard as plain text, for a terminal.
    pub leaderboard_terminal: String,
    /// The leaderboard as JSON.
    pub leaderboard_json: String,
    /// Where the page is.
    pub index_html: PathBuf,
}

/// A run with everything that follows from it.
struct Part {
    run: RunFiles,
    board: Leaderboard,
    pairs: Vec<PairedDifference>,
    optimised: OverOptimisation,
    by_dataset: ByDataset,
    ranks: Ranks,
}

impl Part {
    fn of(run: RunFiles) -> Result<Self> {
        let board = Leaderboard::from_entries(&entries_of(&run))?;
        Ok(Self::with_board(run, board))
    }

    fn with_board(run: RunFiles, board: Leaderboard) -> Self {
        let ranked: Vec<&str> = (0..board.len()).filter_map(|row| board.text("model", row)).collect();
        let pairs = paired_differences(&run, &ranked);
        let optimised = OverOptimisation::of(&run, &board);
        let (by_dataset, ranks) = (ByDataset::of(&run, &board), Ranks::of(&run, &board));
        Self { run, board, pairs, optimised, by_dataset, ranks }
    }
}

/// Reads a run directory and writes its report into `stage`; see [`write_report_of_runs`].
///
/// # Errors
/// When the run directory is missing or holds broken files, or the disk refuses.
pub fn write_report(run_dir: &Path, stage: &StageDir) -> Result<ReportSummary> {
    write_report_of_runs(&[run_dir], stage)
}

/// Reads run directories and writes their report into `stage`: `index.html`, `report.md`, `leaderboard.{md,csv,json,tex}`,
/// `paired_differences.{csv,tex}`, `by_dataset.{csv,tex}`, `ranks.csv`, `over_optimisation.csv` and `charts/*.{svg,png}`; with several
/// runs `across_runs.{csv,tex}` too, and what belongs to one run lies in a folder of its name. What a run does not have is left
/// out. The same runs give the same bytes.
///
/// # Errors
/// When there is no run, a run directory is missing or holds broken files, or the disk refuses.
pub fn write_report_of_runs<P: AsRef<Path>>(run_dirs: &[P], stage: &StageDir) -> Result<ReportSummary> {
    if run_dirs.is_empty() {
        return Err(Error::missing_input("no run to report on").with_hint("name the folders that `farmhand run` made"));
    }
    let mut runs: Vec<RunFiles> = run_dirs.iter().map(|dir| RunFiles::read(dir.as_ref())).collect::<Result<_>>()?;
    tell_apart(&mut runs);
    let across = AcrossRuns::of(&runs);
    let entries: Vec<_> = runs.iter().flat_map(entries_of).collect();
    let board = Leaderboard::from_entries(&entries)?;
    let parts: Vec<Part> = runs.into_iter().map(Part::of).collect::<Result<_>>()?;
    write(stage, "leaderboard.md", board.markdown().as_bytes())?;
    write(stage, "leaderboard.csv", board.csv()?.as_bytes())?;
    write(stage, "leaderboard.json", board.json().as_bytes())?;
    write(stage, "leaderboard.tex", board.latex().as_bytes())?;
    let single = parts.len() == 1;
    let mut shared = Vec::new();
    if !single {
        shared = figures::of_runs(&parts, &board)?;
        write_figures(stage, "", &shared)?;
        if !across.is_empty() {
            write(stage, "across_runs.csv", across.csv().as_bytes())?;
            write(stage, "across_runs.tex", across.table().latex().as_bytes())?;
        }
    }
    let mut figures = Vec::new();
    for part in &parts {
        let folder = if single { String::new() } else { format!("{}/", file_name(&part.run.name)) };
        figures.push(write_part(stage, &folder, part)?);
    }
    let report = Report { parts: &parts, board: &board, across: &across, shared: &shared, figures: &figures };
    write(stage, "report.md", markdown::markdown(&report).as_bytes())?;
    let index_html = write(stage, "index.html", page::page(&report).as_bytes())?;
    Ok(ReportSummary {
        leaderboard_markdown: board.markdown(),
        leaderboard_terminal: board.terminal(),
        leaderboard_json: board.json(),
        index_html,
    })
}

/// Everything that page and Markdown show.
struct Report<'a> {
    parts: &'a [Part],
    /// The leaderboard of all runs.
    board: &'a Leaderboard,
    across: &'a AcrossRuns,
    /// The charts that all runs share.
    shared: &'a [Figure],
    /// The charts of each run.
    figures: &'a [Vec<Figure>],
}

/// The files of one run; gives its charts.
fn write_part(stage: &StageDir, folder: &str, part: &Part) -> Result<Vec<Figure>> {
    if !part.pairs.is_empty() {
        write(stage, &format!("{folder}paired_differences.csv"), paired::csv(&part.pairs).as_bytes())?;
        if let Some(table) = details::differences_table(&part.pairs) {
            write(stage, &format!("{folder}paired_differences.tex"), table.latex().as_bytes())?;
        }
    }
    if !part.by_dataset.is_empty() {
        write(stage, &format!("{folder}by_dataset.csv"), part.by_dataset.csv().as_bytes())?;
        write(stage, &format!("{folder}by_dataset.tex"), part.by_dataset.table().latex().as_bytes())?;
    }
    if let Some(csv) = part.ranks.csv() {
        write(stage, &format!("{folder}ranks.csv"), csv.as_bytes())?;
    }
    if let Some(csv) = part.optimised.csv() {
        write(stage, &format!("{folder}over_optimisation.csv"), csv.as_bytes())?;
    }
    let figures = figures::figures(part)?;
    write_figures(stage, folder, &figures)?;
    Ok(figures)
}

fn write_figures(stage: &StageDir, folder: &str, figures: &[Figure]) -> Result<()> {
    for figure in figures {
        write(stage, &format!("{folder}charts/{}.svg", figure.name), figure.svg.as_bytes())?;
        write(stage, &format!("{folder}charts/{}.png", figure.name), &figure.png)?;
    }
    Ok(())
}

/// Gives runs of one name numbers: `quickstart`, `quickstart (2)`.
fn tell_apart(runs: &mut [RunFiles]) {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for run in runs {
        let n = seen.entry(run.name.clone()).or_default();
        *n += 1;
        if *n > 1 {
            run.name = format!("{} ({n})", run.name);
        }
    }
}

/// A run's name as a folder's: letters, digits and `-_.`, anything else as `-`.
fn file_name(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' };
    name.chars().map(plain).collect::<String>().trim_matches(['.', '-']).to_owned()
}

/// Text as a cell of a CSV file.
fn csv_text(text: &str) -> String {
    let needs_quotes = text.contains([',', '"', '\n', '\r']);
    if needs_quotes { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_owned() }
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
                "report/charts/ranks.png",
                "report/charts/ranks.svg",
                "report/charts/reward_kl.png",
                "report/charts/reward_kl.svg",
                "report/charts/win_rates.png",
                "report/charts/win_rates.svg",
                "report/index.html",
                "report/leaderboard.csv",
                "report/leaderboard.json",
                "report/leaderboard.md",
                "report/leaderboard.tex",
                "report/paired_differences.csv",
                "report/paired_differences.tex",
                "report/ranks.csv",
                "report/report.md",
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
        // One script, ours, and the policy lets nothing else run.
        assert_eq!(page.matches("<script").count(), 1);
        assert!(page.contains(&format!("<script>{}</script>", sorting::SCRIPT)) && page.contains(&sorting::policy()));
        assert!(!page.contains("<topic") && !page.contains("# <b>"));
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
    fn the_leaderboard_in_latex_is_this() {
        let dir = fixture::repeated_run();
        let (_, files) = report_of(dir.path());
        let expected = r"% Needs \usepackage{booktabs}.
\begin{tabular}{rlrrrrrrrrrrrr}
\toprule
Rank & Model & Win rate (\%) & SE & 95 \% interval & Discrete (\%) & Wins & Losses & Ties & n & Failed & Length (chars) & Mean reward & Seeds \\
\midrule
1 & ppo & 60.71 & 17.13 & 18.8 -- 100.0 & 64.29 & 12 & 6 & 3 & 21 & 3 & 44 & 0.214 $\pm$ 0.125 & 3 \\
2 & dpo & 46.43 & 15.20 & 8.7 -- 84.2 & 50.00 & 9 & 9 & 3 & 21 & 3 & 36 & $-$0.071 $\pm$ 0.207 & 3 \\
3 & sft & 32.14 & 16.10 & 0.6 -- 63.7 & 35.71 & 2 & 4 & 1 & 7 & 1 & 30 & $-$0.357 $\pm$ 0.125 &  \\
\bottomrule
\end{tabular}
";
        assert_eq!(text(&files, "report/leaderboard.tex"), expected);
    }

    #[test]
    fn several_runs_are_one_report_with_a_part_each() {
        let (first, second) = (fixture::run(), fixture::run());
        let out = tempfile::tempdir().expect("a folder");
        let stage = StageDir::create(out.path()).expect("made");
        let summary = write_report_of_runs(&[first.path(), second.path()], &stage).expect("written");
        assert!(summary.leaderboard_markdown.starts_with("| Rank | Run"), "{}", summary.leaderboard_markdown);
        let read = |name: &str| std::fs::read_to_string(out.path().join(name)).expect(name);
        let page = read("index.html");
        for part in ["2 runs", "<h2>Across runs</h2>", "quick start (2)", "id=\"run-2-methods\"", "How to reproduce"] {
            assert!(page.contains(part), "no `{part}`");
        }
        let ids: Vec<&str> = page.split(" id=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        let unique: std::collections::BTreeSet<&&str> = ids.iter().collect();
        assert_eq!(unique.len(), ids.len(), "{ids:?}");
        // Equal runs do not differ, and every method of the second is compared with the first's.
        let across = read("across_runs.csv");
        assert_eq!(across.lines().count(), 1 + 4);
        assert!(
            across.lines().nth(1).expect("a row").starts_with("best_of_n,quick start (2),quick start,0,0,0,0,7,1"),
            "{across}"
        );
        assert!(read("report.md").contains("![") && read("leaderboard.tex").contains("\\toprule"));
        assert!(out.path().join("quick-start--2/charts/win_rates.svg").is_file());
        let none: [&Path; 0] = [];
        assert!(write_report_of_runs(&none, &stage).is_err());
    }

    #[test]
    fn what_the_page_says_of_reproduction_are_commands_and_seeds() {
        let dir = fixture::repeated_run();
        let (_, files) = report_of(dir.path());
        let page = text(&files, "report/index.html");
        assert!(page.contains("farmhand run repeated.toml") && page.contains("seeds 0, 1, 2"));
        let markdown = text(&files, "report/report.md");
        assert!(markdown.starts_with("# repeated\n") && markdown.contains("## Leaderboard"), "{markdown}");
        assert!(markdown.contains("](charts/win_rates.svg)") && markdown.contains("farmhand run repeated.toml"));
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
