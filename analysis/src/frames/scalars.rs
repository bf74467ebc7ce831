//! The table `scalars`: what the stages recorded while they worked, one value a step.

use farmhand_core::Result;

use super::columns::{Cell, Column, Kind};
use super::run_table::{RunFolder, Stage};
use crate::run_files::read_scalars;

/// A value at a step.
pub(super) struct Row {
    stage: Stage,
    name: String,
    step: u64,
    value: f64,
}

/// The columns of `scalars`.
pub(super) static COLUMNS: [Column<Row>; 7] = [
    Column { name: "run", kind: Kind::Text, cell: |row| Cell::text(&row.stage.run) },
    Column { name: "stage", kind: Kind::Text, cell: |row| Cell::text(&row.stage.name) },
    Column { name: "method", kind: Kind::Text, cell: |row| Cell::maybe(row.stage.method.as_deref()) },
    Column { name: "seed", kind: Kind::Whole, cell: |row| Cell::Whole(row.stage.seed) },
    Column { name: "name", kind: Kind::Text, cell: |row| Cell::text(&row.name) },
    Column { name: "step", kind: Kind::Whole, cell: |row| Cell::Whole(i64::try_from(row.step).ok()) },
    Column { name: "value", kind: Kind::Number, cell: |row| Cell::Number(Some(row.value)) },
];

/// The scalars in a run's `events.jsonl`; where a step is told twice (a resumed stage), the last value counts.
pub(super) fn visit(run: &RunFolder, visit: &mut dyn FnMut(&Row)) -> Result<()> {
    for (stage, by_name) in read_scalars(&run.path.join("events.jsonl"))? {
        let stage = Stage::new(run, &stage);
        for (name, by_step) in by_name {
            let mut row = Row { stage: stage.clone(), name, step: 0, value: 0.0 };
            for (step, value) in by_step {
                (row.step, row.value) = (step, value);
                visit(&row);
            }
        }
    }
    Ok(())
}
