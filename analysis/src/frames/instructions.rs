//! The table `instructions`: what the models were asked, by the part of the data it belongs to.

use std::sync::Arc;

use farmhand_core::types::Instruction;
use farmhand_core::{Error, Result};
use serde::Deserialize;

use super::columns::{Cell, Column, Kind};
use super::run_table::{RunFolder, visit_lines};

/// An instruction, and where it stands in the run's data.
pub(super) struct Row {
    run: Arc<str>,
    split: String,
    instruction: Instruction,
    output: Option<String>,
}

/// A line of a file in `data/`: an instruction, mostly with a demonstration's answer.
#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    With {
        instruction: Instruction,
        #[serde(default)]
        output: Option<String>,
    },
    Alone(Instruction),
}

/// The columns of `instructions`.
pub(super) static COLUMNS: [Column<Row>; 8] = [
    Column { name: "run", kind: Kind::Text, cell: |row| Cell::text(&row.run) },
    Column { name: "split", kind: Kind::Text, cell: |row| Cell::text(&row.split) },
    Column { name: "instruction_id", kind: Kind::Text, cell: |row| Cell::text(&row.instruction.id) },
    Column { name: "dataset", kind: Kind::Text, cell: |row| Cell::maybe(row.instruction.dataset.as_deref()) },
    Column { name: "n_chars", kind: Kind::Whole, cell: |row| Cell::length(&row.instruction.instruction) },
    Column { name: "instruction", kind: Kind::Text, cell: |row| Cell::text(&row.instruction.instruction) },
    Column { name: "input", kind: Kind::Text, cell: |row| Cell::maybe(row.instruction.input.as_deref()) },
    Column { name: "output", kind: Kind::Text, cell: |row| Cell::maybe(row.output.as_deref()) },
];

/// The instructions in a run's `data/`, one part a file.
pub(super) fn visit(run: &RunFolder, visit: &mut dyn FnMut(&Row)) -> Result<()> {
    let folder = run.path.join("data");
    let entries = match std::fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::io("list", &folder, error)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| Error::io("list", &folder, error))?.path();
        if path.extension().is_some_and(|extension| extension == "jsonl") {
            files.push(path);
        }
    }
    files.sort();
    for path in files {
        let split = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        visit_lines(&path, |line: Line| {
            let (instruction, output) = match line {
                Line::With { instruction, output } => (instruction, output),
                Line::Alone(instruction) => (instruction, None),
            };
            visit(&Row { run: Arc::clone(&run.name), split: split.clone(), instruction, output });
        })?;
    }
    Ok(())
}
