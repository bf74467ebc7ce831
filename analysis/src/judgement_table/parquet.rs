//! Judgements in Parquet, column by column: no record is ever made of a row, so that ten million take seconds.

use std::collections::HashMap;
use std::fs::File;

use farmhand_core::data::Location;
use farmhand_core::{Error, Result};
use polars_arrow::array::{Array, PrimitiveArray, Utf8Array, Utf8ViewArray};
use polars_arrow::datatypes::ArrowDataType;
use polars_arrow::types::NativeType;

use super::line::Cell;
use super::names::Names;
use super::read::{Sink, Trouble, preference, whole};
use super::records::Take;
use super::{JudgementTable, UNKNOWN};
use crate::parquet::ParquetFile;

const PRICES: [&str; 3] = ["price", "preference_price_per_example", "price_per_example"];
const TIMES: [&str; 3] = ["time", "preference_time_per_example", "time_per_example"];

impl Sink<'_> {
    /// Reads a Parquet file of flat judgements. `false`, with nothing read, where it is of another form or the texts of the
    /// answers are to be kept: those are read record by record.
    ///
    /// # Errors
    /// When the file is damaged, or a row is bad and bad ones are not skipped.
    pub(super) fn parquet_columns(&mut self) -> Result<bool> {
        let file = ParquetFile::open(self.path)?;
        if self.options.texts || !is_flat(&file) {
            return Ok(false);
        }
        let (mut first_row, mut by_index) = (0, HashMap::new());
        for group in 0..file.n_groups() {
            let mut group = Group::read(&file, group)?;
            for row in 0..group.n_rows {
                match self.add_row(&mut group, row, &mut by_index) {
                    Ok(()) => self.report().n_records += 1,
                    Err(Trouble::Record(message)) => self.bad(Location::Row(first_row + row as u64), message)?,
                    Err(Trouble::File(error)) => return Err(error),
                }
            }
            first_row += group.n_rows as u64;
        }
        Ok(true)
    }

    fn add_row(&mut self, group: &mut Group, row: usize, by_index: &mut HashMap<u32, u32>) -> Result<(), Trouble> {
        let verdict = match at(&group.preference, row) {
            Some(code) => preference(&Cell::Number(code))?,
            None => None,
        };
        let natural = |name: &str, column: &Option<Vec<f64>>| match at(column, row) {
            Some(number) => whole(name, &Cell::Number(number)),
            None => Ok(None),
        };
        let len_1 = natural("len_1", &group.len_1)?;
        let len_2 = natural("len_2", &group.len_2)?;
        let index = natural("index", &group.index)?;
        let instruction = self.instruction_number(group, row, index, by_index)?;
        let position = self.next_position();
        let table = &mut *self.table;
        let model = group.generator_2.number(row, &self.origin.model, &mut table.models);
        let baseline = group.generator_1.number(row, &self.origin.baseline, &mut table.baselines);
        let annotator = group.annotator.number(row, &self.origin.annotator, &mut table.annotators);
        if !group.dataset.is_missing(row) {
            table.dataset_of[instruction as usize] = group.dataset.number(row, "", &mut table.datasets);
        }
        table.file.push(u32::try_from(table.files.len().saturating_sub(1)).unwrap_or(UNKNOWN));
        table.position.push(position);
        table.model.push(model);
        table.baseline.push(baseline);
        table.annotator.push(annotator);
        table.instruction.push(instruction);
        table.preference.push(verdict.unwrap_or(f64::NAN));
        table.len_1.push(len_1.unwrap_or(UNKNOWN));
        table.len_2.push(len_2.unwrap_or(UNKNOWN));
        let first = |columns: &[Vec<f64>]| columns.iter().map(|column| column[row]).find(|value| !value.is_nan());
        table.price.push(first(&group.prices).unwrap_or(f64::NAN));
        table.time.push(first(&group.times).unwrap_or(f64::NAN));
        if verdict.is_none() {
            self.report().n_no_verdict += 1;
        }
        Ok(())
    }

    /// The number of a row's instruction, which is told by its text and input, or by its index.
    fn instruction_number(
        &mut self,
        group: &mut Group,
        row: usize,
        index: Option<u32>,
        by_index: &mut HashMap<u32, u32>,
    ) -> Result<u32, Trouble> {
        let number = match (group.instruction.text(row), group.input.text(row).filter(|input| !input.is_empty())) {
            (Some(text), Some(input)) => numbered(self.table, &format!("{text}\n\n{input}")),
            (Some(_), None) => {
                let number = group.instruction.number(row, "", &mut self.table.instructions);
                known_instruction(self.table, number)
            }
            (None, _) => {
                let index = index.ok_or_else(|| "expected an `instruction` or an `index`, got neither".to_owned())?;
                match by_index.get(&index) {
                    Some(number) => *number,
                    None => {
                        let number = self.instruction_by_index(index)?;
                        by_index.insert(index, number);
                        number
                    }
                }
            }
        };
        if let Some(index) = index {
            self.table.indices[number as usize] = index;
        }
        Ok(number)
    }

    fn instruction_by_index(&mut self, index: u32) -> Result<u32, Trouble> {
        let known = self.instructions()?.and_then(|list| list.get(index as usize).cloned());
        let (text, dataset) = known.unwrap_or_else(|| (format!("#{index}"), None));
        let number = numbered(self.table, &text);
        if let Some(dataset) = dataset {
            self.table.dataset_of[number as usize] = self.table.datasets.number_of(&dataset);
        }
        Ok(number)
    }
}

