//! Published weight differences restored onto their base: against AlpacaFarm's arithmetic restated in Python, and against
//! everything that does not fit.

use std::path::{Path, PathBuf};

use farmhand_core::{CancelFlag, Checkpoint, CheckpointKind, Error, NoEvents, RecordedEvents};
use farmhand_models::{
    LanguageModel, Recovered, Recovery, SafetensorsFile, ScalarModel, SumCheck, Tokenizer, WeightType, recover, train_bpe,
};
use tch::{Device, Kind};

use crate::copy_folder;

/// A file under `tests/golden_recovery`, made by `make_goldens.py` there.
fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden_recovery").join(name)
}

fn recovery<'a>(base: &'a Path, difference: &'a Path, out: &'a Path) -> Recovery<'a> {
    Recovery { base, difference, out, weight_type: WeightType::F32, check: SumCheck::Published }
}

fn run(recovery: &Recovery<'_>) -> Result<Recovered, Error> {
    recover(recovery, &NoEvents, &CancelFlag::new())
}

/// A copy of a golden folder that a test may change.
fn copy(name: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    copy_folder(&golden(name), dir.path());
    dir
}

/// Compares a written model with what Python made of the same files; `ours` translates Python's names.
fn compare(out: &Path, expected: &str, ours: impl Fn(&str) -> Option<String>) {
    let mut expected = SafetensorsFile::open(&golden(expected)).expect("a golden file");
    let mut written = SafetensorsFile::open(&out.join("model.safetensors")).expect("written");
    let mut names = Vec::new();
    for theirs in expected.names() {
        let Some(name) = ours(&theirs) else { continue };
        let (want, got) = (expected.read(&theirs).expect("there"), written.read(&name).expect("there"));
        assert_eq!((want.size(), want.kind()), (got.size(), got.kind()), "{name}");
        assert!(got.allclose(&want, 0.0, 1e-7, false), "{name}");
        names.push(name);
    }
    names.sort();
    assert_eq!(written.names(), names);
}

#[test]
fn language_models_come_out_as_published_arithmetic_has_them() {
    for (name, whole) in [("sft", vec![]), ("conditioned", vec!["lm_head.weight", "model.embed_tokens.weight"])] {
        let dir = tempfile::tempdir().expect("a folder");
        let out = dir.path().join("out");
        let made = run(&recovery(&golden("base"), &golden(name), &out)).expect("restored");
        compare(&out, &format!("{name}.expected.safetensors"), |theirs| Some(theirs.to_owned()));
        assert_eq!(
            (made.kind, made.n_added_rows, made.whole),
            (CheckpointKind::CausalLm, 1, whole.into_iter().map(str::to_owned).collect())
        );
        let expected: f64 =
            std::fs::read_to_string(golden(name).join("model_sum.txt")).expect("a sum").parse().expect("a number");
        assert_eq!(made.expected_sum, Some(expected));
        assert!((made.sum - expected).abs() < 1e-4, "{} {expected}", made.sum);
        let model = LanguageModel::load(&out, Device::Cpu).expect("a model");
        assert_eq!(model.config().n_parameters() as u64, made.n_parameters);
        let manifest = Checkpoint::open(&out).expect("a checkpoint").manifest().expect("readable").expect("there");
        assert_eq!((manifest.made_by.as_str(), manifest.prompt_format.as_deref()), ("recover", Some("alpaca")));
    }
}

#[test]
fn reward_models_come_out_as_scalar_models() {
    let dir = tempfile::tempdir().expect("a folder");
    let out = dir.path().join("out");
    let made = run(&recovery(&golden("base"), &golden("reward"), &out)).expect("restored");
    assert_eq!((made.kind, made.whole.len()), (CheckpointKind::RewardModel, 0));
    compare(&out, "reward.expected.safetensors", |theirs| match theirs {
        "reward_head.weight" => Some("score.weight".to_owned()),
        "reward_head.bias" => Some("score.bias".to_owned()),
        "backbone_model.lm_head.weight" => None,
        body => body.strip_prefix("backbone_model.").map(str::to_owned),
    });
    let model = ScalarModel::load(&out, Device::Cpu).expect("a model");
    assert_eq!(model.body.config().vocab_size(), 21);
    assert!(made.sum != 0.0 && made.expected_sum.is_some());
}

#[test]
fn half_precision_is_the_same_model_rounded() {
    let dir = tempfile::tempdir().expect("a folder");
    let (full, half) = (dir.path().join("full"), dir.path().join("half"));
    let (base, difference) = (golden("base"), golden("sft"));
    let whole = run(&recovery(&base, &difference, &full)).expect("restored");
    let rounded = run(&Recovery { weight_type: WeightType::Bf16, ..recovery(&base, &difference, &half) }).expect("restored");
    assert_eq!(whole, rounded, "the sum is taken before rounding");
    let read = |dir: &Path| {
        SafetensorsFile::open(&dir.join("model.safetensors")).expect("written").read("lm_head.weight").expect("there")
    };
    assert_eq!(read(&full).to_kind(Kind::BFloat16), read(&half));
}

