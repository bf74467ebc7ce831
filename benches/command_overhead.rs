//! What a reward model costs more as a program (`command`) than compiled in: the same component over the same model, asked for the
//! same answers, 64 at a time.
//!
//! `cargo bench --bench command_overhead --profile dev -- [MODEL_DIR]` measures `likelihood` with `farmhand bench`'s own small model,
//! or with the one in a folder. The program is this file, started again: it reads the protocol's lines and calls the component. A
//! second pair scores by `length`, which costs next to nothing, so that what is left is the protocol.
//!
//! Both processes keep freed memory for themselves ([`ALLOCATOR`]). glibc decides that by what a process freed before, and this one
//! has made the model that the other only reads: in a process that gives memory back after every batch, fetching it again takes a
//! tenth to a fifth of a batch, whichever side it is.

#![allow(clippy::print_stdout)]

use std::io::{BufRead, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use farmhand::core::data::synthetic;
use farmhand::core::run::StageDir;
use farmhand::core::types::{Demonstration, Instruction, Response};
use farmhand::core::{
    BuildContext, CancelFlag, Device, NoEvents, PollingExecutor, RewardModel, RewardModelSpec, RunContext, Seed,
};
use serde_json::{Value, json};

/// What glibc reads when a program starts: blocks of any size come from the heap, and the heap does not shrink.
const ALLOCATOR: [(&str, &str); 2] = [("MALLOC_MMAP_THRESHOLD_", "4294967296"), ("MALLOC_TRIM_THRESHOLD_", "17179869184")];

/// Items of a request.
const BATCH: usize = 64;

/// Rounds, in which both are asked in turns.
const N_ROUNDS: usize = 21;

fn main() {
    tch::set_num_threads(1);
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if let [flag, name, options] = arguments.as_slice()
        && flag == "--serve"
    {
        return serve(name, options);
    }
    if ALLOCATOR.iter().any(|(name, _)| std::env::var_os(name).is_none()) {
        let own = std::env::current_exe().expect("a program");
        let error = Command::new(own).args(arguments).envs(ALLOCATOR).exec();
        panic!("cannot start again: {error}");
    }
    let folder = tempfile::tempdir().expect("a folder");
    let model = arguments.first().map_or_else(|| made_model(folder.path()), PathBuf::from);
    let likelihood = json!({ "model": std::fs::canonicalize(&model).expect("a folder") });
    for (name, options) in [("likelihood", likelihood), ("length", json!({}))] {
        compare(name, &options, folder.path());
    }
}

fn made_model(folder: &Path) -> PathBuf {
    let checkpoint = farmhand::bench::write_builtin_model(&folder.join("model"), None, Device::Cpu).expect("a model");
    checkpoint.path().to_owned()
}

fn built(name: &str, options: &Value, folder: &Path) -> Box<dyn RewardModel> {
    let spec = RewardModelSpec::from_json(name, &options.to_string()).expect("options");
    spec.build(&BuildContext::new(Device::Cpu, folder)).expect("built")
}

/// Answers of some sentences, as long as people's are.
fn demonstrations() -> Vec<Demonstration> {
    let made = synthetic::generate(4 * BATCH, Seed::root(3));
    let joined = |four: &[Demonstration]| Demonstration {
        // A program sees instruction and input as one text.
        instruction: Instruction::new(four[0].instruction.text(), None),
        output: four.iter().map(|one| one.output.as_str()).collect::<Vec<_>>().join(" "),
    };
    made.chunks(4).map(joined).collect()
}

/// Asks both in turns and prints the medians.
fn compare(name: &str, options: &Value, folder: &Path) {
    let own = std::env::current_exe().expect("a program");
    let program = json!({ "command": [own, "--serve", name, options.to_string()], "batch_size": BATCH });
    let mut both = [built(name, options, folder), built("command", &program, folder)];
    let texts = demonstrations();
    let items: Vec<_> =
        texts.iter().map(|text| Response { instruction: &text.instruction, output: text.output.as_str() }).collect();
    let stage = StageDir::create(folder.join(name)).expect("a folder");
    let (cancel, seed) = (CancelFlag::new(), Seed::root(1));
    let ctx =
        RunContext { stage: &stage, seed, device: Device::Cpu, events: &NoEvents, cancel: &cancel, executor: &PollingExecutor };
    let mut seconds = [Vec::new(), Vec::new()];
    // Enough batches that a round takes longer than a clock tick.
    let n_batches = if name == "length" { 50 } else { 2 };
    for round in 0..=N_ROUNDS {
        let mut scores = [Vec::new(), Vec::new()];
        for side in [round % 2, 1 - round % 2] {
            let started = Instant::now();
            for _ in 0..n_batches {
                scores[side] = both[side].score(&items, &ctx).expect("scored");
            }
            // The first round starts the program.
            if round > 0 {
                seconds[side].push(started.elapsed().as_secs_f64());
            }
        }
        assert_eq!(scores[0], scores[1], "the same function");
    }
    let median = |seconds: &mut Vec<f64>| {
        seconds.sort_by(f64::total_cmp);
        seconds[seconds.len() / 2] / (n_batches * BATCH) as f64 * 1e6
    };
    let [inside, outside] = seconds.each_mut().map(median);
    let words: usize = texts.iter().map(|text| text.output.split_whitespace().count()).sum();
    println!(
        "{name}: {inside:.1} µs an item compiled in, {outside:.1} µs as a program: {:+.1} µs, {:+.2} % ({} items a batch, {} words each)",
        outside - inside,
        100.0 * (outside / inside - 1.0),
        BATCH,
        words / texts.len()
    );
}

/// The program: the protocol's lines in, scores out.
fn serve(name: &str, options: &str) {
    let here = PathBuf::from(".");
    let mut model = built(name, &options.parse().expect("JSON"), &here);
    let folder = tempfile::tempdir().expect("a folder");
    let stage = StageDir::create(folder.path().join("stage")).expect("a folder");
    let (cancel, seed) = (CancelFlag::new(), Seed::root(1));
    let ctx =
        RunContext { stage: &stage, seed, device: Device::Cpu, events: &NoEvents, cancel: &cancel, executor: &PollingExecutor };
    let (mut lines, mut out) = (std::io::stdin().lock().lines(), std::io::stdout().lock());
    let mut reply = |reply: Value| writeln!(out, "{reply}").and_then(|()| out.flush()).expect("read by farmhand");
    lines.next();
    reply(json!({ "farmhand": 1 }));
    for line in lines {
        let request: Value = serde_json::from_str(&line.expect("a line")).expect("JSON");
        let read = |item: &Value| {
            let text = |key: &str| item[key].as_str().expect("a text").to_owned();
            (Instruction::new(text("instruction"), None), text("output"))
        };
        let read: Vec<(Instruction, String)> = request["items"].as_array().expect("items").iter().map(read).collect();
        let items: Vec<_> = read.iter().map(|(instruction, output)| Response { instruction, output }).collect();
        reply(json!({ "id": request["id"], "results": model.score(&items, &ctx).expect("scored") }));
    }
}
