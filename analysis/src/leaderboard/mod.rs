//! The leaderboard: one row a method, the best win rate first, from the evaluation reports of one or several runs.

mod columns;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use farmhand_core::types::{EvalReport, Metric};
use farmhand_core::{Error, Result};
use polars::prelude::*;
use polars_io::SerWriter;
use polars_io::csv::write::CsvWriter;

pub(crate) use columns::interval;
use columns::{
    ALPACA_EVAL_2_COLUMNS, ALPACA_EVAL_COLUMNS, INSIDE_OTHERS, INTERVALS, KNOWN_COLUMNS, header, is_count, number_columns,
    numbers,
};

use crate::number::{fixed, significant};
use crate::run_files::RunFiles;
use crate::table::{Align, Table};

/// What was measured on one model: one row to be.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The run it belongs to; shown when there are several.
    pub run: String,
    /// The model's name.
    pub model: String,
    /// The evaluators' reports. Where two measured the same thing, the first counts.
    pub reports: Vec<EvalReport>,
}

/// One row a model, sorted by win rate (best first, models without one last), ties by name.
#[derive(Debug, Clone)]
pub struct Leaderboard {
    frame: DataFrame,
    /// The columns of numbers in a table for people, where they were chosen.
    shown: Option<Vec<String>>,
    /// Metrics that are percentages.
    percent: BTreeSet<String>,
    /// Metrics of which more is better: what a leaderboard shows of those it does not know.
    qualities: BTreeSet<String>,
}

impl Leaderboard {
    /// The leaderboard of one or several run directories.
    ///
    /// # Errors
    /// When one is missing or broken; see [`RunFiles::read`].
    pub fn load<P: AsRef<Path>>(run_dirs: &[P]) -> Result<Self> {
        let mut entries = Vec::new();
        for dir in run_dirs {
            entries.extend(entries_of(&RunFiles::read(dir.as_ref())?));
        }
        Self::from_entries(&entries)
    }

    /// The leaderboard of these models. A model that appears twice in a run stands there twice.
    ///
    /// # Errors
    /// When the table library refuses, which a valid list of entries does not cause.
    pub fn from_entries(entries: &[Entry]) -> Result<Self> {
        let rows: Vec<BTreeMap<String, f64>> = entries.iter().map(numbers).collect();
        let text = |name: &str, values: Vec<Option<&str>>| Column::new(name.into(), values);
        let report =
            |find: fn(&EvalReport) -> Option<&str>| entries.iter().map(|entry| entry.reports.iter().find_map(find)).collect();
        let mut columns = vec![
            text("run", entries.iter().map(|entry| Some(entry.run.as_str())).collect()),
            text("model", entries.iter().map(|entry| Some(entry.model.as_str())).collect()),
            text("reference", report(|report| report.reference.as_deref())),
            text("annotator", report(|report| report.annotator.as_deref())),
        ];
        columns.extend(number_columns(&rows).into_iter().map(|name| {
            let values = rows.iter().map(|row| row.get(&name).copied());
            if is_count(&name) {
                Column::new(name.as_str().into(), values.map(|value| value.map(|value| value as i64)).collect::<Vec<_>>())
            } else {
                Column::new(name.as_str().into(), values.collect::<Vec<_>>())
            }
        }));
        let frame = DataFrame::new(entries.len(), columns).map_err(frame_error)?;
        let frame = ranked(&frame, "win_rate")?;
        let metrics = entries.iter().flat_map(|entry| &entry.reports).flat_map(|report| &report.metrics);
        let named = |wanted: fn(&Metric) -> bool| {
            metrics.clone().filter(|metric| wanted(metric)).map(|metric| metric.name.clone()).collect()
        };
        let (percent, qualities) = (named(|metric| metric.unit == "%"), named(|metric| metric.higher_is_better == Some(true)));
        Ok(Self { frame, shown: None, percent, qualities })
    }

    /// The same models, ranked by another column: the highest number first, models without one last, ties by name.
    ///
    /// # Errors
    /// When there is no such column.
    pub fn ranked_by(self, column: &str) -> Result<Self> {
        if self.frame.column(column).is_err() {
            let names: Vec<&str> = self.frame.columns().iter().map(|column| column.name().as_str()).collect();
            return Err(Error::invalid_config(format!("no column `{column}` to rank by; there are `{}`", names.join("`, `"))));
        }
        let frame = ranked(&self.frame.drop("rank").map_err(frame_error)?, column)?;
        Ok(Self { frame, ..self })
    }

