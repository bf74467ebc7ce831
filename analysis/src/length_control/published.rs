//! The published vectors of AlpacaEval 2: how hard each instruction is, and the gamed baselines' judgements.

use std::io::BufRead;
use std::path::{Path, PathBuf};

use farmhand_core::{Error, Result};
use farmhand_evaluators::length_controlled::RegulariserRow;
use serde::Deserialize;

use crate::csv_rows::CsvRows;
use crate::judgement_table::{JudgementTable, decompressed};

/// Names of the difficulties' file: the hub's first.
const DIFFICULTIES: [&str; 4] = [
    "instruction_difficulty.csv",
    "instruction_difficulty.csv.gz",
    "instruction_difficulty_reconstructed.csv",
    "instruction_difficulty_reconstructed.csv.gz",
];
/// Names of the gamed baselines' file: the hub's first.
const GAMED: [&str; 4] = ["df_gamed.csv", "df_gamed.csv.gz", "df_gamed_reconstructed.csv", "df_gamed_reconstructed.csv.gz"];
/// Names of a list of the instructions in the difficulties' order.
const INSTRUCTIONS: [&str; 4] =
    ["instructions.jsonl", "instructions.jsonl.gz", "alpaca_eval.json", "alpaca_eval_gpt4_baseline.json"];

/// The folder's content.
#[derive(Debug, Clone, Default)]
pub struct PublishedLengthControl {
    pub(super) folder: PathBuf,
    /// The difficulty of instruction k, in logits: `[instructions]`.
    pub(super) difficulty: Vec<f64>,
    /// The texts of the instructions, in the same order, where the folder has them.
    pub(super) instructions: Option<Vec<String>>,
    /// The gamed baselines' judgements.
    pub(super) gamed: Vec<RegulariserRow>,
}

impl PublishedLengthControl {
    /// Reads a folder: `instruction_difficulty.csv` (index, `instruction_difficulty`, optionally `instruction`) and, for the
    /// regularisation, `df_gamed.csv` (`index`, `preference`, `std_delta_len`, `instruction_difficulty`), also `.gz` and with
    /// `_reconstructed` before the ending; optionally the instructions themselves in the same order, as `instructions.jsonl` or
    /// AlpacaEval's `alpaca_eval.json`. Without the first file the difficulties are those in the second, as the package has it.
    ///
    /// # Errors
    /// When neither file is there or one is broken.
    pub fn read(folder: &Path) -> Result<Self> {
        let find = |names: &[&str]| names.iter().map(|name| folder.join(name)).find(|path| path.is_file());
        let (difficulties, gamed) = (find(&DIFFICULTIES), find(&GAMED));
        if difficulties.is_none() && gamed.is_none() {
            let message = format!("`{}` has neither `instruction_difficulty.csv` nor `df_gamed.csv`", folder.display());
            return Err(Error::missing_input(message)
                .with_hint("both are in the data set `tatsu-lab/alpaca_eval` on the Hugging Face hub; without `--lc-data` difficulties are estimated"));
        }
        let mut read = Self { folder: folder.to_owned(), ..Self::default() };
        if let Some(path) = gamed {
            read.read_gamed(&path, difficulties.is_none())?;
        }
        if let Some(path) = difficulties {
            read.read_difficulties(&path)?;
        }
        if let (None, Some(path)) = (&read.instructions, find(&INSTRUCTIONS)) {
            read.instructions = Some(instructions(&path)?);
        }
        Ok(read)
    }

    /// How many instructions have a difficulty.
    pub fn n_instructions(&self) -> usize {
        self.difficulty.len()
    }

    /// The difficulties, in logits, in the published order.
    pub fn difficulties(&self) -> &[f64] {
        &self.difficulty
    }

