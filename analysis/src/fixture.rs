//! A small run directory made up for tests.

use std::path::Path;

use farmhand_core::types::{
    Annotation, Comparison, Completion, EvalReport, FinishReason, Instruction, Judgement, Metric, Preference,
};
use farmhand_core::{Error, ErrorKind};
use serde::Serialize;

/// Answers that would break a page that trusted them.
pub(crate) const HOSTILE: &str = "<script>alert('x')</script> & \"quotes\" </pre>";

/// A run with SFT, best-of-n, DPO and PPO.
pub(crate) fn run() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    fill(dir.path());
    dir
}

/// A run with SFT, and DPO and PPO with three seeds each.
pub(crate) fn repeated_run() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    let config = "name = \"repeated\"\nseed = 0\nseeds = [0, 1, 2]\n";
    std::fs::write(dir.path().join("run.toml"), config).expect("written");
    write_model(dir.path(), "sft", 0);
    for seed in 0..3 {
        write_model(dir.path(), &format!("dpo@{seed}"), seed);
        write_model(dir.path(), &format!("ppo@{seed}"), seed + 2);
    }
    dir
}

/// Fills a folder as a run would.
pub(crate) fn fill(dir: &Path) {
    let config = "name = \"quick start\"\nseed = 7\n\n[methods.dpo.learner.dpo]\nbeta = 0.1 # <b>\n";
    std::fs::write(dir.join("run.toml"), config).expect("written");
    std::fs::write(dir.join("manifest.json"), "{}").expect("written");
    write_events(&dir.join("events.jsonl"));
    for (method, shift) in [("sft", 0), ("dpo", 1), ("ppo", 4), ("best_of_n", 1)] {
        write_model(dir, method, shift);
    }
}

/// What a run leaves of one model.
fn write_model(dir: &Path, method: &str, shift: i32) {
    let judgements: Vec<Judgement> = (0..8).map(|index| judgement(method, index, shift)).collect();
    let completions: Vec<Completion> = judgements.iter().map(|judgement| completion(method, judgement)).collect();
    let evaluation = dir.join(format!("evaluate-{method}"));
    let generation = dir.join(format!("generate-{method}"));
    std::fs::create_dir_all(&evaluation).expect("made");
    std::fs::create_dir_all(&generation).expect("made");
    let reports = reports(method, &judgements);
    std::fs::write(evaluation.join("report.json"), serde_json::to_string_pretty(&reports).expect("JSON")).expect("written");
    write_jsonl(&evaluation.join("judgements.jsonl"), &judgements);
    write_jsonl(&generation.join("completions.jsonl"), &completions);
}

/// A metric without uncertainty.
pub(crate) fn metric(name: &str, value: f64) -> Metric {
    Metric { name: name.into(), value, std_error: None, interval: None, n: 8, unit: String::new(), higher_is_better: None }
}

/// The reports of one model with this win rate (%) and these standard errors.
pub(crate) fn report_of(model: &str, win_rate: f64, std_error: f64, avg_length: f64) -> Vec<EvalReport> {
    let mut rate = metric("win_rate", win_rate);
    (rate.std_error, rate.unit, rate.higher_is_better, rate.n) = (Some(std_error), "%".into(), Some(true), 805);
    let mut length = metric("avg_length", avg_length);
    length.unit = "characters".into();
    let report = |annotator: Option<&str>, metrics| EvalReport {
        model: model.into(),
        reference: annotator.map(|_| "sft".into()),
        annotator: annotator.map(Into::into),
        metrics,
    };
    vec![report(Some("pool"), vec![rate]), report(None, vec![length])]
}

fn judgement(method: &str, index: i32, shift: i32) -> Judgement {
    let input = (index % 3 == 0).then_some("Material.");
    let instruction = Instruction::new(format!("Instruction {index}: say something about <topic {index}>."), input);
    let answer =
        if index == 1 { HOSTILE.to_owned() } else { format!("{method} says {}", "word ".repeat((index + shift) as usize)) };
    let comparison = Comparison::new(instruction, format!("The reference says {index}."), answer).between("sft", method);
    let preference = match index * 5 % 8 {
        2 => Preference::Tie,
        3 => return Judgement::new(comparison, Err(Error::new(ErrorKind::UnparsableAnswer, "no verdict in `<b>`"))),
        7 => Preference::from_p_second(0.75).expect("a probability"),
        roll if roll < 6 - shift => Preference::First,
        _ => Preference::Second,
    };
    let mut annotation = Annotation::new("pool", preference);
    annotation.time_secs = Some(f64::from(index) * 0.123_456);
    Judgement::new(comparison, Ok(annotation))
}

