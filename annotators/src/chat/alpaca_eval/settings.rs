//! A settings file of AlpacaEval or AlpacaFarm, read: one judge, or several that are a pool.

use std::path::{Path, PathBuf};

use farmhand_core::{Error, Result};

use super::completions::Completions;
use super::parser_settings::parser;
use super::table::{Table, refuse};
use super::yaml::Yaml;
use crate::chat::parsers::Parser;
use crate::chat::prompt::PlaceholderTemplate;

/// The largest file of settings or prompts that is read, in bytes.
const LARGEST_FILE: u64 = 4 << 20;

/// One judge of a settings file.
#[derive(Debug, Clone)]
pub struct JudgeSettings {
    /// Its name.
    pub name: String,
    /// Its prompts.
    pub prompts: Prompts,
    /// Whom it asks, and how.
    pub completions: Completions,
    /// How verdicts are read.
    pub parser: Parser,
    /// Whether the order of the answers is drawn for each instruction.
    pub is_randomize_output_order: bool,
    /// The keys of a JSON reply that are kept in an annotation's notes.
    pub note_keys: Vec<String>,
    /// Whether a ranking's names are told in an annotation's notes.
    pub notes_models: bool,
}

/// The prompts of a judge.
#[derive(Debug, Clone)]
pub struct Prompts {
    /// For examples whose input has a place of its own, if there is such a prompt.
    pub with_inputs: Option<PlaceholderTemplate>,
    /// For all others.
    pub without_inputs: PlaceholderTemplate,
}

/// Reads the judges of a settings file, in its order. A folder is its `configs.yaml` or `config.yaml`.
///
/// # Errors
/// When it is not there, is no such file, or holds settings that are unknown or cannot be served.
pub fn read_settings(path: &Path) -> Result<Vec<JudgeSettings>> {
    let file = settings_file(path)?;
    let text = read_text(&file, "read the settings")?;
    settings(&text, &file)
}

/// Reads the judges in the text of a settings file. `file` says where prompts are looked for.
///
/// # Errors
/// As [`read_settings`].
pub fn settings(text: &str, file: &Path) -> Result<Vec<JudgeSettings>> {
    let yaml = Yaml::parse(text).map_err(|why| refuse(file, "", why))?;
    let judges = Table::new(file, "", yaml)?.into_entries();
    if judges.is_empty() {
        return Err(refuse(file, "", "expected at least one judge by its name"));
    }
    judges.into_iter().map(|(name, written)| judge(name, written, file)).collect()
}

fn settings_file(path: &Path) -> Result<PathBuf> {
    if !path.is_dir() {
        return Ok(path.to_owned());
    }
    let files = ["configs.yaml", "config.yaml", "configs.yml", "config.yml"].map(|name| path.join(name));
    files.into_iter().find(|file| file.is_file()).ok_or_else(|| {
        Error::missing_input(format!("`{}` holds no `configs.yaml`", path.display()))
            .with_hint("name a folder of AlpacaEval's `evaluators_configs`, or a YAML file")
    })
}

fn judge(name: String, written: Yaml, file: &Path) -> Result<JudgeSettings> {
    let mut table = Table::new(file, &name, written)?;
    let batch_size = table.count("batch_size")?.unwrap_or(1) as usize;
    let Some(prompt) = table.take("prompt_template") else {
        return Err(table.refuse("prompt_template", "expected a file or a text"));
    };
    let place = table.at("prompt_template");
    let prompts = prompts(prompt, &place, batch_size, file)?;
    let decoder = table.text("fn_completions")?.unwrap_or_else(|| "openai_completions".to_owned());
    let completions = table.table("completions_kwargs")?;
    let completions = Completions::read(&decoder, completions)?;
    let parser_name = table.text("fn_completion_parser")?.unwrap_or_else(|| "regex_parser".to_owned());
    let parser = parser(&parser_name, table.table("completion_parser_kwargs")?)?;
    let completion_key = table.text("completion_key")?;
    if matches!(parser, Parser::LogProb(_)) && completion_key.as_deref() != Some("completions_all") {
        return Err(table.refuse("completion_key", "expected `completions_all`, for `logprob_parser` reads more than the text"));
    }
    let is_randomize_output_order = table.flag("is_randomize_output_order")?.unwrap_or(true);
    let (note_keys, notes_models) = processors(table.table("processors_to_kwargs")?)?;
    // What changes nothing here: rows follow no order of a file, defaults are what this reader has, names are for a leaderboard.
    for ignored in [
        "is_shuffle",
        "is_add_default_processors",
        "random_seed_column",
        "random_seed_keys",
        "pretty_name",
        "link",
        "prfx_to_completion_cols",
        "is_store_raw_completions",
    ] {
        drop(table.take(ignored));
    }
    table.finish()?;
    Ok(JudgeSettings { name, prompts, completions, parser, is_randomize_output_order, note_keys, notes_models })
}

