//! What a judge behind a server gets done: client, store and judge together, against servers on the loopback interface.
//!
//! `cargo bench -p farmhand-annotators --bench judges --profile dev -- [throughput] [latency] [memory] [faults]` measures what is
//! named, or all of it. The server runs in the same process, so on two cores it takes its share of them.

#![allow(clippy::print_stdout)]

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use farmhand_annotators as _;
use farmhand_core::run::{StageDir, chunked_side_by_side};
use farmhand_core::types::{Comparison, Instruction, Judgement, Outcome};
use farmhand_core::{AnnotatorSpec, BuildContext, CancelFlag, Device, NoEvents, PollingExecutor, RunContext, Seed, checked};
use farmhand_endpoints::loopback::{FaultPlan, FaultServer, chat_answer};
use serde_json::{Value, json};

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    for (name, measure) in [("throughput", throughput as fn()), ("latency", latency), ("memory", memory), ("faults", faults)] {
        if wanted.is_empty() || wanted.iter().any(|wanted| wanted == name) {
            measure();
        }
    }
}

/// Ranks the answers as they are listed, in the form that the prompt's last line shows.
fn ranking(request: &Value) -> Value {
    let turns = request["messages"].as_array().expect("messages");
    let asked = turns.last().and_then(|turn| turn["content"].as_str()).expect("a question");
    let form = asked.trim().lines().last().expect("a form");
    chat_answer(request, &form.replacen('…', "1", 1).replacen('…', "2", 1))
}

fn comparisons(from: usize, n: usize) -> Vec<Comparison> {
    let answer = "An answer of the usual length says what was asked, gives a reason or two, and ends. ".repeat(4);
    let pair = |i: usize| {
        let instruction = Instruction::new(format!("Explain number {i} to somebody who has never seen it."), None);
        Comparison::new(instruction, format!("{answer}{i}"), format!("{i} {answer}"))
    };
    (from..from + n).map(pair).collect()
}

/// Judges as the stage `annotate` does: in chunks, several at a time.
fn judge(dir: &Path, server: Value, stage: &str, comparisons: &[Comparison]) -> Vec<Judgement> {
    let options = json!({ "model": "judge", "store": "replies.sqlite", "server": server });
    let stage = StageDir::create(dir.join(stage)).expect("made");
    let (cancel, executor, events, device) = (CancelFlag::new(), PollingExecutor, NoEvents, Device::Cpu);
    let ctx = RunContext { stage: &stage, seed: Seed::root(0), device, events: &events, cancel: &cancel, executor: &executor };
    let building = BuildContext::new(device, dir);
    let judge = AnnotatorSpec::from_json("ranking", &options.to_string()).expect("registered").build(&building).expect("built");
    let work = |chunk| checked::annotate(&*judge, chunk, &ctx);
    ctx.block_on(chunked_side_by_side(comparisons, (128, 16), "judged-chunks.jsonl", &ctx, work)).expect("judged")
}

fn ends(judgements: &[Judgement]) -> BTreeMap<&'static str, usize> {
    let mut ends = BTreeMap::new();
    for judgement in judgements {
        let end = match &judgement.outcome {
            Outcome::Annotation(annotation) if annotation.cached => "cached",
            Outcome::Annotation(_) => "labelled",
            Outcome::Failure(failure) => failure.kind.label(),
        };
        *ends.entry(end).or_insert(0) += 1;
    }
    ends
}

fn throughput() {
    let (dir, all) = (tempfile::tempdir().expect("a folder"), comparisons(0, 20_000));
    let server = FaultServer::start(FaultPlan::none(), ranking);
    for stage in ["new", "again"] {
        let started = Instant::now();
        let judged = judge(dir.path(), json!({ "base_url": server.base_url(), "max_concurrent": 64 }), stage, &all);
        let secs = started.elapsed().as_secs_f64();
        println!(
            "throughput, {stage}: {} comparisons in {secs:.2} s, {:.0}/s {:?}",
            all.len(),
            all.len() as f64 / secs,
            ends(&judged)
        );
    }
}

fn latency() {
    let (dir, all) = (tempfile::tempdir().expect("a folder"), comparisons(0, 12_800));
    let server = FaultServer::start(FaultPlan { latency: Duration::from_millis(200), ..FaultPlan::none() }, ranking);
    let started = Instant::now();
    let judged = judge(dir.path(), json!({ "base_url": server.base_url(), "max_concurrent": 256 }), "stage", &all);
    let (secs, best) = (started.elapsed().as_secs_f64(), 256.0 / 0.2);
    let rate = all.len() as f64 / secs;
    println!(
        "latency of 200 ms, 256 at a time: {rate:.0}/s, {:.1} % of {best:.0}/s; {} at a time at most {:?}",
        100.0 * rate / best,
        server.tally().most_at_a_time,
        ends(&judged)
    );
}

fn memory() {
    let dir = tempfile::tempdir().expect("a folder");
    let server = FaultServer::start(FaultPlan::none(), ranking);
    for window in 0..10 {
        let all = comparisons(window * 10_000, 10_000);
        let judged =
            judge(dir.path(), json!({ "base_url": server.base_url(), "max_concurrent": 64 }), &format!("{window}"), &all);
        drop((all, judged));
        println!("memory after {} comparisons: {:.0} MB", (window + 1) * 10_000, resident_mb());
    }
}

fn faults() {
    let (dir, all) = (tempfile::tempdir().expect("a folder"), comparisons(0, 10_000));
    let server = FaultServer::start(FaultPlan::every(0.3, 1), ranking);
    let options = json!({ "base_url": server.base_url(), "max_concurrent": 256, "timeout_secs": 2.0 });
    for stage in ["new", "again"] {
        let started = Instant::now();
        let judged = judge(dir.path(), options.clone(), stage, &all);
        let (tally, secs) = (server.tally(), started.elapsed().as_secs_f64());
        println!(
            "faults, {stage}: {secs:.1} s, {:?}; asked {} times, answered {}, answered again {}, {} faults of {} kinds",
            ends(&judged),
            tally.n_asked(),
            tally.n_answered(),
            tally.n_answered_again(),
            tally.faults.values().sum::<u64>(),
            tally.faults.len()
        );
    }
}

/// Memory of this process, server included, in MB.
fn resident_mb() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|kb| kb.parse::<f64>().ok()).unwrap_or(f64::NAN) / 1024.0
}
