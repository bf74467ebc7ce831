//! The weights of length-controlled fits as AlpacaEval keeps them: a CSV file, one row a model. Fits with further covariates have
//! further columns, `np.tanh(std_delta_lists)` and so on, which the package passes over.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use farmhand_core::run::write_atomic;
use farmhand_core::types::{EvalReport, Metric};
use farmhand_core::{Error, Result};
use farmhand_evaluators::length_controlled::{ModelWeights, win_rate_between};

use super::PublishedLengthControl;
use crate::csv_rows::{CsvRows, cell};
use crate::leaderboard::{Entry, Leaderboard};

/// The package's columns: terms of its formula.
const COLUMNS: [&str; 3] = ["np.tanh(std_delta_len)", "instruction_difficulty", "not_gamed_baseline.astype(float)"];

/// The weights of some models.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct WeightTable {
    /// Model and weights, in the file's order; a baseline has all weights 0.
    pub models: Vec<(String, ModelWeights)>,
    /// The weights of further covariates by their names, of the models whose fits had any.
    pub covariates: BTreeMap<String, BTreeMap<String, f64>>,
}

/// The column of a covariate, and what stands around its name in it.
const COVARIATE_COLUMN: [&str; 2] = ["np.tanh(std_delta_", ")"];

impl WeightTable {
    /// Reads a file in the package's form. Of a model that stands there twice, the last row counts, as there.
    ///
    /// # Errors
    /// When the file cannot be read or lacks a column or number.
    pub fn read(path: &Path) -> Result<Self> {
        let csv = CsvRows::read(path)?;
        let [length, difficulty, model] = COLUMNS.map(|name| csv.column(name));
        let (length, difficulty, model) = (length?, difficulty?, model?);
        let [start, end] = COVARIATE_COLUMN;
        let covariate = |column: usize| Some((csv.name(column).strip_prefix(start)?.strip_suffix(end)?.to_owned(), column));
        let covariates: Vec<(String, usize)> =
            (0..csv.header.len()).filter(|column| *column != length).filter_map(covariate).collect();
        let mut table = Self::default();
        for row in 0..csv.rows.len() {
            let weights = ModelWeights {
                length: csv.needed_number(row, length)?,
                difficulty: csv.needed_number(row, difficulty)?,
                model: csv.needed_number(row, model)?,
            };
            let mut of_row = Vec::new();
            for (name, column) in &covariates {
                of_row.extend(csv.number(row, *column)?.map(|weight| (name.clone(), weight)));
            }
            table.set_with(&csv.rows[row][0], weights, of_row);
        }
        if csv.name(0) == COLUMNS[0] {
            return Err(Error::invalid_data(format!("`{}` does not name the models in its first column", path.display())));
        }
        Ok(table)
    }

    /// Sets a model's weights; an earlier row of it goes.
    pub fn set(&mut self, model: &str, weights: ModelWeights) {
        self.set_with(model, weights, []);
    }

    /// Sets a model's weights with those of further covariates; an earlier row of it goes.
    pub fn set_with(&mut self, model: &str, weights: ModelWeights, covariates: impl IntoIterator<Item = (String, f64)>) {
        self.models.retain(|(name, _)| name != model);
        self.models.push((model.to_owned(), weights));
        let covariates: BTreeMap<String, f64> = covariates.into_iter().collect();
        self.covariates.remove(model);
        if !covariates.is_empty() {
            self.covariates.insert(model.to_owned(), covariates);
        }
    }

    /// Takes the rows of another table; of a model that is in both, the other's counts.
    pub fn extend(&mut self, other: &Self) {
        for (model, weights) in &other.models {
            let covariates = other.covariates.get(model).into_iter().flatten();
            self.set_with(model, *weights, covariates.map(|(name, weight)| (name.clone(), *weight)));
        }
    }

