//! The win rate agrees with the `alpaca_eval` package on AlpacaEval's published judgements.
//!
//! Reads `../shared/data/alpaca_eval` beside the repository; says that it skips when that is not there.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use farmhand_core::types::{Annotation, Comparison, Completion, EvalReport, FinishReason, Instruction, Judgement, Preference};
use farmhand_core::{BuildContext, Device, Error, EvaluationInputs, EvaluatorConfig};
use farmhand_evaluators::win_rate::WinRateConfig;
use flate2::read::GzDecoder;
use serde::de::DeserializeOwned;

#[derive(serde::Deserialize)]
struct Row {
    index: usize,
    preference: Option<f64>,
}

#[derive(serde::Deserialize)]
struct Output {
    index: usize,
    output: String,
}

fn read_gz<T: DeserializeOwned>(path: &Path) -> Vec<T> {
    let file = std::fs::File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let lines = BufReader::new(GzDecoder::new(file)).lines();
    lines.map(|line| serde_json::from_str(&line.expect("text")).expect("a record")).collect()
}

fn evaluate(data: &Path, annotator: &str, model: &str, baseline: &str) -> EvalReport {
    let outputs: Vec<Output> = read_gz(&data.join(format!("outputs/{model}.jsonl.gz")));
    let completion = |output: Output| Completion {
        instruction: Instruction::new(output.index.to_string(), None),
        output: output.output,
        model: model.to_owned(),
        sample: 0,
        finish: FinishReason::Stop,
        n_tokens: 0,
        log_prob: None,
    };
    let completions: Vec<Completion> = outputs.into_iter().map(completion).collect();
    let rows: Vec<Row> = read_gz(&data.join(format!("annotations/{annotator}/{model}.jsonl.gz")));
    let judgement = |row: Row| {
        let comparison = Comparison::new(Instruction::new(row.index.to_string(), None), "", "").between(baseline, model);
        let verdict = row.preference.ok_or_else(|| Error::other("no verdict")).and_then(Preference::from_code);
        Judgement::new(comparison, verdict.map(|preference| Annotation::new(annotator, preference)))
    };
    let judgements: Vec<Judgement> = rows.into_iter().map(judgement).collect();
    let evaluator = WinRateConfig::default().build(&BuildContext::new(Device::Cpu, data)).expect("built");
    let inputs = EvaluationInputs { model, completions: &completions, judgements: &judgements, rewards: &[] };
    evaluator.evaluate(&inputs).expect("evaluated")
}

#[test]
#[expect(clippy::print_stderr, reason = "a skipped check is said aloud")]
fn every_judged_model_has_the_numbers_of_the_package() {
    let data = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/alpaca_eval");
    let Ok(expected) = std::fs::read_to_string(data.join("expected_dev.csv")) else {
        eprintln!("skipped: there is no {}", data.display());
        return;
    };
    let mut lines = expected.lines();
    let header: Vec<&str> = lines.next().expect("a header").split(',').collect();
    let mut n_compared = 0;
    for line in lines {
        let row: HashMap<&str, &str> = header.iter().copied().zip(line.split(',')).collect();
        let report = evaluate(&data, row["annotator"], row["model"], row["baseline"]);
        let metric = |name: &str| report.metric(name).unwrap_or_else(|| panic!("no {name}"));
        let check = |name: &str, got: f64| {
            let expected: f64 = row[name].parse().expect("a number");
            assert!(
                (got - expected).abs() < 1e-9,
                "{} by {}: {name} is {got}, expected {expected}",
                row["model"],
                row["annotator"]
            );
        };
        for name in ["win_rate", "n_wins", "n_wins_base", "n_draws", "n_total", "discrete_win_rate", "avg_length"] {
            check(name, metric(name).value);
        }
        check("standard_error", metric("win_rate").std_error.expect("many rows"));
        assert_eq!(report.reference.as_deref(), Some(row["baseline"]));
        n_compared += 1;
    }
    assert!(n_compared >= 20, "only {n_compared} rows compared");
}
