//! Model folders that are wrong: each is one clear error and never a panic.

use std::path::Path;

use farmhand_core::{Error, ErrorKind};
use farmhand_models::{LanguageModel, SafetensorsFile, write_safetensors};
use serde_json::{Value, json};
use tch::{Device, Tensor};

use crate::{copy_folder, edit_json, golden};

/// A copy of a golden folder after `change`.
fn broken(case: &str, change: impl FnOnce(&Path)) -> Error {
    let dir = tempfile::tempdir().expect("a folder");
    copy_folder(&golden(case), dir.path());
    change(dir.path());
    LanguageModel::load(dir.path(), Device::Cpu).err().unwrap_or_else(|| panic!("{case}: the folder was taken"))
}

/// Rewrites the tensors of a folder.
fn edit_tensors(dir: &Path, edit: impl FnOnce(&mut Vec<(String, Tensor)>)) {
    let path = dir.join("model.safetensors");
    let mut file = SafetensorsFile::open(&path).expect("whole");
    let mut tensors = file.names().into_iter().map(|name| (name.clone(), file.read(&name).expect("there"))).collect();
    edit(&mut tensors);
    write_safetensors(&path, tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)), &Default::default()).expect("written");
}

#[track_caller]
fn expect(error: &Error, kind: ErrorKind, words: &[&str]) {
    assert_eq!(error.kind(), kind, "{error:?}");
    for word in words {
        assert!(
            error.to_string().contains(word) || error.hint().is_some_and(|hint| hint.contains(word)),
            "no `{word}` in {error:?}"
        );
    }
}

#[test]
fn missing_files() {
    let remove = |name: &'static str| move |dir: &Path| std::fs::remove_file(dir.join(name)).expect("removed");
    expect(&broken("llama", remove("config.json")), ErrorKind::MissingInput, &["config.json"]);
    expect(&broken("llama", remove("model.safetensors")), ErrorKind::MissingInput, &["holds no model.safetensors"]);
    let shard = "model-00002-of-00002.safetensors";
    expect(&broken("llama3", remove(shard)), ErrorKind::MissingInput, &[shard, "index.json"]);
    let pickle =
        broken("llama", |dir| std::fs::rename(dir.join("model.safetensors"), dir.join("pytorch_model.bin")).expect("renamed"));
    expect(&pickle, ErrorKind::MissingInput, &["pytorch_model.bin", "pickle", "safe_serialization=True"]);
}

#[test]
fn damaged_files() {
    let cut = |name: &'static str| {
        move |dir: &Path| {
            let bytes = std::fs::read(dir.join(name)).expect("readable");
            std::fs::write(dir.join(name), &bytes[..bytes.len() / 2]).expect("written");
        }
    };
    expect(&broken("llama", cut("model.safetensors")), ErrorKind::InvalidData, &["not a whole safetensors file", "expected"]);
    expect(&broken("llama3", cut("model-00001-of-00002.safetensors")), ErrorKind::InvalidData, &["not a whole safetensors file"]);
    expect(&broken("llama3", cut("model.safetensors.index.json")), ErrorKind::InvalidData, &["not an index"]);
    expect(&broken("llama", cut("config.json")), ErrorKind::InvalidConfig, &["config.json", "not JSON"]);
    let garbage = broken("llama", |dir| std::fs::write(dir.join("model.safetensors"), [7; 4096]).expect("written"));
    expect(&garbage, ErrorKind::InvalidData, &["not a whole safetensors file"]);
}

