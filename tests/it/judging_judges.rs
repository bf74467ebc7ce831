//! `farmhand evaluate annotators` and `farmhand evaluate transfer`, as a user meets them.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::command::farmhand;

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

fn write(dir: &Path, name: &str, records: &[Value]) {
    let lines: Vec<String> = records.iter().map(Value::to_string).collect();
    std::fs::write(dir.join(name), lines.join("\n")).expect("written");
}

fn as_json(dir: &Path, args: &[&str]) -> Value {
    serde_json::from_str(&farmhand(dir, args).expect_success().stdout).expect("JSON")
}

/// The number of a report's or a transfer's metric.
fn number(report: &Value, name: &str) -> f64 {
    let metrics = report["metrics"].as_array().expect("metrics");
    let metric = metrics.iter().find(|metric| metric["name"] == name).unwrap_or_else(|| panic!("no {name} in {report}"));
    metric["value"].as_f64().expect("a number")
}

fn close(value: f64, expected: f64) {
    assert!((value - expected).abs() < 5e-5, "{value}, expected {expected}");
}

/// AlpacaEval's example of agreement: two comparisons, four people, [1, 1, 1, 1] and [2, 2, 2, 1]; and a judge that is wrong once.
fn people_and_judge(dir: &Path) {
    let pair = |instruction: &str, rest: Value| {
        let mut record = json!({ "instruction": instruction, "output_1": "one", "output_2": "another" });
        record.as_object_mut().expect("an object").extend(rest.as_object().expect("an object").clone());
        record
    };
    write(dir, "votes.jsonl", &[pair("i", json!({ "humans": [1, 1, 1, 1] })), pair("j", json!({ "humans": [2, 2, 2, 1] }))]);
    let verdict = |instruction: &str, preference: Value| {
        let rest = json!({ "preference": preference, "annotator": "judge", "price_per_example": 0.002, "time_per_example": 0.5 });
        pair(instruction, rest)
    };
    write(dir, "judge.jsonl", &[verdict("i", json!(1)), verdict("j", json!(1)), verdict("unseen", Value::Null)]);
}

#[test]
fn alpaca_evals_agreement_comes_out_of_files() {
    let dir = folder();
    people_and_judge(dir.path());
    let files = ["evaluate", "annotators", "judge.jsonl", "--humans", "votes.jsonl"];
    let found = as_json(dir.path(), &[&files[..], &["--noise", "0.25", "--json"]].concat());
    let [people, judge, noisy] = found["judges"].as_array().expect("judges").as_slice() else { panic!("{found}") };
    assert_eq!((people["judge"].as_str(), number(people, "agreement"), number(people, "variance")), (Some("people"), 87.5, 12.5));
    assert_eq!((number(judge, "agreement"), number(judge, "bias"), number(judge, "price_per_1000")), (50.0, 50.0, 2.0));
    // A failure is a third of the comparisons, and no tie.
    close(number(judge, "failed"), 100.0 / 3.0);
    assert_eq!((number(judge, "tie"), judge["n_failed"].as_u64(), judge["n_verdicts"].as_u64()), (0.0, Some(1), Some(2)));
    assert_eq!((noisy["noise"].as_f64(), number(noisy, "agreement")), (Some(0.25), 50.0));
    assert_eq!(found["members"]["people"]["raters"].as_array().map(Vec::len), Some(4));
    let text = farmhand(dir.path(), &files).expect_success().stdout;
    assert!(text.contains("Agreement with people") && text.contains("Agreement among people: 4 annotators"), "{text}");
    let csv = farmhand(dir.path(), &[&files[..], &["--format", "csv"]].concat()).expect_success().stdout;
    assert!(csv.starts_with("judge,noise,n_pairs,") && csv.lines().count() == 3, "{csv}");
    let md = farmhand(dir.path(), &[&files[..], &["--format", "md", "--charts", "charts"]].concat()).expect_success();
    assert!(md.stdout.starts_with("### Agreement with people\n\n| Judge"), "{}", md.stdout);
    for chart in ["agreement_heat_map.svg", "cost_agreement.png"] {
        assert!(dir.path().join("charts").join(chart).is_file(), "{chart}");
    }
}