/// The keys that are kept as notes, and whether the ranking's names are told.
fn processors(table: Table<'_>) -> Result<(Vec<String>, bool)> {
    let (mut note_keys, mut notes_models) = (Vec::new(), false);
    let place = table.at("");
    let entries = table.nested(place.clone(), Yaml::Null)?;
    for (name, kwargs) in table.into_entries() {
        let mut options = entries.nested(format!("{place}.{name}"), kwargs)?;
        match name.as_str() {
            "ChainOfThoughtProcessor" => {
                note_keys.push("concise_explanation".to_owned());
                notes_models = true;
            }
            "JsonKeysToColumnProcessor" | "JSONKeysToColumnProcessor" => {
                note_keys.extend(options.texts("keys")?.unwrap_or_default());
            }
            // The order of the answers and the padding of batches are always taken care of.
            "RandomSwitchTwoColumnsProcessor" | "PaddingForBatchesProcessor" => {
                drop(options.into_entries());
                continue;
            }
            other => return Err(entries.refuse(other, "this processor is not supported")),
        }
        options.finish()?;
    }
    Ok((note_keys, notes_models))
}

fn prompts(written: Yaml, place: &str, batch_size: usize, file: &Path) -> Result<Prompts> {
    let parse = |place: &str, text: &str| {
        let template = template_text(text, place, file)?;
        PlaceholderTemplate::parse(&template, batch_size).map_err(|why| refuse(file, place, why))
    };
    match written {
        Yaml::Text(text) => Ok(Prompts { with_inputs: None, without_inputs: parse(place, &text)? }),
        Yaml::Table(_) => {
            let mut both = Table::new(file, place, written)?;
            let mut one = |key: &'static str| {
                let at = both.at(key);
                match both.text(key)? {
                    Some(text) => parse(&at, &text),
                    None => Err(both.refuse(key, "expected a file or a text")),
                }
            };
            let prompts = Prompts { with_inputs: Some(one("with_inputs")?), without_inputs: one("without_inputs")? };
            both.finish()?;
            Ok(prompts)
        }
        other => Err(refuse(file, place, format!("expected a file or a text, got {}", other.kind()))),
    }
}

/// The text of a template: what stands in the file that is named, or the text itself. Files are named from the folder above
/// that of the settings, as AlpacaEval does, or from that folder itself.
fn template_text(text: &str, place: &str, file: &Path) -> Result<String> {
    let folder = file.parent().unwrap_or(Path::new(""));
    let is_name = !text.contains(['\n', '{']) && text.len() < 1000;
    if !is_name {
        return Ok(text.to_owned());
    }
    let folders = [folder.join(".."), folder.to_owned()];
    match folders.iter().map(|folder| folder.join(text)).find(|path| path.is_file()) {
        Some(path) => read_text(&path, "read the prompt"),
        None => Err(refuse(file, place, format!("there is no prompt `{text}` in the folder of the settings or the one above"))),
    }
}

fn read_text(path: &Path, action: &str) -> Result<String> {
    let metadata = std::fs::metadata(path).map_err(|error| Error::io(action, path, error))?;
    if metadata.len() > LARGEST_FILE {
        return Err(Error::invalid_data(format!("`{}` is too large for settings or a prompt", path.display())));
    }
    std::fs::read_to_string(path).map_err(|error| Error::io(action, path, error))
}