#[test]
fn a_wrong_base_is_an_error_and_leaves_nothing() {
    let dir = tempfile::tempdir().expect("a folder");
    let out = dir.path().join("out");
    // The same sizes, other weights.
    let other = copy("base");
    let mut tensors = Vec::new();
    let mut file = SafetensorsFile::open(&golden("base/model.safetensors")).expect("a base");
    for name in file.names() {
        let tensor = file.read(&name).expect("there");
        tensors.push((name, &tensor * 1.5));
    }
    let write = |tensors: &[(String, tch::Tensor)]| {
        let tensors = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor));
        farmhand_models::write_safetensors(&other.path().join("model.safetensors"), tensors, &Default::default())
            .expect("written");
    };
    write(&tensors);
    let error = run(&recovery(other.path(), &golden("sft"), &out)).expect_err("another base");
    assert!(error.message().contains("add up to") && error.message().contains("is not the base"), "{error}");
    assert!(error.hint().is_some_and(|hint| hint.contains("4.30.0")), "{error:?}");
    assert!(!out.exists());

    // Another shape, a missing tensor.
    let wide = tensors.iter().map(|(name, tensor)| {
        (name.clone(), if name == "model.norm.weight" { tensor.repeat([2]) } else { tensor.shallow_clone() })
    });
    write(&wide.collect::<Vec<_>>());
    let error = run(&recovery(other.path(), &golden("sft"), &out)).expect_err("another shape");
    assert!(error.message().contains("`model.norm.weight` has shape [16] in the base and [8]"), "{error}");
    tensors.retain(|(name, _)| name != "model.norm.weight");
    write(&tensors);
    let error = run(&recovery(other.path(), &golden("sft"), &out)).expect_err("no such tensor");
    assert!(error.message().contains("the base has no tensor `model.norm.weight`"), "{error}");
    assert!(!out.exists());
}

#[test]
fn the_sum_can_be_given_or_be_absent_but_not_be_nonsense() {
    let dir = tempfile::tempdir().expect("a folder");
    let (out, base, difference) = (dir.path().join("out"), golden("base"), copy("sft"));
    let sum: f64 = std::fs::read_to_string(difference.path().join("model_sum.txt")).expect("a sum").parse().expect("a number");
    std::fs::write(difference.path().join("model_sum.txt"), "many").expect("written");
    let error = run(&recovery(&base, difference.path(), &out)).expect_err("no number");
    assert!(error.message().contains("model_sum.txt` holds no number"), "{error}");
    std::fs::remove_file(difference.path().join("model_sum.txt")).expect("removed");
    let error = run(&recovery(&base, difference.path(), &out)).expect_err("nothing to check with");
    assert!(error.hint().is_some_and(|hint| hint.contains("--expected-sum") && hint.contains("--unchecked")), "{error:?}");
    let with = |check| run(&Recovery { check, ..recovery(&base, difference.path(), &out) });
    assert_eq!(with(SumCheck::Skip).expect("restored").expected_sum, None);
    assert!(with(SumCheck::Expect(sum)).is_ok());
    assert!(with(SumCheck::Expect(sum + 1.0)).is_err());
}

#[test]
fn a_tokenizer_is_the_differences_or_the_bases_with_its_tokens() {
    let dir = tempfile::tempdir().expect("a folder");
    let (base, difference) = (copy("base"), copy("sft"));
    let out = dir.path().join("out");
    let events = RecordedEvents::default();
    recover(&recovery(base.path(), difference.path(), &out), &events, &CancelFlag::new()).expect("restored");
    let told = format!("{:?}", events.take());
    assert!(told.contains("holds a tokenizer.json, so the restored model has none"), "{told}");

    // The base's `tokenizer.json` counts its tokens, one less than the difference has rows.
    let tokenizer = train_bpe(std::iter::empty(), 300).expect("trained");
    tokenizer.save(base.path()).expect("saved");
    let mut json: serde_json::Value =
        serde_json::from_slice(&std::fs::read(base.path().join("tokenizer.json")).expect("a tokenizer")).expect("JSON");
    let vocab = json["model"]["vocab"].as_object_mut().expect("a vocabulary");
    vocab.retain(|_, id| id.as_u64() < Some(20));
    json["model"]["merges"] = serde_json::json!([]);
    json["added_tokens"] = serde_json::json!([]);
    std::fs::write(base.path().join("tokenizer.json"), json.to_string()).expect("written");
    std::fs::write(base.path().join("tokenizer_config.json"), "{}").expect("written");
    std::fs::remove_file(base.path().join("special_tokens_map.json")).unwrap_or_default();
    std::fs::write(difference.path().join("added_tokens.json"), r#"{"[PAD]": 20}"#).expect("written");
    let eos = json["model"]["vocab"].as_object().and_then(|vocab| vocab.keys().next().cloned()).expect("a token");
    let config = serde_json::json!({ "eos_token": eos, "pad_token": "[PAD]" });
    std::fs::write(difference.path().join("tokenizer_config.json"), config.to_string()).expect("written");
    run(&recovery(base.path(), difference.path(), &out)).expect("restored");
    let restored = Tokenizer::load(&out).expect("a tokenizer");
    assert_eq!((restored.token_id("[PAD]"), restored.pad_id(), restored.vocab_size()), (Some(20), 20, 21));
}

#[test]
fn stopping_leaves_nothing() {
    let dir = tempfile::tempdir().expect("a folder");
    let (out, cancel) = (dir.path().join("out"), CancelFlag::new());
    cancel.cancel();
    let error = recover(&recovery(&golden("base"), &golden("sft"), &out), &NoEvents, &cancel).expect_err("stopped");
    assert!(error.is_cancelled());
    assert_eq!(std::fs::read_dir(dir.path()).expect("listed").count(), 0);
}
