//! One table of settings: its keys are taken out one by one, and what is left at the end is unknown.

use std::path::Path;

use farmhand_core::config::did_you_mean;
use farmhand_core::{Error, Result};

use super::yaml::Yaml;

/// A table with the place it stands at.
pub(super) struct Table<'a> {
    file: &'a Path,
    place: String,
    entries: Vec<(String, Yaml)>,
    taken: Vec<&'static str>,
}

impl<'a> Table<'a> {
    pub(super) fn new(file: &'a Path, place: impl Into<String>, yaml: Yaml) -> Result<Self> {
        let (place, kind) = (place.into(), yaml.kind());
        let entries = match yaml {
            Yaml::Table(entries) => entries.into_iter().map(|(key, value)| (key.key_text(), value)).collect(),
            Yaml::Null => Vec::new(),
            _ => return Err(refuse(file, &place, format!("expected a table, got {kind}"))),
        };
        Ok(Self { file, place, entries, taken: Vec::new() })
    }

    /// Takes what stands under `key`; nothing and null are the same.
    pub(super) fn take(&mut self, key: &'static str) -> Option<Yaml> {
        self.taken.push(key);
        let at = self.entries.iter().position(|(known, _)| known == key)?;
        Some(self.entries.remove(at).1).filter(|value| *value != Yaml::Null)
    }

    pub(super) fn text(&mut self, key: &'static str) -> Result<Option<String>> {
        self.typed(key, "a text", |value| match value {
            Yaml::Text(text) => Some(text),
            _ => None,
        })
    }

    pub(super) fn number(&mut self, key: &'static str) -> Result<Option<f64>> {
        self.typed(key, "a number", |value| match value {
            Yaml::Number(number) => number.as_f64(),
            // PyYAML takes `9e-7` for a text.
            Yaml::Text(text) => text.parse().ok().filter(|number: &f64| number.is_finite()),
            _ => None,
        })
    }

    pub(super) fn count(&mut self, key: &'static str) -> Result<Option<u32>> {
        self.typed(key, "a whole number ≥ 0", |value| match value {
            Yaml::Number(number) => number.as_u64().and_then(|number| u32::try_from(number).ok()),
            _ => None,
        })
    }

    pub(super) fn flag(&mut self, key: &'static str) -> Result<Option<bool>> {
        self.typed(key, "`true` or `false`", |value| match value {
            Yaml::Bool(flag) => Some(flag),
            _ => None,
        })
    }

    pub(super) fn texts(&mut self, key: &'static str) -> Result<Option<Vec<String>>> {
        self.typed(key, "a list of texts", |value| match value {
            Yaml::List(items) => items
                .into_iter()
                .map(|item| match item {
                    Yaml::Text(text) => Some(text),
                    _ => None,
                })
                .collect(),
            _ => None,
        })
    }

    /// The table under `key`; an empty one when there is none.
    pub(super) fn table(&mut self, key: &'static str) -> Result<Table<'a>> {
        let place = self.at(key);
        Self::new(self.file, place, self.take(key).unwrap_or(Yaml::Null))
    }

    /// A table that stands at `place` in the same file.
    pub(super) fn nested(&self, place: String, yaml: Yaml) -> Result<Table<'a>> {
        Self::new(self.file, place, yaml)
    }

    /// The entries in the order of the file, as what they are.
    pub(super) fn into_entries(self) -> Vec<(String, Yaml)> {
        self.entries
    }

    fn typed<T>(&mut self, key: &'static str, what: &str, read: impl FnOnce(Yaml) -> Option<T>) -> Result<Option<T>> {
        let Some(value) = self.take(key) else { return Ok(None) };
        let kind = value.kind();
        read(value).map(Some).ok_or_else(|| refuse(self.file, &self.at(key), format!("expected {what}, got {kind}")))
    }

    /// The path of a key from the top of the file.
    pub(super) fn at(&self, key: &str) -> String {
        match (self.place.is_empty(), key.is_empty()) {
            (true, _) => key.to_owned(),
            (false, true) => self.place.clone(),
            (false, false) => format!("{}.{key}", self.place),
        }
    }

    /// An error about `key`.
    pub(super) fn refuse(&self, key: &str, message: impl Into<String>) -> Error {
        refuse(self.file, &self.at(key), message)
    }

    /// Refuses what nobody took.
    pub(super) fn finish(self) -> Result<()> {
        match self.entries.first() {
            None => Ok(()),
            Some((unknown, _)) => Err(self.refuse(unknown, "unknown setting").with_hint(did_you_mean(unknown, &self.taken))),
        }
    }
}

/// An error about a place in a file.
pub(super) fn refuse(file: &Path, place: &str, message: impl Into<String>) -> Error {
    let message = message.into();
    Error::invalid_config(if place.is_empty() {
        format!("`{}`: {message}", file.display())
    } else {
        format!("`{}`: `{place}`: {message}", file.display())
    })
}
