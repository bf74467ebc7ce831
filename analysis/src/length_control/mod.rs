//! Length control of a whole leaderboard: where the difficulties come from, how they are joined, what each fit gave.

mod published;
mod weights;

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use farmhand_core::run::write_atomic;
use farmhand_core::{Error, Result};
use farmhand_evaluators::length_controlled::covariates::Covariate;
use farmhand_evaluators::length_controlled::{
    Fit, Instance, JudgedModel, ModelWeights, RegulariserRow, estimate_difficulty, fit,
};
use serde::Serialize;

pub use published::PublishedLengthControl;
pub use weights::WeightTable;

use crate::csv_rows::cell;
use crate::judgement_table::JudgementTable;
use crate::standings::{Chosen, Judged};

/// The standard deviation that estimated difficulties are expected to have, in logits: that of AlpacaEval's published ones.
const PRIOR_SD: f64 = 1.5;
/// Whose answers the published vectors were made with.
const PUBLISHED_BASELINE: &str = "gpt4_1106_preview";
/// So many models at least tell a hard instruction from a bad answer.
const FEWEST_MODELS: usize = 3;

/// How a published difficulty finds its row.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Join {
    /// By the instruction.
    #[default]
    Instruction,
    /// By the row's place among the model's, as AlpacaEval does: off by some rows from the first missing one on.
    Row,
}

/// How lengths are controlled.
#[derive(Debug, Clone, Default)]
pub struct LengthControl {
    /// The published vectors; without them difficulties are estimated from the judgements of three models or more.
    pub published: Option<PublishedLengthControl>,
    /// How they are joined.
    pub join: Join,
    /// Models of the table that are verbose or concise versions of the baseline: their rows tie the slopes of length and
    /// difficulty down, in place of the published ones. Without published ones that fit, models called like the baseline with
    /// `_verbose` or `_concise` behind it are taken.
    pub gamed: Vec<String>,
    /// Further properties whose part is taken out.
    pub covariates: Vec<Covariate>,
}

/// Where difficulties came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DifficultySource {
    /// A folder of published ones.
    Published,
    /// The judgements themselves.
    Estimated,
    /// None are used.
    None,
}

/// What length control of a leaderboard gave.
#[derive(Debug, Clone)]
pub struct ControlledLengths {
    /// The fit of each model: `[models]`; `None` for the baseline against itself.
    pub(crate) fits: Vec<Option<Fit>>,
    /// The number of each instance's instruction: `[models, instances]`.
    pub(crate) instructions: Vec<Vec<u32>>,
    /// Where the difficulties came from.
    pub source: DifficultySource,
    /// How many rows tie the slopes down.
    pub n_regulariser: usize,
    /// How it was done, in words.
    pub how: String,
    /// Why the published vectors are not used, or are doubtful here, in words.
    pub misfit: Option<String>,
    /// Estimated difficulties with the instructions they belong to.
    pub estimated: Vec<(String, f64)>,
}

impl ControlledLengths {
    /// Writes estimated difficulties in the form of the published ones, with the instructions beside them.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn write_difficulties(&self, path: &Path) -> Result<()> {
        let mut text = "index,instruction_difficulty,instruction\n".to_owned();
        for (index, (instruction, difficulty)) in self.estimated.iter().enumerate() {
            text += &format!("{index},{difficulty:.16},{}\n", cell(instruction));
        }
        write_atomic(path, |out| out.write_all(text.as_bytes()).map_err(|error| Error::io("write", path, error)))
    }
}

