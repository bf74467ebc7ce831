//! Which judgements make a leaderboard: one judge's, against one baseline, one a model and instruction; and what was decided.

use std::collections::{BTreeMap, HashMap};

use farmhand_core::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::judgement_table::{JudgementTable, Names};

/// Names that a message lists at most.
const MOST_LISTED: usize = 10;

/// Whose judgements count.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Judge {
    /// The only judge's; several are an error.
    #[default]
    TheOnly,
    /// The judge's of this name.
    Named(String),
    /// Everybody's: each verdict counts, and those on one instruction hang together.
    All,
}

/// What becomes of a second verdict of a judge on the same model and instruction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Duplicates {
    /// It is an error.
    #[default]
    Refuse,
    /// The first one counts.
    First,
    /// The last one counts.
    Last,
    /// All count.
    All,
}

/// Something that was decided about the data, with how much of it is concerned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Decision {
    /// A stable label for scripts, for example `duplicates`.
    pub kind: &'static str,
    /// How many records, models or instructions it concerns.
    pub count: usize,
    /// The same for people.
    pub message: String,
}

/// The judgements of one model.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Judged {
    /// The model's number in the table.
    pub(crate) model: u32,
    /// Its rows in the table, in the files' order.
    pub(crate) rows: Vec<usize>,
}

/// What makes the leaderboard.
#[derive(Debug, Clone)]
pub(crate) struct Chosen {
    /// The judge's name, or how many there are.
    pub(crate) annotator: String,
    /// The baseline's name.
    pub(crate) baseline: String,
    /// The models, in the order in which they first come.
    pub(crate) judged: Vec<Judged>,
    pub(crate) decisions: Vec<Decision>,
}

/// What to choose.
#[derive(Debug, Clone, Default)]
pub(crate) struct Choice<'a> {
    pub(crate) judge: Judge,
    pub(crate) baseline: Option<&'a str>,
    pub(crate) duplicates: Duplicates,
    /// Count only instructions on which every model has a verdict.
    pub(crate) common_instructions: bool,
}

impl Chosen {
    /// Chooses.
    ///
    /// # Errors
    /// When there are several judges or baselines and none is chosen, a chosen one is not there, a judge judged something twice and
    /// that is not allowed, or nothing is left.
    pub(crate) fn of(table: &JudgementTable, choice: &Choice<'_>) -> Result<Self> {
        let mut decisions = bad_records(table);
        let (rows, annotator) = of_judge(table, &choice.judge, &mut decisions)?;
        let (rows, baseline) = of_baseline(table, rows, choice.baseline, &mut decisions)?;
        let rows = without_duplicates(table, rows, choice.duplicates, &mut decisions)?;
        let mut judged: Vec<Judged> = Vec::new();
        let mut places: HashMap<u32, usize> = HashMap::new();
        for row in rows {
            let model = table.model[row];
            let place = *places.entry(model).or_insert_with(|| {
                judged.push(Judged { model, rows: Vec::new() });
                judged.len() - 1
            });
            judged[place].rows.push(row);
        }
        let (judged, silent): (Vec<Judged>, Vec<Judged>) =
            judged.into_iter().partition(|judged| judged.rows.iter().any(|row| !table.preference[*row].is_nan()));
        if !silent.is_empty() {
            let message = format!("{} has no verdict at all and is left out", listed(table, silent.iter().map(|one| one.model)));
            decisions.push(Decision { kind: "models_without_verdict", count: silent.len(), message });
        }
        if judged.is_empty() {
            return Err(Error::invalid_data("no comparison has a verdict"));
        }
        let judged = on_instructions(table, judged, choice.common_instructions, &mut decisions)?;
        let n_failed = judged.iter().flat_map(|one| &one.rows).filter(|row| table.preference[**row].is_nan()).count();
        if n_failed > 0 {
            let message = format!("{n_failed} comparisons have no verdict; they are counted as failed and in no win rate");
            decisions.push(Decision { kind: "no_verdict", count: n_failed, message });
        }
        Ok(Self { annotator, baseline, judged, decisions })
    }
}

