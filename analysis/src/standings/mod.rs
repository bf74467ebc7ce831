//! A leaderboard out of files of judgements: many models, one judge, one baseline.
//!
//! Win rates, counts and standard errors are AlpacaEval's to the digit. Beside them stand intervals that count instructions and not
//! verdicts, each model's test against the one above it, Elo points with the ranks a model may have, and the length-controlled
//! win rate. What was decided about doubtful data is told in [`Decision`]s.

mod chosen;
mod comparisons;
mod draws;
mod measures;

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use farmhand_core::types::{EvalReport, Metric};
use farmhand_core::{Error, Result, Seed};
use farmhand_evaluators::estimate::{NORMAL_975, plain_metric};
use farmhand_evaluators::length_controlled::is_extreme;
use serde::Serialize;

pub(crate) use chosen::{Choice, Chosen, Judged};
pub use chosen::{Decision, Duplicates, Judge};
use comparisons::ByInstruction;
pub use comparisons::Power;
use draws::Draws;

use crate::judgement_table::{JudgementTable, OutputLengths};
use crate::leaderboard::{Entry, Leaderboard};
use crate::length_control::{self, ControlledLengths, LengthControl, WeightTable};

/// A group of columns of a leaderboard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// Win rate, standard error, and the interval of resampled instructions.
    WinRate,
    /// The length-controlled win rate, AlpacaEval's standard error, and the interval that counts estimation.
    LengthControlled,
    /// Graded verdicts as whole ones, with the exact interval.
    Discrete,
    /// Wins, losses and ties.
    Counts,
    /// Verdicts and failures.
    Totals,
    /// The mean length of the answers.
    Length,
    /// The test against the model above.
    Above,
    /// Elo points and the ranks a model may have.
    Elo,
    /// The smallest difference from the model above that so many instructions show.
    Detectable,
    /// Price and time of the judge.
    Cost,
    /// The win rate on each data set.
    Datasets,
}

impl Measure {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::WinRate,
        Self::LengthControlled,
        Self::Discrete,
        Self::Counts,
        Self::Totals,
        Self::Length,
        Self::Above,
        Self::Elo,
        Self::Detectable,
        Self::Cost,
        Self::Datasets,
    ];

    /// What a leaderboard shows unless told otherwise; length control comes in where it is asked for.
    pub const USUAL: [Self; 5] = [Self::WinRate, Self::Discrete, Self::Totals, Self::Length, Self::Above];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::WinRate => "win_rate",
            Self::LengthControlled => "length_controlled",
            Self::Discrete => "discrete",
            Self::Counts => "counts",
            Self::Totals => "totals",
            Self::Length => "length",
            Self::Above => "above",
            Self::Elo => "elo",
            Self::Detectable => "detectable",
            Self::Cost => "cost",
            Self::Datasets => "datasets",
        }
    }

    /// The columns it shows in a table for people.
    fn columns(self) -> &'static [&'static str] {
        match self {
            Self::WinRate => &["win_rate", "standard_error", "interval_low"],
            Self::LengthControlled => &["length_controlled_winrate", "length_controlled_winrate_low"],
            Self::Discrete => &["discrete_win_rate", "discrete_win_rate_low"],
            Self::Counts => &["n_wins", "n_wins_base", "n_draws"],
            Self::Totals => &["n_total", "n_failed"],
            Self::Length => &["avg_length"],
            Self::Above => &["p_above"],
            Self::Elo => &["elo", "rank_low"],
            Self::Detectable => &["detectable_difference"],
            Self::Cost => &["price_per_1000", "secs_per_1000"],
            Self::Datasets => &[],
        }
    }
}

impl FromStr for Measure {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|measure| measure.name() == name).ok_or_else(|| {
            let known: Vec<&str> = Self::ALL.iter().map(|measure| measure.name()).collect();
            Error::invalid_config(format!("no metric `{name}`; there are `{}`", known.join("`, `")))
        })
    }
}

/// What a leaderboard is made of.
#[derive(Debug, Clone)]
pub struct StandingsOptions {
    /// Whose judgements count.
    pub judge: Judge,
    /// Against which baseline; `None`: the only one.
    pub baseline: Option<String>,
    /// What becomes of repeated verdicts.
    pub duplicates: Duplicates,
    /// Count only instructions on which every model has a verdict.
    pub common_instructions: bool,
    /// What is measured and shown.
    pub measures: BTreeSet<Measure>,
    /// How lengths are controlled; `None`: not at all.
    pub length_control: Option<LengthControl>,
    /// The column to rank by; `None`: the length-controlled win rate where there is one, otherwise the win rate.
    pub rank_by: Option<String>,
    /// Resamples of the instructions for intervals; 0: normal intervals.
    pub n_resamples: usize,
    /// Seed of the resamples.
    pub seed: u64,
    /// The difference, in percentage points, for which the instructions it takes are told.
    pub power_for: Option<f64>,
}

