//! Files of judgements into the table: AlpacaEval's annotations and the compact form fast, every other known form through
//! `farmhand_core`'s readers.

use std::path::Path;

use farmhand_core::data::{BadRecord, BadRecords, Location, ReadOptions, ReadReport, UNKNOWN_ANNOTATOR, read_judgements};
use farmhand_core::types::{Judgement, Outcome};
use farmhand_core::{Error, Result};

use super::line::{Cell, Item, Line};
use super::origin::{Instructions, Origin, read_instructions};
use super::records::{Flow, NOT_FINITE, Take, read_each, starts_with};
use super::{JudgementRow, JudgementTable, TableOptions};
use crate::parquet::read_parquet_records;

impl JudgementTable {
    /// Adds the judgements of a file: AlpacaEval's annotations (`instruction, output_1, generator_1, dataset, output_2,
    /// generator_2, annotator, preference, …`), the compact form (`index, preference, len_1, len_2, price, time`, with names from
    /// a `models.json` or the file's own), or any other form that [`read_judgements`] knows; JSON, JSON Lines, `.gz`, `.zst` or
    /// Parquet.
    ///
    /// # Errors
    /// When the file cannot be read or has no known form, a record is bad and bad records are not skipped, or nothing is left.
    pub fn read_file(&mut self, path: &Path, options: &TableOptions) -> Result<()> {
        let n_before = self.len();
        self.begin_file(path);
        let mut sink = Sink { origin: Origin::of(path)?, instructions: None, table: self, options, path, found: None };
        sink.file()?;
        let report = self.files.last().expect("begun");
        if self.len() == n_before {
            let mut message = format!("`{}` holds no judgements: {} records", path.display(), report.n_records);
            if let Some(bad) = report.bad.first() {
                message += &format!(", {} bad; {}: {}", report.n_bad, bad.location, bad.message);
            }
            return Err(Error::invalid_data(message));
        }
        Ok(())
    }
}

/// Takes the records of one file.
pub(super) struct Sink<'t> {
    pub(super) table: &'t mut JudgementTable,
    pub(super) options: &'t TableOptions,
    pub(super) path: &'t Path,
    pub(super) origin: Origin,
    /// Read when the first index without a text is met.
    instructions: Option<Instructions>,
    /// What the first record is.
    found: Option<Found>,
}

/// What kind of file the first record makes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    /// One that this reader knows.
    Flat,
    /// Another one.
    Other {
        /// Whether it looks like a judgement without a verdict.
        lacks_verdict: bool,
    },
}