/// Bad records that reading left out.
fn bad_records(table: &JudgementTable) -> Vec<Decision> {
    let files = table.files().iter().filter(|report| report.n_bad > 0);
    let decision = |report: &farmhand_core::data::ReadReport| {
        let first = report.bad.first().map(|bad| format!("; {}: {}", bad.location, bad.message)).unwrap_or_default();
        let message =
            format!("`{}`: {} bad records of {} are left out{first}", report.path.display(), report.n_bad, report.n_records);
        Decision { kind: "bad_records", count: report.n_bad, message }
    };
    files.map(decision).collect()
}

/// How often each name comes among numbers of names.
fn counts(numbers: impl Iterator<Item = u32>, names: &Names) -> BTreeMap<&str, usize> {
    let mut counts = vec![0; names.len()];
    numbers.for_each(|number| counts[number as usize] += 1);
    names.iter().zip(counts).filter(|(_, n)| *n > 0).collect()
}

/// Names with their counts, of many only the first.
fn with_counts(counts: &BTreeMap<&str, usize>) -> String {
    let shown = counts.iter().take(MOST_LISTED).map(|(name, n)| format!("`{name}` ({n})")).collect::<Vec<_>>().join(", ");
    match counts.len().saturating_sub(MOST_LISTED) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

fn of_judge(table: &JudgementTable, judge: &Judge, decisions: &mut Vec<Decision>) -> Result<(Vec<usize>, String)> {
    let counts = counts(table.annotator.iter().copied(), &table.annotators);
    let listed = || with_counts(&counts);
    match (judge, counts.len()) {
        (Judge::Named(name), n) => {
            let Some(number) = table.annotators.find(name).filter(|_| counts.contains_key(name.as_str())) else {
                return Err(Error::missing_input(format!("no judgement is by `{name}`"))
                    .with_hint(format!("the judges are {}", listed())));
            };
            let rows: Vec<usize> = (0..table.len()).filter(|row| table.annotator[*row] == number).collect();
            if n > 1 {
                let count = table.len() - rows.len();
                decisions.push(Decision {
                    kind: "other_judges",
                    count,
                    message: format!("{count} judgements by others than `{name}` are left out"),
                });
            }
            Ok((rows, name.clone()))
        }
        (_, 0) => Err(Error::missing_input("there are no judgements")),
        (_, 1) => Ok(((0..table.len()).collect(), counts.keys().next().copied().unwrap_or_default().to_owned())),
        (Judge::TheOnly, n) => {
            let other = (0..table.len()).find(|row| table.annotator[*row] != table.annotator[0]).unwrap_or_default();
            let message = format!("the judgements are by {n} judges: {}; the second one first {}", listed(), place(table, other));
            Err(Error::invalid_data(message).with_hint("choose one with `--judge NAME`, or take all together with `--judge all`"))
        }
        (Judge::All, n) => {
            let message = format!("the verdicts of {n} judges are taken together: {}", listed());
            decisions.push(Decision { kind: "several_judges", count: n, message });
            Ok(((0..table.len()).collect(), format!("{n} annotators")))
        }
    }
}

fn of_baseline(
    table: &JudgementTable,
    rows: Vec<usize>,
    wanted: Option<&str>,
    decisions: &mut Vec<Decision>,
) -> Result<(Vec<usize>, String)> {
    let counts = counts(rows.iter().map(|row| table.baseline[*row]), &table.baselines);
    let listed = with_counts(&counts);
    match wanted {
        Some(name) => {
            let Some(number) = table.baselines.find(name).filter(|_| counts.contains_key(name)) else {
                return Err(Error::missing_input(format!("no judgement is against `{name}`"))
                    .with_hint(format!("the baselines are {listed}")));
            };
            let n = rows.len();
            let rows: Vec<usize> = rows.into_iter().filter(|row| table.baseline[*row] == number).collect();
            let count = n - rows.len();
            if count > 0 {
                let message = format!("{count} judgements against other baselines than `{name}` are left out");
                decisions.push(Decision { kind: "other_baselines", count, message });
            }
            Ok((rows, name.to_owned()))
        }
        None if counts.len() > 1 => {
            let first = table.baseline[rows[0]];
            let other = rows.iter().find(|row| table.baseline[**row] != first).copied().unwrap_or_default();
            let message = format!(
                "the judgements are against {} baselines: {listed}; the second one first {}",
                counts.len(),
                place(table, other)
            );
            Err(Error::invalid_data(message)
                .with_hint("win rates against different baselines do not compare; choose one with `--baseline NAME`"))
        }
        None => Ok((rows, counts.keys().next().copied().unwrap_or_default().to_owned())),
    }
}

fn without_duplicates(
    table: &JudgementTable,
    rows: Vec<usize>,
    duplicates: Duplicates,
    decisions: &mut Vec<Decision>,
) -> Result<Vec<usize>> {
    let mut kept = Kept::new(table, &rows);
    let mut count = 0;
    for row in &rows {
        let first = kept.first(*row);
        if first == *row {
            continue;
        }
        count += 1;
        if duplicates == Duplicates::Refuse {
            let question: String = table.instructions.name(table.instruction[*row]).chars().take(60).collect();
            let message = format!(
                "`{}` is judged twice on `{question}`: {} and {}",
                table.models.name(table.model[*row]),
                place(table, first),
                place(table, *row)
            );
            return Err(Error::invalid_data(message).with_hint(
                "give each file once; where a judge was really asked again, say `--duplicates first`, `last` or `all`",
            ));
        }
        if duplicates == Duplicates::Last {
            kept.replace(*row);
        }
    }
    if count == 0 {
        return Ok(rows);
    }
    let (what, rows) = match duplicates {
        Duplicates::All | Duplicates::Refuse => ("count beside the first ones", rows),
        Duplicates::First => {
            ("are left out; the first ones count", rows.into_iter().filter(|row| kept.first(*row) == *row).collect())
        }
        Duplicates::Last => ("replace the ones before", rows.into_iter().filter(|row| kept.first(*row) == *row).collect()),
    };
    decisions.push(Decision { kind: "duplicates", count, message: format!("{count} repeated verdicts {what}") });
    Ok(rows)
}

/// Which row counts for each model, judge and instruction.
struct Kept<'t> {
    table: &'t JudgementTable,
    /// The number of each pair of a model and a judge.
    groups: HashMap<(u32, u32), usize>,
    /// The group that was asked for last: files hold runs of the same one, or a few in turn.
    last: ((u32, u32), usize),
    rows: KeptRows,
}

