//! What a user wrote where a model is asked for: a folder, or a model on the Hugging Face hub.
//!
//! An existing folder always wins. `hf:owner/name` is always the hub. A plain `owner/name` is the hub only when it cannot be a
//! mistyped path: no folder `owner` may lie beside it. Whatever is neither is an error that names both readings.

use std::fmt;
use std::path::{Path, PathBuf};

use farmhand_core::{Error, Result};

/// What a name means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelName {
    /// A folder that exists.
    Folder(PathBuf),
    /// A model on the hub.
    Hub(HubId),
}

/// A model on the hub, at a branch, tag or commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubId {
    repo: String,
    revision: Option<String>,
    explicit: bool,
}

const MARK: &str = "hf:";

impl ModelName {
    /// Reads a name; relative folders start at `base_dir`.
    ///
    /// # Errors
    /// When there is no such folder and the name is no hub id either, or could be a mistyped path.
    pub fn read(name: &Path, base_dir: &Path) -> Result<Self> {
        let text = name.to_str().unwrap_or_default();
        if let Some(id) = text.strip_prefix(MARK) {
            return HubId::parse(id).map(|id| Self::Hub(HubId { explicit: true, ..id })).ok_or_else(|| {
                Error::invalid_config(format!("`{text}` is no hub id"))
                    .with_hint("expected `hf:owner/name` or `hf:owner/name@revision`")
            });
        }
        let path = base_dir.join(name);
        if path.exists() {
            return Ok(Self::Folder(path));
        }
        let missing =
            |hint: String| Err(Error::missing_input(format!("there is no model folder `{}`", path.display())).with_hint(hint));
        match HubId::parse(text) {
            None => missing(
                "a model is a folder with config.json, *.safetensors and tokenizer.json, or a hub id such as `owner/name`"
                    .to_owned(),
            ),
            Some(id) if !id.repo.contains('/') => missing(format!(
                "a model is a folder with config.json, *.safetensors and tokenizer.json; for the hub's `{id}` write `{MARK}{id}`"
            )),
            Some(id) if base_dir.join(id.owner()).is_dir() => missing(format!(
                "the folder `{}` is there, so this is read as a path{}; for the hub's model write `{MARK}{id}`",
                id.owner(),
                nearest(&base_dir.join(id.owner()), &id).map(|near| format!(" (did you mean `{near}`?)")).unwrap_or_default()
            )),
            Some(id) => Ok(Self::Hub(id)),
        }
    }
}

/// A folder beside the missing one whose name is nearly the same.
fn nearest(folder: &Path, id: &HubId) -> Option<String> {
    let entries = std::fs::read_dir(folder).ok()?.flatten().filter(|entry| entry.path().is_dir());
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    let name = id.repo.split_once('/').map_or("", |(_, name)| name);
    let near = farmhand_core::config::nearest(name, &names.iter().map(String::as_str).collect::<Vec<_>>())?;
    Some(format!("{}/{near}", id.owner()))
}

impl HubId {
    /// Reads `owner/name`, `owner/name@revision`, or the single name of one of the hub's oldest models.
    pub fn parse(text: &str) -> Option<Self> {
        let (repo, revision) = match text.split_once('@') {
            Some((repo, revision)) => (repo, Some(revision)),
            None => (text, None),
        };
        let mut parts = repo.split('/');
        let fits = parts.by_ref().take(2).all(is_name) && parts.next().is_none() && repo.len() <= 96;
        (fits && revision.is_none_or(is_revision)).then(|| Self {
            repo: repo.to_owned(),
            revision: revision.map(str::to_owned),
            explicit: false,
        })
    }

    /// `owner/name`.
    pub fn repo(&self) -> &str {
        &self.repo
    }

    /// The branch, tag or commit that was asked for.
    pub fn revision(&self) -> Option<&str> {
        self.revision.as_deref()
    }

    /// Whether the user said that the hub is meant.
    pub fn is_explicit(&self) -> bool {
        self.explicit
    }

    /// The same model at another revision.
    #[must_use]
    pub fn at(&self, revision: &str) -> Self {
        Self { revision: Some(revision.to_owned()), ..self.clone() }
    }

    /// As a configuration can name it, never mistaken for a folder: `hf:owner/name@revision`.
    pub fn explicit_name(&self) -> String {
        format!("{MARK}{self}")
    }

    fn owner(&self) -> &str {
        self.repo.split('/').next().unwrap_or_default()
    }
}

impl fmt::Display for HubId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.repo)?;
        match &self.revision {
            Some(revision) => write!(f, "@{revision}"),
            None => Ok(()),
        }
    }
}

/// What the hub allows as the name of an owner or a model.
fn is_name(part: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    !part.is_empty()
        && part.chars().all(allowed)
        && !part.starts_with(['-', '.'])
        && !part.ends_with(['-', '.'])
        && !part.contains("--")
        && !part.contains("..")
}

/// Branches, tags, commits and `refs/pr/1`; nothing that leads out of a folder.
fn is_revision(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_./+".contains(c);
    !text.is_empty()
        && text.len() <= 200
        && text.chars().all(allowed)
        && text.split('/').all(|part| !part.is_empty() && !part.starts_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> HubId {
        HubId::parse(text).expect("an id")
    }

    #[test]
    fn ids_are_told_from_paths_by_their_form() {
        assert_eq!(id("owner/na.me-1").repo(), "owner/na.me-1");
        assert_eq!((id("o/n@refs/pr/1").revision(), id("o/n@v1.0").to_string()), (Some("refs/pr/1"), "o/n@v1.0".to_owned()));
        for text in
            ["", "/o/n", "./n", "../n", "o/n/m", "o/", "o//n", "~/n", "o/n@", "o/n@../x", "o/a..b", "o/n@a//b", "a b/c", "-o/n"]
        {
            assert_eq!(HubId::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_folder_wins_and_a_mistyped_path_is_never_the_hub() {
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::create_dir_all(dir.path().join("runs/my-sft")).expect("made");
        let read = |name: &str| ModelName::read(Path::new(name), dir.path());
        assert_eq!(read("runs/my-sft").expect("there"), ModelName::Folder(dir.path().join("runs/my-sft")));
        assert_eq!(read("owner/name@v1").expect("an id"), ModelName::Hub(id("owner/name@v1")));
        let ModelName::Hub(explicit) = read("hf:runs/my-sft").expect("the hub") else { panic!("the hub was asked for") };
        assert!(explicit.is_explicit() && explicit.explicit_name() == "hf:runs/my-sft");
        assert!(matches!(read("hf:gpt2"), Ok(ModelName::Hub(_))));

        let error = read("runs/my-stf").expect_err("a slip");
        assert!(error.message().contains("no model folder") && error.message().contains("runs/my-stf"), "{error}");
        let hint = error.hint().expect("a hint");
        assert!(hint.contains("did you mean `runs/my-sft`?") && hint.contains("`hf:runs/my-stf`"), "{hint}");
        assert!(read("gpt2").expect_err("ambiguous").hint().is_some_and(|hint| hint.contains("`hf:gpt2`")));
        assert!(read("./gone").expect_err("no id").hint().is_some_and(|hint| hint.contains("`owner/name`")));
        assert!(read("hf:a b").expect_err("no id").hint().is_some_and(|hint| hint.contains("hf:owner/name@revision")));
    }
}
