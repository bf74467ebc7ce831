//! `farmhand annotate` on pairs, on samples and head to head, with farmhand's own draws and with AlpacaFarm's.

use std::path::Path;

use serde_json::{Value, json};

use crate::command::farmhand;

fn folder_with(files: &[(&str, Value)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    for (name, content) in files {
        std::fs::write(dir.path().join(name), content.to_string()).expect("written");
    }
    dir
}

/// The lines of a file that the command wrote.
fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).expect("a file");
    text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

/// What was asked and the two answers of each judgement.
fn pairs(judgements: &[Value]) -> Vec<[String; 3]> {
    let pair = |judgement: &Value| {
        let Value::Object(comparison) = &judgement["comparison"] else { panic!("no comparison in {judgement}") };
        [&comparison["instruction"]["instruction"], &comparison["output_1"], &comparison["output_2"]]
            .map(|text| text.as_str().expect("a text").to_owned())
    };
    judgements.iter().map(pair).collect()
}

fn samples() -> Value {
    json!([
        { "instruction": "Write a verse.", "input": "", "output": ["5 lines of verse", "1", "5 lines of verse", "4 rhymes", "2 birds"] },
        { "instruction": "Add.", "input": "1 2", "output": ["3", "three"] },
        { "instruction": "Add.", "input": "2 2", "output": ["4", "4"] },
    ])
}

#[test]
fn pairs_are_judged_once_and_written_in_alpaca_evals_form() {
    let pair = |asked: &str, second: &str| json!({ "instruction": asked, "input": "", "output_1": "A short answer.", "output_2": second });
    let long = "A longer answer that says what there is to say about it, and how it came about.";
    let dir =
        folder_with(&[("pairs.json", json!([pair("a", long), pair("b", long), pair("a", long), pair("c", "A short answer.")]))]);
    let args = ["annotate", "--data", "pairs.json", "--out", "out", "--format", "alpaca-eval", "--format", "alpaca-farm"];
    let done = farmhand(dir.path(), &args).expect_success();
    assert!(done.stderr.contains("repeated 1"), "{}", done.stderr);
    assert_eq!(done.stdout.lines().count(), 5, "{}", done.stdout);
    let judgements = lines(&dir.path().join("out/judgements.jsonl"));
    assert_eq!(judgements.len(), 4);
    assert_eq!(judgements[0]["annotation"]["preference"], judgements[2]["annotation"]["preference"]);
    assert_eq!(judgements[2]["annotation"]["cached"], json!(true));
    assert_eq!(judgements[3]["annotation"]["preference"], json!(1.5));
    let text = std::fs::read_to_string(dir.path().join("out/annotations.json")).expect("a file");
    let rows: Vec<Value> = serde_json::from_str(&text).expect("a list");
    for (row, judgement) in rows.iter().zip(&judgements) {
        assert_eq!(row["preference"].as_f64(), judgement["annotation"]["preference"].as_f64());
        assert_eq!(row["annotator"], judgement["annotation"]["annotator"]);
        assert_eq!(
            (&row["instruction"], &row["output_2"]),
            (&judgement["comparison"]["instruction"]["instruction"], &judgement["comparison"]["output_2"])
        );
    }
    // The written file is judged again as pairs, and measured as judgements.
    farmhand(dir.path(), &["annotate", "--data", "out/annotations.json", "--out", "again"]).expect_success();
    assert_eq!(pairs(&lines(&dir.path().join("again/judgements.jsonl"))), pairs(&judgements));
    farmhand(dir.path(), &["evaluate", "--judgements", "out/annotations.json", "--out", "measured"]).expect_success();
}