enum KeptRows {
    /// Row + 1, 0 where there is none: `[groups, instructions]`.
    All(Vec<u32>),
    /// Where most of those would be empty.
    Few(HashMap<(usize, u32), usize>),
}

impl<'t> Kept<'t> {
    fn new(table: &'t JudgementTable, rows: &[usize]) -> Self {
        let mut kept =
            Self { table, groups: HashMap::new(), last: ((u32::MAX, u32::MAX), 0), rows: KeptRows::Few(HashMap::new()) };
        rows.iter().for_each(|row| _ = kept.group(*row));
        let n_places = kept.groups.len().saturating_mul(table.instructions.len());
        if n_places < 4 * rows.len() + 1_000_000 && u32::try_from(table.len()).is_ok_and(|n| n < u32::MAX) {
            kept.rows = KeptRows::All(vec![0; n_places]);
        }
        kept
    }

    fn group(&mut self, row: usize) -> usize {
        let names = (self.table.model[row], self.table.annotator[row]);
        if self.last.0 != names {
            let next = self.groups.len();
            self.last = (names, *self.groups.entry(names).or_insert(next));
        }
        self.last.1
    }

    /// The row that counts where this one might: this one, when none did before.
    fn first(&mut self, row: usize) -> usize {
        let (group, instruction) = (self.group(row), self.table.instruction[row]);
        match &mut self.rows {
            KeptRows::All(rows) => {
                let place = &mut rows[group * self.table.instructions.len() + instruction as usize];
                if *place == 0 {
                    *place = row as u32 + 1;
                }
                *place as usize - 1
            }
            KeptRows::Few(rows) => *rows.entry((group, instruction)).or_insert(row),
        }
    }

