#![allow(missing_docs, clippy::print_stdout)]
use std::time::Instant;
use farmhand_models::*;
use tch::{Device, Kind};
fn hwm() -> u64 { std::fs::read_to_string("/proc/self/status").unwrap().lines().find(|l| l.starts_with("VmHWM")).unwrap().split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024 }
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let (rows, len): (usize, usize) = (a[2].parse().unwrap(), a[3].parse().unwrap());
    println!("start {}", hwm());
    let model = LanguageModel::load(std::path::Path::new(&a[1]), Device::Cpu).unwrap();
    println!("loaded {}", hwm());
    model.set_trainable(true);
    let mut o = AdamW::new(model.parameters(), &OptimConfig { weight_decay: 0.01, ..OptimConfig::default() }, 10);
    let text = EncodedText { ids: (0..len as u32).map(|i| 100 + i * 7 % 3000).collect(), response_start: len / 2 };
    let items: Vec<&EncodedText> = (0..rows).map(|_| &text).collect();
    let batch = TokenBatch::new(&items, 0, Device::Cpu).unwrap();
    let mut best = 1e9f64;
    for _ in 0..a[4].parse().unwrap() {
        let t = Instant::now();
        let s = selected_log_probs(&model, &batch);
        let loss = -s.values.mean(Kind::Float);
        s.backward(&loss);
        let fb = t.elapsed();
        let t = Instant::now();
        o.step().unwrap();
        best = best.min(t.elapsed().as_secs_f64());
        println!("fwd+bwd {fb:?} step {:?} hwm {}", t.elapsed(), hwm());
    }
    println!("best step {best}");
    let e = estimate_memory(model.config(), Workload::Training { tokens: rows * len });
    println!("{e:?} total {} MB", e.total() >> 20);
}