#[test]
fn samples_are_paired_in_farmhands_way_or_in_alpaca_farms() {
    let dir = folder_with(&[("samples.json", samples())]);
    let judged = |out: &str, more: &[&str]| {
        let args = [&["annotate", "--samples", "samples.json", "--out", out], more].concat();
        let stderr = farmhand(dir.path(), &args).expect_success().stderr;
        assert!(stderr.contains("2 of 9 answers read like another"), "{stderr}");
        pairs(&lines(&dir.path().join(out).join("judgements.jsonl")))
    };
    let own = judged("own", &[]);
    assert_eq!(own.len(), 2);
    assert!(own.iter().all(|[_, first, second]| first != second));
    assert_eq!(judged("own-all", &["--all-pairs"]).len(), 6 + 1);
    // Python's Random(0) shuffles four answers to 2 0 3 1 and two to 1 0; instructions come in the order of input and text.
    let row = |asked: &str, first: &str, second: &str| [asked, first, second].map(str::to_owned);
    let verse = ["5 lines of verse", "1", "4 rhymes", "2 birds"];
    let (sum, alone) = (row("Add.", "3", "three"), row("Add.", "4", "4"));
    let expected = [row("Write a verse.", verse[0], verse[2]), sum.clone(), alone.clone()];
    assert_eq!(judged("theirs", &["--seeding", "alpaca-farm"]), expected);
    let mut all: Vec<_> =
        verse.iter().zip([2, 0, 3, 1]).map(|(first, second)| row("Write a verse.", first, verse[second])).collect();
    all.extend([sum, row("Add.", "three", "3"), alone]);
    assert_eq!(judged("theirs-all", &["--seeding", "alpaca-farm", "--all-pairs"]), all);
}

#[test]
fn two_models_meet_head_to_head() {
    let outputs = |model: &str, asked: &[&str]| {
        let row = |asked: &&str| json!({ "instruction": asked, "input": "", "output": format!("{model} says: {asked}"), "generator": model });
        Value::Array(asked.iter().map(row).collect())
    };
    let dir = folder_with(&[("m.json", outputs("mine", &["b", "a", "b", "q"])), ("r.json", outputs("ref", &["a", "b", "z"]))]);
    let judged = |out: &str, more: &[&str]| {
        let args = [&["annotate", "--outputs", "m.json", "--reference", "r.json", "--out", out], more].concat();
        let stderr = farmhand(dir.path(), &args).expect_success().stderr;
        assert!(stderr.contains("4 answers and 3 reference answers make"), "{stderr}");
        let judgements = lines(&dir.path().join(out).join("judgements.jsonl"));
        assert!(judgements.iter().all(|judgement| judgement["comparison"]["generator_1"] == "ref"));
        pairs(&judgements).into_iter().map(|[asked, ..]| asked).collect::<String>()
    };
    assert_eq!(judged("own", &[]), "bab");
    assert_eq!(judged("theirs", &["--seeding", "alpaca-farm"]), "ab");
    farmhand(dir.path(), &["annotate", "--outputs", "m.json", "--reference", "r.json", "--ordered", "--out", "none"])
        .expect_error(&["none of the 4 answers and the 3 reference answers"], Some("same instructions"));
}

#[test]
fn noise_replaces_the_labels_that_pythons_coins_name() {
    // `random.Random("noisy_preference" + text + "0").choices([None, 1, 2], weights=[0.5, 0.25, 0.25])` for these texts.
    let expected =
        [("a", Some(2)), ("b", Some(2)), ("c", Some(1)), ("d", None), ("e", None), ("f", Some(2)), ("g", Some(1)), ("h", None)];
    let pair = |asked: &str| json!({ "instruction": asked, "output_1": "One answer.", "output_2": "Another answer." });
    let dir = folder_with(&[("pairs.json", Value::Array(expected.iter().map(|(asked, _)| pair(asked)).collect()))]);
    let args = ["annotate", "--data", "pairs.json", "--out", "out", "--noise", "0.25", "--seeding", "alpaca-farm"];
    farmhand(dir.path(), &args).expect_success();
    let noise = |judgement: Value| {
        let annotation = &judgement["annotation"];
        if annotation["noised"] == true { annotation["preference"].as_i64() } else { None }
    };
    let noised: Vec<Option<i64>> = lines(&dir.path().join("out/judgements.jsonl")).into_iter().map(noise).collect();
    assert_eq!(noised, expected.map(|(_, label)| label));
    let refused = |more: &[&str]| farmhand(dir.path(), &[&["annotate", "--data", "pairs.json", "--out", "x"], more].concat());
    refused(&["--noise", "0.6"]).expect_error(&["expected a number in [0, 0.5], got 0.6"], None);
    refused(&["--samples", "pairs.json"]).expect_refused("cannot be used with");
    farmhand(dir.path(), &["annotate", "--outputs", "pairs.json", "--out", "x"]).expect_refused("--reference");
    farmhand(dir.path(), &["annotate", "--out", "x"]).expect_refused("--data");
}