    /// From now on this row counts.
    fn replace(&mut self, row: usize) {
        let (group, instruction) = (self.group(row), self.table.instruction[row]);
        match &mut self.rows {
            KeptRows::All(rows) => rows[group * self.table.instructions.len() + instruction as usize] = row as u32 + 1,
            KeptRows::Few(rows) => _ = rows.insert((group, instruction), row),
        }
    }
}

/// Tells which models lack instructions that others have, or leaves those instructions out.
fn on_instructions(
    table: &JudgementTable,
    mut judged: Vec<Judged>,
    common: bool,
    decisions: &mut Vec<Decision>,
) -> Result<Vec<Judged>> {
    let mut seen = vec![false; table.instructions.len()];
    let mut judged_on = |one: &Judged, with_verdict: bool| -> Vec<u32> {
        let rows = one.rows.iter().filter(|row| !with_verdict || !table.preference[**row].is_nan());
        rows.for_each(|row| seen[table.instruction[*row] as usize] = true);
        (0..).zip(&mut seen).filter_map(|(one, seen)| std::mem::take(seen).then_some(one)).collect()
    };
    let sets: Vec<Vec<u32>> = judged.iter().map(|one| judged_on(one, common)).collect();
    // On how many models each instruction is: `[instructions]`.
    let mut n_models = vec![0; table.instructions.len()];
    sets.iter().flatten().for_each(|one| n_models[*one as usize] += 1);
    let n_all = n_models.iter().filter(|n| **n > 0).count();
    let lacking: Vec<(u32, usize)> =
        judged.iter().zip(&sets).map(|(one, set)| (one.model, n_all - set.len())).filter(|(_, n)| *n > 0).collect();
    if lacking.is_empty() {
        return Ok(judged);
    }
    if !common {
        let named: Vec<String> =
            lacking.iter().take(3).map(|(model, n)| format!("`{}` {n}", table.models.name(*model))).collect();
        let more = if lacking.len() > 3 { ", …" } else { "" };
        let message = format!(
            "{} of {} models lack some of the {} instructions that others are judged on ({}{more}); each counts its own",
            lacking.len(),
            judged.len(),
            n_all,
            named.join(", ")
        );
        decisions.push(Decision { kind: "different_instructions", count: lacking.len(), message });
        return Ok(judged);
    }
    let is_shared = |instruction: u32| n_models[instruction as usize] == judged.len();
    let n_shared = n_models.iter().filter(|n| **n == judged.len()).count();
    if n_shared == 0 {
        return Err(Error::invalid_data("no instruction has a verdict on every model")
            .with_hint("leave `--common-instructions` out, or give files of the same instructions"));
    }
    let count = n_all - n_shared;
    let message = format!("{count} of {n_all} instructions are left out: not every model has a verdict on them");
    decisions.push(Decision { kind: "instructions_left_out", count, message });
    let shared: Vec<bool> = (0..n_models.len() as u32).map(is_shared).collect();
    judged.iter_mut().for_each(|one| one.rows.retain(|row| shared[table.instruction[*row] as usize]));
    Ok(judged)
}

/// Where a row stands: its file and its place among the records.
fn place(table: &JudgementTable, row: usize) -> String {
    format!("in `{}`, record {}", table.path_of(row).display(), table.position[row] + 1)
}

fn listed(table: &JudgementTable, models: impl Iterator<Item = u32>) -> String {
    models.map(|model| format!("`{}`", table.models.name(model))).collect::<Vec<_>>().join(", ")
}
