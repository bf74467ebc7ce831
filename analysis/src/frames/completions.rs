//! The table `completions`: every answer that a stage sampled.

use farmhand_core::Result;
use farmhand_core::types::{Completion, FinishReason};

use super::columns::{Cell, Column, Kind};
use super::run_table::{RunFolder, Stage, visit_lines};

/// An answer and the stage that sampled it.
pub(super) struct Row {
    stage: Stage,
    completion: Completion,
}

/// The columns of `completions`.
pub(super) static COLUMNS: [Column<Row>; 15] = [
    Column { name: "run", kind: Kind::Text, cell: |row| Cell::text(&row.stage.run) },
    Column { name: "stage", kind: Kind::Text, cell: |row| Cell::text(&row.stage.name) },
    Column { name: "method", kind: Kind::Text, cell: |row| Cell::maybe(row.stage.method.as_deref()) },
    Column { name: "seed", kind: Kind::Whole, cell: |row| Cell::Whole(row.stage.seed) },
    Column { name: "model", kind: Kind::Text, cell: |row| Cell::text(&row.completion.model) },
    Column { name: "instruction_id", kind: Kind::Text, cell: |row| Cell::text(&row.completion.instruction.id) },
    Column { name: "dataset", kind: Kind::Text, cell: |row| Cell::maybe(row.completion.instruction.dataset.as_deref()) },
    Column { name: "sample", kind: Kind::Whole, cell: |row| Cell::Whole(Some(row.completion.sample.into())) },
    Column {
        name: "finish",
        kind: Kind::Text,
        cell: |row| {
            Cell::text(match row.completion.finish {
                FinishReason::Stop => "stop",
                FinishReason::StopString => "stop_string",
                FinishReason::Length => "length",
            })
        },
    },
    Column { name: "n_tokens", kind: Kind::Whole, cell: |row| Cell::Whole(Some(row.completion.n_tokens.into())) },
    Column { name: "n_chars", kind: Kind::Whole, cell: |row| Cell::length(&row.completion.output) },
    Column { name: "log_prob", kind: Kind::Number, cell: |row| Cell::Number(row.completion.log_prob) },
    Column { name: "instruction", kind: Kind::Text, cell: |row| Cell::text(&row.completion.instruction.instruction) },
    Column { name: "input", kind: Kind::Text, cell: |row| Cell::maybe(row.completion.instruction.input.as_deref()) },
    Column { name: "output", kind: Kind::Text, cell: |row| Cell::text(&row.completion.output) },
];

/// The answers of every stage of a run that has any.
pub(super) fn visit(run: &RunFolder, visit: &mut dyn FnMut(&Row)) -> Result<()> {
    for (stage, path) in run.stages_with("completions.jsonl")? {
        visit_lines(&path, |completion: Completion| visit(&Row { stage: stage.clone(), completion }))?;
    }
    Ok(())
}
