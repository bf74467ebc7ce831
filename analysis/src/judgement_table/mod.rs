//! Judgements of any number of files, models and judges as columns.
//!
//! A row is one verdict on the answers of a model and of its baseline to one instruction. Names are numbered, so that a row takes
//! sixty bytes and grouping compares numbers; texts of answers are kept only where something asks for them.

mod line;
mod names;
mod origin;
mod output_lengths;
mod parquet;
mod read;
mod records;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use farmhand_core::Result;
use farmhand_core::data::{BadRecords, ReadReport};
use polars::prelude::*;

pub use names::Names;
use origin::Instructions;
pub(crate) use origin::stem;
pub use output_lengths::OutputLengths;
pub(crate) use records::decompressed;

/// Stands in a column of numbers for what is not known.
pub(crate) const UNKNOWN: u32 = u32::MAX;

/// How files of judgements are read into a table.
#[derive(Debug, Clone, Copy, Default)]
pub struct TableOptions {
    /// What to do with bad records.
    pub bad_records: BadRecords,
    /// Keep the texts of the answers, where the file has them.
    pub texts: bool,
}

/// One judgement, to be added to a [`JudgementTable`].
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct JudgementRow<'a> {
    /// Whose answer is the second one: AlpacaEval's `generator_2`.
    pub model: &'a str,
    /// Whose answer is the first one: AlpacaEval's `generator_1`.
    pub baseline: &'a str,
    /// Who judged.
    pub annotator: &'a str,
    /// What tells the instruction from others: its text (with its input, if any), or `#` and its index where a file has no texts.
    pub instruction: &'a str,
    /// Its place in its data set, where the file says so, from 0.
    pub index: Option<u32>,
    /// The data set the instruction came from.
    pub dataset: Option<&'a str>,
    /// 1 (the baseline's answer is better) to 2 (the model's), 1.5 a tie; `None` without a verdict.
    pub preference: Option<f64>,
    /// Unicode code points of the baseline's answer.
    pub len_1: Option<u32>,
    /// Unicode code points of the model's answer.
    pub len_2: Option<u32>,
    /// What the verdict cost, in US dollars.
    pub price: Option<f64>,
    /// How long it took, in seconds.
    pub time: Option<f64>,
    /// The record's place in its file, from 0.
    pub position: u32,
    /// The answers of the baseline and of the model; kept when [`TableOptions::texts`] asks for them.
    pub outputs: Option<(&'a str, &'a str)>,
}

/// Judgements, column by column, in the order of the files and of the records in them.
#[derive(Debug, Clone, Default)]
pub struct JudgementTable {
    /// The files and what reading each found.
    pub(crate) files: Vec<ReadReport>,
    pub(crate) models: Names,
    pub(crate) baselines: Names,
    pub(crate) annotators: Names,
    pub(crate) instructions: Names,
    pub(crate) datasets: Names,
    /// The place of each instruction in its data set, `UNKNOWN` where no file says: `[instructions]`.
    pub(crate) indices: Vec<u32>,
    /// The data set of each instruction, `UNKNOWN` where no file says: `[instructions]`.
    pub(crate) dataset_of: Vec<u32>,
    pub(crate) file: Vec<u32>,
    pub(crate) position: Vec<u32>,
    pub(crate) model: Vec<u32>,
    pub(crate) baseline: Vec<u32>,
    pub(crate) annotator: Vec<u32>,
    pub(crate) instruction: Vec<u32>,
    /// 1 to 2; NaN without a verdict.
    pub(crate) preference: Vec<f64>,
    /// `UNKNOWN` where no file says.
    pub(crate) len_1: Vec<u32>,
    /// `UNKNOWN` where no file says.
    pub(crate) len_2: Vec<u32>,
    /// NaN where no file says.
    pub(crate) price: Vec<f64>,
    /// NaN where no file says.
    pub(crate) time: Vec<f64>,
    /// The answers of each row, in files that have them and when they are asked for; empty otherwise.
    pub(crate) outputs: Vec<Option<(Box<str>, Box<str>)>>,
    /// Lists of instructions that were read because a file has only their indices.
    lists: HashMap<PathBuf, Instructions>,
}

