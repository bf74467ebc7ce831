//! The paper index: every component with the paper it follows and the settings that reproduce it, as Markdown.

use farmhand_core::component::{ComponentInfo, components};
use farmhand_core::{ComponentKind, Preset, Result};

use super::option_table::cited_choices;

/// The page about these kinds. Components without a paper have no row.
///
/// # Errors
/// When a plugin cannot describe a component.
pub(super) fn page(kinds: &[ComponentKind]) -> Result<String> {
    let mut text = "# Methods and their papers\n\n\
        Made by `cargo xtask docs` from the components themselves; do not edit.\n\n\
        Defaults are the paper's unless the option's description ([reference](reference.md)) gives the paper's number beside a smaller one \
        of ours. A preset takes a published set-up whole: `preset = \"NAME\"` among the component's options. Under a method stand \
        the options that turn it into a relative with a paper of its own.\n"
        .to_owned();
    for kind in kinds {
        let published = components().into_iter().filter(|info| info.kind == *kind && info.paper.is_some());
        let rows: Vec<String> = published.map(rows).collect::<Result<_>>()?;
        if !rows.is_empty() {
            let title = capitalised(kind.plural());
            text += &format!(
                "\n## {title}\n\n| name | what it is | paper | settings |\n| :-- | :-- | :-- | :-- |\n{}",
                rows.concat()
            );
        }
    }
    Ok(text)
}

fn rows(info: &ComponentInfo) -> Result<String> {
    let paper = info.paper.map(linked).unwrap_or_default();
    let settings = match info.presets {
        [] => "defaults".to_owned(),
        presets => presets.iter().map(preset).collect::<Vec<_>>().join("; "),
    };
    let own = format!("| `{}` | {} | {paper} | {settings} |\n", info.name, cell(info.summary));
    let relatives = cited_choices(&info.schema()?).into_iter();
    let relatives = relatives.map(|(path, choice, meaning)| {
        let link = arxiv_link(&meaning).map(|url| linked(&url)).unwrap_or_default();
        format!("| | {} | {link} | `{path} = {}` |\n", cell(&meaning), choice.replace('|', "\\|"))
    });
    Ok(own + &relatives.collect::<String>())
}

fn preset(preset: &Preset) -> String {
    format!("`preset = \"{}\"`: {}", preset.name, cell(preset.summary))
}

/// A paper as a link with a short text.
fn linked(url: &str) -> String {
    format!("[{}]({url})", short_name(url))
}

/// `arXiv:2305.18290` for an arXiv address, otherwise the address without its scheme.
pub(super) fn short_name(url: &str) -> String {
    match url.rsplit_once("arxiv.org/abs/") {
        Some((_, id)) => format!("arXiv:{id}"),
        None => url.split_once("://").map_or(url, |(_, rest)| rest).to_owned(),
    }
}

/// The first arXiv address in a text.
fn arxiv_link(text: &str) -> Option<String> {
    let start = text.find("https://arxiv.org/abs/")?;
    let end = text[start..].find(|c: char| !(c.is_ascii_alphanumeric() || ":/.".contains(c))).map_or(text.len(), |at| start + at);
    Some(text[start..end].trim_end_matches('.').to_owned())
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|first| first.to_uppercase().chain(chars).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn papers_have_short_names() {
        assert_eq!(short_name("https://arxiv.org/abs/2305.18290"), "arXiv:2305.18290");
        assert_eq!(short_name("https://example.org/paper"), "example.org/paper");
        let text = "RSO (Liu et al. 2023, <https://arxiv.org/abs/2309.06657>, algorithm 1)";
        assert_eq!(arxiv_link(text).as_deref(), Some("https://arxiv.org/abs/2309.06657"));
        assert_eq!(arxiv_link("see https://arxiv.org/abs/2309.06657.").as_deref(), Some("https://arxiv.org/abs/2309.06657"));
        assert_eq!(arxiv_link("nothing"), None);
    }

    #[test]
    fn every_learner_with_a_paper_has_a_row_and_relatives_stand_below() {
        let page = page(&[ComponentKind::Learner]).expect("described");
        let with_paper =
            components().into_iter().filter(|info| info.kind == ComponentKind::Learner && info.paper.is_some()).count();
        assert!(with_paper >= 4);
        assert_eq!(page.lines().filter(|line| line.starts_with("| `")).count(), with_paper, "{page}");
        let dpo = page.find("| `dpo` |").expect("there");
        let ipo = page.find("| `link = { ipo").expect("a relative");
        assert!(dpo < ipo, "{page}");
        assert!(page.contains("preset = \"alpaca_farm\""));
    }
}