impl Sink<'_> {
    fn file(&mut self) -> Result<()> {
        if starts_with(self.path, b"PAR1")? && self.parquet_columns()? {
            return Ok(());
        }
        let is_understood = read_each(self.path, self)?;
        match self.found {
            Some(Found::Other { lacks_verdict }) => self.other_form(lacks_verdict),
            // An object over several lines, a broken line, or no JSON: the thorough reader tells which.
            _ if !is_understood => self.other_form(false),
            _ => Ok(()),
        }
    }

    fn add(&mut self, line: &Line<'_>) -> Result<(), Trouble> {
        let preference = preference(&line.preference)?;
        let (output_1, output_2) = (text("output_1", &line.output_1)?, text("output_2", &line.output_2)?);
        let length = |name, cell: &Cell<'_>, output: Option<&str>| -> Result<Option<u32>, String> {
            let counted = output.map(|output| u32::try_from(output.chars().count()).unwrap_or(u32::MAX - 1));
            whole(name, cell).map(|given| given.or(counted))
        };
        let index = whole("index", &line.index)?;
        let (mut instruction, mut dataset) = (text("instruction", &line.instruction)?.map(str::to_owned), None);
        if let Some(input) = text("input", &line.input)?.filter(|input| !input.is_empty()) {
            instruction = instruction.map(|instruction| format!("{instruction}\n\n{input}"));
        }
        if let (None, Some(index)) = (&instruction, index) {
            let known = self.instructions()?.and_then(|list| list.get(index as usize).cloned());
            let (text, of) = known.unwrap_or_else(|| (format!("#{index}"), None));
            (instruction, dataset) = (Some(text), of);
        }
        let instruction = instruction.ok_or_else(|| "expected an `instruction` or an `index`, got neither".to_owned())?;
        let name = |name, cell: &Cell<'_>, origin: &str| text(name, cell).map(|given| given.unwrap_or(origin).to_owned());
        let (model, baseline) = (
            name("generator_2", &line.generator_2, &self.origin.model)?,
            name("generator_1", &line.generator_1, &self.origin.baseline)?,
        );
        let annotator = name("annotator", &line.annotator, &self.origin.annotator)?;
        let row = JudgementRow {
            model: &model,
            baseline: &baseline,
            annotator: &annotator,
            instruction: &instruction,
            index,
            dataset: text("dataset", &line.dataset)?.or(dataset.as_deref()),
            preference,
            len_1: length("len_1", &line.len_1, output_1)?,
            len_2: length("len_2", &line.len_2, output_2)?,
            price: first_number(line.price())?,
            time: first_number(line.time())?,
            position: self.next_position(),
            outputs: output_1.zip(output_2).filter(|_| self.options.texts),
        };
        self.table.push(&row);
        if preference.is_none() {
            self.report().n_no_verdict += 1;
        }
        Ok(())
    }

    /// A file of another form, through the readers of `farmhand_core`.
    fn other_form(&mut self, lacks_verdict: bool) -> Result<()> {
        let options =
            ReadOptions { bad_records: self.options.bad_records, parquet: Some(read_parquet_records), ..ReadOptions::default() };
        let (judgements, read) = read_judgements(self.path, &options).map_err(|error| {
            if !lacks_verdict {
                return error;
            }
            Error::invalid_data(format!("`{}`: the first record has no field `preference`", self.path.display())).with_hint(
                "1 says that the baseline's answer is better, 2 the model's, 1.5 or 0 neither, null that there is no verdict",
            )
        })?;
        for judgement in &judgements {
            self.add_judgement(judgement);
        }
        let n_no_verdict = judgements.iter().filter(|judgement| judgement.annotation().is_none()).count();
        *self.report() = ReadReport { n_no_verdict, ..read };
        Ok(())
    }

    fn add_judgement(&mut self, judgement: &Judgement) {
        let comparison = &judgement.comparison;
        let instruction = match &comparison.instruction.input {
            Some(input) => format!("{}\n\n{input}", comparison.instruction.instruction),
            None => comparison.instruction.instruction.clone(),
        };
        let (preference, annotator, price, time) = match &judgement.outcome {
            Outcome::Annotation(annotation) => (
                Some(1.0 + annotation.preference.p_second()),
                Some(annotation.annotator.as_str()),
                annotation.cost_usd,
                annotation.time_secs,
            ),
            Outcome::Failure(failure) => {
                let judging = &failure.judging;
                (None, judging.annotator.as_deref(), judging.cost_usd, judging.time_secs)
            }
        };
        let length = |text: &str| u32::try_from(text.chars().count()).ok();
        let row = JudgementRow {
            model: comparison.generator_2.as_deref().unwrap_or(&self.origin.model),
            baseline: comparison.generator_1.as_deref().unwrap_or(&self.origin.baseline),
            annotator: annotator.filter(|name| *name != UNKNOWN_ANNOTATOR).unwrap_or(&self.origin.annotator),
            instruction: &instruction,
            index: None,
            dataset: comparison.instruction.dataset.as_deref(),
            preference,
            len_1: length(&comparison.output_1),
            len_2: length(&comparison.output_2),
            price,
            time,
            position: self.next_position(),
            outputs: self.options.texts.then_some((comparison.output_1.as_str(), comparison.output_2.as_str())),
        };
        self.table.push(&row);
        let report = self.table.files.last_mut().expect("begun");
        report.n_records += 1;
    }

    pub(super) fn instructions(&mut self) -> Result<Option<Instructions>> {
        let (None, Some(path)) = (&self.instructions, &self.origin.instructions) else { return Ok(self.instructions.clone()) };
        let list = match self.table.lists.get(path) {
            Some(list) => list.clone(),
            None => read_instructions(path)?,
        };
        self.table.lists.insert(path.clone(), list.clone());
        self.instructions = Some(list);
        Ok(self.instructions.clone())
    }

    pub(super) fn report(&mut self) -> &mut ReadReport {
        self.table.files.last_mut().expect("begun")
    }

    /// The record's place among the records of the file.
    pub(super) fn next_position(&self) -> u32 {
        let n = self.table.files.last().map_or(0, |report| report.n_records);
        u32::try_from(n).unwrap_or(u32::MAX)
    }
}