impl JudgementTable {
    /// The judgements of some files.
    ///
    /// # Errors
    /// When one cannot be read; see [`JudgementTable::read_file`].
    pub fn read<P: AsRef<Path>>(files: &[P], options: &TableOptions) -> Result<Self> {
        let mut table = Self::default();
        for file in files {
            table.read_file(file.as_ref(), options)?;
        }
        Ok(table)
    }

    /// Adds a row of the file that was begun last (see [`JudgementTable::begin_file`]).
    pub fn push(&mut self, row: &JudgementRow<'_>) {
        let known = |number: Option<u32>| number.unwrap_or(UNKNOWN);
        let instruction = self.instructions.number_of(row.instruction);
        if instruction as usize == self.indices.len() {
            self.indices.push(UNKNOWN);
            self.dataset_of.push(UNKNOWN);
        }
        if let Some(index) = row.index {
            self.indices[instruction as usize] = index;
        }
        if let Some(dataset) = row.dataset {
            self.dataset_of[instruction as usize] = self.datasets.number_of(dataset);
        }
        self.file.push(u32::try_from(self.files.len().saturating_sub(1)).unwrap_or(UNKNOWN));
        self.position.push(row.position);
        self.model.push(self.models.number_of(row.model));
        self.baseline.push(self.baselines.number_of(row.baseline));
        self.annotator.push(self.annotators.number_of(row.annotator));
        self.instruction.push(instruction);
        self.preference.push(row.preference.unwrap_or(f64::NAN));
        self.len_1.push(known(row.len_1));
        self.len_2.push(known(row.len_2));
        self.price.push(row.price.unwrap_or(f64::NAN));
        self.time.push(row.time.unwrap_or(f64::NAN));
        if let Some((first, second)) = row.outputs {
            self.outputs.resize(self.len() - 1, None);
            self.outputs.push(Some((first.into(), second.into())));
        }
    }

    /// Begins a file: rows that are added from now on are its.
    pub fn begin_file(&mut self, path: &Path) {
        self.files.push(ReadReport { path: path.to_owned(), ..ReadReport::default() });
    }

    /// How many judgements there are.
    pub fn len(&self) -> usize {
        self.model.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.model.is_empty()
    }

    /// What reading each file found.
    pub fn files(&self) -> &[ReadReport] {
        &self.files
    }

    /// The models (AlpacaEval's `generator_2`).
    pub fn models(&self) -> &Names {
        &self.models
    }

    /// The baselines (`generator_1`).
    pub fn baselines(&self) -> &Names {
        &self.baselines
    }

    /// The judges.
    pub fn annotators(&self) -> &Names {
        &self.annotators
    }

    /// The instructions: their texts, or `#` and the index where no file has texts.
    pub fn instructions(&self) -> &Names {
        &self.instructions
    }

    /// The data sets of the instructions.
    pub fn datasets(&self) -> &Names {
        &self.datasets
    }

    /// The place of an instruction in its data set, from 0, where a file says so.
    pub fn index_of(&self, instruction: u32) -> Option<u32> {
        known(self.indices[instruction as usize])
    }

    /// The number of an instruction's data set, where a file says so.
    pub fn dataset_of(&self, instruction: u32) -> Option<u32> {
        known(self.dataset_of[instruction as usize])
    }

