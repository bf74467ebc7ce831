//! The source of feedback is one table: a model as judge, simulated raters, recorded verdicts and people's votes go through the
//! same experiment; and `farmhand agreement` compares what they said.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::{Value, json};

use crate::command::{farmhand, files_below, fixture};

const N: usize = 40;

/// Files of the same comparisons: a judge's annotations, and three people's votes. The judge prefers the second of two answers on
/// every third pair; people agree with it but for the third of them, who always votes for the first.
fn recorded(dir: &Path) {
    let pair = |i: usize| {
        let (a, b) = (format!("the cat sat on mat {i}"), format!("no, {i}"));
        json!({ "instruction": format!("Say something about mat number {i}."), "output_1": a, "output_2": b })
    };
    let with = |i: usize, key: &str, value: Value| {
        let mut record = pair(i);
        record[key] = value;
        record
    };
    let code = |i: usize| if i.is_multiple_of(3) { 2 } else { 1 };
    let annotations: Vec<Value> = (0..N)
        .map(|i| {
            let mut record = with(i, "preference", json!(code(i)));
            record["annotator"] = json!("gpt4");
            record["price_per_example"] = json!(0.25);
            record
        })
        .collect();
    std::fs::write(dir.join("gpt4.json"), json!(annotations).to_string()).expect("written");
    let mut votes = String::new();
    for i in 0..N {
        writeln!(votes, "{}", with(i, "humans", json!([code(i), code(i), 1]))).expect("written");
    }
    std::fs::write(dir.join("people.jsonl"), votes).expect("written");
}

/// The tiny experiment on given comparisons, with DPO alone.
fn experiment(dir: &Path) {
    let tiny = std::fs::read_to_string(fixture("tiny.toml")).expect("readable");
    let mut document: toml::Table = tiny.parse().expect("TOML");
    document["methods"].as_table_mut().expect("methods").retain(|name, _| name == "dpo");
    document.insert("sample".to_owned(), toml::toml! { comparisons = ["people.jsonl"] }.into());
    document["data"]["split"] = toml::toml! { sft = 96
    eval = 24 }
    .into();
    std::fs::write(dir.join("experiment.toml"), toml::to_string(&document).expect("TOML")).expect("written");
    recorded(dir);
}