#[test]
fn what_cannot_be_said_of_judges_is_one_clear_error() {
    let dir = folder();
    people_and_judge(dir.path());
    let annotators = |rest: &[&str]| farmhand(dir.path(), &[&["evaluate", "annotators"], rest].concat());
    write(dir.path(), "other.jsonl", &[json!({ "instruction": "i", "output_1": "x", "output_2": "y", "humans": [1] })]);
    annotators(&["judge.jsonl", "--humans", "other.jsonl"]).expect_error(&["no judge judged a pair"], Some("either order"));
    annotators(&["judge.jsonl", "--own", "nobody=x"]).expect_error(&["no judge is called `nobody`"], Some("`judge`"));
    annotators(&["none.jsonl"]).expect_error(&["none.jsonl"], None);
    annotators(&["judge.jsonl", "--noise", "0.7"]).expect_refused("expected a share between 0 and 0.5");
    annotators(&["judge.jsonl", "--ranking-column", "x"]).expect_refused("--ranking <FILE>");
    annotators(&[]).expect_refused("<JUDGEMENTS>");
    let refused = farmhand(dir.path(), &["evaluate", "--out", "x"]);
    assert_eq!(refused.code, Some(2), "{}", refused.stderr);
}

#[test]
fn alpaca_farms_table_transfers_as_the_paper_says() {
    let dir = folder();
    let table = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/alpaca_farm_methods.csv");
    let table = table.to_str().expect("text");
    let found =
        farmhand(dir.path(), &["evaluate", "transfer", "--table", table, "--json", "--charts", "charts"]).expect_success();
    assert!(found.stderr.contains("Quark, Binary Reward Conditioning"), "{}", found.stderr);
    let found: Value = serde_json::from_str(&found.stdout).expect("JSON");
    close(number(&found, "spearman"), 0.9758);
    close(number(&found, "r_squared"), 0.8706);
    close(number(&found, "kendall"), 41.0 / 45.0);
    assert_eq!(found["methods"].as_array().map(Vec::len), Some(10));
    assert!(dir.path().join("charts/method_correlation.svg").is_file());
    let transfer = |rest: &[&str]| farmhand(dir.path(), &[&["evaluate", "transfer", "--table", table], rest].concat());
    let text = transfer(&["--methods", "PPO,SFT 10k,LLaMA 7B"]).expect_success().stdout;
    assert!(text.contains("Spearman's ρ") && !text.contains("GPT-4"), "{text}");
    transfer(&["--methods", "PPO"]).expect_error(&["names one method"], None);
    transfer(&["--methods", "PPO,DPO"]).expect_error(&["`DPO` is not in the table"], Some("`Expert Iteration`"));
}

/// Verdicts of a judge on models that win so often of ten.
fn verdicts(reference: &str, judge: &str, models: &[(&str, usize)]) -> Vec<Value> {
    let record = |model: &str, i: usize, wins: usize| {
        json!({ "instruction": format!("i{i}"), "output_1": "short", "generator_1": reference, "output_2": format!("{model} {i}"),
                "generator_2": model, "annotator": judge, "preference": if i < wins { 2 } else { 1 } })
    };
    models.iter().flat_map(|(model, wins)| (0..10).map(move |i| record(model, i, *wins))).collect()
}

