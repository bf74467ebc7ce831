//! `farmhand checkpoint`: models shown, fetched and restored, and one clear error for what cannot be.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::command::{farmhand, files_below};
use crate::hub_server::{COMMIT, HubServer, REPO, with_hub, working_model};

/// A folder of `models/tests/golden_recovery`, made by `make_goldens.py` there.
fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tests/golden_recovery").join(name)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

#[test]
fn a_model_is_described_from_its_folder_or_from_the_hub_without_its_weights() {
    let dir = tempfile::tempdir().expect("a folder");
    let server = HubServer::start(working_model(&dir.path().join("tiny-local")));
    let show = |model: &str, more: &[&str]| {
        let args: Vec<&str> = ["checkpoint", "show", model].into_iter().chain(more.iter().copied()).collect();
        with_hub(dir.path(), &server, &args, &[])
    };
    let local = show("tiny-local", &[]).expect_success().stdout;
    for words in [
        "llama: 1 blocks, width 16",
        "made by `test`",
        "1 file",
        "F32",
        "279 of 300",
        "alpaca; there is a chat template",
        "to train",
    ] {
        assert!(local.contains(words), "no `{words}` in:\n{local}");
    }
    let json: Value = serde_json::from_str(&show("tiny-local", &["--json"]).expect_success().stdout).expect("JSON");
    let n_parameters = json["n_parameters"].as_u64().expect("a number");
    assert_eq!(json["weights"]["elements"]["F32"].as_u64(), Some(n_parameters));
    assert_eq!((json["kind"].as_str(), json["memory"]["weights_f32"].as_u64()), (Some("causal_lm"), Some(4 * n_parameters)));

    let remote: Value = serde_json::from_str(&show(REPO, &["--json"]).expect_success().stdout).expect("JSON");
    assert_eq!((remote["n_parameters"].as_u64(), &remote["weights"]), (Some(n_parameters), &Value::Null));
    assert_eq!((remote["name"].as_str(), &remote["tokens"]), (Some("tiny"), &json["tokens"]));
    assert!(!server.requests().iter().any(|request| request.host == "store"), "no weights were fetched");
    show("nowhere", &[]).expect_error(&["there is no model folder `nowhere`"], Some("`hf:nowhere`"));
}

#[test]
fn models_are_fetched_once() {
    let dir = tempfile::tempdir().expect("a folder");
    let server = HubServer::start(working_model(&dir.path().join("local")));
    let fetch = |args: &[&str]| with_hub(dir.path(), &server, &[&["checkpoint", "fetch"], args].concat(), &[]);
    let path = fetch(&[REPO]).expect_success().stdout;
    let folder = Path::new(path.trim());
    assert!(
        folder.ends_with(format!("models--farm--tiny/snapshots/{COMMIT}")) && folder.join("model.safetensors").is_file(),
        "{path}"
    );
    let json: Value = serde_json::from_str(&fetch(&[REPO, "--json"]).expect_success().stdout).expect("JSON");
    assert_eq!(json["models"][0]["commit"].as_str(), Some(COMMIT));
    assert_eq!(server.requests().iter().filter(|request| request.host == "store").count(), 1);
    fetch(&["local"]).expect_error(&["`local` is a folder; there is nothing to fetch"], Some("hf:local"));
    fetch(&[]).expect_refused("required");
}

