//! The report as Markdown: tables and links to the charts, for a repository or a discussion. No text of a model stands in it.

use super::across_runs::AcrossRuns;
use super::figures::Figure;
use super::{Part, Report, details, file_name};
use crate::run_files::RunFiles;

/// The whole file.
pub(super) fn markdown(report: &Report<'_>) -> String {
    let single = report.parts.len() == 1;
    let title = match report.parts {
        [only] => plain(&only.run.name),
        parts => format!("{} runs", parts.len()),
    };
    let mut text = format!("# {title}\n\n## Leaderboard\n\n{}", report.board.markdown());
    if !single && !report.across.is_empty() {
        text.push_str(&format!("\n## Across runs\n\n{}\n\n{}", AcrossRuns::note(), report.across.table().markdown()));
    }
    text.push_str(&charts(report.shared, ""));
    for (part, figures) in report.parts.iter().zip(report.figures) {
        if single {
            text.push_str(&of_run(part, figures, ""));
        } else {
            let folder = format!("{}/", file_name(&part.run.name));
            text.push_str(&format!("\n# {}\n{}", plain(&part.run.name), of_run(part, figures, &folder)));
        }
    }
    text
}

fn of_run(part: &Part, figures: &[Figure], folder: &str) -> String {
    let mut text = String::new();
    if let Some(table) = details::differences_table(&part.pairs) {
        text.push_str(&format!(
            "\n## Paired differences\n\nThe win rate of each method minus that of {}, first on the leaderboard, on the same instructions \
             and seeds: {} intervals, each of 95 %.\n\n{}",
            plain(&part.pairs[0].method),
            details::n_differences(&part.pairs),
            table.markdown()
        ));
    }
    if !part.by_dataset.is_empty() {
        text.push_str(&format!("\n## By data set\n\n{}\n\n{}", part.by_dataset.note(), part.by_dataset.table().markdown()));
    }
    text.push_str(&charts(figures, folder));
    if part.run.config.is_some() {
        let steps = reproduction(&part.run);
        let steps: String = steps.iter().enumerate().map(|(i, step)| format!("{}. {step}\n", i + 1)).collect();
        text.push_str(&format!("\n## How to reproduce\n\n{steps}"));
    }
    text
}

fn charts(figures: &[Figure], folder: &str) -> String {
    if figures.is_empty() {
        return String::new();
    }
    let shown = figures.iter().map(|figure| {
        let caption = &figure.caption;
        format!("\n![{}]({folder}charts/{}.svg)\n\n{caption}\n", caption.replace(['[', ']'], ""), figure.name)
    });
    format!("\n## Charts\n{}", shown.collect::<String>())
}

/// What makes the run again, step by step; commands stand between backticks.
pub(super) fn reproduction(run: &RunFiles) -> Vec<String> {
    let file = format!("{}.toml", file_name(&run.name));
    let seeds = details::seeds(run);
    let seeds = match (seeds.is_empty(), details::seed(run)) {
        (false, _) => format!("The methods run with the seeds {}.", details::listed(&seeds)),
        (true, Some(seed)) => format!("Everything follows from the seed {seed}."),
        (true, None) => "Everything follows from the configuration's `seed`.".to_owned(),
    };
    vec![
        format!("Save the configuration (`run.toml` in the run directory) as `{file}`, beside the data that it names."),
        format!("`farmhand run {file}` runs every stage. {seeds} On the same machine and program the files come out the same."),
        "`farmhand report RUN` writes this report again from the run directory; `farmhand compare RUN A B` compares two of its methods."
            .to_owned(),
    ]
}

/// A name without what Markdown would read.
fn plain(name: &str) -> String {
    name.chars().filter(|c| !matches!(c, '<' | '>' | '`' | '*' | '[' | ']' | '|' | '\\') && !c.is_control()).collect()
}
