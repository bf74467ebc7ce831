//! Ten million judgements in a Parquet file, from the disk to win rates, intervals and the breakdown by data set.
//!
//! `cargo bench -p farmhand-analysis --bench judgements --profile dev -- FOLDER [wide] [deep]` writes what is missing of two made
//! files into the folder and evaluates each in a process of its own. `wide` has 100 models on 100,000 instructions, `deep` 20
//! models on 805 instructions, judged 621 times each.

#![allow(clippy::print_stdout)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use farmhand_analysis::{Judge, JudgementTable, Measure, OutputLengths, Standings, StandingsOptions, TableOptions};
use farmhand_core::Seed;
use polars::prelude::*;
use polars_io::parquet::write::ParquetWriter;

/// Models, instructions, and judgements of each answer.
const SHAPES: [(&str, [usize; 3]); 2] = [("wide", [100, 100_000, 1]), ("deep", [20, 805, 621])];
const DATASETS: [&str; 5] = ["helpful_base", "koala", "oasst", "selfinstruct", "vicuna"];
/// Rows that are made and written at a time.
const BATCH: usize = 1_000_000;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    match args.first().map(String::as_str) {
        Some("evaluate") => evaluate(Path::new(&args[1])),
        Some(folder) => {
            for (name, shape) in SHAPES {
                if args.len() == 1 || args[1..].iter().any(|wanted| wanted == name) {
                    measure(Path::new(folder), name, shape);
                }
            }
        }
        None => println!("name a folder for the files, about 100 MB each"),
    }
}

fn measure(folder: &Path, name: &str, shape: [usize; 3]) {
    let path = folder.join(format!("{name}.parquet"));
    if !path.is_file() {
        let started = Instant::now();
        write(&path, shape);
        println!("{name}: written in {:.1} s", started.elapsed().as_secs_f64());
    }
    // A process of its own, so that its peak of memory is what evaluating takes.
    let own = std::env::current_exe().expect("a path");
    let status = Command::new(own).arg("evaluate").arg(&path).status().expect("started");
    assert!(status.success(), "{status}");
}

/// Made judgements: models that differ in strength, instructions in how hard they are, judges in how they lean.
fn write(path: &PathBuf, [n_models, n_instructions, n_judges]: [usize; 3]) {
    let n_rows = n_models * n_instructions * n_judges;
    let mut rng = Seed::root(0).child("judgements", 0).rng();
    let ease: Vec<f64> = (0..n_instructions).map(|_| 0.2 * rng.normal()).collect();
    let strength: Vec<f64> = (0..n_models).map(|model| 0.3 + 0.4 * model as f64 / n_models as f64).collect();
    let lean: Vec<f64> = (0..n_judges).map(|_| 0.05 * rng.normal()).collect();
    let file = std::fs::File::create(path).expect("writable");
    let mut writer = None;
    for start in (0..n_rows).step_by(BATCH) {
        let rows = start..(start + BATCH).min(n_rows);
        let place = |row: usize| (row / (n_instructions * n_judges), row / n_judges % n_instructions, row % n_judges);
        let preference = rows.clone().map(|row| {
            let (model, instruction, judge) = place(row);
            let p = (strength[model] + ease[instruction] + lean[judge]).clamp(0.02, 0.98);
            match rng.uniform() {
                u if u < 0.002 => None,
                u if u < 0.05 => Some(1.5),
                _ => Some(1.0 + f64::from(u8::from(rng.uniform() < p))),
            }
        });
        let preference: Vec<Option<f64>> = preference.collect();
        let mut length = |_| 200 + rng.below(3000) as i64;
        let texts = |of: &dyn Fn(usize) -> String| rows.clone().map(of).collect::<Vec<String>>();
        let columns = vec![
            Column::new("index".into(), rows.clone().map(|row| place(row).1 as i64).collect::<Vec<_>>()),
            Column::new("dataset".into(), texts(&|row| DATASETS[place(row).1 % 5].to_owned())),
            Column::new("generator_1".into(), texts(&|_| "baseline".to_owned())),
            Column::new("generator_2".into(), texts(&|row| format!("model-{:03}", place(row).0))),
            Column::new("annotator".into(), texts(&|row| format!("judge-{:03}", place(row).2))),
            Column::new("preference".into(), preference),
            Column::new("len_1".into(), rows.clone().map(&mut length).collect::<Vec<_>>()),
            Column::new("len_2".into(), rows.clone().map(&mut length).collect::<Vec<_>>()),
        ];
        let frame = DataFrame::new(rows.len(), columns).expect("a frame");
        let writer = writer.get_or_insert_with(|| {
            ParquetWriter::new(file.try_clone().expect("a handle")).batched(frame.schema()).expect("a writer")
        });
        writer.write_batch(&frame).expect("written");
    }
    writer.expect("there are rows").finish().expect("written");
}

fn evaluate(path: &Path) {
    let started = Instant::now();
    let table = JudgementTable::read(&[path], &TableOptions::default()).expect("read");
    let read = started.elapsed().as_secs_f64();
    println!("{}: {} judgements read in {read:.1} s, {:.2} GB at most", path.display(), table.len(), peak_gb());
    let measures = [Measure::WinRate, Measure::Counts, Measure::Totals, Measure::Length, Measure::Datasets].into();
    let options = StandingsOptions { judge: Judge::All, measures, ..StandingsOptions::default() };
    let standings = Standings::of(&table, &OutputLengths::default(), &options, &mut |_, _| ()).expect("evaluated");
    let board = &standings.leaderboard;
    let number = |name: &str| board.number(name, 0).unwrap_or(f64::NAN);
    println!(
        "{} models with {} resamples and data sets in {:.1} s, {:.2} GB at most; the best: {:.2} % ({:.2} to {:.2}), koala {:.2} %",
        board.len(),
        options.n_resamples,
        started.elapsed().as_secs_f64(),
        peak_gb(),
        number("win_rate"),
        number("interval_low"),
        number("interval_high"),
        number("win_rate_koala"),
    );
}

/// The most memory that this process ever held, in 10⁹ bytes.
fn peak_gb() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|kb| kb.parse::<f64>().ok()).unwrap_or(f64::NAN) * 1024.0 / 1e9
}
