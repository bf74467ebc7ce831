//! AlpacaEval's leaderboard of 13 models with length control, by `farmhand evaluate --annotations` and by the Python package
//! alpaca_eval side by side: whole processes, start-up included, in turns, on the same files.
//!
//! `ALPACA_EVAL_PYTHON=PYTHON cargo bench -p farmhand-analysis --bench leaderboard --profile dev`, after `cargo build --bins`.
//! PYTHON is an interpreter with the package; without it farmhand is measured alone. `FARMHAND` names the program where it does not
//! lie beside this one, `ALPACA_EVAL_DATA` the folder of data where it is not `../shared/data/alpaca_eval`, `ROUNDS` how often. Told
//! are the time that passes and the processor time, of all threads.
//! The original annotation files are made of the compact ones first. Nothing is asked of the network.

#![allow(clippy::print_stdout)]

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use serde_json::{Value, json};

const ANNOTATOR: &str = "weighted_alpaca_eval_gpt4_turbo";

fn main() {
    let data = std::env::var_os("ALPACA_EVAL_DATA")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/alpaca_eval"), PathBuf::from);
    if !data.join("models.json").is_file() {
        println!("skipped: there is no `{}`; `ALPACA_EVAL_DATA` may name another folder", data.display());
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let files = write_annotations(&data, dir.path());
    let lc = dir.path().join("lc");
    std::fs::create_dir(&lc).expect("made");
    std::fs::write(lc.join("df_gamed.csv"), unpacked(&data.join("lc/df_gamed_reconstructed.csv.gz"))).expect("written");
    let rounds: usize = std::env::var("ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(5);
    let python = std::env::var_os("ALPACA_EVAL_PYTHON").map(PathBuf::from);
    if python.is_none() {
        println!("alpaca_eval is skipped: `ALPACA_EVAL_PYTHON` names no interpreter that has it");
    }
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        let (cost, board) = run(Command::new(farmhand()).args(["evaluate", "--annotations"]).args(&files).args([
            "--lc-data".as_ref(),
            lc.as_os_str(),
            "--lc-join".as_ref(),
            "row".as_ref(),
            "--format".as_ref(),
            "csv".as_ref(),
        ]));
        ours.push(cost);
        let Some(python) = &python else { continue };
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/leaderboard.py");
        let (slow, expected) =
            run(Command::new(python).arg(script).arg(lc.join("df_gamed.csv")).args(&files).env("HF_HUB_OFFLINE", "1"));
        theirs.push(slow);
        println!("round {}: farmhand {:.3} s, alpaca_eval {:.3} s, {:.1} times", round + 1, cost[0], slow[0], slow[0] / cost[0]);
        if round == 0 {
            compare(&board, &expected);
        }
    }
    for (name, costs) in [("farmhand", &ours), ("alpaca_eval", &theirs)].into_iter().filter(|(_, costs)| !costs.is_empty()) {
        let [secs, processor] = [0, 1].map(|k| median(costs.iter().map(|cost| cost[k])));
        let least = costs.iter().map(|cost| cost[0]).fold(f64::INFINITY, f64::min);
        println!(
            "{name}: {} models in {secs:.3} s (median of {rounds}), {least:.3} s at best, {processor:.2} s of processor time",
            files.len()
        );
    }
    if !theirs.is_empty() {
        let times = |k: usize| median(ours.iter().zip(&theirs).map(|(ours, theirs)| theirs[k] / ours[k]));
        println!("farmhand is {:.1} times as fast (median), in processor time {:.1} times", times(0), times(1));
    }
}

/// The program beside this one: `target/debug/deps/leaderboard-…` has it in the folder above.
fn farmhand() -> PathBuf {
    let beside = || std::env::current_exe().expect("a path").with_file_name("../farmhand");
    std::env::var_os("FARMHAND").map_or_else(beside, PathBuf::from)
}

/// What a process takes from start to end, in seconds that pass and in seconds of processors, and what it prints.
fn run(command: &mut Command) -> ([f64; 2], String) {
    let (started, before) = (Instant::now(), processor_secs_of_children());
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let cost = [started.elapsed().as_secs_f64(), processor_secs_of_children() - before];
    assert!(output.status.success(), "{command:?}\n{}", String::from_utf8_lossy(&output.stderr));
    (cost, String::from_utf8(output.stdout).expect("text"))
}

/// The processor time of all processes that were started here and have ended, in seconds: `cutime` and `cstime` of Linux, which
/// counts hundredths.
fn processor_secs_of_children() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    fields.skip(13).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

/// How far the two leaderboards are apart.
fn compare(ours: &str, theirs: &str) {
    let (ours, theirs) = (rows(ours), rows(theirs));
    assert!(ours.keys().eq(theirs.keys()), "the same models");
    for column in ["win_rate", "standard_error", "length_controlled_winrate", "lc_standard_error"] {
        let distance = |(model, row): (&String, &BTreeMap<String, f64>)| (row[column] - theirs[model][column]).abs();
        let largest = ours.iter().map(distance).fold(0.0, f64::max);
        println!("{column}: at most {largest:.1e} apart over {} models", ours.len());
    }
}

/// The numbers of a CSV by model, whose name stands first.
fn rows(csv: &str) -> BTreeMap<String, BTreeMap<String, f64>> {
    let mut lines = csv.lines().map(|line| line.split(',').collect::<Vec<_>>());
    let header = lines.next().expect("a header");
    let row = |cells: Vec<&str>| {
        let numbers = header.iter().zip(&cells).skip(1).filter_map(|(name, cell)| Some(((*name).to_owned(), cell.parse().ok()?)));
        (cells[0].to_owned(), numbers.collect())
    };
    lines.map(row).collect()
}

/// AlpacaEval's `annotations.json` of every model, out of the compact files.
fn write_annotations(data: &Path, dir: &Path) -> Vec<PathBuf> {
    let models: BTreeMap<String, Value> =
        serde_json::from_slice(&std::fs::read(data.join("models.json")).expect("readable")).expect("JSON");
    let instructions = lines(&data.join("instructions.jsonl.gz"));
    let mut files = Vec::new();
    for (name, entry) in models {
        let Some(model) = name.strip_prefix(ANNOTATOR).and_then(|rest| rest.strip_prefix('/')) else { continue };
        let text = |key: &str| entry[key].as_str().expect("a name").to_owned();
        let (baseline, generator) = (text("generator_1"), text("generator_2"));
        let outputs = |model: &str| -> BTreeMap<u64, Value> {
            let outputs = lines(&data.join(format!("outputs/{model}.jsonl.gz"))).into_iter();
            outputs.map(|line| (line["index"].as_u64().expect("an index"), line["output"].clone())).collect()
        };
        let (first, second) = (outputs(&baseline), outputs(model));
        let record = |line: &Value| {
            let index = line["index"].as_u64().expect("an index");
            let asked = &instructions[index as usize];
            json!({
                "instruction": asked["instruction"], "output_1": first[&index], "generator_1": baseline, "dataset": asked["dataset"],
                "output_2": second[&index], "generator_2": generator, "annotator": ANNOTATOR, "preference": line["preference"],
                "price_per_example": line["price"], "time_per_example": line["time"],
            })
        };
        let annotations = lines(&data.join(format!("annotations/{ANNOTATOR}/{model}.jsonl.gz")));
        let records: Vec<Value> = annotations.iter().map(record).collect();
        let folder = dir.join(model).join(ANNOTATOR);
        std::fs::create_dir_all(&folder).expect("made");
        let path = folder.join("annotations.json");
        std::fs::write(&path, serde_json::to_vec_pretty(&records).expect("JSON")).expect("written");
        files.push(path);
    }
    files
}

fn lines(path: &Path) -> Vec<Value> {
    let text = unpacked(path);
    text.lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect()
}

fn unpacked(path: &Path) -> String {
    let file = std::fs::File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut text = String::new();
    flate2::read::MultiGzDecoder::new(file).read_to_string(&mut text).expect("readable");
    text
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
