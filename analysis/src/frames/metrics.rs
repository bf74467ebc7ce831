//! The table `metrics`: every number that an evaluator measured, one a row, with its uncertainty.

use farmhand_core::Result;
use farmhand_core::types::{EvalReport, Metric};

use super::columns::{Cell, Column, Kind};
use super::run_table::{RunFolder, Stage};
use crate::run_files::read_reports;

/// A metric, the report it stands in, and the stage that measured it.
pub(super) struct Row {
    stage: Stage,
    model: String,
    reference: Option<String>,
    annotator: Option<String>,
    metric: Metric,
}

/// The columns of `metrics`.
pub(super) static COLUMNS: [Column<Row>; 15] = [
    Column { name: "run", kind: Kind::Text, cell: |row| Cell::text(&row.stage.run) },
    Column { name: "stage", kind: Kind::Text, cell: |row| Cell::text(&row.stage.name) },
    Column { name: "method", kind: Kind::Text, cell: |row| Cell::maybe(row.stage.method.as_deref()) },
    Column { name: "seed", kind: Kind::Whole, cell: |row| Cell::Whole(row.stage.seed) },
    Column { name: "model", kind: Kind::Text, cell: |row| Cell::text(&row.model) },
    Column { name: "reference", kind: Kind::Text, cell: |row| Cell::maybe(row.reference.as_deref()) },
    Column { name: "annotator", kind: Kind::Text, cell: |row| Cell::maybe(row.annotator.as_deref()) },
    Column { name: "metric", kind: Kind::Text, cell: |row| Cell::text(&row.metric.name) },
    Column { name: "value", kind: Kind::Number, cell: |row| Cell::Number(Some(row.metric.value)) },
    Column { name: "std_error", kind: Kind::Number, cell: |row| Cell::Number(row.metric.std_error) },
    Column {
        name: "interval_low",
        kind: Kind::Number,
        cell: |row| Cell::Number(row.metric.interval.map(|interval| interval[0])),
    },
    Column {
        name: "interval_high",
        kind: Kind::Number,
        cell: |row| Cell::Number(row.metric.interval.map(|interval| interval[1])),
    },
    Column { name: "n", kind: Kind::Whole, cell: |row| Cell::Whole(i64::try_from(row.metric.n).ok()) },
    Column { name: "unit", kind: Kind::Text, cell: |row| Cell::text(&row.metric.unit) },
    Column {
        name: "higher_is_better",
        kind: Kind::Text,
        cell: |row| Cell::maybe(row.metric.higher_is_better.map(|better| if better { "yes" } else { "no" })),
    },
];

/// The metrics of every evaluation of a run.
pub(super) fn visit(run: &RunFolder, visit: &mut dyn FnMut(&Row)) -> Result<()> {
    for (stage, path) in run.stages_with("report.json")? {
        for EvalReport { model, reference, annotator, metrics } in read_reports(&path)? {
            for metric in metrics {
                let (model, reference, annotator) = (model.clone(), reference.clone(), annotator.clone());
                visit(&Row { stage: stage.clone(), model, reference, annotator, metric });
            }
        }
    }
    Ok(())
}
