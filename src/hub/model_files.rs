//! Which files of a model on the hub are fetched: no more than are read.

use std::collections::BTreeSet;
use std::path::Path;

use farmhand_core::{Error, Result};

use super::cache_folder::is_plain_path;

/// What a model is fetched for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// To load it: configuration, tokenizer, safetensors.
    Model,
    /// To describe it: everything but the weights.
    Description,
    /// To read its tensors in whatever form they are stored, pickled ones included.
    AnyWeights,
}

/// What describes a model, in the order it is fetched.
const DESCRIPTION: [&str; 14] = [
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "adapter_config.json",
    "farmhand.json",
    "reward_model.json",
    "model_sum.txt",
];

/// The forms weights come in, best first: the file for all, the index of several, and whether it is a pickle.
const WEIGHTS: [(&str, &str, bool); 3] = [
    ("model.safetensors", "model.safetensors.index.json", false),
    ("adapter_model.safetensors", "adapter_model.safetensors.index.json", false),
    ("pytorch_model.bin", "pytorch_model.bin.index.json", true),
];

/// How a model's weights are stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Weights {
    /// In one file.
    Single(&'static str),
    /// In the files an index lists.
    Sharded(&'static str),
}

/// The files that describe a model, of those there are.
pub(super) fn description(there: &BTreeSet<String>) -> Vec<&'static str> {
    DESCRIPTION.into_iter().filter(|name| there.contains(*name)).collect()
}

/// The best form of the weights there is.
pub(super) fn weights(there: &BTreeSet<String>, want: Want) -> Option<Weights> {
    let mut forms = WEIGHTS.into_iter().filter(|(.., pickled)| !pickled || want == Want::AnyWeights);
    forms.find_map(|(single, index, _)| {
        let whole = there.contains(single).then_some(Weights::Single(single));
        whole.or_else(|| there.contains(index).then_some(Weights::Sharded(index)))
    })
}

/// Why there is nothing to load.
pub(super) fn no_weights(name: &str, there: &BTreeSet<String>, want: Want) -> Error {
    let pickled = there.iter().find(|file| file.starts_with("pytorch_model") && file.ends_with(".bin"));
    match pickled {
        Some(file) if want == Want::Model => Error::missing_input(format!(
            "`{name}` holds its weights only as `{file}`, a pickle, which is not loaded"
        ))
        .with_hint(
            "a pickle can run any code; convert it with transformers: `model.save_pretrained(folder, safe_serialization=True)`",
        ),
        _ => Error::missing_input(format!("`{name}` holds no weights that can be read"))
            .with_hint("expected model.safetensors, or model.safetensors.index.json and the files it lists"),
    }
}

/// The files an index lists, sorted.
pub(super) fn shards(index: &Path) -> Result<Vec<String>> {
    let broken = || Error::invalid_data(format!("`{}` is not an index of weights", index.display()));
    let text = std::fs::read_to_string(index).map_err(|error| Error::io("read", index, error))?;
    let json: serde_json::Value = serde_json::from_str(&text).map_err(|error| broken().with_source(error))?;
    let map = json["weight_map"].as_object().ok_or_else(broken)?;
    let names: BTreeSet<&str> = map.values().filter_map(serde_json::Value::as_str).collect();
    if names.is_empty() || names.iter().any(|name| !is_plain_path(name) || name.contains('/')) {
        return Err(broken().with_hint("every tensor should name a file beside the index"));
    }
    Ok(names.into_iter().map(str::to_owned).collect())
}

/// The model's own files in a snapshot folder; an error when it is not whole.
pub(super) fn in_snapshot(folder: &Path, name: &str, want: Want) -> Result<Vec<String>> {
    let known = DESCRIPTION.iter().chain(WEIGHTS.iter().flat_map(|(single, index, _)| [single, index]));
    let there: BTreeSet<String> = known.filter(|file| folder.join(file).is_file()).map(|file| (*file).to_owned()).collect();
    let mut files: Vec<String> = description(&there).into_iter().map(str::to_owned).collect();
    if !there.contains("config.json") && !there.contains("adapter_config.json") {
        return Err(Error::missing_input(format!("the cached copy of `{name}` holds no config.json")));
    }
    if want == Want::Description {
        return Ok(files);
    }
    match weights(&there, want) {
        None => return Err(Error::missing_input(format!("the cached copy of `{name}` holds no weights"))),
        Some(Weights::Single(file)) => files.push(file.to_owned()),
        Some(Weights::Sharded(index)) => {
            files.push(index.to_owned());
            for shard in shards(&folder.join(index))? {
                if !folder.join(&shard).is_file() {
                    return Err(Error::missing_input(format!("the cached copy of `{name}` is not whole: `{shard}` is missing")));
                }
                files.push(shard);
            }
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn there(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn safetensors_are_preferred_and_pickles_only_where_asked() {
        let both = there(&["config.json", "README.md", "pytorch_model.bin", "model.safetensors.index.json", "model.safetensors"]);
        assert_eq!(description(&both), ["config.json"]);
        assert_eq!(weights(&both, Want::Model), Some(Weights::Single("model.safetensors")));
        let pickled = there(&["config.json", "pytorch_model.bin.index.json", "pytorch_model-00001-of-00002.bin"]);
        assert_eq!(weights(&pickled, Want::Model), None);
        assert_eq!(weights(&pickled, Want::AnyWeights), Some(Weights::Sharded("pytorch_model.bin.index.json")));
        assert!(no_weights("o/n", &pickled, Want::Model).message().contains("pytorch_model-00001-of-00002.bin"));
    }

    #[test]
    fn a_snapshot_without_a_shard_is_not_whole() {
        let dir = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).expect("written");
        let files = |want| in_snapshot(dir.path(), "o/n", want);
        assert!(files(Want::Description).is_err());
        write("config.json", "{}");
        write("README.md", "");
        assert_eq!(files(Want::Description).expect("described"), ["config.json"]);
        assert!(files(Want::Model).expect_err("no weights").message().contains("no weights"));
        write("model.safetensors.index.json", r#"{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}"#);
        write("model-1.safetensors", "");
        assert!(files(Want::Model).expect_err("not whole").message().contains("`model-2.safetensors` is missing"));
        write("model-2.safetensors", "");
        let whole = ["config.json", "model-1.safetensors", "model-2.safetensors", "model.safetensors.index.json"];
        assert_eq!(files(Want::Model).expect("whole"), whole);
    }

    #[test]
    fn an_index_that_names_files_elsewhere_is_refused() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("index.json");
        for text in ["", "{}", r#"{"weight_map": {}}"#, r#"{"weight_map": {"a": "../x.safetensors"}}"#] {
            std::fs::write(&path, text).expect("written");
            assert!(shards(&path).expect_err("refused").message().contains("not an index"), "{text}");
        }
    }
}