impl Default for StandingsOptions {
    fn default() -> Self {
        Self {
            judge: Judge::default(),
            baseline: None,
            duplicates: Duplicates::default(),
            common_instructions: false,
            measures: Measure::USUAL.into(),
            length_control: None,
            rank_by: None,
            n_resamples: 1000,
            seed: 0,
            power_for: None,
        }
    }
}

/// A leaderboard and what is known about how it came to be.
#[derive(Debug, Clone)]
pub struct Standings {
    /// One row a model.
    pub leaderboard: Leaderboard,
    /// The judge's name, or how many there were.
    pub annotator: String,
    /// The baseline's name.
    pub baseline: String,
    /// What was decided about doubtful data.
    pub decisions: Vec<Decision>,
    /// What length control gave.
    pub length_control: Option<ControlledLengths>,
    /// The weights of the length-controlled fits; empty without.
    pub weights: WeightTable,
    /// The baseline's Elo points, where Elo was asked for.
    pub baseline_elo: Option<f64>,
    /// How many instructions a difference takes, where that was asked for.
    pub power: Option<Power>,
}

impl Standings {
    /// Makes the leaderboard of a table. `outputs` are the lengths of the models' own answers, where they were given; `progress`
    /// is told how many models are done and how many there are.
    ///
    /// # Errors
    /// When several judges or baselines are mixed and none is chosen, a judge judged something twice, nothing has a verdict, or what
    /// length control needs is missing.
    pub fn of(
        table: &JudgementTable,
        outputs: &OutputLengths,
        options: &StandingsOptions,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Self> {
        let choice = Choice {
            judge: options.judge.clone(),
            baseline: options.baseline.as_deref(),
            duplicates: options.duplicates,
            common_instructions: options.common_instructions,
        };
        let mut chosen = Chosen::of(table, &choice)?;
        let n = chosen.judged.len();
        let seed = Seed::root(options.seed).child("instructions", 0);
        let mut metrics: Vec<Vec<Metric>> = Vec::with_capacity(n);
        let draws = Draws::of(table, &chosen, options.measures.contains(&Measure::Datasets), options.n_resamples, seed);
        for (i, one) in chosen.judged.iter().enumerate() {
            let mut of_model = measures::win_rates(table, one, draws.interval(i, None));
            let given = outputs.of(table.models.name(one.model)).map(|(total, n)| measures::mean_length(total, n));
            of_model.extend(given.or_else(|| measures::judged_length(table, one)));
            if options.measures.contains(&Measure::Cost) {
                of_model.extend(measures::costs(table, one));
            }
            if options.measures.contains(&Measure::Datasets) {
                of_model.extend(measures::by_dataset(table, one, |dataset| draws.interval(i, Some(dataset))));
            }
            metrics.push(of_model);
        }
        let mut lengths = None;
        if let Some(control) = &options.length_control {
            let controlled = length_control::control_lengths(table, &chosen, control, &mut |done| progress(done, n))?;
            for (i, fit) in controlled.fits.iter().enumerate() {
                metrics[i].extend(length_controlled(fit.as_ref(), chosen.judged[i].rows.len()));
            }
            chosen.decisions.extend(extreme(table, &chosen, &metrics));
            lengths = Some(controlled);
        }
        let rank_by = options.rank_by.clone().unwrap_or_else(|| {
            let column = if lengths.is_some() { "length_controlled_winrate" } else { "win_rate" };
            column.to_owned()
        });
        let order = order(table, &chosen, &metrics, &rank_by);
        let compared: Vec<ByInstruction> = chosen
            .judged
            .iter()
            .enumerate()
            .map(|(i, one)| match lengths.as_ref().filter(|_| rank_by == "length_controlled_winrate") {
                Some(controlled) => influences(controlled, i),
                None => ByInstruction::verdicts(table, &one.rows),
            })
            .collect();
        let ranked: Vec<&ByInstruction> = order.iter().map(|i| &compared[*i]).collect();
        for (i, found) in order.iter().zip(comparisons::against_above(&ranked)) {
            metrics[*i].extend(found);
        }
        let power = match options.power_for {
            Some(points) => {
                let verdicts: Vec<ByInstruction> =
                    order.iter().map(|i| ByInstruction::verdicts(table, &chosen.judged[*i].rows)).collect();
                comparisons::power_for(points, &verdicts.iter().collect::<Vec<_>>())
            }
            None => None,
        };
        let mut baseline_elo = None;
        if options.measures.contains(&Measure::Elo) {
            let (places, of_baseline) = comparisons::elo(table, &chosen)?;
            places.into_iter().zip(&mut metrics).for_each(|(place, metrics)| metrics.extend(place));
            baseline_elo = of_baseline;
        }
        let wanted = options.length_control.as_ref().map_or(&[][..], |control| &control.covariates);
        let weights =
            lengths.as_ref().map(|lengths| length_control::weights(table, &chosen, lengths, wanted)).unwrap_or_default();
        let leaderboard = board(table, &chosen, metrics, options, &rank_by)?;
        let Chosen { annotator, baseline, decisions, .. } = chosen;
        Ok(Self { leaderboard, annotator, baseline, decisions, length_control: lengths, weights, baseline_elo, power })
    }
}

/// The numbers of one model as a leaderboard with the wanted columns.
fn board(
    table: &JudgementTable,
    chosen: &Chosen,
    metrics: Vec<Vec<Metric>>,
    options: &StandingsOptions,
    rank_by: &str,
) -> Result<Leaderboard> {
    let mut shown: Vec<String> =
        options.measures.iter().flat_map(|measure| measure.columns()).map(|name| (*name).to_owned()).collect();
    if options.measures.contains(&Measure::Datasets) {
        shown.extend(metrics.iter().flatten().filter(|metric| metric.name.starts_with("win_rate_")).map(|m| m.name.clone()));
    }
    let entry = |(one, metrics): (&Judged, Vec<Metric>)| {
        let model = table.models.name(one.model).to_owned();
        let (reference, annotator) = (Some(chosen.baseline.clone()), Some(chosen.annotator.clone()));
        Entry { run: String::new(), model: model.clone(), reports: vec![EvalReport { model, reference, annotator, metrics }] }
    };
    let entries: Vec<Entry> = chosen.judged.iter().zip(metrics).map(entry).collect();
    Ok(Leaderboard::from_entries(&entries)?.ranked_by(rank_by)?.showing(shown))
}

/// The length-controlled win rate of a fit, in %; of the baseline against itself 50.
fn length_controlled(fit: Option<&farmhand_evaluators::length_controlled::Fit>, n: usize) -> Vec<Metric> {
    let rate = |value: f64, std_error: Option<f64>, interval| Metric {
        name: "length_controlled_winrate".to_owned(),
        value,
        std_error,
        interval,
        n,
        unit: "%".to_owned(),
        higher_is_better: Some(true),
    };
    let Some(fit) = fit else { return vec![rate(50.0, Some(0.0), Some([50.0, 50.0]))] };
    let value = 100.0 * fit.win_rate;
    let with_estimation = fit.std_error_with_estimation.map(|error| 100.0 * error);
    let ends = with_estimation.map(|error| [-NORMAL_975, NORMAL_975].map(|z| (value + z * error).clamp(0.0, 100.0)));
    let mut metrics = vec![rate(value, fit.std_error.map(|error| 100.0 * error), ends)];
    metrics.extend(with_estimation.map(|error| plain_metric("lc_standard_error_with_estimation", error, n, "points", None)));
    metrics.push(plain_metric("lc_c", fit.c, n, "", None));
    metrics
}

fn value(metrics: &[Metric], name: &str) -> Option<f64> {
    metrics.iter().find(|metric| metric.name == name).map(|metric| metric.value).filter(|value| value.is_finite())
}

/// Win rates that length control moves further than AlpacaEval finds believable.
fn extreme(table: &JudgementTable, chosen: &Chosen, metrics: &[Vec<Metric>]) -> Option<Decision> {
    let moved = |(one, metrics): (&Judged, &Vec<Metric>)| {
        let (raw, controlled) = (value(metrics, "win_rate")?, value(metrics, "length_controlled_winrate")?);
        let words = format!("`{}` from {raw:.1} to {controlled:.1} %", table.models.name(one.model));
        is_extreme(raw / 100.0, controlled / 100.0).then_some(words)
    };
    let found: Vec<String> = chosen.judged.iter().zip(metrics).filter_map(moved).collect();
    let message = format!("length control moves win rates further than is usual: {}", found.join(", "));
    (!found.is_empty()).then_some(Decision { kind: "extreme_length_control", count: found.len(), message })
}

/// The models as a leaderboard ranks them: the best first, ties by name, those without a number last.
fn order(table: &JudgementTable, chosen: &Chosen, metrics: &[Vec<Metric>], rank_by: &str) -> Vec<usize> {
    let mut order: Vec<usize> = (0..metrics.len()).collect();
    let number = |i: &usize| value(&metrics[*i], rank_by).unwrap_or(f64::NEG_INFINITY);
    let name = |i: &usize| table.models.name(chosen.judged[*i].model);
    order.sort_by(|a, b| number(b).total_cmp(&number(a)).then_with(|| name(a).cmp(name(b))));
    order
}

/// What moves a model's length-controlled win rate, instruction by instruction, in points.
fn influences(controlled: &ControlledLengths, i: usize) -> ByInstruction {
    let Some(fit) = &controlled.fits[i] else {
        return ByInstruction::influences(50.0, controlled.instructions[i].iter().map(|instruction| (*instruction, 0.0)));
    };
    let influences = fit.influences.iter().flatten().map(|influence| 100.0 * influence);
    ByInstruction::influences(100.0 * fit.win_rate, controlled.instructions[i].iter().copied().zip(influences))
}

impl Standings {
    /// The numbers of a model by column, those that are there.
    pub fn numbers(&self, model: &str) -> BTreeMap<String, f64> {
        let board = &self.leaderboard;
        let row = (0..board.len()).find(|row| board.text("model", *row) == Some(model));
        let names = board.frame().columns().iter().map(|column| column.name().to_string());
        row.map(|row| names.filter_map(|name| Some((name.clone(), board.number(&name, row)?))).collect()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
