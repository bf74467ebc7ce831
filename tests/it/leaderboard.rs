//! `farmhand evaluate --annotations` as a user meets it: files in, a leaderboard out, decisions told, mistakes named.

use serde_json::{Value, json};

use crate::command::farmhand;

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

/// AlpacaEval's annotations of a model that wins on every `nth` of `n` instructions.
fn annotations(model: &str, nth: usize, n: usize) -> Vec<Value> {
    let record = |i: usize| {
        json!({
            "instruction": format!("Say {i}."), "output_1": "a".repeat(50 + i % 17), "generator_1": "base", "dataset": "koala",
            "output_2": "b".repeat(40 + (i * 7) % 31), "generator_2": model, "annotator": "gpt4",
            "preference": if i.is_multiple_of(nth) { 1.9 } else { 1.2 },
        })
    };
    (0..n).map(record).collect()
}

fn json_of(text: &str) -> Value {
    serde_json::from_str(text).expect("JSON")
}

#[test]
fn files_of_many_models_become_one_leaderboard() {
    let dir = folder();
    for (name, nth) in [("a", 2), ("b", 3), ("c", 4)] {
        let text = serde_json::to_string_pretty(&annotations(name, nth, 60)).expect("JSON");
        std::fs::write(dir.path().join(format!("{name}.json")), text).expect("written");
    }
    let files = ["evaluate", "--annotations", "a.json", "b.json", "c.json"];
    let with = |more: &[&'static str]| farmhand(dir.path(), &[&files[..], more].concat());
    let table = with(&[]).expect_success().stdout;
    assert!(table.starts_with("3 models against `base`, judged by `gpt4`\n\nRank  Model  Win rate (%)"), "{table}");
    let csv = with(&["--format", "csv", "--out", "board"]).expect_success().stdout;
    assert!(csv.starts_with(",win_rate,standard_error,n_wins,n_wins_base,n_draws,n_total,discrete_win_rate,mode,avg_length,"));
    assert!(csv.lines().nth(1).is_some_and(|row| row.starts_with("a,5") && row.contains(",30,30,0,60,50.0,community,")), "{csv}");
    assert_eq!(std::fs::read_to_string(dir.path().join("board/leaderboard.csv")).expect("there"), csv);
    assert!(with(&["--format", "md", "--metrics", "elo,counts"]).expect_success().stdout.starts_with("| Rank | Model |"));

    // Length control from the judgements themselves, its weights saved and used.
    let controlled =
        with(&["--metrics", "win_rate,length_controlled", "--lc-weights", "lc/w.csv", "--power", "5", "--json"]).expect_success();
    assert!(controlled.stderr.contains("estimated from these 3 models"), "{}", controlled.stderr);
    let told = json_of(&controlled.stdout);
    assert_eq!((&told["length_control"]["difficulties"], &told["files"][0]["n_records"]), (&json!("estimated"), &json!(60)));
    assert!(told["power"]["n_instructions"].as_u64().is_some_and(|n| n > 10), "{told}");
    let rate = told["leaderboard"][0]["length_controlled_winrate"].as_f64().expect("a number");
    let again = ["evaluate", "--from-weights", "lc/w.csv", "--lc-data", "lc", "--baseline", "base", "--json"];
    let again = json_of(&farmhand(dir.path(), &again).expect_success().stdout);
    let same = again["leaderboard"].as_array().expect("rows").iter().find(|row| row["model"] == told["leaderboard"][0]["model"]);
    let off = same.and_then(|row| row["length_controlled_winrate"].as_f64()).expect("there") - rate;
    assert!(off.abs() < 1e-9, "{off}");
    with(&["--lc-weights", "lc/w.csv"]).expect_error(&["lengths are not controlled"], Some("--lc-data DIR"));
}

#[test]
fn doubtful_files_are_refused_or_told() {
    let dir = folder();
    let write = |name: &str, records: &[Value]| {
        let lines: String = records.iter().map(|record| format!("{record}\n")).collect();
        std::fs::write(dir.path().join(name), lines).expect("written");
    };
    let good = annotations("m", 2, 5);
    write("good.jsonl", &good);
    let changed = |key: &str, value: Value| {
        let mut records = good.clone();
        match value {
            Value::Null => records[3].as_object_mut().expect("an object").remove(key).map(|_| ()).unwrap_or_default(),
            value => records[3][key] = value,
        }
        records
    };
    for (key, value, words, hint) in [
        ("preference", Value::Null, "bad.jsonl`, line 4: no field `preference`", "--skip-bad-records"),
        ("preference", json!(7), "bad.jsonl`, line 4: field `preference`: expected 1 to 2", "--skip-bad-records"),
        (
            "generator_1",
            json!("other"),
            "against 2 baselines: `base` (4), `other` (1); the second one first in `bad.jsonl`, record 4",
            "--baseline NAME",
        ),
        ("annotator", json!("human"), "by 2 judges: `gpt4` (4), `human` (1)", "--judge NAME"),
        (
            "instruction",
            json!("Say 0."),
            "`m` is judged twice on `Say 0.`: in `bad.jsonl`, record 1 and in `bad.jsonl`, record 4",
            "--duplicates",
        ),
    ] {
        write("bad.jsonl", &changed(key, value));
        farmhand(dir.path(), &["evaluate", "--annotations", "bad.jsonl"]).expect_error(&[words], Some(hint));
    }
    write("bad.jsonl", &changed("preference", json!(7)));
    let skipped =
        farmhand(dir.path(), &["evaluate", "--annotations", "bad.jsonl", "--skip-bad-records", "--json"]).expect_success();
    let told = json_of(&skipped.stdout);
    assert_eq!((&told["decisions"][0]["kind"], &told["decisions"][0]["count"]), (&json!("bad_records"), &json!(1)));
    assert!(skipped.stderr.contains("warning: `bad.jsonl`: 1 bad records of 5 are left out"), "{}", skipped.stderr);
    let text = std::fs::read_to_string(dir.path().join("good.jsonl")).expect("there").replacen("1.2", "NaN", 1);
    std::fs::write(dir.path().join("nan.jsonl"), text).expect("written");
    farmhand(dir.path(), &["evaluate", "--annotations", "nan.jsonl"])
        .expect_error(&["nan.jsonl`, line 2: a number that is not finite"], Some("write null"));
    farmhand(dir.path(), &["evaluate", "--annotations", "good.jsonl", "good.jsonl"]).expect_error(&["judged twice"], None);
    farmhand(dir.path(), &["evaluate", "--annotations", "good.jsonl", "--lc-data", "none"])
        .expect_error(&["has neither `instruction_difficulty.csv` nor `df_gamed.csv`"], Some("Hugging Face hub"));
    farmhand(dir.path(), &["evaluate", "--annotations", "good.jsonl", "--metrics", "elos"])
        .expect_refused("invalid value 'elos'");
    farmhand(dir.path(), &["evaluate", "--out", "x"]).expect_refused("--judgements");
    // Options of leaderboards have no use elsewhere, and options of judges none where the judgements are there.
    farmhand(dir.path(), &["evaluate", "--judgements", "good.jsonl", "--out", "x", "--lc-data", "lc"])
        .expect_refused("--annotations <FILE>");
    farmhand(dir.path(), &["evaluate", "--annotations", "good.jsonl", "--model", "m"])
        .expect_error(&["`--model` says how answers are judged"], Some("--judge NAME"));
    farmhand(dir.path(), &["evaluate", "--outputs", "good.jsonl", "--out", "x"])
        .expect_error(&["`--outputs` and `--reference` go together"], None);
}