    /// The same, with these columns of numbers in tables for people, as far as they are there; files have all.
    #[must_use]
    pub fn showing<S: Into<String>>(self, columns: impl IntoIterator<Item = S>) -> Self {
        Self { shown: Some(columns.into_iter().map(Into::into).collect()), ..self }
    }

    /// The data: `rank`, `run`, `model`, `reference`, `annotator`, then one column a number, as in the CSV file.
    pub fn frame(&self) -> &DataFrame {
        &self.frame
    }

    /// How many models there are.
    pub fn len(&self) -> usize {
        self.frame.height()
    }

    /// Whether there is no model.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A Markdown table, for a README or a paper.
    pub fn markdown(&self) -> String {
        self.table().markdown()
    }

    /// A table of plain text, for a terminal.
    pub fn terminal(&self) -> String {
        self.table().terminal()
    }

    /// A LaTeX table for the package `booktabs`.
    pub fn latex(&self) -> String {
        self.table().latex()
    }

    /// CSV that AlpacaEval's tools read: its columns under its names, the model in the unnamed first column,
    /// then what it does not have. Numbers have all their digits.
    ///
    /// # Errors
    /// When the table library refuses.
    pub fn csv(&self) -> Result<String> {
        let mode = Column::new("mode".into(), vec!["community"; self.len()]);
        let mut columns = vec![self.column("model")?.clone().with_name("".into())];
        for name in ALPACA_EVAL_COLUMNS {
            columns.push(if name == "mode" { mode.clone() } else { self.column_or_empty(name) });
        }
        columns.extend(ALPACA_EVAL_2_COLUMNS.iter().filter_map(|name| self.frame.column(name).ok()).cloned());
        let known = |name: &str| {
            ["rank", "model"].contains(&name)
                || ALPACA_EVAL_COLUMNS.contains(&name)
                || ALPACA_EVAL_2_COLUMNS.contains(&name)
                || name == "run" && !self.has_runs()
        };
        columns.extend(self.frame.columns().iter().filter(|column| !known(column.name())).cloned());
        let mut frame = DataFrame::new(self.len(), columns).map_err(frame_error)?;
        let mut out = Vec::new();
        CsvWriter::new(&mut out).finish(&mut frame).map_err(frame_error)?;
        let text = String::from_utf8(out).map_err(|error| Error::other("a leaderboard is not text").with_source(error))?;
        // polars writes the empty name as `""`; AlpacaEval's files have nothing there.
        Ok(text.strip_prefix("\"\"").map_or(text.clone(), str::to_owned))
    }

    /// A JSON list with one object a model, keys in alphabetical order, unknown numbers `null`.
    pub fn json(&self) -> String {
        let rows: Vec<serde_json::Map<String, serde_json::Value>> = (0..self.len())
            .map(|row| {
                let cells = self.frame.columns().iter().map(|column| (column.name().to_string(), json_cell(column, row)));
                cells.collect()
            })
            .collect();
        let text = serde_json::to_string_pretty(&rows).expect("maps with text keys are JSON");
        text + "\n"
    }

    /// The number in a column, if the model has one.
    pub fn number(&self, column: &str, row: usize) -> Option<f64> {
        self.frame.column(column).ok().and_then(|column| number(column, row))
    }

    /// The text in a column, if the model has one.
    pub fn text(&self, column: &str, row: usize) -> Option<&str> {
        self.frame.column(column).ok()?.str().ok()?.get(row)
    }

    /// The table as shown: rounded, with readable headers, uncertain numbers with their error.
    pub(crate) fn table(&self) -> Table {
        let mut columns = vec![("Rank".to_owned(), Align::Right)];
        if self.distinct("run") > 1 {
            columns.push(("Run".to_owned(), Align::Left));
        }
        columns.push(("Model".to_owned(), Align::Left));
        let mut rows: Vec<Vec<String>> = (0..self.len()).map(|row| self.names(row)).collect();
        for name in self.shown_numbers() {
            columns.push((header(&name, self.percent.contains(&name)), Align::Right));
            for (index, row) in rows.iter_mut().enumerate() {
                row.push(self.cell(&name, index));
            }
        }
        Table::new(columns, rows)
    }

    fn names(&self, row: usize) -> Vec<String> {
        let rank = self.number("rank", row).map(|rank| fixed(rank, 0));
        let run = (self.distinct("run") > 1).then(|| self.text("run", row).unwrap_or_default().to_owned());
        let model = self.text("model", row).map(str::to_owned);
        rank.into_iter().chain(run).chain(model).collect()
    }

