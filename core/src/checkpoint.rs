//! A trained model on disk: a Hugging Face folder with a small manifest beside the weights.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The name of the manifest inside a checkpoint folder.
pub const CHECKPOINT_MANIFEST: &str = "farmhand.json";

/// The version of the manifest's format that this farmhand writes.
pub const CHECKPOINT_FORMAT: u32 = 1;

/// What a checkpoint can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckpointKind {
    /// A causal language model.
    CausalLm,
    /// A language model's body with a scalar head.
    RewardModel,
}

/// The manifest farmhand writes into a checkpoint folder. A folder without one is a plain Hugging Face model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CheckpointManifest {
    /// Version of this format.
    pub format: u32,
    /// What the checkpoint can do.
    pub kind: CheckpointKind,
    /// The component that made it, for example `dpo`.
    pub made_by: String,
    /// How instructions become text for this model, in the words of the models crate (`none`, `alpaca`, `chat`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_format: Option<String>,
    /// The model that an adapter changes; absent when the weights are whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<AdapterBase>,
}

/// The model that a low-rank adapter was trained on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdapterBase {
    /// Its folder as seen from the adapter's, so that both can be moved together.
    pub path: String,
    /// A hash over the shapes and values of its weights.
    pub fingerprint: String,
}

/// The name of the file that makes a folder a low-rank adapter in PEFT's format.
pub const ADAPTER_CONFIG: &str = "adapter_config.json";

/// A model folder: `config.json`, `*.safetensors`, `tokenizer.json`, and farmhand's manifest when it made it; or a low-rank
/// adapter in PEFT's format, which names the folder it changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    path: PathBuf,
    prompt_format: Option<String>,
    name: Option<String>,
    files: Option<Vec<String>>,
}

impl Checkpoint {
    /// The model in a folder; the folder of a stage that made one stands for its `checkpoint` folder.
    ///
    /// # Errors
    /// When the folder does not exist, or is neither a model nor an adapter.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self> {
        let mut path = path.into();
        let is_model = |path: &Path| ["config.json", ADAPTER_CONFIG].iter().any(|file| path.join(file).is_file());
        if !is_model(&path) && is_model(&path.join("checkpoint")) {
            path.push("checkpoint");
        }
        if !path.is_dir() {
            return Err(Error::missing_input(format!("there is no model folder `{}`", path.display()))
                .with_hint("a model is a folder with config.json, *.safetensors and tokenizer.json"));
        }
        if !is_model(&path) {
            return Err(Error::missing_input(format!("`{}` holds no config.json", path.display()))
                .with_hint("a model is a folder with config.json, *.safetensors and tokenizer.json"));
        }
        Ok(Self { path, prompt_format: None, name: None, files: None })
    }

    /// The same model in a folder that others share and add files to, such as the hub's cache: `name` is what people call it,
    /// `files` (paths inside the folder) are what belongs to it.
    #[must_use]
    pub fn in_shared_folder(mut self, name: impl Into<String>, files: Vec<String>) -> Self {
        (self.name, self.files) = (Some(name.into()), Some(files));
        self
    }

    /// What people call the model: its folder's name, or the stage's where that is just `checkpoint`.
    pub fn name(&self) -> String {
        let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
        match (&self.name, name(&self.path)) {
            (Some(name), _) => name.clone(),
            (None, Some(own)) if own == "checkpoint" => self.path.parent().and_then(name).unwrap_or(own),
            (None, Some(own)) => own,
            (None, None) => self.path.display().to_string(),
        }
    }

    /// The paths whose contents are the model, for recording what a stage read: the folder, or the model's own files where
    /// others share the folder.
    pub fn inputs(&self) -> Vec<PathBuf> {
        match &self.files {
            None => vec![self.path.clone()],
            Some(files) => files.iter().map(|file| self.path.join(file)).collect(),
        }
    }

    /// The same model, asked in another prompt format than its manifest says (`none`, `alpaca`, `chat`).
    #[must_use]
    pub fn with_prompt_format(mut self, format: Option<&str>) -> Self {
        self.prompt_format = format.map(str::to_owned);
        self
    }

    /// How instructions become text for this model: what [`Checkpoint::with_prompt_format`] set, otherwise what the
    /// manifest says; `None` when neither does.
    ///
    /// # Errors
    /// As [`Checkpoint::manifest`].
    pub fn prompt_format(&self) -> Result<Option<String>> {
        match &self.prompt_format {
            Some(format) => Ok(Some(format.clone())),
            None => Ok(self.manifest()?.and_then(|manifest| manifest.prompt_format)),
        }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The manifest; `None` for a plain Hugging Face model.
    ///
    /// # Errors
    /// When there is a manifest that cannot be read or is newer than this farmhand.
    pub fn manifest(&self) -> Result<Option<CheckpointManifest>> {
        let path = self.path.join(CHECKPOINT_MANIFEST);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io("read", &path, error)),
        };
        let manifest: CheckpointManifest = serde_json::from_str(&text).map_err(|error| {
            Error::invalid_data(format!("`{}` is not a checkpoint manifest", path.display())).with_source(error)
        })?;
        if manifest.format > CHECKPOINT_FORMAT {
            return Err(Error::invalid_data(format!(
                "`{}` has format {}, this farmhand reads up to {CHECKPOINT_FORMAT}",
                path.display(),
                manifest.format
            ))
            .with_hint("use the farmhand that wrote it, or a newer one"));
        }
        Ok(Some(manifest))
    }

    /// What the checkpoint can do; a plain Hugging Face model is a causal language model.
    ///
    /// # Errors
    /// As [`Checkpoint::manifest`].
    pub fn kind(&self) -> Result<CheckpointKind> {
        Ok(self.manifest()?.map_or(CheckpointKind::CausalLm, |manifest| manifest.kind))
    }
}