#[test]
fn unknown_architectures_and_features() {
    let config =
        |key: &'static str, value: Value| move |dir: &Path| edit_json(&dir.join("config.json"), |json| json[key] = value);
    let error = broken("llama", config("model_type", json!("mamba")));
    expect(
        &error,
        ErrorKind::InvalidConfig,
        &["unknown `model_type` `mamba`", "gemma2, gemma3_text, gpt2, gpt_neox, llama, mistral, phi3, qwen2, qwen3"],
    );
    expect(&broken("llama", config("hidden_act", json!("mish"))), ErrorKind::InvalidConfig, &["hidden_act", "mish", "silu"]);
    let rope = |rope: Value| broken("llama", config("rope_scaling", rope));
    expect(&rope(json!({ "type": "ntk", "factor": 2 })), ErrorKind::InvalidConfig, &["rope_scaling.type", "ntk", "yarn"]);
    expect(&rope(json!({ "rope_type": "linear" })), ErrorKind::InvalidConfig, &["`rope_scaling.factor` is missing"]);
    expect(
        &rope(json!({ "type": "yarn", "factor": 0.25 })),
        ErrorKind::InvalidConfig,
        &["rope_scaling.factor", "at least 1", "0.25"],
    );
    expect(&rope(json!("twice")), ErrorKind::InvalidConfig, &["`rope_scaling`: expected an object", "twice"]);
    let error = broken("gemma3", config("rope_parameters", json!({ "rope_type": "default" })));
    expect(&error, ErrorKind::InvalidConfig, &["rope_parameters", "sliding_attention"]);
    let error = broken("mistral", config("sliding_window", json!(-1)));
    expect(&error, ErrorKind::InvalidConfig, &["sliding_window", "positive integer"]);
    expect(&broken("gpt2", config("scale_attn_by_inverse_layer_idx", json!(true))), ErrorKind::InvalidConfig, &["inverse_layer"]);
    expect(
        &broken("gpt2", config("activation_function", json!("tanh"))),
        ErrorKind::InvalidConfig,
        &["activation_function", "gelu_new"],
    );
    expect(&broken("llama", config("num_hidden_layers", json!(-2))), ErrorKind::InvalidConfig, &["positive integer", "-2"]);
    let error = broken("llama", |dir| {
        edit_json(&dir.join("config.json"), |json| drop(json.as_object_mut().expect("an object").remove("vocab_size")))
    });
    expect(&error, ErrorKind::InvalidConfig, &["`vocab_size` is missing"]);
}

#[test]
fn weights_of_another_model() {
    let name = "model.layers.1.mlp.up_proj.weight";
    let error = broken("llama", |dir| edit_tensors(dir, |tensors| tensors.retain(|(other, _)| other != name)));
    expect(&error, ErrorKind::InvalidData, &["lack tensor", name, "another model"]);
    let error = broken("llama", |dir| edit_json(&dir.join("config.json"), |json| json["intermediate_size"] = json!(50)));
    expect(&error, ErrorKind::InvalidData, &["[32, 48]", "[32, 50]"]);
    let extra = "model.layers.0.self_attn.q_norm.weight";
    let error = broken("llama", |dir| edit_tensors(dir, |tensors| tensors.push((extra.to_owned(), Tensor::from_slice(&[1f32])))));
    expect(&error, ErrorKind::InvalidData, &["1 tensors", extra]);
    let error = broken("llama", |dir| {
        edit_tensors(dir, |tensors| tensors.iter_mut().for_each(|(_, tensor)| *tensor = tensor.to_kind(tch::Kind::Int)));
    });
    expect(&error, ErrorKind::InvalidData, &["not floats"]);
    for (case, key, value, words) in [
        ("gemma3", "head_dim", json!(6), ["[8]", "[6]"]),
        ("gpt_neox", "intermediate_size", json!(40), ["[32, 48]", "[32, 40]"]),
        ("phi3", "num_key_value_heads", json!(4), ["[64, 32]", "[96, 32]"]),
        ("qwen3", "head_dim", json!(8), ["[12]", "[8]"]),
    ] {
        let error = broken(case, |dir| edit_json(&dir.join("config.json"), |json| json[key] = value));
        expect(&error, ErrorKind::InvalidData, &words);
    }
    let error = broken("qwen3", |dir| edit_json(&dir.join("config.json"), |json| json["model_type"] = json!("llama")));
    expect(&error, ErrorKind::InvalidData, &["no place for", "k_norm"]);
    let error = broken("llama3", |dir| edit_json(&dir.join("config.json"), |json| json["vocab_size"] = json!(95)));
    expect(&error, ErrorKind::InvalidData, &["[96, 32]", "[95, 32]"]);
}

#[test]
fn an_index_that_lies_or_points_elsewhere() {
    let name = "lm_head.weight";
    let index = |file: &'static str| {
        move |dir: &Path| edit_json(&dir.join("model.safetensors.index.json"), |json| json["weight_map"][name] = json!(file))
    };
    expect(&broken("llama3", index("../other/model.safetensors")), ErrorKind::InvalidData, &["not a plain file name"]);
    let swapped = broken("llama3", index("model-00002-of-00002.safetensors"));
    expect(&swapped, ErrorKind::InvalidData, &["promises tensor `lm_head.weight`"]);
}

