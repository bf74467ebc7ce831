//! Pieces of configuration in the book, read as part of a whole experiment.

use std::path::Path;

use farmhand::core::component::find_component;
use farmhand::core::config::{Document, check_options};
use farmhand::core::{ComponentKind, Problem};
use farmhand::pipeline::read_experiment;
use toml::{Table, Value};

use crate::command::fixture;

/// Lays a piece over the tiny experiment and reads the result; with `alternatives`, each of its tables by itself.
pub(super) fn try_experiment(text: &str, alternatives: bool, folder: &Path) -> Result<(), String> {
    // In the reference `{ … }` stands for a component's options.
    let text = text.replace("{ … }", "{}");
    if !alternatives {
        return try_one(&text, folder);
    }
    let mut pieces: Vec<String> = Vec::new();
    for line in text.lines() {
        if line.starts_with('[') || pieces.is_empty() {
            pieces.push(String::new());
        }
        let piece = pieces.last_mut().expect("begun");
        piece.push_str(line);
        piece.push('\n');
    }
    pieces.iter().try_for_each(|piece| try_one(piece, folder))
}

fn try_one(text: &str, folder: &Path) -> Result<(), String> {
    let piece: Table = toml::from_str(text).map_err(|error| error.to_string())?;
    if let Some(problems) = component_problems(&piece) {
        return if problems.is_empty() { Ok(()) } else { Err(format!("{problems:?}")) };
    }
    let tiny = std::fs::read_to_string(fixture("tiny.toml")).expect("readable");
    let mut experiment: Table = toml::from_str(&tiny).expect("it is run by other tests");
    for (key, value) in piece {
        match (key.as_str(), value, experiment.get_mut(&key)) {
            // Tables of which one key is chosen.
            ("annotator" | "data" | "model" | "reward_model", value, _) => drop(experiment.insert(key, value)),
            (_, Value::Table(table), Some(Value::Table(known))) => known.extend(table),
            (_, value, _) => drop(experiment.insert(key, value)),
        }
    }
    let text = toml::to_string(&experiment).map_err(|error| error.to_string())?;
    let read = Document::parse(&folder.join("piece.toml"), &text).and_then(|document| read_experiment(&document));
    read.map(drop).map_err(|error| error.to_string())
}

/// What is wrong with the options where a piece is one component, as the reference shows them: `learner.dpo = {}`.
fn component_problems(piece: &Table) -> Option<Vec<Problem>> {
    let only = |table: &Table| table.iter().next().filter(|_| table.len() == 1).map(|(key, value)| (key.clone(), value.clone()));
    let (kind, named) = only(piece)?;
    let (name, options) = only(named.as_table()?)?;
    let info = find_component(ComponentKind::from_key(&kind)?, &name)?;
    Some(check_options(info, &serde_json::to_value(options).expect("TOML is JSON")))
}

#[test]
fn a_wrong_piece_is_refused() {
    let folder = Path::new(".");
    assert_eq!(try_experiment("[methods.dpo.learner.dpo]\nbeta = 0.3", false, folder), Ok(()));
    let error = try_experiment("[methods.dpo.learner.dpo]\nbetta = 0.3", false, folder).expect_err("unknown");
    assert!(error.contains("betta"), "{error}");
    assert_eq!(try_experiment("learner.dpo = { … }", false, folder), Ok(()));
    assert!(try_experiment("learner.dpo = { betta = 1 }", false, folder).is_err());
    let two = "[annotator.pool]\n[annotator.from_file]\npath = \"x\"\n";
    assert!(try_experiment(two, false, folder).is_err());
    assert_eq!(try_experiment(two, true, folder), Ok(()));
}