impl Take for Sink<'_> {
    /// Takes a record; the first decides what the file is, and is not taken when the file is of another form.
    fn take(&mut self, location: Location, item: Item<'_>) -> Result<Flow> {
        let line = match item {
            Item::Line(line) => line,
            Item::Other(kind) => {
                self.bad(location, format!("expected an object, got {kind}"))?;
                return Ok(Flow::GoOn);
            }
        };
        if self.found.is_none() {
            let other = Found::Other { lacks_verdict: line.lacks_verdict() };
            self.found = Some(if line.is_flat() { Found::Flat } else { other });
        }
        if self.found != Some(Found::Flat) {
            return Ok(Flow::Stop);
        }
        match self.add(&line) {
            Ok(()) => self.report().n_records += 1,
            Err(Trouble::Record(message)) => self.bad(location, message)?,
            Err(Trouble::File(error)) => return Err(error),
        }
        Ok(Flow::GoOn)
    }

    /// Stops at a bad record, or counts it.
    fn bad(&mut self, location: Location, message: String) -> Result<()> {
        if self.options.bad_records == BadRecords::Stop {
            let message = format!("`{}`, {location}: {message}", self.path.display());
            let hint = if message.contains(NOT_FINITE) {
                "write null where there is no number"
            } else {
                "mend the record, or leave bad ones out with `--skip-bad-records`, which counts them"
            };
            return Err(Error::invalid_data(message).with_hint(hint));
        }
        let report = self.report();
        report.n_records += 1;
        report.n_bad += 1;
        if report.bad.len() < ReadReport::LISTED {
            report.bad.push(BadRecord { location, message });
        }
        Ok(())
    }
}

/// What may be wrong: the record alone, or something that ends the reading.
pub(super) enum Trouble {
    Record(String),
    File(Error),
}

impl From<String> for Trouble {
    fn from(message: String) -> Self {
        Self::Record(message)
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::File(error)
    }
}

/// The verdict as a code from 1 to 2; `None` without one (`null`, or −1 as AlpacaEval's cache has it).
pub(super) fn preference(cell: &Cell<'_>) -> Result<Option<f64>, String> {
    match cell {
        Cell::Null => Ok(None),
        Cell::Number(-1.0) => Ok(None),
        Cell::Number(0.0) => Ok(Some(1.5)),
        Cell::Number(code) if (1.0..=2.0).contains(code) => Ok(Some(*code)),
        Cell::Number(code) => {
            Err(format!("field `preference`: expected 1 to 2, 0 for a tie, or null for no verdict, got {code}"))
        }
        Cell::Absent => Err("no field `preference`".to_owned()),
        other => Err(format!("field `preference`: expected a number or null, got {}", other.kind())),
    }
}

fn text<'c>(name: &str, cell: &'c Cell<'_>) -> Result<Option<&'c str>, String> {
    match cell {
        Cell::Text(text) => Ok(Some(text)),
        Cell::Absent | Cell::Null => Ok(None),
        other => Err(format!("field `{name}`: expected a text, got {}", other.kind())),
    }
}

pub(super) fn whole(name: &str, cell: &Cell<'_>) -> Result<Option<u32>, String> {
    match cell {
        Cell::Number(number) if number.fract() == 0.0 && (0.0..f64::from(u32::MAX)).contains(number) => Ok(Some(*number as u32)),
        Cell::Number(number) => Err(format!("field `{name}`: expected a whole number ≥ 0, got {number}")),
        Cell::Absent | Cell::Null => Ok(None),
        other => Err(format!("field `{name}`: expected a whole number, got {}", other.kind())),
    }
}

fn first_number(cells: [(&'static str, &Cell<'_>); 3]) -> Result<Option<f64>, String> {
    for (name, cell) in cells {
        match cell {
            Cell::Number(number) => return Ok(Some(*number)),
            Cell::Absent | Cell::Null => {}
            other => return Err(format!("field `{name}`: expected a number, got {}", other.kind())),
        }
    }
    Ok(None)
}
