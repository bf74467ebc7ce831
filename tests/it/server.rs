//! Sampling from a server, as a command: what is missing is said, and what was answered is not asked again.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use farmhand_core::Seed;
use farmhand_endpoints::loopback::{Loopback, Reply, nobody};
use farmhand_models::{LanguageModel, LlamaOptions, ModelConfig, PromptFormat, TextCodec, train_bpe, write_checkpoint};
use serde_json::{Value, json};

use crate::command::{Finished, farmhand};

const N_INSTRUCTIONS: usize = 200;

/// A tiny model's folder and instructions.
fn inputs(dir: &Path) {
    let tokenizer = train_bpe((0..20).map(|i| format!("say the number {i}")), 280).expect("trained");
    let options = LlamaOptions {
        vocab_size: tokenizer.vocab_size(),
        hidden_size: 16,
        intermediate_size: 16,
        n_layers: 1,
        ..LlamaOptions::default()
    };
    let model = LanguageModel::random(ModelConfig::tiny_llama(options), Seed::root(1), tch::Device::Cpu).expect("made");
    let codec = TextCodec::new(tokenizer, PromptFormat::None).expect("a codec");
    write_checkpoint(&dir.join("model"), &model, &codec, "test").expect("written");
    let lines: String = (0..N_INSTRUCTIONS).map(|i| format!("{{\"instruction\":\"say {i}\"}}\n")).collect();
    std::fs::write(dir.join("instructions.jsonl"), lines).expect("written");
}

fn generate(dir: &Path, base_url: &str, more: &[&str]) -> Finished {
    let url = format!("server.base_url={base_url}");
    let fixed = [
        "generate",
        "--policy",
        "openai_server",
        "--model",
        "model",
        "--data",
        "instructions.jsonl",
        "--out",
        "out",
        "--set",
        &url,
    ];
    farmhand(dir, &[&fixed[..], more].concat())
}

#[test]
fn an_interrupted_command_goes_on_where_the_server_failed() {
    let dir = tempfile::tempdir().expect("a folder");
    inputs(dir.path());
    generate(dir.path(), &nobody(), &[]).expect_error(&["cannot be reached"], Some("vllm serve"));

    let (n_answered, is_well) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let (answered, well) = (n_answered.clone(), is_well.clone());
    let server = Loopback::start(move |request| match request.path.as_str() {
        "/v1/models" => Reply::json(200, &json!({ "data": [{ "id": "m" }] })),
        "/v1/chat/completions" if answered.fetch_add(1, Ordering::SeqCst) < 150 || well.load(Ordering::SeqCst) => {
            let text = format!("I {}", request.body["messages"][0]["content"].as_str().expect("a question"));
            let choice = json!({ "finish_reason": "stop", "message": { "role": "assistant", "content": text } });
            Reply::json(200, &json!({ "choices": [choice], "usage": { "prompt_tokens": 5, "completion_tokens": 4 } }))
        }
        "/v1/chat/completions" => Reply::text(500, "out of memory"),
        _ => Reply::json(404, &json!({ "detail": "Not Found" })),
    });
    generate(dir.path(), &server.base_url(), &["--set", "api=chat"]).expect_error(&["prompt format `none`"], Some("completions"));
    n_answered.store(0, Ordering::SeqCst);
    let accepted = ["--set", "template=server", "--set", "api=chat", "--set", "server.retries=0"];
    generate(dir.path(), &server.base_url(), &accepted)
        .expect_error(&["answered 500", "out of memory"], Some("goes on from there"));

    is_well.store(true, Ordering::SeqCst);
    n_answered.store(0, Ordering::SeqCst);
    let done = generate(dir.path(), &server.base_url(), &accepted).expect_success();
    assert!(done.stderr.contains("going on after 128 of 200"), "{}", done.stderr);
    assert_eq!(n_answered.load(Ordering::SeqCst), N_INSTRUCTIONS - 128);
    let text = std::fs::read_to_string(dir.path().join("out/completions.jsonl")).expect("readable");
    let outputs: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(outputs.len(), N_INSTRUCTIONS);
    assert!(outputs.iter().enumerate().all(|(i, answer)| answer["output"] == format!("I say {i}") && answer["finish"] == "stop"));
}
