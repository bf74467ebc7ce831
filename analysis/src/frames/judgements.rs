//! The table `judgements`: what came of every comparison that a stage had judged.

use std::path::Path;
use std::sync::Arc;

use farmhand_core::types::{Annotation, Judgement, Judging, Outcome, ShownOrder};
use farmhand_core::{Error, Result};
use serde_json::Value;

use super::columns::{Cell, Column, Kind};
use super::record_file::visit_records;
use super::run_table::{RunFolder, Stage, visit_lines};
use crate::parquet::Record;

/// A judgement and the stage that had it made.
pub(super) struct Row {
    stage: Stage,
    judgement: Judgement,
}

impl Row {
    fn annotation(&self) -> Option<&Annotation> {
        self.judgement.annotation()
    }

    fn p_win(&self) -> Option<f64> {
        self.judgement.preference().map(|preference| preference.p_second())
    }

    /// What is known of a judging without a verdict.
    fn judging(&self) -> Option<&Judging> {
        match &self.judgement.outcome {
            Outcome::Annotation(_) => None,
            Outcome::Failure(failure) => Some(&failure.judging),
        }
    }

    fn shown(&self) -> Option<&'static str> {
        let shown = self.annotation().map_or_else(|| self.judging()?.shown, |annotation| Some(annotation.shown))?;
        Some(if shown == ShownOrder::AsGiven { "as_given" } else { "swapped" })
    }
}

/// The columns of `judgements`; those of a file of judgements lack the first four.
pub(super) static COLUMNS: [Column<Row>; 28] = [
    Column { name: "run", kind: Kind::Text, cell: |row| Cell::text(&row.stage.run) },
    Column { name: "stage", kind: Kind::Text, cell: |row| Cell::text(&row.stage.name) },
    Column { name: "method", kind: Kind::Text, cell: |row| Cell::maybe(row.stage.method.as_deref()) },
    Column { name: "seed", kind: Kind::Whole, cell: |row| Cell::Whole(row.stage.seed) },
    Column { name: "comparison_id", kind: Kind::Text, cell: |row| Cell::text(&row.judgement.comparison.id) },
    Column { name: "instruction_id", kind: Kind::Text, cell: |row| Cell::text(&row.judgement.comparison.instruction.id) },
    Column {
        name: "dataset",
        kind: Kind::Text,
        cell: |row| Cell::maybe(row.judgement.comparison.instruction.dataset.as_deref()),
    },
    Column { name: "generator_1", kind: Kind::Text, cell: |row| Cell::maybe(row.judgement.comparison.generator_1.as_deref()) },
    Column { name: "generator_2", kind: Kind::Text, cell: |row| Cell::maybe(row.judgement.comparison.generator_2.as_deref()) },
    Column {
        name: "annotator",
        kind: Kind::Text,
        cell: |row| match row.annotation() {
            Some(annotation) => Cell::text(&annotation.annotator),
            None => Cell::maybe(row.judging().and_then(|judging| judging.annotator.as_deref())),
        },
    },
    Column { name: "preference", kind: Kind::Number, cell: |row| Cell::Number(row.p_win().map(|p| 1.0 + p)) },
    Column { name: "p_win", kind: Kind::Number, cell: |row| Cell::Number(row.p_win()) },
    Column {
        name: "failure",
        kind: Kind::Text,
        cell: |row| match &row.judgement.outcome {
            Outcome::Annotation(_) => Cell::Text(None),
            Outcome::Failure(failure) => Cell::text(failure.kind.label()),
        },
    },
    Column {
        name: "failure_message",
        kind: Kind::Text,
        cell: |row| match &row.judgement.outcome {
            Outcome::Annotation(_) => Cell::Text(None),
            Outcome::Failure(failure) => Cell::text(&failure.message),
        },
    },
    Column { name: "len_1", kind: Kind::Whole, cell: |row| Cell::length(&row.judgement.comparison.output_1) },
    Column { name: "len_2", kind: Kind::Whole, cell: |row| Cell::length(&row.judgement.comparison.output_2) },
    Column {
        name: "cost_usd",
        kind: Kind::Number,
        cell: |row| Cell::Number(row.annotation().map_or_else(|| row.judging()?.cost_usd, |annotation| annotation.cost_usd)),
    },
    Column {
        name: "time_secs",
        kind: Kind::Number,
        cell: |row| Cell::Number(row.annotation().map_or_else(|| row.judging()?.time_secs, |annotation| annotation.time_secs)),
    },
    Column { name: "shown", kind: Kind::Text, cell: |row| Cell::maybe(row.shown()) },
    Column {
        name: "cached",
        kind: Kind::Truth,
        cell: |row| {
            let failed = || row.judging().is_some_and(|judging| judging.cached);
            Cell::Truth(row.annotation().map_or_else(failed, |annotation| annotation.cached))
        },
    },
    Column {
        name: "noised",
        kind: Kind::Truth,
        cell: |row| Cell::Truth(row.annotation().is_some_and(|annotation| annotation.noised)),
    },
    Column {
        name: "score_1",
        kind: Kind::Number,
        cell: |row| Cell::Number(row.annotation().and_then(|annotation| annotation.scores).map(|scores| scores[0])),
    },
    Column {
        name: "score_2",
        kind: Kind::Number,
        cell: |row| Cell::Number(row.annotation().and_then(|annotation| annotation.scores).map(|scores| scores[1])),
    },
    Column {
        name: "margin",
        kind: Kind::Number,
        cell: |row| Cell::Number(row.annotation().and_then(|annotation| annotation.margin)),
    },
    Column { name: "instruction", kind: Kind::Text, cell: |row| Cell::text(&row.judgement.comparison.instruction.instruction) },
    Column { name: "output_1", kind: Kind::Text, cell: |row| Cell::text(&row.judgement.comparison.output_1) },
    Column { name: "output_2", kind: Kind::Text, cell: |row| Cell::text(&row.judgement.comparison.output_2) },
    Column {
        name: "raw",
        kind: Kind::Text,
        cell: |row| match row.annotation() {
            Some(annotation) => Cell::maybe(annotation.raw.as_deref()),
            None => Cell::maybe(row.judging().and_then(|judging| judging.raw.as_deref())),
        },
    },
];

/// The judgements of every stage of a run that has any.
pub(super) fn visit(run: &RunFolder, visit: &mut dyn FnMut(&Row)) -> Result<()> {
    for (stage, path) in run.stages_with("judgements.jsonl")? {
        visit_lines(&path, |judgement: Judgement| visit(&Row { stage: stage.clone(), judgement }))?;
    }
    Ok(())
}

/// The columns of a file of judgements: those above that do not tell the run.
pub(super) fn file_columns() -> &'static [Column<Row>] {
    &COLUMNS[4..]
}

/// Whether a record of a file is a judgement of ours.
pub(super) fn is_judgement(record: &Record) -> bool {
    record.get("comparison").is_some_and(Value::is_object)
        && (record.contains_key("annotation") || record.contains_key("failure"))
}

/// The judgements of a file.
pub(super) fn visit_file(path: &Path, visit: &mut dyn FnMut(&Row)) -> Result<()> {
    let run = RunFolder { path: path.to_owned(), name: Arc::from("") };
    let stage = Stage::new(&run, "");
    visit_records(path, |record, location| {
        let judgement = serde_json::from_value(Value::Object(record)).map_err(|error| {
            Error::invalid_data(format!("`{}`, {location}: not a judgement", path.display())).with_source(error)
        })?;
        visit(&Row { stage: stage.clone(), judgement });
        Ok(())
    })
}