/// Fits every model; `progress` is told how many are done.
///
/// # Errors
/// When lengths, texts or difficulties are missing, or a fit is refused.
pub(crate) fn control_lengths(
    table: &JudgementTable,
    chosen: &Chosen,
    options: &LengthControl,
    progress: &mut dyn FnMut(usize),
) -> Result<ControlledLengths> {
    let deltas: Vec<Vec<f64>> = chosen.judged.iter().map(|one| deltas(table, one)).collect::<Result<_>>()?;
    let covariates: Vec<Vec<Vec<f64>>> =
        chosen.judged.iter().map(|one| covariates(table, one, &options.covariates)).collect::<Result<_>>()?;
    let mut difficulties = Difficulties::of(table, chosen, &deltas, options)?;
    let mut regulariser = match (&options.published, difficulties.source) {
        (Some(published), DifficultySource::Published) => published.gamed.clone(),
        _ => Vec::new(),
    };
    let found = if regulariser.is_empty() { gamed_by_name(table, chosen) } else { Vec::new() };
    let gamed = if options.gamed.is_empty() { &found } else { &options.gamed };
    if !gamed.is_empty() {
        regulariser = own_regulariser(table, chosen, &deltas, &difficulties, gamed)?;
        difficulties.how += &format!("; `{}` in place of gamed baselines", gamed.join("`, `"));
    }
    if difficulties.source == DifficultySource::None {
        regulariser.iter_mut().for_each(|row| row.difficulty = 0.0);
    }
    let of_model = |i: usize| -> Result<Option<Fit>> {
        let one = &chosen.judged[i];
        if table.models().name(one.model) == chosen.baseline {
            return Ok(None);
        }
        let instance = |k: usize| Instance {
            delta_len: deltas[i][k],
            difficulty: difficulties.of_row(table, one, k),
            covariates: covariates[i][k].clone(),
            p_win: p_win(table, one.rows[k]),
        };
        let instances: Vec<Instance> = (0..one.rows.len()).map(instance).collect();
        let fitted = fit(&instances, &regulariser, None);
        fitted.map(Some).map_err(|error| error.context(format!("length control of `{}`", table.models().name(one.model))))
    };
    let fits = side_by_side(chosen.judged.len(), &of_model, progress).into_iter().collect::<Result<Vec<Option<Fit>>>>()?;
    let n_regulariser = regulariser.iter().filter(|row| row.p_win.is_some()).count();
    if n_regulariser == 0 {
        difficulties.how += "; nothing ties the slopes of length and difficulty down: judge a verbose and a concise version of \
                             the baseline too and name them with `--lc-gamed`";
    }
    let instructions = chosen.judged.iter().map(|one| one.rows.iter().map(|row| table.instruction[*row]).collect()).collect();
    Ok(ControlledLengths {
        fits,
        instructions,
        source: difficulties.source,
        n_regulariser,
        how: difficulties.how,
        misfit: difficulties.misfit,
        estimated: difficulties.estimated,
    })
}

/// What `work` gives for 0 to `n`, on as many threads as there are processors; `progress` is told how many are done.
fn side_by_side<T: Send>(n: usize, work: &(dyn Fn(usize) -> T + Sync), progress: &mut dyn FnMut(usize)) -> Vec<T> {
    let n_threads = std::thread::available_parallelism().map_or(1, |n| n.get()).min(n);
    let next = AtomicUsize::new(0);
    let mut results: Vec<Option<T>> = (0..n).map(|_| None).collect();
    std::thread::scope(|scope| {
        let (sender, receiver) = mpsc::channel();
        for _ in 0..n_threads {
            let (sender, next) = (sender.clone(), &next);
            scope.spawn(move || {
                while let Some(i) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|i| *i < n) {
                    if sender.send((i, work(i))).is_err() {
                        break;
                    }
                }
            });
        }
        drop(sender);
        for (done, (i, result)) in receiver.into_iter().enumerate() {
            results[i] = Some(result);
            progress(done + 1);
        }
    });
    results.into_iter().map(|result| result.expect("every number was taken once")).collect()
}

/// The weights of every fitted model, the baseline's all 0 in front.
pub(crate) fn weights(
    table: &JudgementTable,
    chosen: &Chosen,
    controlled: &ControlledLengths,
    wanted: &[Covariate],
) -> WeightTable {
    let mut weights = WeightTable::default();
    weights.set(&chosen.baseline, ModelWeights::default());
    for (one, fit) in chosen.judged.iter().zip(&controlled.fits) {
        if let Some(fit) = fit {
            let covariates = wanted.iter().map(|covariate| covariate.name().to_owned()).zip(fit.covariates.iter().copied());
            weights.set_with(table.models().name(one.model), fit.weights, covariates);
        }
    }
    weights
}

fn p_win(table: &JudgementTable, row: usize) -> Option<f64> {
    Some(table.preference[row] - 1.0).filter(|p| !p.is_nan())
}