    /// One row, with names in place of their numbers.
    pub fn row(&self, row: usize) -> JudgementRow<'_> {
        let number = |value: f64| (!value.is_nan()).then_some(value);
        let instruction = self.instruction[row];
        JudgementRow {
            model: self.models.name(self.model[row]),
            baseline: self.baselines.name(self.baseline[row]),
            annotator: self.annotators.name(self.annotator[row]),
            instruction: self.instructions.name(instruction),
            index: self.index_of(instruction),
            dataset: self.dataset_of(instruction).map(|dataset| self.datasets.name(dataset)),
            preference: number(self.preference[row]),
            len_1: known(self.len_1[row]),
            len_2: known(self.len_2[row]),
            price: number(self.price[row]),
            time: number(self.time[row]),
            position: self.position[row],
            outputs: self.outputs.get(row).and_then(Option::as_ref).map(|(first, second)| (&**first, &**second)),
        }
    }

    /// The file of a row.
    pub fn path_of(&self, row: usize) -> &Path {
        self.files.get(self.file[row] as usize).map_or(Path::new(""), |file| &file.path)
    }

    /// The number of each row's model: `[rows]`.
    pub fn model_column(&self) -> &[u32] {
        &self.model
    }

    /// The number of each row's instruction: `[rows]`.
    pub fn instruction_column(&self) -> &[u32] {
        &self.instruction
    }

    /// The number of each row's judge: `[rows]`.
    pub fn annotator_column(&self) -> &[u32] {
        &self.annotator
    }

    /// The verdicts, 1 to 2, NaN where there is none: `[rows]`.
    pub fn preference_column(&self) -> &[f64] {
        &self.preference
    }

    /// The rows that `keep` wants, by their number; names keep their numbers.
    #[must_use]
    pub fn filtered(&self, keep: impl Fn(usize) -> bool) -> Self {
        let rows: Vec<usize> = (0..self.len()).filter(|row| keep(*row)).collect();
        let numbers = |column: &[u32]| rows.iter().map(|row| column[*row]).collect::<Vec<u32>>();
        let values = |column: &[f64]| rows.iter().map(|row| column[*row]).collect::<Vec<f64>>();
        Self {
            file: numbers(&self.file),
            position: numbers(&self.position),
            model: numbers(&self.model),
            baseline: numbers(&self.baseline),
            annotator: numbers(&self.annotator),
            instruction: numbers(&self.instruction),
            len_1: numbers(&self.len_1),
            len_2: numbers(&self.len_2),
            preference: values(&self.preference),
            price: values(&self.price),
            time: values(&self.time),
            outputs: rows.iter().filter_map(|row| self.outputs.get(*row)).cloned().collect(),
            files: self.files.clone(),
            models: self.models.clone(),
            baselines: self.baselines.clone(),
            annotators: self.annotators.clone(),
            instructions: self.instructions.clone(),
            datasets: self.datasets.clone(),
            indices: self.indices.clone(),
            dataset_of: self.dataset_of.clone(),
            lists: self.lists.clone(),
        }
    }

    /// The table as a polars frame: `model`, `baseline`, `annotator`, `instruction`, `index`, `dataset`, `preference`, `len_1`,
    /// `len_2`, `price`, `time`, `file`, `position`; what is not known is null.
    ///
    /// # Errors
    /// When the table library refuses.
    pub fn frame(&self) -> Result<DataFrame> {
        let names =
            |name: &str, numbers: &[u32], names: &Names| Column::new(name.into(), named(numbers, names).collect::<Vec<_>>());
        let whole = |name: &str, column: &[u32]| {
            Column::new(name.into(), column.iter().map(|value| known(*value)).collect::<Vec<Option<u32>>>())
        };
        let number = |name: &str, column: &[f64]| {
            Column::new(name.into(), column.iter().map(|x| (!x.is_nan()).then_some(*x)).collect::<Vec<Option<f64>>>())
        };
        let of_instruction = |of: &[u32]| self.instruction.iter().map(|i| of[*i as usize]).collect::<Vec<u32>>();
        let paths: Vec<Option<String>> =
            self.file.iter().map(|file| self.files.get(*file as usize).map(|file| file.path.display().to_string())).collect();
        let columns = vec![
            names("model", &self.model, &self.models),
            names("baseline", &self.baseline, &self.baselines),
            names("annotator", &self.annotator, &self.annotators),
            names("instruction", &self.instruction, &self.instructions),
            whole("index", &of_instruction(&self.indices)),
            names("dataset", &of_instruction(&self.dataset_of), &self.datasets),
            number("preference", &self.preference),
            whole("len_1", &self.len_1),
            whole("len_2", &self.len_2),
            number("price", &self.price),
            number("time", &self.time),
            Column::new("file".into(), paths),
            whole("position", &self.position),
        ];
        DataFrame::new(self.len(), columns)
            .map_err(|error| farmhand_core::Error::other("the judgements cannot be made a table").with_source(error))
    }

    /// The paths of the files.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.files.iter().map(|file| file.path.clone()).collect()
    }
}

fn known(number: u32) -> Option<u32> {
    (number != UNKNOWN).then_some(number)
}

fn named<'a>(numbers: &'a [u32], names: &'a Names) -> impl Iterator<Item = Option<&'a str>> {
    numbers.iter().map(|number| known(*number).map(|number| names.name(number)))
}

#[cfg(test)]
mod tests;
