//! The page: sections from the headline to the caveats, in one file that needs no network and stays whole without its script.

use super::sorting;
use super::{Part, Report};
use crate::html::escape;
use crate::leaderboard::Leaderboard;
use crate::repetitions::Repetitions;
use crate::report::across_runs::AcrossRuns;
use crate::report::figures::Figure;
use crate::report::{costs, details, reward_models, samples};
use crate::run_files::RunFiles;

/// The whole page.
pub(super) fn page(report: &Report<'_>) -> String {
    let title = match report.parts {
        [only] => escape(&only.run.name),
        parts => format!("{} runs", parts.len()),
    };
    let sections = match (report.parts, report.figures) {
        ([only], [figures]) => of_run(only, figures, Some(headline(&only.run, report.board))),
        _ => of_runs(report),
    };
    let links: String = sections.iter().map(|section| format!("<a href=\"#{0}\">{1}</a>\n", section.id, section.title)).collect();
    let body: String = sections.iter().map(Section::html).collect();
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{}\">\n\
         <title>{title} – farmhand report</title>\n<style>\n{}</style>\n</head>\n<body>\n\
         <header>\n<p class=\"kicker\">farmhand report</p>\n<h1>{title}</h1>\n<nav>\n{links}</nav>\n</header>\n<main>\n{body}</main>\n\
         <script>{}</script>\n</body>\n</html>\n",
        sorting::policy(),
        include_str!("style.css"),
        sorting::SCRIPT,
    )
}

struct Section {
    id: String,
    title: String,
    body: String,
}

impl Section {
    fn new(id: &str, title: &str, body: String) -> Self {
        Self { id: id.to_owned(), title: title.to_owned(), body }
    }

    fn html(&self) -> String {
        format!("<section id=\"{}\">\n<h2>{}</h2>\n{}</section>\n", self.id, self.title, self.body)
    }
}

/// What several runs have in common, then run by run the rest.
fn of_runs(report: &Report<'_>) -> Vec<Section> {
    let names: Vec<String> = report.parts.iter().map(|part| format!("<strong>{}</strong>", escape(&part.run.name))).collect();
    let note = format!("<p>The runs {}. Each has its own part below, with its own setting.</p>\n", names.join(", "));
    let mut sections = vec![Section::new("leaderboard", "Leaderboard", note + &report.board.table().html())];
    if !report.across.is_empty() {
        let body = format!("<p>{}</p>\n{}", AcrossRuns::note(), report.across.table().html());
        sections.push(Section::new("across", "Across runs", body));
    }
    sections.extend(charts(report.shared));
    for (index, (part, figures)) in report.parts.iter().zip(report.figures).enumerate() {
        let name = escape(&part.run.name);
        let prefix = format!("run-{}", index + 1);
        sections.push(Section::new(&prefix, &format!("Run {name}"), format!("<p>{}</p>\n", details::setting(&part.run))));
        sections.extend(of_run(part, figures, None).into_iter().map(|section| Section {
            id: format!("{prefix}-{}", section.id),
            title: format!("{} <small>({name})</small>", section.title),
            body: section.body,
        }));
    }
    sections
}

fn of_run(part: &Part, figures: &[Figure], headline: Option<Section>) -> Vec<Section> {
    let Part { run, board, .. } = part;
    let sections = [
        headline,
        differences(part),
        by_dataset(part),
        charts(figures),
        over_optimisation(part),
        reward_models(run),
        methods(run, board),
        failures(run),
        costs(run),
        caveats(run),
        reproduction(run),
        configuration(run),
    ];
    sections.into_iter().flatten().collect()
}

fn headline(run: &RunFiles, board: &Leaderboard) -> Section {
    let body = if board.is_empty() {
        "<p>No model has been evaluated in this run yet.</p>\n".to_owned()
    } else {
        format!("<p>{}</p>\n{}", details::setting(run), board.table().html())
    };
    Section::new("leaderboard", "Leaderboard", body)
}

fn charts(figures: &[Figure]) -> Option<Section> {
    let body: String = figures.iter().map(Figure::html).collect();
    (!body.is_empty()).then(|| Section::new("charts", "Charts", body))
}

fn differences(part: &Part) -> Option<Section> {
    details::differences(&part.pairs).map(|body| Section::new("differences", "Paired differences", body))
}

fn by_dataset(part: &Part) -> Option<Section> {
    let found = &part.by_dataset;
    let body = (!found.is_empty()).then(|| format!("<p>{}</p>\n{}", escape(&found.note()), found.table().html()));
    body.map(|body| Section::new("by-dataset", "By data set", body))
}

fn over_optimisation(part: &Part) -> Option<Section> {
    part.optimised.html().map(|body| Section::new("over-optimisation", "Over-optimisation", body))
}

fn methods(run: &RunFiles, board: &Leaderboard) -> Option<Section> {
    // The answers of the first repetition; the others are in the run directory.
    let shown = |method: &Repetitions<'_>| format!("{}{}", details::metrics(method), samples::samples(method.models[0]));
    let rank = |method: &Repetitions<'_>| {
        (0..board.len()).find(|row| board.text("model", *row) == Some(method.name)).unwrap_or(usize::MAX)
    };
    let mut methods = run.by_method();
    methods.sort_by_key(rank);
    let body: String = methods.iter().map(shown).collect();
    (!body.is_empty()).then(|| Section::new("methods", "Methods", body))
}

fn reward_models(run: &RunFiles) -> Option<Section> {
    let body = reward_models::reward_models(&run.reward_models, &run.untrained_reward_models)?;
    Some(Section::new("reward-models", "Reward models", body))
}

fn failures(run: &RunFiles) -> Option<Section> {
    details::failures(run).map(|body| Section::new("failures", "Failures and ties", body))
}

fn costs(run: &RunFiles) -> Option<Section> {
    costs::costs(run).map(|body| Section::new("costs", "Cost of judging", body))
}

fn caveats(run: &RunFiles) -> Option<Section> {
    details::caveats(run).map(|body| Section::new("caveats", "Caveats", body))
}

fn reproduction(run: &RunFiles) -> Option<Section> {
    run.config.as_ref()?;
    let steps: String =
        super::markdown::reproduction(run).iter().map(|step| format!("<li>{}</li>\n", code_as_html(step))).collect();
    Some(Section::new("reproduction", "How to reproduce", format!("<ol>\n{steps}</ol>\n")))
}

fn configuration(run: &RunFiles) -> Option<Section> {
    let config = run.config.as_ref()?;
    let body = format!(
        "<details>\n<summary>The resolved configuration (run.toml), every default written out</summary>\n<pre class=\"config\">{}</pre>\n</details>\n",
        escape(config)
    );
    Some(Section::new("configuration", "Configuration", body))
}

/// Text of our own in which commands stand between backticks.
fn code_as_html(text: &str) -> String {
    let parts = text.split('`').enumerate();
    parts.map(|(i, part)| if i % 2 == 1 { format!("<code>{}</code>", escape(part)) } else { escape(part) }).collect()
}