#[test]
fn checkpoints_of_a_bare_body_are_read_and_those_without_a_head_are_not() {
    let rename = |dir: &Path, prefix: &str| {
        edit_tensors(dir, |tensors| {
            tensors.iter_mut().for_each(|(name, _)| *name = name.strip_prefix(prefix).unwrap_or(name).to_owned());
        });
    };
    for (case, prefix) in [("gpt2", "transformer."), ("llama", "model.")] {
        let dir = tempfile::tempdir().expect("a folder");
        copy_folder(&golden(case), dir.path());
        rename(dir.path(), prefix);
        LanguageModel::load(dir.path(), Device::Cpu).unwrap_or_else(|error| panic!("{case}: {error:?}"));
    }
    // Old checkpoints store constants beside the weights.
    let dir = tempfile::tempdir().expect("a folder");
    copy_folder(&golden("gpt2"), dir.path());
    edit_tensors(dir.path(), |tensors| {
        for name in ["transformer.h.0.attn.bias", "transformer.h.0.attn.masked_bias"] {
            tensors.push((name.to_owned(), Tensor::from_slice(&[1f32])));
        }
    });
    LanguageModel::load(dir.path(), Device::Cpu).expect("they are left out");
    let error = broken("mistral", |dir| edit_tensors(dir, |tensors| tensors.retain(|(name, _)| name != "lm_head.weight")));
    expect(&error, ErrorKind::InvalidData, &["lack tensor `lm_head.weight`", "tie_word_embeddings"]);
    let error = broken("gpt_neox", |dir| edit_tensors(dir, |tensors| tensors.retain(|(name, _)| name != "embed_out.weight")));
    expect(&error, ErrorKind::InvalidData, &["lack tensor `embed_out.weight`", "tie_word_embeddings"]);
}

#[test]
fn a_head_beside_a_tied_embedding_must_be_that_embedding() {
    let embedding = "model.embed_tokens.weight";
    let add_head = |dir: &Path, change: fn(&Tensor) -> Tensor| {
        edit_tensors(dir, |tensors| {
            let rows = &tensors.iter().find(|(name, _)| name == embedding).expect("there").1;
            let head = change(rows);
            tensors.push(("lm_head.weight".to_owned(), head));
        });
    };
    for case in ["llama", "gemma2"] {
        let dir = tempfile::tempdir().expect("a folder");
        copy_folder(&golden(case), dir.path());
        add_head(dir.path(), Tensor::copy);
        LanguageModel::load(dir.path(), Device::Cpu).unwrap_or_else(|error| panic!("{case}: the same values: {error:?}"));
        let error = broken(case, |dir| add_head(dir, |rows| rows + 0.5));
        expect(&error, ErrorKind::InvalidData, &["`lm_head.weight` differs from", embedding, "`tie_word_embeddings` to false"]);
        let error = broken(case, |dir| add_head(dir, |rows| rows.narrow(0, 0, 8).copy()));
        expect(&error, ErrorKind::InvalidData, &["lm_head.weight", "[8, 32]"]);
    }
}

#[test]
fn a_head_may_have_the_name_it_has_elsewhere_but_not_both() {
    let dir = tempfile::tempdir().expect("a folder");
    copy_folder(&golden("gpt_neox"), dir.path());
    edit_tensors(dir.path(), |tensors| {
        tensors
            .iter_mut()
            .filter(|(name, _)| name == "embed_out.weight")
            .for_each(|(name, _)| *name = "lm_head.weight".to_owned());
    });
    let model = LanguageModel::load(dir.path(), Device::Cpu).expect("newer versions of transformers name it so");
    assert!(model.parameters().iter().any(|(name, _)| name == "embed_out.weight"), "it is written under the usual name");
    let error = broken("gpt_neox", |dir| {
        edit_tensors(dir, |tensors| {
            let head = tensors.iter().find(|(name, _)| name == "embed_out.weight").expect("there").1.copy();
            tensors.push(("lm_head.weight".to_owned(), head));
        });
    });
    expect(&error, ErrorKind::InvalidData, &["no place for", "lm_head.weight"]);
}
