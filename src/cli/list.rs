//! `farmhand list`: the components there are, each with its paper.

use farmhand_core::component::{ComponentInfo, components};
use farmhand_core::{ComponentKind, Error, Result, config::did_you_mean};
use serde_json::json;

use super::args::{Cli, ListArgs};
use super::paper_index::{self, short_name};

/// Prints the components, by kind.
pub(super) fn list(args: &ListArgs, cli: &Cli) -> Result<()> {
    let kinds = match &args.kind {
        None => ComponentKind::ALL.to_vec(),
        Some(name) => vec![kind(name)?],
    };
    if args.markdown {
        return super::print(&paper_index::page(&kinds)?);
    }
    let of = |kind: ComponentKind| components().into_iter().filter(move |info| info.kind == kind);
    if cli.json {
        let all: Vec<_> = kinds.into_iter().flat_map(of).map(entry).collect();
        return super::print_json(&all);
    }
    let mut text = String::new();
    for kind in kinds {
        let width = of(kind).map(|info| info.name.len()).max().unwrap_or(0);
        text += &format!("{}\n", kind.plural());
        for info in of(kind) {
            let paper = info.paper.map(|paper| format!(" ({})", short_name(paper))).unwrap_or_default();
            text += &format!("  {:width$}  {}{paper}\n", info.name, info.summary);
        }
        text += "\n";
    }
    super::print(&format!("{}\n", text.trim_end()))
}

fn entry(info: &ComponentInfo) -> serde_json::Value {
    json!({ "kind": info.kind.key(), "name": info.name, "summary": info.summary, "paper": info.paper, "package": info.package })
}

fn kind(name: &str) -> Result<ComponentKind> {
    let spelled = name.replace('-', "_");
    let matches = |kind: &ComponentKind| kind.key() == spelled || kind.plural().replace(' ', "_") == spelled;
    ComponentKind::ALL.into_iter().find(matches).ok_or_else(|| {
        let known: Vec<&str> = ComponentKind::ALL.iter().map(|kind| kind.key()).collect();
        Error::invalid_config(format!("unknown kind of component `{name}`")).with_hint(did_you_mean(name, &known))
    })
}