fn completion(method: &str, judgement: &Judgement) -> Completion {
    Completion {
        instruction: judgement.comparison.instruction.clone(),
        output: judgement.comparison.output_2.clone(),
        model: method.into(),
        sample: 0,
        finish: FinishReason::Stop,
        n_tokens: 5,
        log_prob: None,
    }
}

fn reports(method: &str, judgements: &[Judgement]) -> Vec<EvalReport> {
    let p: Vec<f64> = judgements.iter().filter_map(|judgement| judgement.preference().map(Preference::p_second)).collect();
    let count = |wanted: fn(f64) -> bool| p.iter().filter(|p| wanted(**p)).count() as f64;
    let mean = p.iter().sum::<f64>() / p.len() as f64;
    let variance = p.iter().map(|p| (p - mean).powi(2)).sum::<f64>() / (p.len() - 1) as f64;
    let lengths: usize = judgements.iter().map(|judgement| judgement.comparison.output_2.chars().count()).sum();
    let mut reports =
        report_of(method, 100.0 * mean, 100.0 * (variance / p.len() as f64).sqrt(), (lengths / judgements.len()) as f64);
    reports[0].metrics[0].n = p.len();
    let tally = |name: &str, value| Metric { unit: "comparisons".into(), ..metric(name, value) };
    reports[0].metrics.extend([
        metric("discrete_win_rate", 100.0 * (count(|p| p > 0.5) + 0.5 * count(|p| p == 0.5)) / p.len() as f64),
        tally("n_wins", count(|p| p > 0.5)),
        tally("n_wins_base", count(|p| p < 0.5)),
        tally("n_draws", count(|p| p == 0.5)),
        tally("n_total", p.len() as f64),
        tally("n_failed", (judgements.len() - p.len()) as f64),
    ]);
    let mut reward = metric("mean_reward", mean * 2.0 - 1.0);
    reward.std_error = Some(0.125);
    reports[1].metrics.push(reward);
    reports
}

fn write_events(path: &Path) {
    let mut lines = Vec::new();
    let mut scalar = |stage: &str, name: &str, step: u64, value: f64, time: f64| {
        let line =
            serde_json::json!({"stage": stage, "time": time, "event": "scalar", "name": name, "step": step, "value": value});
        lines.push(line.to_string());
    };
    scalar("learn-ppo", "ppo/reward", 3, 99.0, 0.5);
    for step in 0..40u64 {
        let x = step as f64;
        scalar("sft", "sft/loss", step, 3.0 / (1.0 + x / 8.0) + 0.2 * (x * 1.7).sin(), x);
        scalar("learn-dpo", "dpo/loss", step, 0.693 - 0.008 * x + 0.02 * (x * 2.3).cos(), x * 1.5);
        scalar("learn-dpo", "dpo/tokens_per_second", step, 1000.0 + x.sin(), x);
        scalar("learn-ppo", "ppo/reward", step, if step == 3 { 0.25 } else { x / 40.0 + 0.1 * x.sin() }, x);
        scalar("learn-ppo", "ppo/kl", step, 0.002 * x * x, x);
    }
    lines.push(r#"{"stage":"learn-ppo","time":1.5,"event":"scalar","name":"ppo/nan","step":1,"value":null}"#.to_owned());
    lines.push(r#"{"stage":"sft","time":1.5,"event":"phase_finished","phase":"training","done":4,"secs":1.25}"#.to_owned());
    lines.push(r#"{"stage":"sft","ti"#.to_owned());
    std::fs::write(path, lines.join("\n")).expect("written");
}

fn write_jsonl<T: Serialize>(path: &Path, records: &[T]) {
    let lines: String = records.iter().map(|record| serde_json::to_string(record).expect("JSON") + "\n").collect();
    std::fs::write(path, lines).expect("written");
}
