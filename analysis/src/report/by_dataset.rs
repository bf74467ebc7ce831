//! Win rates on each data set that the instructions come from.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::figures::colour_of_model;
use crate::charts::{DatasetRates, DatasetRow};
use crate::crossed::{CrossedMean, crossed_mean};
use crate::leaderboard::Leaderboard;
use crate::number::fixed;
use crate::repetitions::{matched, p_wins};
use crate::run_files::{ModelFiles, RunFiles};
use crate::table::{Align, Table};

/// Data sets that tables and charts show at most: those with the most instructions.
const MAX_DATASETS: usize = 20;

/// What instructions without a data set stand under.
const OTHER: &str = "other";

/// Win rates by model and data set; nothing where there are fewer than two data sets.
pub(super) struct ByDataset {
    /// The data sets with their instructions, by name.
    datasets: Vec<(String, usize)>,
    /// Data sets beyond those.
    n_left_out: usize,
    rows: Vec<Row>,
}

struct Row {
    model: String,
    colour: usize,
    /// One a data set, in %.
    rates: Vec<Option<CrossedMean>>,
}

impl ByDataset {
    /// Those of a run, models in the order of the leaderboard.
    pub(super) fn of(run: &RunFiles, board: &Leaderboard) -> Self {
        let of_instruction = dataset_of_instructions(&run.models);
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        of_instruction.values().for_each(|dataset| *counts.entry(dataset).or_default() += 1);
        let mut datasets: Vec<(String, usize)> = counts.into_iter().map(|(name, n)| (name.to_owned(), n)).collect();
        if datasets.len() < 2 {
            return Self { datasets: Vec::new(), n_left_out: 0, rows: Vec::new() };
        }
        datasets.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
        let n_left_out = datasets.len().saturating_sub(MAX_DATASETS);
        datasets.truncate(MAX_DATASETS);
        datasets.sort();
        let methods = run.by_method();
        let row = |place: usize| {
            let model = board.text("model", place)?;
            let method = methods.iter().find(|method| method.name == model)?;
            let rate = |(dataset, _): &(String, usize)| {
                let inside = |id: &str| of_instruction.get(id).is_some_and(|found| found == dataset);
                let mut percents: Vec<BTreeMap<&str, f64>> = method.models.iter().map(|model| p_wins(model)).collect();
                for map in &mut percents {
                    map.retain(|id, _| inside(id));
                    map.values_mut().for_each(|p| *p *= 100.0);
                }
                crossed_mean(&matched(&percents))
            };
            let rates: Vec<Option<CrossedMean>> = datasets.iter().map(rate).collect();
            let known = rates.iter().any(Option::is_some);
            known.then(|| Row { model: model.to_owned(), colour: colour_of_model(run, model), rates })
        };
        let rows = (0..board.len()).filter_map(row).collect();
        Self { datasets, n_left_out, rows }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The heat map.
    pub(super) fn chart(&self) -> DatasetRates {
        let row = |row: &Row| DatasetRow {
            model: row.model.clone(),
            colour: row.colour,
            rates: row.rates.iter().map(|rate| rate.map(|rate| rate.mean)).collect(),
        };
        DatasetRates::new(self.datasets.iter().cloned(), self.rows.iter().map(row))
    }

    /// A row a model, a column a data set.
    pub(super) fn table(&self) -> Table {
        let columns = std::iter::once(("Model".to_owned(), Align::Left))
            .chain(self.datasets.iter().map(|(name, n)| (format!("{name} (n = {n})"), Align::Right)));
        let cell = |rate: &Option<CrossedMean>| {
            let Some(rate) = rate else { return String::new() };
            let error = rate.std_error.map(|error| format!(" ± {}", fixed(error, 1))).unwrap_or_default();
            format!("{}{error}", fixed(rate.mean, 1))
        };
        let row = |row: &Row| std::iter::once(row.model.clone()).chain(row.rates.iter().map(cell)).collect();
        Table::new(columns.collect(), self.rows.iter().map(row).collect())
    }

    /// What stands over the table.
    pub(super) fn note(&self) -> String {
        let left_out = if self.n_left_out > 0 {
            format!(" The {} data sets with the fewest instructions are left out.", self.n_left_out)
        } else {
            String::new()
        };
        format!(
            "Win rates (%) with standard errors on the instructions of each source. Each has fewer instructions than all together, so \
             differences between sources are known less well.{left_out}"
        )
    }

    /// CSV with a line a model and data set; numbers have all their digits.
    pub(super) fn csv(&self) -> String {
        let mut text = "model,dataset,n_instructions,win_rate,standard_error,interval_low,interval_high\n".to_owned();
        let number = |value: Option<f64>| value.map(|value| value.to_string()).unwrap_or_default();
        for row in &self.rows {
            for ((dataset, n), rate) in self.datasets.iter().zip(&row.rates) {
                let Some(rate) = rate else { continue };
                let [low, high] = rate.interval.map_or([None; 2], |ends| ends.map(Some)).map(number);
                let (model, dataset) = (super::csv_text(&row.model), super::csv_text(dataset));
                let _ = writeln!(text, "{model},{dataset},{n},{},{},{low},{high}", rate.mean, number(rate.std_error));
            }
        }
        text
    }
}

/// The data set of every judged instruction, by its id.
fn dataset_of_instructions(models: &[ModelFiles]) -> BTreeMap<&str, String> {
    let judgements = models.iter().flat_map(|model| &model.judgements);
    let instructions = judgements.map(|judgement| &judgement.comparison.instruction);
    instructions
        .map(|instruction| (instruction.id.as_str(), instruction.dataset.as_deref().unwrap_or(OTHER).to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;
    use crate::leaderboard::entries_of;

    fn found(run: &RunFiles) -> ByDataset {
        ByDataset::of(run, &Leaderboard::from_entries(&entries_of(run)).expect("made"))
    }

    #[test]
    fn sources_are_weighed_to_the_win_rate_and_one_source_is_no_breakdown() {
        let dir = fixture::repeated_run();
        let mut run = RunFiles::read(dir.path()).expect("read");
        assert!(found(&run).is_empty(), "nothing names a data set");
        for model in &mut run.models {
            for (i, judgement) in model.judgements.iter_mut().enumerate() {
                judgement.comparison.instruction.dataset = (i < 3).then(|| "koala, all".to_owned());
            }
        }
        let found = found(&run);
        assert_eq!(found.datasets, [("koala, all".to_owned(), 3), (OTHER.to_owned(), 5)]);
        let csv = found.csv();
        assert!(csv.lines().nth(1).expect("a row").contains(",\"koala, all\",3,"), "{csv}");
        assert_eq!(csv.lines().count(), 1 + 3 * 2);
        let rates: Vec<f64> = found.rows[0].rates.iter().map(|rate| rate.expect("judged").mean).collect();
        let board = Leaderboard::from_entries(&entries_of(&run)).expect("made");
        // Seven verdicts a repetition: three on the one, four on the other (one judgement failed).
        let whole = (3.0 * rates[0] + 4.0 * rates[1]) / 7.0;
        assert!((whole - board.number("win_rate", 0).expect("there")).abs() < 1e-9, "{rates:?}");
        assert!(found.table().html().contains("koala, all (n = 3)"));
    }
}