/// The number of an instruction, new or not.
fn numbered(table: &mut JudgementTable, text: &str) -> u32 {
    let number = table.instructions.number_of(text);
    known_instruction(table, number)
}

/// Makes room for what is known of an instruction that may be new.
fn known_instruction(table: &mut JudgementTable, number: u32) -> u32 {
    if number as usize >= table.indices.len() {
        table.indices.resize(number as usize + 1, UNKNOWN);
        table.dataset_of.resize(number as usize + 1, UNKNOWN);
    }
    number
}

/// Whether the columns are those of flat judgements, each of the type that its name promises.
fn is_flat(file: &ParquetFile<File>) -> bool {
    let is = |name: &str, fits: fn(&ArrowDataType) -> bool| file.field(name).is_none_or(|field| fits(plain(field.dtype())));
    let has = |name: &str| file.field(name).is_some();
    let numbers = ["index", "preference", "len_1", "len_2"].into_iter().chain(PRICES).chain(TIMES);
    let texts = ["instruction", "input", "dataset", "generator_1", "generator_2", "annotator"];
    let needs_no_answers = ["1", "2"].iter().all(|side| has(&format!("len_{side}")) || !has(&format!("output_{side}")));
    has("preference")
        && (has("instruction") || has("index"))
        && !has("scale")
        && needs_no_answers
        && numbers.into_iter().all(|name| is(name, is_number))
        && texts.into_iter().all(|name| is(name, is_text))
}

/// The type of the values of a dictionary.
fn plain(dtype: &ArrowDataType) -> &ArrowDataType {
    if let ArrowDataType::Dictionary(_, values, _) = dtype { plain(values) } else { dtype }
}

fn is_number(dtype: &ArrowDataType) -> bool {
    use ArrowDataType as Type;
    matches!(
        dtype,
        Type::Null
            | Type::Int8
            | Type::Int16
            | Type::Int32
            | Type::Int64
            | Type::UInt8
            | Type::UInt16
            | Type::UInt32
            | Type::UInt64
            | Type::Float32
            | Type::Float64
    )
}

fn is_text(dtype: &ArrowDataType) -> bool {
    matches!(dtype, ArrowDataType::Null | ArrowDataType::Utf8 | ArrowDataType::LargeUtf8 | ArrowDataType::Utf8View)
}

/// The value of a row, if the file has the column and the row a value.
fn at(column: &Option<Vec<f64>>, row: usize) -> Option<f64> {
    column.as_ref().map(|column| column[row]).filter(|value| !value.is_nan())
}

/// The known columns of a group of rows.
struct Group {
    n_rows: usize,
    index: Option<Vec<f64>>,
    preference: Option<Vec<f64>>,
    len_1: Option<Vec<f64>>,
    len_2: Option<Vec<f64>>,
    /// The columns there are, the one that counts first.
    prices: Vec<Vec<f64>>,
    times: Vec<Vec<f64>>,
    instruction: Texts,
    input: Texts,
    dataset: Texts,
    generator_1: Texts,
    generator_2: Texts,
    annotator: Texts,
}

impl Group {
    fn read(file: &ParquetFile<File>, group: usize) -> Result<Self> {
        let arrays = |name: &str| file.field(name).map(|field| file.arrays(group, field)).transpose();
        let numbers = |name: &str| arrays(name)?.map(|arrays| numbers(&arrays)).transpose();
        let texts = |name: &str| arrays(name)?.map_or_else(|| Ok(Texts::default()), |arrays| Texts::of(&arrays));
        let several =
            |names: [&str; 3]| names.into_iter().filter_map(|name| numbers(name).transpose()).collect::<Result<Vec<_>>>();
        Ok(Self {
            n_rows: file.n_rows(group),
            index: numbers("index")?,
            preference: numbers("preference")?,
            len_1: numbers("len_1")?,
            len_2: numbers("len_2")?,
            prices: several(PRICES)?,
            times: several(TIMES)?,
            instruction: texts("instruction")?,
            input: texts("input")?,
            dataset: texts("dataset")?,
            generator_1: texts("generator_1")?,
            generator_2: texts("generator_2")?,
            annotator: texts("annotator")?,
        })
    }
}