#[test]
fn published_differences_are_restored_from_folders_and_from_the_hub() {
    let dir = tempfile::tempdir().expect("a folder");
    let base = golden("base");
    let recover = |difference: &str, out: &str, more: &[&str]| {
        let args = ["checkpoint", "recover", "--base", text(&base), "--diff", difference, "--out", out];
        farmhand(dir.path(), &args.into_iter().chain(more.iter().copied()).collect::<Vec<_>>())
    };
    let done = recover(text(&golden("sft")), "sft", &[]).expect_success();
    assert_eq!(done.stdout, "sft\n");
    assert!(done.stderr.contains("the tensors add up to 28.6101, expected 28.6101"), "{}", done.stderr);
    let json: Value =
        serde_json::from_str(&recover(text(&golden("reward")), "rm", &["--json", "--dtype", "bf16"]).expect_success().stdout)
            .expect("JSON");
    assert_eq!((json["kind"].as_str(), json["n_added_rows"].as_u64()), (Some("reward_model"), Some(1)));
    let shown = farmhand(dir.path(), &["checkpoint", "show", "rm"]).expect_success().stdout;
    assert!(shown.contains("reward model, made by `recover`") && shown.contains("BF16"), "{shown}");

    // What holds files is left alone; a wrong base leaves nothing.
    recover(text(&golden("sft")), "sft", &[]).expect_error(&["the output folder `sft` is not empty"], Some("new or empty"));
    recover(text(&golden("sft")), "wrong", &["--expected-sum", "-3"])
        .expect_error(&["add up to", "is not the base"], Some("4.29.2"));
    assert!(!dir.path().join("wrong").exists());
    recover(text(&base), "same", &[]).expect_error(&["holds no model_sum.txt"], Some("`--unchecked`"));
    let unchecked = recover(text(&base), "same", &["--unchecked"]).expect_success();
    assert!(unchecked.stderr.contains("nothing says whether the base is the right one"), "{}", unchecked.stderr);

    let files = files_below(&golden("sft")).into_iter().map(|(name, contents)| (text(&name).to_owned(), contents));
    let server = HubServer::start(files);
    let args = ["checkpoint", "recover", "--base", text(&base), "--diff", REPO, "--out", "fetched"];
    with_hub(dir.path(), &server, &args, &[]).expect_success();
    assert_eq!(files_below(&dir.path().join("fetched")), files_below(&dir.path().join("sft")));
}

#[test]
fn an_adapter_is_trained_read_where_a_model_is_and_merged_with_its_base() {
    let dir = tempfile::tempdir().expect("a folder");
    let run = |args: &[&str]| farmhand(dir.path(), args);
    working_model(&dir.path().join("base"));
    let records: String = ["carrots", "hay", "grass"]
        .map(|food| format!("{{\"instruction\": \"What does it eat?\", \"output\": \"an alpaca eats {food}\"}}\n"))
        .concat();
    std::fs::write(dir.path().join("data.jsonl"), records).expect("written");
    let train = ["sft", "--model", "base", "--data", "data.jsonl", "--out", "run", "--set", "epochs=2", "--set", "optim.lr=0.05"];
    let lora = ["--set", "lora.rank=2", "--set", "lora.output=adapter", "--checkpoint-every", "1"];
    run(&[train.as_slice(), &lora].concat()).expect_success();
    assert!(dir.path().join("run/checkpoint/adapter_model.safetensors").is_file());
    assert!(!dir.path().join("run/checkpoint/model.safetensors").exists());

    let merged = run(&["checkpoint", "merge", "--adapter", "run", "--out", "merged"]).expect_success();
    assert_eq!(merged.stdout, "merged\n");
    let score = |model: &str| run(&["score", "--model", model, "--data", "data.jsonl"]).expect_success().stdout;
    assert_eq!(score("run"), score("merged"));
    assert_ne!(score("run"), score("base"));
    // The adapter kept on the way, after the first of two steps, is a model too.
    let kept = score("run/checkpoints/1");
    assert!(kept != score("run") && !dir.path().join("run/checkpoints/2").exists());

    run(&["checkpoint", "merge", "--adapter", "run", "--out", "merged"]).expect_error(&["is not empty"], Some("new or empty"));
    run(&["checkpoint", "merge", "--adapter", "base", "--out", "x"]).expect_error(&["`base` is a whole model"], None);
    run(&["checkpoint", "merge", "--adapter", "run", "--base", "merged", "--out", "x"]).expect_error(&["other weights"], None);
    std::fs::rename(dir.path().join("base"), dir.path().join("moved")).expect("moved");
    run(&["score", "--model", "run", "--data", "data.jsonl"]).expect_error(&["changes `base`"], Some("checkpoint merge"));
    let args = ["checkpoint", "merge", "--adapter", "run", "--base", "moved", "--out", "again", "--json"];
    let json: Value = serde_json::from_str(&run(&args).expect_success().stdout).expect("JSON");
    assert_eq!(json["kind"].as_str(), Some("causal_lm"));
    assert_eq!(files_below(&dir.path().join("again")), files_below(&dir.path().join("merged")));
}