    /// The folder they were read from.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn read_difficulties(&mut self, path: &Path) -> Result<()> {
        let csv = CsvRows::read(path)?;
        let (value, text) = (csv.column("instruction_difficulty")?, csv.find("instruction"));
        let index = csv.find("index").unwrap_or(0);
        let mut values = Vec::with_capacity(csv.rows.len());
        for row in 0..csv.rows.len() {
            // A file without a column of indices has them by order.
            let place = if index == value { row as f64 } else { csv.needed_number(row, index)? };
            values.push((place, csv.needed_number(row, value)?, text.map(|text| csv.rows[row][text].clone())));
        }
        values.sort_by(|a, b| a.0.total_cmp(&b.0));
        if let Some(k) = (0..values.len()).find(|k| values[*k].0 != *k as f64) {
            let message =
                format!("`{}`: expected the indices 0 to {}, each once; {k} is not there", path.display(), values.len() - 1);
            return Err(Error::invalid_data(message));
        }
        self.difficulty = values.iter().map(|(_, difficulty, _)| *difficulty).collect();
        self.instructions = values.into_iter().map(|(.., text)| text).collect();
        Ok(())
    }

    fn read_gamed(&mut self, path: &Path, with_difficulties: bool) -> Result<()> {
        let csv = CsvRows::read(path)?;
        let [preference, length, difficulty] =
            ["preference", "std_delta_len", "instruction_difficulty"].map(|name| csv.column(name));
        let (preference, length, difficulty) = (preference?, length?, difficulty?);
        for row in 0..csv.rows.len() {
            let p_win = csv.number(row, preference)?;
            if p_win.is_some_and(|p| !(0.0..=1.0).contains(&p)) {
                let message =
                    format!("`{}`, row {}: column `preference`: expected a number from 0 to 1", path.display(), row + 1);
                return Err(Error::invalid_data(message));
            }
            self.gamed.push(RegulariserRow {
                std_delta_len: csv.needed_number(row, length)?,
                difficulty: csv.needed_number(row, difficulty)?,
                p_win,
            });
        }
        if with_difficulties {
            let index = csv.column("index")?;
            let mut by_index: Vec<Option<f64>> = Vec::new();
            for row in 0..csv.rows.len() {
                let place = csv.needed_number(row, index)? as usize;
                by_index.resize(by_index.len().max(place + 1), None);
                by_index[place].get_or_insert(csv.needed_number(row, difficulty)?);
            }
            let complete: Option<Vec<f64>> = by_index.into_iter().collect();
            self.difficulty = complete.ok_or_else(|| Error::invalid_data(format!("`{}` lacks some indices", path.display())))?;
        }
        Ok(())
    }

    /// The published place of each instruction of the table, joined by index or text: `[instructions of the table]`; and how the
    /// join was made, in words.
    pub(super) fn places(&self, table: &JudgementTable) -> Result<(Vec<Option<usize>>, String)> {
        let n = table.instructions().len() as u32;
        if let Some(texts) = &self.instructions {
            let by_text: std::collections::HashMap<&str, usize> =
                texts.iter().enumerate().map(|(k, text)| (text.as_str(), k)).collect();
            let place = |i: u32| {
                let by_text = by_text.get(table.instructions().name(i)).copied();
                by_text.or_else(|| table.index_of(i).map(|index| index as usize))
            };
            return Ok(((0..n).map(place).collect(), "joined by the instructions' texts".to_owned()));
        }
        if (0..n).all(|i| table.index_of(i).is_some()) {
            let place = |i| table.index_of(i).map(|index| index as usize);
            return Ok(((0..n).map(place).collect(), "joined by the instructions' indices".to_owned()));
        }
        // No list of texts: a file with exactly as many instructions has them in the published order.
        let Some((file, order)) = self.complete_file(table) else {
            let message = format!(
                "`{}` has {} difficulties but not the instructions they belong to, and no file has just as many instructions",
                self.folder.display(),
                self.n_instructions()
            );
            return Err(Error::missing_input(message).with_hint(
                "put AlpacaEval's `alpaca_eval.json` beside them, or go by the rows' places as AlpacaEval does with `--lc-join row`",
            ));
        };
        let mut places = vec![None; n as usize];
        order.into_iter().enumerate().for_each(|(k, instruction)| places[instruction as usize] = Some(k));
        Ok((places, format!("joined by instruction, in the order of `{}`", file.display())))
    }

    /// The first file that has exactly as many instructions as there are difficulties, and their order in it.
    fn complete_file(&self, table: &JudgementTable) -> Option<(PathBuf, Vec<u32>)> {
        for (file, report) in table.files().iter().enumerate() {
            let rows = (0..table.len()).filter(|row| table.file[*row] as usize == file);
            let mut seen = std::collections::HashSet::new();
            let order: Vec<u32> = rows.map(|row| table.instruction[row]).filter(|one| seen.insert(*one)).collect();
            if order.len() == self.n_instructions() {
                return Some((report.path.clone(), order));
            }
        }
        None
    }
}

/// The texts of a list of instructions, in order.
fn instructions(path: &Path) -> Result<Vec<String>> {
    #[derive(Deserialize)]
    struct Entry {
        instruction: String,
    }
    let broken = |error: serde_json::Error| {
        Error::invalid_data(format!("`{}` is no list of instructions", path.display())).with_source(error)
    };
    let mut bytes = Vec::new();
    let io = |error| Error::io("read", path, error);
    decompressed(path)?.read_to_end(&mut bytes).map_err(io)?;
    let is_list = bytes.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[');
    let entries: Vec<Entry> = if is_list {
        serde_json::from_slice(&bytes).map_err(broken)?
    } else {
        let lines = bytes.lines().collect::<std::io::Result<Vec<String>>>().map_err(io)?;
        let lines = lines.iter().filter(|line| !line.trim().is_empty());
        lines.map(|line| serde_json::from_str(line)).collect::<Result<_, _>>().map_err(broken)?
    };
    Ok(entries.into_iter().map(|entry| entry.instruction).collect())
}
