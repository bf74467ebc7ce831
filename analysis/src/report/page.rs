//! The page: sections from the headline to the caveats, in one file that needs neither network nor script.

use crate::html::escape;
use crate::leaderboard::Leaderboard;
use crate::paired::PairedDifference;
use crate::repetitions::Repetitions;
use crate::report::figures::Figure;
use crate::report::over_optimisation::OverOptimisation;
use crate::report::{costs, details, reward_models, samples};
use crate::run_files::RunFiles;

/// The whole page.
pub(super) fn page(
    run: &RunFiles,
    board: &Leaderboard,
    pairs: &[PairedDifference],
    figures: &[Figure],
    optimised: &OverOptimisation,
) -> String {
    let name = escape(&run.name);
    let sections = [
        headline(run, board),
        differences(pairs),
        charts(figures),
        over_optimisation(optimised),
        reward_models(run),
        methods(run, board),
        failures(run),
        costs(run),
        caveats(run),
        configuration(run),
    ];
    let sections: Vec<Section> = sections.into_iter().flatten().collect();
    let links: String = sections.iter().map(|section| format!("<a href=\"#{0}\">{1}</a>\n", section.id, section.title)).collect();
    let body: String = sections.iter().map(Section::html).collect();
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <title>{name} – farmhand report</title>\n<style>\n{}</style>\n</head>\n<body>\n\
         <header>\n<p class=\"kicker\">farmhand report</p>\n<h1>{name}</h1>\n<nav>\n{links}</nav>\n</header>\n<main>\n{body}</main>\n</body>\n</html>\n",
        include_str!("style.css"),
    )
}

struct Section {
    id: &'static str,
    title: &'static str,
    body: String,
}

impl Section {
    fn html(&self) -> String {
        format!("<section id=\"{}\">\n<h2>{}</h2>\n{}</section>\n", self.id, self.title, self.body)
    }
}

fn headline(run: &RunFiles, board: &Leaderboard) -> Option<Section> {
    let body = if board.is_empty() {
        "<p>No model has been evaluated in this run yet.</p>\n".to_owned()
    } else {
        format!("<p>{}</p>\n{}", details::setting(run), board.table().html())
    };
    Some(Section { id: "leaderboard", title: "Leaderboard", body })
}

fn charts(figures: &[Figure]) -> Option<Section> {
    let body: String = figures.iter().map(Figure::html).collect();
    (!body.is_empty()).then_some(Section { id: "charts", title: "Charts", body })
}

fn differences(pairs: &[PairedDifference]) -> Option<Section> {
    details::differences(pairs).map(|body| Section { id: "differences", title: "Paired differences", body })
}

fn over_optimisation(optimised: &OverOptimisation) -> Option<Section> {
    optimised.html().map(|body| Section { id: "over-optimisation", title: "Over-optimisation", body })
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
    (!body.is_empty()).then_some(Section { id: "methods", title: "Methods", body })
}

fn reward_models(run: &RunFiles) -> Option<Section> {
    let body = reward_models::reward_models(&run.reward_models)?;
    Some(Section { id: "reward-models", title: "Reward models", body })
}

fn failures(run: &RunFiles) -> Option<Section> {
    details::failures(run).map(|body| Section { id: "failures", title: "Failures and ties", body })
}

fn costs(run: &RunFiles) -> Option<Section> {
    costs::costs(run).map(|body| Section { id: "costs", title: "Cost of judging", body })
}

fn caveats(run: &RunFiles) -> Option<Section> {
    details::caveats(run).map(|body| Section { id: "caveats", title: "Caveats", body })
}

fn configuration(run: &RunFiles) -> Option<Section> {
    let config = run.config.as_ref()?;
    let body = format!(
        "<details>\n<summary>The resolved configuration (run.toml), every default written out</summary>\n<pre class=\"config\">{}</pre>\n</details>\n",
        escape(config)
    );
    Some(Section { id: "configuration", title: "Configuration", body })
}
