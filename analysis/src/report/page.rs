//! The page: sections from the headline to the caveats, in one file that needs neither network nor script.

use crate::html::escape;
use crate::leaderboard::Leaderboard;
use crate::report::figures::Figure;
use crate::report::{details, samples};
use crate::run_files::{ModelFiles, RunFiles};

/// The whole page.
pub(super) fn page(run: &RunFiles, board: &Leaderboard, figures: &[Figure]) -> String {
    let name = escape(&run.name);
    let sections: Vec<Section> =
        [headline(run, board), charts(figures), methods(run, board), failures(run), caveats(run), configuration(run)]
            .into_iter()
            .flatten()
            .collect();
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

fn methods(run: &RunFiles, board: &Leaderboard) -> Option<Section> {
    let method = |model: &ModelFiles| format!("{}{}", details::metrics(model), samples::samples(model));
    let rank =
        |model: &ModelFiles| (0..board.len()).find(|row| board.text("model", *row) == Some(model.model())).unwrap_or(usize::MAX);
    let mut models: Vec<&ModelFiles> = run.models.iter().collect();
    models.sort_by_key(|model| rank(model));
    let body: String = models.into_iter().map(method).collect();
    (!body.is_empty()).then_some(Section { id: "methods", title: "Methods", body })
}

fn failures(run: &RunFiles) -> Option<Section> {
    details::failures(run).map(|body| Section { id: "failures", title: "Failures and ties", body })
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
