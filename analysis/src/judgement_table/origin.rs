//! What a file's name and the files beside it say where its records are silent: who was judged against whom, by whom, on what.

use std::collections::HashMap;
use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use farmhand_core::data::UNKNOWN_ANNOTATOR;
use farmhand_core::{Error, Result};
use serde::Deserialize;

use super::records::{decompressed, json_error};

/// The baseline's name where nothing says it.
const UNKNOWN_BASELINE: &str = "baseline";
/// How many folders above a file are looked into.
const N_FOLDERS: usize = 3;

/// The instructions of a data set, by index: text and data set.
pub(super) type Instructions = Arc<Vec<(String, Option<String>)>>;

/// What a file's records need not say.
#[derive(Debug, Clone)]
pub(super) struct Origin {
    pub(super) model: String,
    pub(super) baseline: String,
    pub(super) annotator: String,
    /// The list of instructions that indices refer to, if one lies beside the file or above it.
    pub(super) instructions: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Entry {
    annotator: Option<String>,
    generator_1: Option<String>,
    generator_2: Option<String>,
}

impl Origin {
    /// What is known of the file at `path`: an entry `FOLDER/NAME` of `models.json` beside the file or up to two folders above it;
    /// otherwise the names of the file and of its folders (AlpacaEval keeps `MODEL/ANNOTATOR/annotations.json`).
    pub(super) fn of(path: &Path) -> Result<Self> {
        let name = stem(path);
        let folders: Vec<&Path> = path.ancestors().skip(1).take(N_FOLDERS).collect();
        let folder_name = |level: usize| folders.get(level).and_then(|folder| folder.file_name()).and_then(|name| name.to_str());
        let beside = |names: &[&str]| {
            folders.iter().flat_map(|folder| names.iter().map(|name| folder.join(name))).find(|candidate| candidate.is_file())
        };
        let instructions = beside(&["instructions.jsonl.gz", "instructions.jsonl"]);
        let entry = match beside(&["models.json"]) {
            Some(list) => entry(&list, folder_name(0), &name)?,
            None => None,
        };
        let (model, annotator) = match (name.as_str(), folder_name(1), folder_name(0)) {
            ("annotations", Some(model), Some(annotator)) => (model.to_owned(), Some(annotator.to_owned())),
            _ => (name, None),
        };
        let given = |of: fn(&Entry) -> &Option<String>| entry.as_ref().and_then(|entry| of(entry).clone());
        Ok(Self {
            model: given(|entry| &entry.generator_2).unwrap_or(model),
            baseline: given(|entry| &entry.generator_1).unwrap_or_else(|| UNKNOWN_BASELINE.to_owned()),
            annotator: given(|entry| &entry.annotator).or(annotator).unwrap_or_else(|| UNKNOWN_ANNOTATOR.to_owned()),
            instructions,
        })
    }
}

/// The entry of a `models.json` for a file; `None` when the list is of something else.
fn entry(list: &Path, folder: Option<&str>, name: &str) -> Result<Option<Entry>> {
    let bytes = std::fs::read(list).map_err(|error| Error::io("read", list, error))?;
    let Ok(mut entries) = serde_json::from_slice::<HashMap<String, serde_json::Value>>(&bytes) else { return Ok(None) };
    let key = folder.map_or_else(|| name.to_owned(), |folder| format!("{folder}/{name}"));
    let entry = entries.remove(&key).or_else(|| entries.remove(name));
    Ok(entry.and_then(|entry| serde_json::from_value(entry).ok()))
}

/// Reads a list of instructions: JSON Lines of `index`, `instruction` and, if known, `dataset`.
pub(super) fn read_instructions(path: &Path) -> Result<Instructions> {
    #[derive(Deserialize)]
    struct Entry {
        index: usize,
        instruction: String,
        dataset: Option<String>,
    }
    let mut list = Vec::new();
    for (i, line) in decompressed(path)?.split(b'\n').enumerate() {
        let line = line.map_err(|error| Error::io("read", path, error))?;
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let entry: Entry = serde_json::from_slice(&line).map_err(|error| json_error(path, i as u64 + 1, &line, error))?;
        if entry.index != list.len() {
            let message = format!("`{}`, line {}: expected index {}, got {}", path.display(), i + 1, list.len(), entry.index);
            return Err(Error::invalid_data(message));
        }
        list.push((entry.instruction, entry.dataset));
    }
    Ok(Arc::new(list))
}

/// A file's name without folders and known endings.
pub(crate) fn stem(path: &Path) -> String {
    let mut name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    for ending in [".gz", ".zst", ".jsonl", ".ndjson", ".json", ".parquet"] {
        if let Some(shorter) = name.strip_suffix(ending).filter(|shorter| !shorter.is_empty()) {
            name = shorter.to_owned();
        }
    }
    name
}