    /// Writes the package's file: sixteen decimals.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn write(&self, path: &Path) -> Result<()> {
        let names: BTreeSet<&String> = self.covariates.values().flat_map(BTreeMap::keys).collect();
        let [start, end] = COVARIATE_COLUMN;
        let header: Vec<String> = names.iter().map(|name| format!(",{start}{name}{end}")).collect();
        let mut text = format!(",{}{}\n", COLUMNS.join(","), header.concat());
        for (model, weights) in &self.models {
            text += &format!("{},{:.16},{:.16},{:.16}", cell(model), weights.length, weights.difficulty, weights.model);
            let of_model = self.covariates.get(model);
            for name in &names {
                let weight = of_model.and_then(|weights| weights.get(*name));
                text += &weight.map_or_else(|| ",".to_owned(), |weight| format!(",{weight:.16}"));
            }
            text.push('\n');
        }
        write_atomic(path, |out| out.write_all(text.as_bytes()).map_err(|error| Error::io("write", path, error)))
    }

    /// The weights of a model.
    ///
    /// # Errors
    /// When it is not there.
    pub fn of(&self, model: &str) -> Result<&ModelWeights> {
        self.models.iter().find(|(name, _)| name == model).map(|(_, weights)| weights).ok_or_else(|| {
            let mut names: Vec<&str> = self.models.iter().map(|(name, _)| name.as_str()).collect();
            names.sort_unstable();
            names.truncate(10);
            Error::missing_input(format!("there are no weights of `{model}`")).with_hint(format!(
                "there are weights of {} models: `{}`, …",
                self.models.len(),
                names.join("`, `")
            ))
        })
    }

    /// Every model's length-controlled win rate, in %, against any of them: the mean prediction over the published instructions.
    ///
    /// # Errors
    /// When the baseline has no weights or there are no difficulties.
    pub fn leaderboard(&self, baseline: &str, published: &PublishedLengthControl) -> Result<Leaderboard> {
        let reference = self.of(baseline)?;
        let entry = |(model, weights): &(String, ModelWeights)| {
            let rate = win_rate_between(weights, reference, published.difficulties())
                .ok_or_else(|| Error::missing_input("there are no instruction difficulties to average over"))?;
            let metric = Metric {
                name: "length_controlled_winrate".to_owned(),
                value: 100.0 * rate,
                std_error: None,
                interval: None,
                n: published.n_instructions(),
                unit: "%".to_owned(),
                higher_is_better: Some(true),
            };
            let report =
                EvalReport { model: model.clone(), reference: Some(baseline.to_owned()), annotator: None, metrics: vec![metric] };
            Ok(Entry { run: String::new(), model: model.clone(), reports: vec![report] })
        };
        let entries = self.models.iter().map(entry).collect::<Result<Vec<Entry>>>()?;
        Leaderboard::from_entries(&entries)?.ranked_by("length_controlled_winrate")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_come_back_to_the_last_digit_and_the_last_row_counts() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("w.csv");
        let mut table = WeightTable::default();
        let third = ModelWeights { length: -1.0 / 3.0, difficulty: 0.25, model: -2.125 };
        table.set("a, \"b\"", ModelWeights::default());
        table.set("c", ModelWeights::default());
        table.set("c", third);
        table.write(&path).expect("written");
        let text = std::fs::read_to_string(&path).expect("there");
        assert!(text.starts_with(",np.tanh(std_delta_len),instruction_difficulty,not_gamed_baseline.astype(float)\n"), "{text}");
        assert!(text.contains("\"a, \"\"b\"\"\",0.0000000000000000,"), "{text}");
        let read = WeightTable::read(&path).expect("read");
        assert_eq!((read.models.len(), read.of("c").expect("there").difficulty), (2, 0.25));
        assert!((read.of("c").expect("there").length + 1.0 / 3.0).abs() < 1e-16);
        assert!(read.of("d").expect_err("not there").hint().expect("a hint").contains("2 models"));
    }

    #[test]
    fn weights_of_covariates_are_kept_and_models_without_them_stay_as_they_are() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("w.csv");
        let mut table = WeightTable::default();
        table.set("plain", ModelWeights { length: -1.0, difficulty: 0.5, model: 0.25 });
        let found = [("markdown".to_owned(), -0.75), ("lists".to_owned(), 0.125)];
        table.set_with("rich", ModelWeights { length: -0.5, difficulty: 1.0, model: 2.0 }, found);
        table.write(&path).expect("written");
        let text = std::fs::read_to_string(&path).expect("there");
        let header = text.lines().next().expect("a header");
        assert!(header.ends_with("astype(float),np.tanh(std_delta_lists),np.tanh(std_delta_markdown)"), "{header}");
        assert!(text.contains("plain,-1.0000000000000000,0.5000000000000000,0.2500000000000000,,\n"), "{text}");
        let mut read = WeightTable::read(&path).expect("read");
        assert_eq!(read, table);
        let mut newer = WeightTable::default();
        newer.set("rich", ModelWeights::default());
        read.extend(&newer);
        assert_eq!((read.models.len(), read.covariates.len()), (2, 0));
    }

    #[test]
    fn any_two_models_are_compared() {
        let mut table = WeightTable::default();
        table.set("base", ModelWeights::default());
        table.set("m", ModelWeights { length: -1.0, difficulty: 1.0, model: 0.5 });
        let published = PublishedLengthControl { difficulty: vec![-1.0, 1.0], ..PublishedLengthControl::default() };
        let rate = |against| {
            let board = table.leaderboard(against, &published).expect("made");
            let row = (0..2).find(|row| board.text("model", *row) != Some(against)).expect("the other");
            board.number("length_controlled_winrate", row).expect("there")
        };
        let sigmoid = |z: f64| 1.0 / (1.0 + (-z).exp());
        assert!((rate("base") - 50.0 * (sigmoid(-0.5) + sigmoid(1.5))).abs() < 1e-12);
        assert!((rate("base") + rate("m") - 100.0).abs() < 1e-12);
        assert!(table.leaderboard("x", &published).is_err());
    }
}