/// The length of the baseline's answer minus the model's, of each row of a model.
fn deltas(table: &JudgementTable, one: &Judged) -> Result<Vec<f64>> {
    let delta = |row: &usize| {
        let judged = table.row(*row);
        let (Some(first), Some(second)) = (judged.len_1, judged.len_2) else {
            let (path, record) = (table.path_of(*row).display(), judged.position + 1);
            return Err(Error::missing_input(format!("`{path}`, record {record}: the lengths of the answers are not known"))
                .with_hint("length control needs `output_1` and `output_2`, or `len_1` and `len_2`, in every record"));
        };
        Ok(f64::from(first) - f64::from(second))
    };
    one.rows.iter().map(delta).collect()
}

/// The covariates of the baseline's answer minus those of the model's, of each row of a model.
fn covariates(table: &JudgementTable, one: &Judged, wanted: &[Covariate]) -> Result<Vec<Vec<f64>>> {
    let of_row = |row: &usize| {
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let judged = table.row(*row);
        let Some((first, second)) = judged.outputs else {
            let (path, record) = (table.path_of(*row).display(), judged.position + 1);
            return Err(Error::missing_input(format!("`{path}`, record {record}: the texts of the answers are not there"))
                .with_hint("`--lc-covariates` needs `output_1` and `output_2` in every record"));
        };
        Ok(wanted.iter().map(|one| one.of(judged.instruction, first) - one.of(judged.instruction, second)).collect())
    };
    one.rows.iter().map(of_row).collect()
}

/// The judged models whose names make them verbose or concise versions of the baseline, as AlpacaEval calls them.
fn gamed_by_name(table: &JudgementTable, chosen: &Chosen) -> Vec<String> {
    let names = ["verbose", "concise"].map(|how| format!("{}_{how}", chosen.baseline));
    let is_judged = |name: &String| chosen.judged.iter().any(|one| table.models().name(one.model) == name);
    names.into_iter().filter(is_judged).collect()
}

/// The difficulties of a leaderboard's rows.
struct Difficulties {
    source: DifficultySource,
    how: String,
    misfit: Option<String>,
    /// By the instruction's number, or by the row's place.
    values: Vec<f64>,
    by_row: bool,
    estimated: Vec<(String, f64)>,
}

impl Difficulties {
    fn of(table: &JudgementTable, chosen: &Chosen, deltas: &[Vec<f64>], options: &LengthControl) -> Result<Self> {
        let Some(published) = &options.published else { return Self::estimated(table, chosen, deltas) };
        let of = |values, by_row, how: String| {
            let how = format!("{} published difficulties, {how}", published.n_instructions());
            let misfit = (chosen.baseline != PUBLISHED_BASELINE).then(|| {
                format!(
                    "the published difficulties and gamed baselines belong to the baseline `{PUBLISHED_BASELINE}`, and these judgements \
                     are against `{}`; AlpacaEval uses them all the same",
                    chosen.baseline
                )
            });
            Self { source: DifficultySource::Published, how, misfit, values, by_row, estimated: Vec::new() }
        };
        if options.join == Join::Row {
            let longest = chosen.judged.iter().max_by_key(|one| one.rows.len());
            if let Some(one) = longest.filter(|one| one.rows.len() > published.n_instructions()) {
                let (name, n) = (table.models().name(one.model), one.rows.len());
                let message =
                    format!("`{name}` has {n} rows, but there are {} published difficulties", published.n_instructions());
                return Err(Error::invalid_data(message)
                    .with_hint("join by instruction, or leave `--lc-data` out to estimate difficulties"));
            }
            return Ok(of(published.difficulty.clone(), true, "joined by the rows' places, as AlpacaEval does".to_owned()));
        }
        let (places, how) = published.places(table)?;
        let mut values = vec![f64::NAN; table.instructions().len()];
        for (instruction, place) in places.into_iter().enumerate() {
            if let Some(difficulty) = place.and_then(|place| published.difficulty.get(place)) {
                values[instruction] = *difficulty;
            }
        }
        let mut without: Vec<u32> = chosen.judged.iter().flat_map(|one| &one.rows).map(|row| table.instruction[*row]).collect();
        without.sort_unstable();
        without.dedup();
        let n = without.len();
        without.retain(|instruction| values[*instruction as usize].is_nan());
        let Some(first) = without.first() else { return Ok(of(values, false, how)) };
        let question: String = table.instructions().name(*first).chars().take(60).collect();
        let message = format!("{} of {n} instructions have no published difficulty, for example `{question}`", without.len());
        let estimated = Self::estimated(table, chosen, deltas)?;
        if estimated.source == DifficultySource::None {
            return Err(Error::invalid_data(message).with_hint(
                "the published ones belong to AlpacaEval's 805; judgements of three models or more are enough to estimate them, \
                 and without `--lc-data` lengths are controlled without difficulties",
            ));
        }
        let misfit = format!("{message}: neither the published difficulties nor the gamed baselines are used");
        Ok(Self { misfit: Some(misfit), ..estimated })
    }