    /// The columns of numbers that get a column of their own in a table for people: the known ones, and of others
    /// those of which more is better. The files have all.
    fn shown_numbers(&self) -> Vec<String> {
        let names = self.frame.columns().iter().map(|column| column.name().as_str()).filter(|name| !INSIDE_OTHERS.contains(name));
        match &self.shown {
            Some(shown) => names.filter(|name| shown.iter().any(|wanted| wanted == name)).map(str::to_owned).collect(),
            None => {
                // A part of a number, on one data set or by one of several reward models, has tables of its own.
                let is_part = |name: &str| name.contains('/');
                let shown = |name: &&str| KNOWN_COLUMNS.contains(name) || self.qualities.contains(*name) && !is_part(name);
                names.filter(shown).map(str::to_owned).collect()
            }
        }
    }

    fn cell(&self, name: &str, row: usize) -> String {
        let Some(value) = self.number(name, row) else { return String::new() };
        let write = |value: f64| match name {
            _ if is_count(name) => fixed(value, 0),
            "win_rate" | "standard_error" | "discrete_win_rate" | "length_controlled_winrate" => fixed(value, 2),
            "elo" => fixed(value, 0),
            "p_above" => fixed(value, 3),
            "detectable_difference" | "price_per_1000" => fixed(value, 2),
            "mean_reward" => fixed(value, 3),
            _ if self.percent.contains(name) => fixed(value, 2),
            _ if INTERVALS.iter().any(|(low, ..)| *low == name) => fixed(value, 1),
            _ => significant(value),
        };
        if let Some((_, high, _)) = INTERVALS.iter().find(|(low, ..)| *low == name) {
            let high = self.number(high, row).unwrap_or(value);
            return format!("{} – {}", write(value), write(high));
        }
        let error = match name {
            "win_rate" => None, // has its own column
            "elo" => {
                let half = self.number("elo_high", row).zip(self.number("elo_low", row)).map(|(high, low)| (high - low) / 2.0);
                return half.map_or_else(|| write(value), |half| format!("{} ± {}", write(value), write(half)));
            }
            "p_above" if value < 0.000_5 => return "< 0.001".to_owned(),
            "length_controlled_winrate" => self.number("lc_standard_error", row),
            _ => self.number(&format!("{name}_standard_error"), row),
        };
        match error {
            Some(error) => format!("{} ± {}", write(value), write(error)),
            None => write(value),
        }
    }

    /// Whether any row belongs to a run.
    fn has_runs(&self) -> bool {
        (0..self.len()).any(|row| self.text("run", row).is_some_and(|run| !run.is_empty()))
    }

    fn distinct(&self, column: &str) -> usize {
        (0..self.len()).filter_map(|row| self.text(column, row)).collect::<BTreeSet<_>>().len()
    }

    fn column(&self, name: &str) -> Result<&Column> {
        self.frame.column(name).map_err(frame_error)
    }

    fn column_or_empty(&self, name: &str) -> Column {
        match self.frame.column(name) {
            Ok(column) => column.clone(),
            Err(_) => Column::full_null(name.into(), self.len(), &DataType::Float64),
        }
    }
}

/// The rows to be of one run.
pub(crate) fn entries_of(run: &RunFiles) -> Vec<Entry> {
    let entry = |method: crate::Repetitions<'_>| {
        let mut reports = method.reports();
        if !reports.is_empty() {
            reports.extend(crate::divergence::report(run, &method));
        }
        Entry { run: run.name.clone(), model: method.name.to_owned(), reports }
    };
    run.by_method().into_iter().map(entry).filter(|entry| !entry.reports.is_empty()).collect()
}

/// The rows by a column, the highest number first, with their rank in front.
fn ranked(frame: &DataFrame, column: &str) -> Result<DataFrame> {
    let order = SortMultipleOptions::default()
        .with_order_descending_multi([true, false, false])
        .with_nulls_last(true)
        .with_maintain_order(true);
    let frame = frame.sort([column, "model", "run"], order).map_err(frame_error)?;
    frame.with_row_index("rank".into(), Some(1)).map_err(frame_error)
}

fn number(column: &Column, row: usize) -> Option<f64> {
    let value = column.get(row).ok()?;
    if value.is_null() { None } else { value.extract::<f64>() }
}

fn json_cell(column: &Column, row: usize) -> serde_json::Value {
    if let Ok(text) = column.str() {
        return text.get(row).into();
    }
    match number(column, row) {
        Some(value) if column.dtype().is_integer() => (value as i64).into(),
        value => value.into(),
    }
}

