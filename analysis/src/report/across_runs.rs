//! The same method in several runs: how far they differ on the instructions that they share.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::number::fixed;
use crate::paired::paired_mean;
use crate::repetitions::{Repetitions, p_wins};
use crate::run_files::{ModelFiles, RunFiles};
use crate::table::{Align, Table};

/// A method of one run against the same method of an earlier one.
struct Row {
    method: String,
    run: String,
    other: String,
    difference: f64,
    std_error: Option<f64>,
    interval: Option<[f64; 2]>,
    n_instructions: usize,
    n_seeds: usize,
}

fn win_percents(model: &ModelFiles) -> BTreeMap<&str, f64> {
    p_wins(model).into_iter().map(|(id, p)| (id, 100.0 * p)).collect()
}

/// The differences of win rates between runs.
pub(super) struct AcrossRuns {
    rows: Vec<Row>,
}

impl AcrossRuns {
    /// Every method that several runs evaluated on common instructions: each run against the first that has it.
    pub(super) fn of(runs: &[RunFiles]) -> Self {
        let methods: Vec<(&str, Vec<Repetitions<'_>>)> = runs.iter().map(|run| (run.name.as_str(), run.by_method())).collect();
        let mut rows = Vec::new();
        for (later, (run, of_run)) in methods.iter().enumerate() {
            for method in of_run {
                let earlier = methods[..later]
                    .iter()
                    .find_map(|(name, others)| Some((*name, others.iter().find(|other| other.name == method.name)?)));
                let Some((name, other)) = earlier else { continue };
                let Some(found) = paired_mean(method, other, win_percents, 1) else { continue };
                rows.push(Row {
                    method: method.name.to_owned(),
                    run: (*run).to_owned(),
                    other: name.to_owned(),
                    difference: found.mean.mean,
                    std_error: found.mean.std_error,
                    interval: found.mean.interval,
                    n_instructions: found.n_instructions,
                    n_seeds: found.n_seeds,
                });
            }
        }
        rows.sort_by(|a, b| a.method.cmp(&b.method));
        Self { rows }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// What stands over the table.
    pub(super) fn note() -> &'static str {
        "The win rate of a method in a later run minus that in the first run that has it, on the instructions that both were judged \
         on. It is a difference of methods only where reference and judge are the same in both runs."
    }

    /// A row a method and run.
    pub(super) fn table(&self) -> Table {
        let columns = [("Method", Align::Left), ("Run", Align::Left), ("Against", Align::Left)]
            .into_iter()
            .chain(["Difference (points)", "SE", "95 % interval", "Instructions", "Seeds"].map(|header| (header, Align::Right)))
            .map(|(header, align)| (header.to_owned(), align));
        let row = |row: &Row| {
            vec![
                row.method.clone(),
                row.run.clone(),
                row.other.clone(),
                fixed(row.difference, 2),
                row.std_error.map(|error| fixed(error, 2)).unwrap_or_default(),
                row.interval.map(|[low, high]| format!("{} – {}", fixed(low, 1), fixed(high, 1))).unwrap_or_default(),
                row.n_instructions.to_string(),
                row.n_seeds.to_string(),
            ]
        };
        Table::new(columns.collect(), self.rows.iter().map(row).collect())
    }

    /// CSV; numbers have all their digits.
    pub(super) fn csv(&self) -> String {
        let mut text =
            "method,run,against,difference,standard_error,interval_low,interval_high,n_instructions,n_seeds\n".to_owned();
        let number = |value: Option<f64>| value.map(|value| value.to_string()).unwrap_or_default();
        for row in &self.rows {
            let [low, high] = row.interval.map_or([None; 2], |ends| ends.map(Some)).map(number);
            let [method, run, other] = [&row.method, &row.run, &row.other].map(|text| super::csv_text(text));
            let _ = writeln!(
                text,
                "{method},{run},{other},{},{},{low},{high},{},{}",
                row.difference,
                number(row.std_error),
                row.n_instructions,
                row.n_seeds
            );
        }
        text
    }
}
