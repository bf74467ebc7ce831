#![allow(missing_docs, clippy::print_stdout)]
use farmhand_core::{Checkpoint, Seed, types::Instruction};
use farmhand_models::*;
use std::path::Path;
use std::time::Instant;
use tch::{Device, Kind};
fn main() {
    let args: Vec<String> = std::env::args().collect();
    let out = Path::new(&args[2]);
    let checkpoint = Checkpoint::open(&args[1]).unwrap();
    let records: Vec<serde_json::Value> = serde_json::from_str(&std::fs::read_to_string(&args[3]).unwrap()).unwrap();
    let codec = TextCodec::load(&checkpoint, None).unwrap();
    println!("{:?} end {} stops {:?}", codec.format, codec.end_id(), codec.stop_ids());
    let mut lines = Vec::new();
    let start = Instant::now();
    let mut n = 0;
    for r in &records {
        let i = Instruction::new(r["instruction"].as_str().unwrap(), r["input"].as_str());
        let e = codec.encode(&i, r["output"].as_str().unwrap(), Ending::WithEos).unwrap();
        n += e.ids.len();
        assert_eq!(codec.decode(e.response()), r["output"].as_str().unwrap());
        lines.push(
            serde_json::json!({"text": codec.prompt_text(&i).unwrap(), "ids": e.ids, "start": e.response_start}).to_string(),
        );
    }
    println!("{} records {n} tokens {:?}", records.len(), start.elapsed());
    std::fs::write(out.join("encoded.jsonl"), lines.join("\n")).unwrap();
    let model = LanguageModel::load(checkpoint.path(), Device::Cpu).unwrap();
    write_checkpoint(&out.join("smol"), &model, &codec, "sft").unwrap();
    // own tokenizer
    let start = Instant::now();
    let texts: Vec<String> = records
        .iter()
        .map(|r| {
            format!(
                "{} {} {}",
                r["instruction"].as_str().unwrap(),
                r["input"].as_str().unwrap_or(""),
                r["output"].as_str().unwrap()
            )
        })
        .collect();
    let own = train_bpe(texts.into_iter(), 4096).unwrap();
    println!("bpe {:?} vocab {}", start.elapsed(), own.vocab_size());
    let tiny = LanguageModel::random(
        ModelConfig::tiny_llama(LlamaOptions { vocab_size: own.vocab_size(), ..LlamaOptions::default() }),
        Seed::root(1),
        Device::Cpu,
    )
    .unwrap();
    let own = TextCodec::new(own, PromptFormat::Chat).unwrap();
    write_checkpoint(&out.join("own"), &tiny, &own, "sft").unwrap();
    let head = ScalarHead::random(tiny.config().hidden_size(), Seed::root(2), Device::Cpu);
    let mut lines = Vec::new();
    for r in records.iter().take(300) {
        let i = Instruction::new(r["instruction"].as_str().unwrap(), r["input"].as_str());
        let e = own.encode(&i, r["output"].as_str().unwrap(), Ending::WithEos).unwrap();
        lines
            .push(serde_json::json!({"text": own.prompt_text(&i).unwrap(), "ids": e.ids, "start": e.response_start}).to_string());
    }
    std::fs::write(out.join("own.jsonl"), lines.join("\n")).unwrap();
    write_scalar_checkpoint(&out.join("rm"), &ScalarModel::from_language_model(tiny, head), &own, "rm").unwrap();
    // AdamW speed
    model.set_trainable(true);
    for (_, p) in model.parameters() {
        p.sum(Kind::Float).backward();
    }
    let mut o = AdamW::new(model.parameters(), &OptimConfig { weight_decay: 0.01, ..OptimConfig::default() }, 10);
    for _ in 0..4 {
        for (_, p) in model.parameters() {
            (p * 1e-3).sum(Kind::Float).backward();
        }
        let s = Instant::now();
        o.step().unwrap();
        println!("adamw {:?}", s.elapsed());
    }
}