fn frame_error(error: PolarsError) -> Error {
    Error::other("the leaderboard's table cannot be made").with_source(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{self, metric, report_of};

    fn entry(run: &str, model: &str, win_rate: f64) -> Entry {
        Entry { run: run.into(), model: model.into(), reports: report_of(model, win_rate, 1.69, 805.0) }
    }

    #[test]
    fn the_best_comes_first_ties_by_name_and_unknown_last() {
        let mut nan = entry("r", "nan", f64::NAN);
        nan.reports[1].metrics.push(metric("mean_reward", 0.5));
        let entries = [nan, entry("r", "b", 50.0), entry("r", "c", 63.043), entry("r", "a", 50.0)];
        let board = Leaderboard::from_entries(&entries).expect("made");
        let models: Vec<_> = (0..board.len()).map(|row| board.text("model", row).expect("named")).collect();
        assert_eq!(models, ["c", "a", "b", "nan"]);
        assert_eq!(board.number("win_rate", 3), None);
        assert_eq!(
            board.markdown(),
            "\
| Rank | Model | Win rate (%) |   SE | 95 % interval |   n | Length (chars) | Mean reward |
| ---: | :---- | -----------: | ---: | ------------: | --: | -------------: | ----------: |
|    1 | c     |        63.04 | 1.69 |   59.7 – 66.4 | 805 |            805 |             |
|    2 | a     |        50.00 | 1.69 |   46.7 – 53.3 | 805 |            805 |             |
|    3 | b     |        50.00 | 1.69 |   46.7 – 53.3 | 805 |            805 |             |
|    4 | nan   |              |      |               |     |            805 |       0.500 |
"
        );
    }

    #[test]
    fn a_run_directory_makes_these_files() {
        let dir = fixture::run();
        let board = Leaderboard::load(&[dir.path()]).expect("loaded");
        assert_eq!(
            board.terminal(),
            "\
Rank  Model      Win rate (%)     SE  95 % interval  Discrete (%)  Wins  Losses  Ties  n  Failed  Length (chars)     Mean reward
────  ─────────  ────────────  ─────  ─────────────  ────────────  ────  ──────  ────  ─  ──────  ──────────────  ──────────────
   1  ppo               60.71  17.13    27.1 – 94.3         64.29     4       2     1  7       1              47   0.214 ± 0.125
   2  best_of_n         46.43  17.62    11.9 – 81.0         50.00     3       3     1  7       1              40  -0.071 ± 0.125
   3  dpo               46.43  17.62    11.9 – 81.0         50.00     3       3     1  7       1              34  -0.071 ± 0.125
   4  sft               32.14  16.10     0.6 – 63.7         35.71     2       4     1  7       1              30  -0.357 ± 0.125
"
        );
        let csv = board.csv().expect("written");
        let header = csv.lines().next().expect("a header");
        assert_eq!(
            header,
            ",win_rate,standard_error,n_wins,n_wins_base,n_draws,n_total,discrete_win_rate,mode,avg_length,run,reference,annotator,\
             interval_low,interval_high,n_failed,mean_reward,kl,mean_reward_standard_error"
        );
        let row = csv.lines().nth(1).expect("a row");
        assert_eq!(
            row,
            "ppo,60.71428571428571,17.127969726116852,4,2,1,7,64.28571428571429,community,47,quick start,sft,pool,\
             27.144081922804304,94.28448950576711,1,0.2142857142857142,3.042,0.125"
        );
        let json: serde_json::Value = serde_json::from_str(&board.json()).expect("JSON");
        assert_eq!(json[0]["rank"], 1);
        assert_eq!(json[0]["n_failed"], 1);
    }

    #[test]
    fn several_runs_get_a_column_and_no_run_makes_an_empty_table() {
        let board = Leaderboard::from_entries(&[entry("one", "dpo", 60.0), entry("two", "dpo", 61.0)]).expect("made");
        assert!(board.markdown().starts_with("| Rank | Run | Model |"), "{}", board.markdown());
        let none = Leaderboard::from_entries(&[]).expect("made");
        assert!(none.is_empty());
        assert_eq!(none.markdown().lines().count(), 2);
        assert!(none.csv().expect("written").starts_with(",win_rate,"));
        assert_eq!(none.json(), "[]\n");
    }

    #[test]
    fn an_interval_that_is_not_given_is_normal_and_stays_a_percentage() {
        let mut rate = metric("win_rate", 99.0);
        (rate.unit, rate.std_error) = ("%".into(), Some(1.0));
        let [low, high] = interval(&rate).expect("an interval");
        assert!((low - 97.04).abs() < 0.001);
        assert_eq!(high, 100.0);
        rate.interval = Some([90.0, 99.5]);
        assert_eq!(interval(&rate), Some([90.0, 99.5]));
        (rate.interval, rate.std_error) = (None, None);
        assert_eq!(interval(&rate), None);
    }
}
