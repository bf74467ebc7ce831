//! Which folders a model is made of: one with whole weights, and any number of low-rank adapters on top of it.
//!
//! An adapter's base is looked for where farmhand's manifest says, as seen from the adapter's folder, so that a run directory
//! can be moved; then where `base_model_name_or_path` in `adapter_config.json` says, as PEFT does.

use std::path::{Path, PathBuf};

use farmhand_core::{ADAPTER_CONFIG, AdapterBase, Checkpoint, CheckpointManifest, Error, Result};
use serde_json::{Map, Value};

/// Adapters that may lie on top of each other; more are a circle.
const MAX_ADAPTERS: usize = 8;

/// The folders of one model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ModelFolders {
    /// Those of the adapters, the first merged last.
    adapters: Vec<PathBuf>,
    /// That of the whole model below them.
    whole: PathBuf,
}

impl ModelFolders {
    /// The folders that a folder stands for: itself, and when it is an adapter's, those of the model it changes.
    pub(crate) fn of(dir: &Path) -> Result<Self> {
        let (mut adapters, mut whole) = (Vec::new(), dir.to_owned());
        while is_adapter(&whole) {
            if adapters.len() == MAX_ADAPTERS {
                return Err(Error::invalid_data(format!(
                    "`{}` is an adapter of an adapter of an adapter, more than {MAX_ADAPTERS} times",
                    dir.display()
                ))
                .with_hint("an adapter that changes itself has no base model; look at `base_model_name_or_path`"));
            }
            let base = base_of(&whole)?;
            adapters.push(std::mem::replace(&mut whole, base));
        }
        Ok(Self { adapters, whole })
    }

    /// An adapter's folder over that of a model other than the one it names.
    pub(crate) fn with_base(adapter: &Path, base: &Path) -> Result<Self> {
        let mut folders = Self::of(base)?;
        folders.adapters.insert(0, adapter.to_owned());
        Ok(folders)
    }

    /// The folder with whole weights and `config.json`.
    pub(crate) fn whole(&self) -> &Path {
        &self.whole
    }

    /// Whether a folder is one of them.
    pub(crate) fn contains(&self, dir: &Path) -> bool {
        let same = |own: &PathBuf| own.canonicalize().is_ok_and(|own| dir.canonicalize().is_ok_and(|dir| own == dir));
        self.adapters.iter().chain([&self.whole]).any(same)
    }

    /// The adapters' folders, each with the folder of the model it changes, in the order in which they are merged.
    pub(crate) fn adapters(&self) -> impl Iterator<Item = (&Path, &Path)> {
        let base = |place: usize| self.adapters.get(place + 1).unwrap_or(&self.whole).as_path();
        (0..self.adapters.len()).rev().map(move |place| (self.adapters[place].as_path(), base(place)))
    }

    /// The first folder that satisfies a condition, from the last adapter down to the whole model.
    pub(crate) fn first(&self, condition: impl Fn(&Path) -> bool) -> Option<&Path> {
        self.adapters.iter().chain([&self.whole]).map(PathBuf::as_path).find(|dir| condition(dir))
    }

    /// The first manifest, from the last adapter down to the whole model.
    pub(crate) fn manifest(&self) -> Result<Option<CheckpointManifest>> {
        for dir in self.adapters.iter().chain([&self.whole]) {
            if let Some(manifest) = Checkpoint::open(dir)?.manifest()? {
                return Ok(Some(manifest));
            }
        }
        Ok(None)
    }
}

/// Whether a folder is an adapter's.
fn is_adapter(dir: &Path) -> bool {
    dir.join(ADAPTER_CONFIG).is_file()
}

/// The folder of the model that an adapter's folder changes.
fn base_of(dir: &Path) -> Result<PathBuf> {
    let recorded = recorded_base(dir)?.map(|base| dir.join(base.path));
    let fields = read_adapter_config(dir)?;
    let named = fields.get("base_model_name_or_path").and_then(Value::as_str);
    let places = recorded.into_iter().chain(named.into_iter().flat_map(|name| [PathBuf::from(name), dir.join(name)]));
    if let Some(found) = places.into_iter().find_map(|place| Checkpoint::open(place).ok()) {
        return Ok(found.path().to_owned());
    }
    let name = named.unwrap_or("a model that it does not name");
    Err(Error::missing_input(format!("the adapter `{}` changes `{name}`, which is no model folder here", dir.display()))
        .with_hint(
            "put the base model there, or merge the adapter with it where it is: \
             `farmhand checkpoint merge --adapter DIR --base DIR --out DIR`",
        ))
}