/// Texts as numbers of the group's own, and what each is in the whole table once a row has asked.
#[derive(Default)]
struct Texts {
    /// `UNKNOWN` where there is none; empty where the file lacks the column: `[rows]`.
    codes: Vec<u32>,
    own: Names,
    /// The number in the table of each own one, and of the name that stands in for a missing one: `[own + 1]`.
    global: Vec<u32>,
}

impl Texts {
    fn of(arrays: &[Box<dyn Array>]) -> Result<Self> {
        let mut texts = Self::default();
        for array in arrays {
            let any = array.as_any();
            if let Some(array) = any.downcast_ref::<Utf8ViewArray>() {
                texts.extend(array.iter());
            } else if let Some(array) = any.downcast_ref::<Utf8Array<i32>>() {
                texts.extend(array.iter());
            } else if let Some(array) = any.downcast_ref::<Utf8Array<i64>>() {
                texts.extend(array.iter());
            } else if matches!(array.dtype(), ArrowDataType::Null) {
                texts.codes.resize(texts.codes.len() + array.len(), UNKNOWN);
            } else {
                return Err(Error::invalid_data(format!("texts are stored as {:?}", array.dtype())));
            }
        }
        texts.global = vec![UNKNOWN; texts.own.len() + 1];
        Ok(texts)
    }

    fn extend<'a>(&mut self, texts: impl Iterator<Item = Option<&'a str>>) {
        let own = &mut self.own;
        self.codes.extend(texts.map(|text| text.map_or(UNKNOWN, |text| own.number_of(text))));
    }

    fn is_missing(&self, row: usize) -> bool {
        self.codes.get(row).is_none_or(|code| *code == UNKNOWN)
    }

    fn text(&self, row: usize) -> Option<&str> {
        self.codes.get(row).filter(|code| **code != UNKNOWN).map(|code| self.own.name(*code))
    }

    /// The number of a row's text among `names`; that of `instead` where it has none.
    fn number(&mut self, row: usize, instead: &str, names: &mut Names) -> u32 {
        let code = self.codes.get(row).copied().filter(|code| *code != UNKNOWN);
        if self.global.is_empty() {
            self.global.push(UNKNOWN);
        }
        let place = code.map_or(self.global.len() - 1, |code| code as usize);
        if self.global[place] == UNKNOWN {
            self.global[place] = names.number_of(code.map_or(instead, |code| self.own.name(code)));
        }
        self.global[place]
    }
}

/// Numbers of any type; NaN where there is none.
fn numbers(arrays: &[Box<dyn Array>]) -> Result<Vec<f64>> {
    use ArrowDataType as Type;
    let mut out = Vec::with_capacity(arrays.iter().map(|array| array.len()).sum());
    for array in arrays.iter().map(AsRef::as_ref) {
        match array.dtype() {
            Type::Null => out.resize(out.len() + array.len(), f64::NAN),
            Type::Int8 => extend::<i8>(&mut out, array, |value| value.into())?,
            Type::Int16 => extend::<i16>(&mut out, array, |value| value.into())?,
            Type::Int32 => extend::<i32>(&mut out, array, |value| value.into())?,
            Type::Int64 => extend::<i64>(&mut out, array, |value| value as f64)?,
            Type::UInt8 => extend::<u8>(&mut out, array, |value| value.into())?,
            Type::UInt16 => extend::<u16>(&mut out, array, |value| value.into())?,
            Type::UInt32 => extend::<u32>(&mut out, array, |value| value.into())?,
            Type::UInt64 => extend::<u64>(&mut out, array, |value| value as f64)?,
            Type::Float32 => extend::<f32>(&mut out, array, |value| value.into())?,
            _ => extend::<f64>(&mut out, array, |value| value)?,
        }
    }
    Ok(out)
}

fn extend<T: NativeType>(out: &mut Vec<f64>, array: &dyn Array, number: fn(T) -> f64) -> Result<()> {
    let wrong = || Error::invalid_data(format!("numbers are stored as {:?}", array.dtype()));
    let array: &PrimitiveArray<T> = array.as_any().downcast_ref().ok_or_else(wrong)?;
    match array.validity() {
        None => out.extend(array.values().iter().map(|value| number(*value))),
        Some(valid) => {
            let value = |(i, value): (usize, &T)| if valid.get_bit(i) { number(*value) } else { f64::NAN };
            out.extend(array.values().iter().enumerate().map(value));
        }
    }
    Ok(())
}
