//! How fast generation is, beside what the machine allows: tokens per second at several numbers of unequal texts.
//!
//! ```text
//! OMP_NUM_THREADS=1 cargo run -p farmhand-models --example generation -- [MODEL_FOLDER] [--texts 1,16,64,256] [--tokens 64] [--samples 1] [--operators] [--cpu-time]
//! ```
//!
//! Without a folder a random model of 2 million parameters is used. A step of n texts reads all weights and the texts' keys and
//! values, and computes 2 operations a weight and text: its bound is the longer of the two times, at the rates measured here.
//! `--operators` takes libtorch's operators instead of the kernels; `--cpu-time` counts the thread's own time (on Linux), which is
//! steadier while others use the machine.

#![expect(clippy::print_stdout, reason = "the figures go to standard output")]

use std::path::PathBuf;
use std::time::Instant;

use farmhand_core::types::SamplingParams;
use farmhand_core::{Error, Result, Seed};
use farmhand_models::{
    GenerateOptions, GenerationRequest, LanguageModel, LlamaOptions, ModelConfig, generate, measure_ceilings, native,
};
use tch::Device;

struct Arguments {
    model: Option<PathBuf>,
    texts: Vec<usize>,
    tokens: u32,
    samples: u64,
    kernels: bool,
    cpu_time: bool,
}

fn main() -> Result<()> {
    if let Some(n) = std::env::var("OMP_NUM_THREADS").ok().and_then(|n| n.parse().ok()) {
        tch::set_num_threads(n);
    }
    let arguments = arguments()?;
    let model = match &arguments.model {
        Some(folder) => LanguageModel::load(folder, Device::Cpu)?,
        None => small_model()?,
    };
    let ceilings = measure_ceilings(Device::Cpu);
    let shape = model.config().shape();
    // The embedding is read row by row, unless it is the output head too.
    let parameters: i64 = model.parameters().iter().map(|(_, tensor)| tensor.numel() as i64).sum();
    println!(
        "{parameters} parameters, kernels {}, {:.1} GFLOP/s, {:.1} GB/s",
        native::instruction_set(),
        ceilings.matmul_flops / 1e9,
        ceilings.read_bytes / 1e9
    );
    println!("{:>6} {:>10} {:>12} {:>14} {:>10} {:>8}", "texts", "tokens/s", "ms a step", "bound, ms", "of bound", "passes");
    for n in &arguments.texts {
        let requests = requests(*n, arguments.samples, shape.vocab_size);
        let sampling = SamplingParams { max_new_tokens: arguments.tokens, ..SamplingParams::default() };
        let options = GenerateOptions { sampling, max_batch: 256, kernels: arguments.kernels, ..GenerateOptions::default() };
        let clock = clock(arguments.cpu_time);
        let mut times = vec![clock()];
        let generated = generate(&model, None, &requests, &options, &mut |_| {
            times.push(clock());
            Ok(())
        })?;
        let tokens: usize = generated.iter().map(|one| one.tokens.len()).sum();
        // The passes in the middle of the last half, when every text takes one token a step.
        let mut steps: Vec<f64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let passes = steps.len();
        let mut last = steps.split_off(passes / 2);
        last.sort_by(f64::total_cmp);
        let step = last[last.len() / 2];
        let n_texts = requests.len() as f64;
        let context: usize = requests.iter().map(|request| request.prompt.len() + 3 * arguments.tokens as usize / 4).sum();
        let cached = 2 * context * shape.n_layers * shape.n_kv_heads * shape.head_dim;
        let bytes = 4.0 * (parameters as f64 + cached as f64);
        let bound = (bytes / ceilings.read_bytes).max(2.0 * parameters as f64 * n_texts / ceilings.matmul_flops);
        println!(
            "{:>6} {:>10.1} {:>12.2} {:>14.2} {:>10.2} {:>8}",
            requests.len(),
            tokens as f64 / (times[passes] - times[0]),
            1e3 * step,
            1e3 * bound,
            bound / step,
            passes
        );
    }
    Ok(())
}

fn arguments() -> Result<Arguments> {
    let mut arguments =
        Arguments { model: None, texts: vec![1, 16, 64, 256], tokens: 64, samples: 1, kernels: true, cpu_time: false };
    let mut given = std::env::args().skip(1);
    while let Some(argument) = given.next() {
        let mut number = |name: &str| -> Result<Vec<usize>> {
            let text = given.next().unwrap_or_default();
            let numbers: Option<Vec<usize>> = text.split(',').map(|number| number.parse().ok()).collect();
            numbers.ok_or_else(|| Error::invalid_config(format!("`{name}` is `{text}`, expected numbers")))
        };
        match argument.as_str() {
            "--texts" => arguments.texts = number("--texts")?,
            "--tokens" => arguments.tokens = number("--tokens")?[0] as u32,
            "--samples" => arguments.samples = number("--samples")?[0] as u64,
            "--operators" => arguments.kernels = false,
            "--cpu-time" => arguments.cpu_time = true,
            folder => arguments.model = Some(PathBuf::from(folder)),
        }
    }
    Ok(arguments)
}

/// Seconds that have passed, or that this thread has computed.
fn clock(cpu_time: bool) -> impl Fn() -> f64 {
    let start = Instant::now();
    move || {
        let on_cpu = || std::fs::read_to_string("/proc/thread-self/schedstat").ok()?.split(' ').next()?.parse::<f64>().ok();
        match cpu_time.then(on_cpu).flatten() {
            Some(nanoseconds) => nanoseconds / 1e9,
            None => start.elapsed().as_secs_f64(),
        }
    }
}

fn small_model() -> Result<LanguageModel> {
    let config = ModelConfig::tiny_llama(LlamaOptions {
        vocab_size: 4096,
        hidden_size: 128,
        intermediate_size: 384,
        n_layers: 6,
        n_heads: 4,
        n_kv_heads: 2,
        max_positions: 2048,
        ..LlamaOptions::default()
    });
    LanguageModel::random(config, Seed::root(0), Device::Cpu)
}

/// Prompts of 16 to 160 tokens, each with as many samples.
fn requests(n: usize, samples: u64, vocab_size: usize) -> Vec<GenerationRequest> {
    let mut rng = Seed::root(n as u64).rng();
    let prompts: Vec<Vec<u32>> = (0..n)
        .map(|_| {
            let length = 16 + rng.below(145);
            (0..length).map(|_| rng.below(vocab_size) as u32).collect()
        })
        .collect();
    let request =
        |prompt: &Vec<u32>, sample| GenerationRequest { prompt: prompt.clone(), seed: Seed::root(1).child("sample", sample) };
    prompts.iter().flat_map(|prompt| (0..samples).map(move |sample| request(prompt, sample))).collect()
}