/// What an adapter's manifest says about its base, if there is a manifest.
pub(crate) fn recorded_base(dir: &Path) -> Result<Option<AdapterBase>> {
    Ok(Checkpoint::open(dir)?.manifest()?.and_then(|manifest| manifest.base))
}

/// The fields of an adapter's `adapter_config.json`.
pub(crate) fn read_adapter_config(dir: &Path) -> Result<Map<String, Value>> {
    let path = dir.join(ADAPTER_CONFIG);
    let text = std::fs::read_to_string(&path).map_err(|error| Error::io("read", &path, error))?;
    let value = serde_json::from_str(&text)
        .map_err(|error| Error::invalid_config(format!("`{}` is not JSON", path.display())).with_source(error))?;
    let Value::Object(fields) = value else {
        return Err(Error::invalid_config(format!("`{}` holds no JSON object", path.display())));
    };
    Ok(fields)
}

/// A folder as seen from another one, which need not exist yet; `None` when they have nothing in common or a path cannot be
/// resolved.
pub(crate) fn seen_from(from: &Path, to: &Path) -> Option<PathBuf> {
    let to = to.canonicalize().ok()?;
    let existing = from.ancestors().find(|ancestor| ancestor.is_dir() || ancestor.as_os_str().is_empty())?;
    let rest = from.strip_prefix(existing).ok()?;
    let existing = if existing.as_os_str().is_empty() { Path::new(".") } else { existing };
    let from = existing.canonicalize().ok()?.join(rest);
    let n_shared = from.components().zip(to.components()).take_while(|(a, b)| a == b).count();
    if n_shared == 0 {
        return None;
    }
    let up = std::iter::repeat_n(Path::new(".."), from.components().count() - n_shared);
    Some(up.chain(to.components().skip(n_shared).map(|part| Path::new(part.as_os_str()))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder with a file.
    fn folder(dir: &Path, file: &str, text: &str) {
        std::fs::create_dir_all(dir).expect("made");
        std::fs::write(dir.join(file), text).expect("written");
    }

    fn adapter(dir: &Path, base: &str) {
        folder(dir, ADAPTER_CONFIG, &format!("{{\"base_model_name_or_path\": \"{base}\"}}"));
    }

    #[test]
    fn adapters_lead_to_the_whole_model_and_are_merged_from_there_on() {
        let dir = tempfile::tempdir().expect("a folder");
        let place = |name: &str| dir.path().join(name);
        folder(&place("whole"), "config.json", "{}");
        adapter(&place("one"), "../whole");
        adapter(&place("two"), &place("one").to_string_lossy());
        let folders = ModelFolders::of(&place("two")).expect("found");
        assert_eq!(folders.whole().canonicalize().expect("there"), place("whole").canonicalize().expect("there"));
        let names = |path: &Path| path.file_name().expect("a name").to_string_lossy().into_owned();
        let order: Vec<_> = folders.adapters().map(|(adapter, base)| (names(adapter), names(base))).collect();
        assert_eq!(order, [("one", "whole"), ("two", "one")].map(|(a, b)| (a.to_owned(), b.to_owned())));
        assert_eq!(ModelFolders::of(&place("whole")).expect("found").adapters().count(), 0);
    }

    #[test]
    fn a_base_that_is_not_there_and_a_circle_are_errors() {
        let dir = tempfile::tempdir().expect("a folder");
        let lost = dir.path().join("lost");
        adapter(&lost, "someone/a-model");
        let error = ModelFolders::of(&lost).expect_err("not there");
        assert!(error.message().contains("`someone/a-model`"), "{error}");
        assert!(error.hint().is_some_and(|hint| hint.contains("checkpoint merge")));
        let own = dir.path().join("own");
        adapter(&own, &own.to_string_lossy());
        assert!(ModelFolders::of(&own).expect_err("a circle").message().contains("an adapter of an adapter"));
    }

    #[test]
    fn a_folder_is_seen_from_another_one_that_does_not_exist_yet() {
        let dir = tempfile::tempdir().expect("a folder");
        let (base, run) = (dir.path().join("models/base"), dir.path().join("runs/one"));
        std::fs::create_dir_all(&base).expect("made");
        std::fs::create_dir_all(&run).expect("made");
        let seen = seen_from(&run.join("checkpoint/adapter"), &base).expect("both are below the same folder");
        assert_eq!(seen, Path::new("../../../../models/base"));
        assert_eq!(seen_from(&run, &dir.path().join("absent")), None);
    }
}
