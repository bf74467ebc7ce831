//! What lies beside restored weights: configuration, tokenizer, manifest.

use std::collections::BTreeMap;
use std::path::Path;

use farmhand_core::{CHECKPOINT_FORMAT, CHECKPOINT_MANIFEST, CheckpointKind, CheckpointManifest, Error, EventSink, Result};
use serde_json::{Map, Value, json};

use crate::config::ModelConfig;
use crate::tokenizer::{CONFIG_FILE, FILES, GENERATION_FILE, TOKENIZER_FILE};
use crate::weight_difference::Recovery;

/// The padding token that a tokenizer's files name.
pub(crate) fn pad_token(dir: &Path) -> Result<Option<String>> {
    for name in [CONFIG_FILE, "special_tokens_map.json"] {
        let json = read_json(&dir.join(name))?;
        let token = &json["pad_token"];
        if let Some(token) = token.as_str().or_else(|| token["content"].as_str()) {
            return Ok(Some(token.to_owned()));
        }
    }
    Ok(None)
}

/// The number of tokens of a tokenizer with added ones; `None` where no `tokenizer.json` says it.
pub(crate) fn tokenizer_length(dir: &Path) -> Result<Option<usize>> {
    let json = read_json(&dir.join(TOKENIZER_FILE))?;
    let of_model = match &json["model"]["vocab"] {
        Value::Object(vocab) => vocab.values().filter_map(Value::as_u64).max(),
        Value::Array(vocab) => (vocab.len() as u64).checked_sub(1),
        _ => return Ok(None),
    };
    let added = json["added_tokens"].as_array().into_iter().flatten().filter_map(|token| token["id"].as_u64()).max();
    Ok(of_model.max(added).map(|largest| largest as usize + 1))
}

/// A JSON file; `null` when it is not there.
pub(crate) fn read_json(path: &Path) -> Result<Value> {
    match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map_err(|error| Error::invalid_data(format!("`{}` is not JSON", path.display())).with_source(error)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Value::Null),
        Err(error) => Err(Error::io("read", path, error)),
    }
}

/// Writes everything but the weights.
pub(crate) fn write_description(
    recovery: &Recovery<'_>,
    dir: &Path,
    base: &ModelConfig,
    kind: CheckpointKind,
    vocab_size: usize,
    events: &dyn EventSink,
) -> Result<()> {
    write_config(recovery, dir, base, kind, vocab_size)?;
    write_tokenizer(recovery, dir, events)?;
    let manifest = CheckpointManifest {
        format: CHECKPOINT_FORMAT,
        kind,
        made_by: "recover".to_owned(),
        // What all of AlpacaFarm's models were trained on.
        prompt_format: Some("alpaca".to_owned()),
        base: None,
    };
    write_json(&dir.join(CHECKPOINT_MANIFEST), &serde_json::to_value(manifest).expect("a manifest is JSON"))
}

/// A language model's configuration is that of the difference; a reward model's, which only names a folder there, is the
/// base's with a score head.
fn write_config(recovery: &Recovery<'_>, dir: &Path, base: &ModelConfig, kind: CheckpointKind, vocab_size: usize) -> Result<()> {
    let path = recovery.difference.join("config.json");
    let mut config = match (kind, read_json(&path)?) {
        (CheckpointKind::CausalLm, Value::Object(config)) => config,
        (CheckpointKind::RewardModel, _) => base.clone().with_scalar_head().json().clone(),
        _ => return Err(Error::missing_input(format!("`{}` holds no config.json", recovery.difference.display()))),
    };
    // A folder on the publisher's machine.
    config.remove("_name_or_path");
    config.insert("vocab_size".to_owned(), json!(vocab_size));
    config.insert("torch_dtype".to_owned(), json!(recovery.weight_type.name()));
    // What farmhand and transformers will read must describe the weights that were written.
    let written = ModelConfig::from_json(config.clone(), &format!("`{}`", path.display()))?;
    if written.hidden_size() != base.hidden_size() || written.n_layers() != base.n_layers() {
        return Err(Error::invalid_data(format!("`{}` describes another model than the weights beside it", path.display())));
    }
    write_json(&dir.join("config.json"), &Value::Object(config))
}

/// The difference's tokenizer. Where it is only sentencepiece's `tokenizer.model`, the base's `tokenizer.json` with the
/// difference's added tokens says the same in the form that is read.
fn write_tokenizer(recovery: &Recovery<'_>, dir: &Path, events: &dyn EventSink) -> Result<()> {
    let mut there = false;
    for name in FILES {
        let from = recovery.difference.join(name);
        if from.is_file() {
            std::fs::copy(&from, dir.join(name)).map_err(|error| Error::io("copy", &from, error))?;
            there |= name == TOKENIZER_FILE;
        } else if name == GENERATION_FILE && recovery.base.join(name).is_file() {
            let from = recovery.base.join(name);
            std::fs::copy(&from, dir.join(name)).map_err(|error| Error::io("copy", &from, error))?;
        }
    }
    if there {
        return Ok(());
    }
    let base = read_json(&recovery.base.join(TOKENIZER_FILE))?;
    if let Value::Object(tokenizer) = base {
        let added = read_json(&recovery.difference.join("added_tokens.json"))?;
        let extended = with_added_tokens(tokenizer, added.as_object().unwrap_or(&Map::new()));
        return write_json(&dir.join(TOKENIZER_FILE), &Value::Object(extended));
    }
    events.warn(&format!(
        "neither `{}` nor `{}` holds a tokenizer.json, so the restored model has none; make one with transformers: \
         `AutoTokenizer.from_pretrained(folder).save_pretrained(folder)`",
        recovery.difference.display(),
        recovery.base.display()
    ));
    Ok(())
}

/// A `tokenizer.json` with more special tokens.
fn with_added_tokens(mut tokenizer: Map<String, Value>, added: &Map<String, Value>) -> Map<String, Value> {
    let entry = tokenizer.entry("added_tokens").or_insert_with(|| json!([]));
    let Some(tokens) = entry.as_array_mut() else { return tokenizer };
    let known: Vec<u64> = tokens.iter().filter_map(|token| token["id"].as_u64()).collect();
    let new: BTreeMap<u64, &String> = added.iter().filter_map(|(text, id)| Some((id.as_u64()?, text))).collect();
    for (id, text) in new.into_iter().filter(|(id, _)| !known.contains(id)) {
        tokens.push(json!({
            "id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true,
        }));
    }
    tokenizer
}

fn write_json(path: &Path, value: &Value) -> Result<()> {
    let mut text = serde_json::to_vec_pretty(value).expect("a JSON value is JSON");
    text.push(b'\n');
    std::fs::write(path, text).map_err(|error| Error::io("write", path, error))
}