/// Finds the model that a user named in a configuration, in a component's options or on the command line. This crate knows
/// folders; the program also knows the Hugging Face hub.
pub trait FindModel: std::fmt::Debug {
    /// The model called `name`; relative folders start at `base_dir`.
    ///
    /// # Errors
    /// When there is no such model, or it cannot be fetched.
    fn find_model(&self, name: &Path, base_dir: &Path) -> Result<Checkpoint>;

    /// The same for who needs no weights: configuration and tokenizer are enough.
    ///
    /// # Errors
    /// As [`FindModel::find_model`].
    fn find_description(&self, name: &Path, base_dir: &Path) -> Result<Checkpoint> {
        self.find_model(name, base_dir)
    }
}

/// Finds models in folders and nowhere else.
#[derive(Debug, Clone, Copy, Default)]
pub struct FoldersOnly;

impl FindModel for FoldersOnly {
    fn find_model(&self, name: &Path, base_dir: &Path) -> Result<Checkpoint> {
        Checkpoint::open(base_dir.join(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_called_by_its_folder_its_stage_or_its_given_name() {
        let dir = tempfile::tempdir().expect("a folder");
        let folder = dir.path().join("my-sft/checkpoint");
        std::fs::create_dir_all(&folder).expect("made");
        std::fs::write(folder.join("config.json"), "{}").expect("written");
        let checkpoint = FoldersOnly.find_model(Path::new("my-sft"), dir.path()).expect("found");
        assert_eq!((checkpoint.name().as_str(), checkpoint.inputs()), ("my-sft", vec![folder.clone()]));
        let shared = checkpoint.in_shared_folder("owner/name", vec!["config.json".to_owned()]);
        assert_eq!((shared.name().as_str(), shared.inputs()), ("owner/name", vec![folder.join("config.json")]));
        assert_eq!(shared.path(), folder);
        assert!(FoldersOnly.find_model(Path::new("other"), dir.path()).is_err());
    }
}
