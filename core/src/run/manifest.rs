//! `manifest.json`: what each finished stage was made from and what it made.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::write_atomic;
use crate::error::{Error, Result};

/// The version of the manifest's format that this farmhand writes.
pub const MANIFEST_FORMAT: u32 = 1;

/// The record of a run's finished stages.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this format.
    pub format: u32,
    /// The farmhand that wrote it last.
    pub farmhand: String,
    /// The commit of every model taken from the Hugging Face hub, by the name it was asked for. The run stays with these.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub models: BTreeMap<String, String>,
    /// SHA-256 of every plugin that was loaded, by package: those of the command that ran last.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub plugins: BTreeMap<String, String>,
    /// The finished stages by name.
    pub stages: BTreeMap<String, StageRecord>,
}

/// What one finished stage was made from and what it made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StageRecord {
    /// The options that shape its output, seed included, as JSON.
    pub options: serde_json::Value,
    /// SHA-256 of each input, by path.
    pub inputs: BTreeMap<String, String>,
    /// SHA-256 of each output file, by path inside the stage's folder.
    pub outputs: BTreeMap<String, String>,
}

impl Default for Manifest {
    fn default() -> Self {
        Self {
            format: MANIFEST_FORMAT,
            farmhand: env!("CARGO_PKG_VERSION").to_owned(),
            models: BTreeMap::new(),
            plugins: BTreeMap::new(),
            stages: BTreeMap::new(),
        }
    }
}

impl Manifest {
    /// Reads a manifest; an absent file is an empty manifest.
    ///
    /// # Errors
    /// When it cannot be read, is not a manifest, or is newer than this farmhand.
    pub fn read(path: &Path) -> Result<Self> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(Error::io("read", path, error)),
        };
        let broken = |error: serde_json::Error| {
            Error::invalid_data(format!("`{}` is not a run's manifest", path.display()))
                .with_source(error)
                .with_hint("it was changed by hand; put the original back, or use another run directory")
        };
        let value: serde_json::Value = serde_json::from_str(&text).map_err(broken)?;
        let format = value.get("format").and_then(serde_json::Value::as_u64).unwrap_or(0);
        if format > u64::from(MANIFEST_FORMAT) {
            let message = format!("`{}` has format {format}, this farmhand reads up to {MANIFEST_FORMAT}", path.display());
            return Err(Error::invalid_data(message).with_hint("use the farmhand that wrote it, or a newer one"));
        }
        serde_json::from_value(value).map_err(broken)
    }

    /// Writes the manifest, whole or not at all.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn write(&self, path: &Path) -> Result<()> {
        write_atomic(path, |out| {
            let text = serde_json::to_string_pretty(self).expect("a manifest is JSON");
            out.write_all(text.as_bytes()).and_then(|()| out.write_all(b"\n")).map_err(|error| Error::io("write", path, error))
        })
    }
}