fn text(dir: &Path, name: &str) -> String {
    std::fs::read_to_string(dir.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

#[test]
fn one_table_swaps_the_source_of_feedback() {
    let dir = tempfile::tempdir().expect("a folder");
    experiment(dir.path());
    let sources = [
        ("people", r#"annotator={ human = { paths = ["people.jsonl"] } }"#),
        ("gpt4", r#"annotator={ from_file = { path = "gpt4.json" } }"#),
        ("pool", "annotator={ pool = {} }"),
        (
            "judge",
            r#"annotator={ order_swap = { inner = { local_judge = { prompt = "prompt.toml", cue = "", first = "a", second = "b" } } } }"#,
        ),
    ];
    let prompt = "[[messages]]\nrole = \"user\"\ncontent = \"{{ instruction }} {{ output_1 }} {{ output_2 }}\"\n";
    std::fs::write(dir.path().join("prompt.toml"), prompt).expect("written");
    let mut models = Vec::new();
    for (name, annotator) in sources {
        let done = farmhand(dir.path(), &["run", "experiment.toml", "--set", &format!("name=\"{name}\""), "--set", annotator]);
        let done = done.expect_success();
        assert!(done.stdout.contains("dpo"), "{}", done.stdout);
        let run = dir.path().join("runs").join(name);
        let summary: Value = serde_json::from_str(text(&run, "annotate/summary.json").trim()).expect("JSON");
        assert_eq!((summary["n_comparisons"].as_u64(), summary["n_failed"].as_u64()), (Some(N as u64), Some(0)), "{name}");
        if name == "people" || name == "gpt4" {
            // 0, 3, …, 39 are the second's; of people the majority.
            assert_eq!(summary["n_second"], 14, "{name}");
        }
        models.push(text(&run, "annotate/preferences.jsonl"));
        assert!(run.join("learn-dpo/checkpoint/model.safetensors").is_file());
        assert!(text(&run, "sample/completions.jsonl").lines().count() == 2 * N);
    }
    // People and the recorded judge agree; the pool and the untrained judge do not.
    let pairs = |text: &str| -> Vec<String> {
        let side = |line: &str| serde_json::from_str::<Value>(line).expect("JSON")["chosen"].to_string();
        text.lines().map(side).collect()
    };
    assert_eq!(pairs(&models[0]), pairs(&models[1]));
    assert_ne!(pairs(&models[0]), pairs(&models[2]));
    assert_ne!(pairs(&models[2]), pairs(&models[3]));

    // What they said, compared.
    let files: Vec<String> = sources.iter().map(|(name, _)| format!("runs/{name}/annotate/judgements.jsonl")).collect();
    let mut args = vec!["agreement", "--json", "--resamples", "100"];
    args.extend(files.iter().map(String::as_str));
    let report: Value = serde_json::from_str(&farmhand(dir.path(), &args).expect_success().stdout).expect("JSON");
    // The pool's verdicts carry their members' names.
    assert_eq!(report["n_comparisons"], N);
    assert!(report["raters"].as_array().is_some_and(|raters| raters.len() > 4), "{report}");
    let between = |a: &str, b: &str| {
        let pairs = report["pairs"].as_array().expect("a list");
        pairs.iter().find(|pair| pair["raters"] == json!([a, b])).unwrap_or_else(|| panic!("{report}"))["agreement"].as_f64()
    };
    assert_eq!(between("people", "gpt4"), Some(1.0));
}

#[test]
fn agreement_of_several_people_and_what_it_refuses() {
    let dir = tempfile::tempdir().expect("a folder");
    recorded(dir.path());
    let table = farmhand(dir.path(), &["agreement", "people.jsonl", "gpt4.json", "--resamples", "200"]).expect_success().stdout;
    for words in
        ["40 comparisons, 4 raters, 160 verdicts", "human_1 – human_2", "krippendorff alpha nominal", "one against the rest"]
    {
        assert!(table.contains(words), "no `{words}` in:\n{table}");
    }
    let row = |name: &str| table.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{table}")).to_owned();
    assert!(row("human_1 – human_2").contains("1.000"), "{table}");
    // The third never sees the second answer better: right on 26 of 40.
    assert!(row("human_3  ").trim_end().ends_with("0.650"), "{table}");
    let again = farmhand(dir.path(), &["agreement", "people.jsonl", "gpt4.json", "--resamples", "200"]).expect_success().stdout;
    assert_eq!(table, again);
    farmhand(dir.path(), &["agreement", "gpt4.json"])
        .expect_error(&["no two of 1 raters judged the same comparison"], Some("files"));
    farmhand(dir.path(), &["agreement", "people.jsonl", "--scale", "5"]).expect_error(&["expected a scale such as `1..4`"], None);
    farmhand(dir.path(), &["agreement", "people.jsonl", "--scale", "2..4"])
        .expect_error(&["people.jsonl`, line 1: field `humans[2]`", "place on the scale `2..4`"], None);
    farmhand(dir.path(), &["agreement", "none.jsonl"]).expect_error(&["none.jsonl"], None);
    assert!(files_below(dir.path()).len() == 2, "it writes nothing");
}

#[test]
fn given_comparisons_are_checked_before_anything_runs() {
    let dir = tempfile::tempdir().expect("a folder");
    experiment(dir.path());
    let run = |set: &str| farmhand(dir.path(), &["run", "experiment.toml", "--set", set]);
    run(r#"sample.comparisons=["nowhere.jsonl"]"#).expect_error(&["there is no data file", "nowhere.jsonl"], None);
    run("sample.policy={ causal_lm = {} }")
        .expect_error(&["sample.policy", "nothing is sampled"], Some("leave one of the two out"));
    run("sample.comparisons=[]").expect_error(&["the experiment needs a `preference` split"], None);
    let plan = farmhand(dir.path(), &["run", "experiment.toml", "--dry-run"]).expect_success().stdout;
    assert!(plan.contains("takes the comparisons of people.jsonl"), "{plan}");
}