#[test]
fn methods_under_two_judges_in_files() {
    let dir = folder();
    write(dir.path(), "a.jsonl", &verdicts("ref", "pool", &[("m", 2), ("n", 5), ("o", 8), ("left", 1)]));
    write(dir.path(), "b.jsonl", &verdicts("ref", "people", &[("m", 3), ("n", 7), ("o", 6)]));
    write(dir.path(), "c.jsonl", &verdicts("another", "people", &[("m", 3), ("n", 7)]));
    let transfer = |rest: &[&str]| farmhand(dir.path(), &[&["evaluate", "transfer"], rest].concat());
    let found = transfer(&["--a", "a.jsonl", "--b", "b.jsonl", "--json"]).expect_success();
    assert!(found.stderr.contains("left out") && found.stderr.contains("left"), "{}", found.stderr);
    let found: Value = serde_json::from_str(&found.stdout).expect("JSON");
    close(number(&found, "spearman"), 0.5);
    assert_eq!((found["methods"][0]["method"].as_str(), found["methods"][0]["a"]["rank"].as_f64()), (Some("n"), Some(2.0)));
    assert_eq!(found["methods"][0]["reference_length"].as_f64(), Some(5.0));
    let csv = transfer(&["--a", "a.jsonl", "--b", "b.jsonl", "--format", "csv"]).expect_success().stdout;
    assert_eq!(csv.lines().count(), 4);
    transfer(&["--a", "a.jsonl", "--b", "c.jsonl"])
        .expect_error(&["annotator A compared with `ref` and annotator B with `another`"], Some("one reference"));
    transfer(&["--a", "b.jsonl", "c.jsonl", "--b", "a.jsonl"]).expect_error(&["several references: `another`, `ref`"], None);
    transfer(&["--a", "a.jsonl", "--b", "b.jsonl", "--methods", "m,x"])
        .expect_error(&["method `x` was not judged"], Some("`m`, `n`, `o`"));
    transfer(&["--a", "a.jsonl", "--b", "b.jsonl", "--annotator-b", "nobody"])
        .expect_error(&["no verdict by annotator `nobody`"], Some("`people`"));
    transfer(&["--a", "a.jsonl"]).expect_refused("--b <RUN|FILE>...");
    transfer(&[]).expect_refused("--a <RUN|FILE>...");
}

#[test]
#[expect(clippy::print_stderr, reason = "a skipped check is said aloud")]
fn gpt4_judges_of_alpaca_eval() {
    let data = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/data/alpaca_eval");
    let Ok(data) = data.canonicalize() else {
        eprintln!("skipped: ../shared/data/alpaca_eval is not there");
        return;
    };
    let dir = folder();
    let path = |name: &str| data.join(name).to_str().expect("text").to_owned();
    let file = |judge: &str, model: &str| path(&format!("annotations/{judge}/{model}.jsonl.gz"));
    let models = ["alpaca-7b", "alpaca-farm-ppo-human", "claude-2", "gpt-3.5-turbo-0301", "gpt-3.5-turbo-1106"];
    let mut args: Vec<String> =
        ["evaluate", "annotators", "--json", "--resamples", "50", "--shown", "alpaca-eval"].map(Into::into).into();
    args.extend(models.map(|model| file("weighted_alpaca_eval_gpt4_turbo", model)));
    args.extend(models[..1].iter().map(|model| file("alpaca_eval_cot_gpt4_turbo_fn", model)));
    args.extend(["--ranking".to_owned(), path("leaderboards/alpaca_eval_gpt4_leaderboard.csv")]);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let found = as_json(dir.path(), &args);
    let judge = &found["judges"][0];
    assert_eq!(judge["n_verdicts"].as_u64().map(|n| n > 4000), Some(true), "{judge}");
    let first = number(judge, "prefers_first");
    assert!((40.0..60.0).contains(&first), "{first}");
    assert!(number(judge, "ranking_spearman") > 0.8, "{judge}");
    assert!(found["pairwise"][0]["agreement"].as_f64().is_some_and(|agreement| agreement > 90.0), "{found}");
    // AlpacaEval 1 and 2 compare with different baselines.
    let [one, two] = ["alpaca_eval_gpt4", "weighted_alpaca_eval_gpt4_turbo"].map(|judge| file(judge, "claude-2"));
    farmhand(dir.path(), &["evaluate", "transfer", "--a", &one, "--b", &two])
        .expect_error(&["annotator A compared with `text_davinci_003` and annotator B with `gpt4_1106_preview`"], None);
}
