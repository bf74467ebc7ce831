//! `farmhand judgements` and what `annotate` says about cost, as a user meets them.

use serde_json::{Value, json};

use crate::command::farmhand;

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

/// An annotations file with two verdicts, a tie and a failure.
fn annotations() -> String {
    let record = |i: usize, preference: Value| {
        json!({ "instruction": format!("i{i}"), "output_1": "a", "generator_1": "base", "output_2": "b", "generator_2": "mine",
                "annotator": "gpt4", "preference": preference, "price_per_example": 0.01, "time_per_example": 2.0 })
    };
    let records = [json!(1), json!(2), json!(0), Value::Null];
    Value::Array(records.into_iter().enumerate().map(|(i, code)| record(i, code)).collect()).to_string()
}

#[test]
fn a_store_takes_in_shows_and_gives_back() {
    let dir = folder();
    std::fs::write(dir.path().join("annotations.json"), annotations()).expect("written");
    let run = |args: &[&str]| farmhand(dir.path(), args).expect_success().stdout;
    let said = run(&["judgements", "import", "j.db", "annotations.json"]);
    assert!(said.contains("4 records, 3 new verdicts, 1 new failures, 0 known"), "{said}");
    let again: Value = serde_json::from_str(&run(&["judgements", "import", "j.db", "annotations.json", "--json"])).expect("JSON");
    assert_eq!(again[0]["report"]["n_known"], 4);
    assert!(run(&["judgements", "list", "j.db"]).contains("base against mine"));
    let stats = run(&["judgements", "stats", "j.db"]);
    assert!(stats.contains("gpt4") && stats.contains("1 unparsable_answer") && stats.contains("1/30"), "{stats}");
    let stats: Value = serde_json::from_str(&run(&["judgements", "stats", "j.db", "--json"])).expect("JSON");
    assert_eq!((&stats["annotators"][0]["n_ties"], &stats["annotators"][0]["n_priced"]), (&json!(1), &json!(4)));
    assert!(run(&["judgements", "verify", "j.db"]).contains("whole; 3 verdicts and 1 failures"));
    run(&["judgements", "export", "j.db", "back.json"]);
    let back: Value = serde_json::from_str(&std::fs::read_to_string(dir.path().join("back.json")).expect("read")).expect("JSON");
    assert_eq!(back, serde_json::from_str::<Value>(&annotations()).expect("JSON"));
    farmhand(dir.path(), &["judgements", "export", "j.db", "back.json"])
        .expect_error(&["exists and is left alone"], Some("another"));
    farmhand(dir.path(), &["judgements", "list", "none.db"]).expect_error(&["cannot open the judgement store `none.db`"], None);
    farmhand(dir.path(), &["judgements", "list", "back.json"]).expect_error(&["`back.json` is no judgement store"], None);
}

#[test]
fn a_dry_run_counts_and_makes_nothing_and_a_second_run_asks_nobody() {
    let dir = folder();
    std::fs::write(dir.path().join("annotations.json"), annotations()).expect("written");
    let common = ["--data", "annotations.json", "--annotator", "cached", "--set", "path=j.db"];
    let annotate = |rest: &[&str]| farmhand(dir.path(), &[&["annotate"], &common[..], rest].concat()).expect_success();
    let said = annotate(&["--out", "one", "--dry-run"]).stdout;
    assert!(said.contains("4 comparisons: 0 cached, 0 need no judge, 4 would be judged\nno requests to servers"), "{said}");
    assert!(!dir.path().join("one").exists() && !dir.path().join("j.db").exists());
    annotate(&["--out", "one", "--budget", "0"]);
    let said = annotate(&["--out", "two", "--dry-run"]).stdout;
    assert!(said.contains("4 cached"), "{said}");
    annotate(&["--out", "two"]);
    let summary = |out: &str| -> Value {
        let text = std::fs::read_to_string(dir.path().join(out).join("summary.json")).expect("read");
        serde_json::from_str(&text).expect("JSON")
    };
    assert_eq!((&summary("one")["n_new"], &summary("one")["n_cached"]), (&json!(4), &json!(0)));
    assert_eq!((&summary("two")["n_new"], &summary("two")["n_cached"]), (&json!(0), &json!(4)));
}
