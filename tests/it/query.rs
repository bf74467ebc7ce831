//! `farmhand query`: SQL over run directories and files, as a user meets it.

use std::path::Path;

use crate::command::farmhand;

/// A run directory by hand: one method, two verdicts, one failure.
fn run(dir: &Path) {
    let line = |i: usize, outcome: &str| {
        format!(
            r#"{{"comparison":{{"id":"c{i}","instruction":{{"id":"i{i}","instruction":"Say {i}.","dataset":"koala"}},"output_1":"one","output_2":"three","generator_1":"sft","generator_2":"dpo"}},{outcome}}}"#
        ) + "\n"
    };
    let judgements = line(0, r#""annotation":{"preference":2,"annotator":"pool","shown":"as_given"}"#)
        + &line(1, r#""annotation":{"preference":1.5,"annotator":"pool","shown":"swapped","cached":true}"#)
        + &line(2, r#""failure":{"kind":"unparsable_answer","message":"no verdict"}"#);
    let evaluation = dir.join("made/evaluate-dpo@3");
    std::fs::create_dir_all(&evaluation).expect("made");
    std::fs::write(dir.join("made/run.toml"), "name = \"made\"\n").expect("written");
    std::fs::write(evaluation.join("judgements.jsonl"), judgements).expect("written");
}

#[test]
fn a_query_is_answered_in_every_format_and_goes_to_parquet() {
    let dir = tempfile::tempdir().expect("a folder");
    run(dir.path());
    let sql = "select instruction_id, seed, p_win, failure, cached from judgements order by 1";
    let ask = |args: &[&str]| farmhand(dir.path(), args).expect_success().stdout;
    assert_eq!(
        ask(&["query", "made", sql, "--format", "csv"]),
        "instruction_id,seed,p_win,failure,cached\ni0,3,1.0,,false\ni1,3,0.5,,true\ni2,3,,unparsable_answer,false\n"
    );
    assert!(ask(&["query", "made", sql]).contains("i2                 3   null  unparsable_answer  false"));
    assert!(ask(&["query", "made", sql, "--format", "md"]).starts_with("| instruction_id | seed |"));
    let json: serde_json::Value = serde_json::from_str(&ask(&["query", "made", sql, "--json"])).expect("JSON");
    assert_eq!(json[1], serde_json::json!({"instruction_id": "i1", "seed": 3, "p_win": 0.5, "failure": null, "cached": true}));
    ask(&["query", "made", "select * from judgements", "--out", "all.parquet"]);
    assert_eq!(ask(&["query", "all.parquet", "select avg(p_win) as p from \"all\"", "--format", "csv"]), "p\n0.75\n");
    assert_eq!(ask(&["query", "--table", "j=all.parquet", "select count(*) as n from j", "--format", "jsonl"]), "{\"n\": 3}\n");
    let tables = ask(&["query", "made", "all.parquet", "--tables"]);
    assert!(tables.contains("judgements  3 rows\n") && tables.contains("all  3 rows\n"), "{tables}");
}

#[test]
fn mistakes_in_a_query_are_one_clear_error() {
    let dir = tempfile::tempdir().expect("a folder");
    run(dir.path());
    let refused = |args: &[&str], parts: &[&str], hint: Option<&str>| {
        farmhand(dir.path(), args).expect_error(parts, hint);
    };
    refused(&["query", "made", "select * from judgments"], &["a table `judgments`"], Some("did you mean `judgements`?"));
    refused(&["query", "made", "select pwin from judgements"], &["a column `pwin`"], Some("did you mean `p_win`?"));
    refused(&["query", "made", "select * form judgements"], &["line 1, column 10", "`form judgements`"], None);
    refused(&["query", "made"], &["there is no query after `made`"], Some("in quotes"));
    refused(&["query", "made", "nowhere.json", "select 1"], &["cannot read `nowhere.json`"], None);
    refused(&["query", ".", "select 1"], &["`.` is not a run directory"], Some("farmhand run"));
    refused(&["query", "made", "select 1", "--out", "x.xlsx"], &["the ending does not tell a format"], Some(".parquet"));
    std::fs::write(dir.path().join("made/evaluate-dpo@3/judgements.jsonl"), "{\n").expect("written");
    refused(&["query", "made", "select * from judgements"], &["judgements.jsonl`, line 1"], None);
}