    fn estimated(table: &JudgementTable, chosen: &Chosen, deltas: &[Vec<f64>]) -> Result<Self> {
        let others: Vec<usize> =
            (0..chosen.judged.len()).filter(|i| table.models().name(chosen.judged[*i].model) != chosen.baseline).collect();
        if others.len() < FEWEST_MODELS {
            let how = format!("without difficulties: {} models are too few to estimate them from", others.len());
            let (values, estimated) = (Vec::new(), Vec::new());
            return Ok(Self { source: DifficultySource::None, how, misfit: None, values, by_row: false, estimated });
        }
        // The instructions that occur, numbered without gaps.
        let mut number: HashMap<u32, usize> = HashMap::new();
        let mut names: Vec<u32> = Vec::new();
        let mut models = Vec::with_capacity(others.len());
        for i in &others {
            let (one, scale) = (&chosen.judged[*i], one_over_sd(&deltas[*i]));
            let mut judged = JudgedModel::default();
            for (row, delta) in one.rows.iter().zip(&deltas[*i]) {
                let instruction = table.instruction[*row];
                let k = *number.entry(instruction).or_insert_with(|| {
                    names.push(instruction);
                    names.len() - 1
                });
                if let Some(p) = p_win(table, *row) {
                    judged.verdicts.push((k, (delta * scale).tanh(), p));
                }
            }
            models.push(judged);
        }
        let found = estimate_difficulty(&models, names.len(), PRIOR_SD)?;
        let mut values = vec![0.0; table.instructions().len()];
        for (instruction, difficulty) in names.iter().zip(&found.difficulty) {
            values[*instruction as usize] = *difficulty;
        }
        let estimated =
            names.iter().zip(&found.difficulty).map(|(i, d)| (table.instructions().name(*i).to_owned(), *d)).collect();
        let how = format!(
            "difficulties of {} instructions estimated from these {} models: not AlpacaEval's numbers",
            names.len(),
            models.len()
        );
        Ok(Self { source: DifficultySource::Estimated, how, misfit: None, values, by_row: false, estimated })
    }

    /// The difficulty of a model's k-th row.
    fn of_row(&self, table: &JudgementTable, one: &Judged, k: usize) -> Option<f64> {
        match self.source {
            DifficultySource::None => None,
            _ if self.by_row => self.values.get(k).copied(),
            _ => self.values.get(table.instruction[one.rows[k]] as usize).copied(),
        }
    }
}

/// The regulariser made of judged versions of the baseline.
fn own_regulariser(
    table: &JudgementTable,
    chosen: &Chosen,
    deltas: &[Vec<f64>],
    difficulties: &Difficulties,
    gamed: &[String],
) -> Result<Vec<RegulariserRow>> {
    let mut rows = Vec::new();
    for name in gamed {
        let Some(i) = chosen.judged.iter().position(|one| table.models().name(one.model) == name) else {
            return Err(Error::missing_input(format!("no judgement is on `{name}`, which is to tie the slopes of length down"))
                .with_hint("`--lc-gamed` names judged models: verbose or concise versions of the baseline"));
        };
        let (one, scale) = (&chosen.judged[i], one_over_sd(&deltas[i]));
        rows.extend((0..one.rows.len()).map(|k| RegulariserRow {
            std_delta_len: deltas[i][k] * scale,
            difficulty: difficulties.of_row(table, one, k).unwrap_or(0.0),
            p_win: p_win(table, one.rows[k]),
        }));
    }
    Ok(rows)
}

/// One over the sample standard deviation; 0 where all are equal.
fn one_over_sd(values: &[f64]) -> f64 {
    let sd = farmhand_evaluators::estimate::Estimate::of_mean(values)
        .and_then(|estimate| estimate.std_error)
        .map_or(0.0, |error| error * (values.len() as f64).sqrt());
    if sd > 0.0 { 1.0 / sd } else { 0.0 }
}
