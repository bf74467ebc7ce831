//! Two models compared and several runs reported, as a user meets it: words, formats, and one clear error for every mistake.

use std::path::Path;

use serde_json::Value;

use crate::command::{Finished, farmhand, fixture};

fn run(dir: &Path, name: &str, beta: &str) {
    let config = fixture("tiny.toml");
    let (name, beta) = (format!("name={name}"), format!("methods.dpo.learner.dpo.beta={beta}"));
    farmhand(dir, &["run", config.to_str().expect("a path"), "--quiet", "--set", &name, "--set", &beta]).expect_success();
}

fn json(finished: Finished) -> Value {
    serde_json::from_str(&finished.expect_success().stdout).expect("JSON")
}

#[test]
fn models_are_compared_and_runs_are_reported_together() {
    let dir = tempfile::tempdir().expect("a folder");
    let dir = dir.path();
    run(dir, "one", "0.1");
    run(dir, "two", "0.5");

    let found = json(farmhand(dir, &["compare", "runs/one", "ppo", "dpo", "--json"]));
    assert_eq!((found["a"].as_str(), found["b"].as_str(), found["n_seeds"].as_u64()), (Some("ppo"), Some("dpo"), Some(1)));
    let of = |name: &str| found["differences"].as_array().expect("a list").iter().find(|d| d["name"] == name).cloned();
    let rate = of("win_rate").expect("there");
    let board = json(farmhand(dir, &["report", "runs/one", "--json"]));
    let board_rate = |model: &str| {
        let rows = board["leaderboard"].as_array().expect("a list");
        rows.iter().find(|row| row["model"] == model).and_then(|row| row["win_rate"].as_f64()).expect("there")
    };
    // Every comparison of this run has a verdict, so that the paired rates are the leaderboard's.
    assert!((rate["a"].as_f64().expect("a number") - board_rate("ppo")).abs() < 1e-9, "{rate}");
    assert!((rate["difference"].as_f64().expect("a number") - board_rate("ppo") + board_rate("dpo")).abs() < 1e-9);
    assert!(of("mean_reward").is_some(), "rewards are kept answer by answer: {found}");

    let text = farmhand(dir, &["compare", "runs/one", "ppo", "dpo"]).expect_success().stdout;
    assert!(text.starts_with(found["verdict"].as_str().expect("words")) && text.contains("Length (characters)"), "{text}");
    let markdown =
        farmhand(dir, &["compare", "runs/one", "runs/two", "--method", "dpo", "--format", "md"]).expect_success().stdout;
    assert!(markdown.starts_with("**") && markdown.contains("dpo (runs/one)"), "{markdown}");
    let folders = ["compare", "runs/one/evaluate-dpo", "runs/one/evaluate-ppo/judgements.jsonl"];
    farmhand(dir, &folders).expect_success();

    let refused = |args: &[&str], words: &str, hint: Option<&str>| drop(farmhand(dir, args).expect_error(&[words], hint));
    refused(&["compare", "runs/one", "pop", "dpo"], "`runs/one` has no method `pop`", Some("did you mean `ppo`?"));
    refused(&["compare", "runs/one", "dpo", "dpo"], "`dpo` is compared with itself", None);
    refused(&["compare", "runs/one", "runs/one"], "`runs/one` is compared with itself", None);
    refused(&["compare", "runs/one", "runs/two"], "`runs/one` holds", Some("--method NAME"));
    refused(&["compare", "runs/one", "dpo", "ppo", "--method", "dpo"], "two models of one source", Some("leave `--method` out"));
    refused(&["compare", "runs/one/evaluate-dpo", "runs/three"], "there is no `runs/three`", Some("a source is a run directory"));
    let stranger =
        r#"{"instruction": "Something else.", "output_1": "a", "output_2": "b", "generator_2": "other", "preference": 2}"#;
    std::fs::write(dir.join("other.jsonl"), stranger).expect("written");
    refused(&["compare", "runs/one/evaluate-dpo", "other.jsonl"], "have no instruction in common", Some("same instructions"));

    refused(&["report", "runs/one", "runs/two"], "a report of 2 runs needs a folder of its own", Some("--out DIR"));
    refused(&["report", "runs/one", "runs/one", "--out", "both"], "the run `runs/one` is named twice", None);
    let both = farmhand(dir, &["report", "runs/one", "runs/two", "--out", "both"]).expect_success().stdout;
    assert!(both.contains("Run") && both.contains("report: both/index.html"), "{both}");
    for file in ["index.html", "report.md", "leaderboard.tex", "across_runs.csv", "one/by_dataset.csv", "two/charts/rewards.svg"]
    {
        assert!(dir.join("both").join(file).is_file(), "no {file}");
    }
}
