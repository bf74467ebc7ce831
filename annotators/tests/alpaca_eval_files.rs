//! AlpacaEval's annotation files go into a judgement store and come out as they were.
//!
//! Every stored annotation under `../shared/data/alpaca_eval` beside the repository, put back into AlpacaEval's form; says that it
//! skips when the data is not there.

use std::collections::HashMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use farmhand_annotators::store::{AlpacaEvalLayout, ExportFilter, ExportForm, Store};
use farmhand_core::data::Records;
use serde_json::{Map, Value, json};

fn data() -> Option<PathBuf> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/alpaca_eval");
    if !folder.is_dir() {
        let _ = writeln!(std::io::stderr(), "skipped: there is no `{}`", folder.display());
        return None;
    }
    Some(folder)
}

fn records(path: &Path) -> Vec<Map<String, Value>> {
    Records::open(path, None).expect("opened").map(|record| record.expect("a record").fields).collect()
}

/// A field of each record, by the record's `index`.
fn by_index(path: &Path, field: &str) -> HashMap<u64, Value> {
    let entry = |record: Map<String, Value>| (record["index"].as_u64().expect("a number"), record[field].clone());
    records(path).into_iter().map(entry).collect()
}

/// An annotations file as AlpacaEval writes it; `prefix` is that of newer columns, or empty.
fn annotations(data: &Path, annotator: &str, model: &Map<String, Value>, file: &str, prefix: &str) -> Vec<Value> {
    let instructions: HashMap<u64, Value> = by_index(&data.join("instructions.jsonl.gz"), "instruction");
    let datasets = by_index(&data.join("instructions.jsonl.gz"), "dataset");
    let output = |name: &Value| {
        let path = data.join("outputs").join(format!("{}.jsonl.gz", name.as_str().expect("a name")));
        if path.is_file() {
            by_index(&path, "output")
        } else {
            by_index(&data.join(format!("outputs/{file}.jsonl.gz")), "output")
        }
    };
    let (outputs_1, outputs_2) = (output(&model["generator_1"]), output(&json!(file)));
    let replies = data.join(format!("replies/{annotator}/{file}.jsonl.gz"));
    let column = if annotator.starts_with("weighted") { "top_logprobs" } else { "reply" };
    let replies = if replies.is_file() { by_index(&replies, column) } else { HashMap::new() };
    let record = |row: Map<String, Value>| {
        let index = row["index"].as_u64().expect("a number");
        let mut record = json!({
            "instruction": instructions[&index], "output_1": outputs_1.get(&index).cloned().unwrap_or(json!("")),
            "generator_1": model["generator_1"], "dataset": datasets[&index],
            "output_2": outputs_2.get(&index).cloned().unwrap_or(json!("")), "generator_2": model["generator_2"],
            "annotator": annotator, "preference": row["preference"],
        });
        record[format!("{prefix}price_per_example")] = row["price"].clone();
        record[format!("{prefix}time_per_example")] = row["time"].clone();
        if let Some(reply) = replies.get(&index) {
            record[format!("{prefix}raw_completion")] = reply.clone();
        }
        record
    };
    records(&data.join(format!("annotations/{annotator}/{file}.jsonl.gz"))).into_iter().map(record).collect()
}

/// Whether two records say the same, `2` and `2.0` included.
fn is_same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Object(one), Value::Object(other)) => {
            one.len() == other.len() && one.iter().all(|(name, value)| other.get(name).is_some_and(|other| is_same(value, other)))
        }
        (Value::Array(one), Value::Array(other)) => one.len() == other.len() && one.iter().zip(other).all(|(a, b)| is_same(a, b)),
        _ => one == other || one.is_number() && one.as_f64() == other.as_f64(),
    }
}

#[test]
fn every_stored_annotation_comes_out_as_it_went_in() {
    let Some(data) = data() else { return };
    let models = std::fs::read_to_string(data.join("models.json")).expect("read");
    let models: Map<String, Value> = serde_json::from_str(&models).expect("JSON");
    let dir = tempfile::tempdir().expect("a folder");
    let (mut n_files, mut n_records, mut n_without) = (0, 0, 0);
    for (i, (name, model)) in models.iter().enumerate() {
        let (annotator, file) = name.split_once('/').expect("two parts");
        let model = model.as_object().expect("an object");
        let prefix = if i % 2 == 0 { "" } else { "preference_" };
        let mut expected = annotations(&data, annotator, model, file, prefix);
        let store = Store::open(dir.path().join(format!("{i}.db"))).expect("made");
        let path = dir.path().join(format!("{i}.json"));
        std::fs::write(&path, serde_json::to_vec_pretty(&expected).expect("JSON")).expect("written");
        let report = store.import(&path, None).expect(name);
        assert_eq!((report.n_records, report.n_known), (expected.len() as u64, 0), "{name}");
        let again = store.import(&path, None).expect(name);
        assert_eq!((again.n_known, again.n_verdicts + again.n_failures), (report.n_records, 0), "{name}");
        let mut out = Vec::new();
        let filter = ExportFilter { annotator: Some(annotator.to_owned()), ..ExportFilter::default() };
        let form = ExportForm::AlpacaEval(AlpacaEvalLayout::AsImported);
        assert_eq!(store.export(form, &filter, &mut out).expect("written"), report.n_records);
        let exported: Vec<Value> = serde_json::from_slice(&out).expect("a JSON list");
        // What has no verdict comes last.
        expected.sort_by_key(|record| record["preference"].is_null());
        for (record, back) in expected.iter().zip(&exported) {
            assert!(is_same(record, back), "{name}: {record} and {back}");
        }
        (n_files, n_records) = (n_files + 1, n_records + report.n_records);
        n_without += report.n_failures;
    }
    let stored = std::fs::read_dir(data.join("annotations")).expect("listed").flatten();
    let stored: usize = stored.map(|folder| std::fs::read_dir(folder.path()).expect("listed").count()).sum();
    assert_eq!(n_files, stored);
    let _ = writeln!(std::io::stderr(), "{n_files} files, {n_records} records, {n_without} without a verdict");
}

#[test]
fn a_cache_of_alpaca_eval_and_own_judgements_go_in_and_come_out() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = Store::open(dir.path().join("judgements.db")).expect("made");
    let record = |i: usize, preference: Value| {
        json!({ "instruction": format!("i{i}"), "output_1": "a", "output_2": "b", "generator_2": "m", "annotator": "gpt4",
                "preference": preference, "preference_raw_completion": "words" })
    };
    let cache: Vec<Value> =
        [json!(1.0), json!(-1), json!(0), json!(1.25)].into_iter().enumerate().map(|(i, code)| record(i, code)).collect();
    let path = dir.path().join("annotations_seed0_configs.json");
    std::fs::write(&path, serde_json::to_vec(&cache).expect("JSON")).expect("written");
    let report = store.import(&path, None).expect("imported");
    assert_eq!((report.n_verdicts, report.n_failures), (3, 1));
    let export = |form| {
        let mut out = Vec::new();
        store.export(form, &ExportFilter::default(), &mut out).expect("written");
        String::from_utf8(out).expect("text")
    };
    let own = export(ExportForm::Farmhand);
    let path = dir.path().join("judgements.jsonl");
    std::fs::write(&path, &own).expect("written");
    let other = Store::open(dir.path().join("other.db")).expect("made");
    let report = other.import(&path, None).expect("imported");
    assert_eq!((report.n_records, report.n_verdicts, report.n_failures), (4, 3, 1));
    let results: Vec<Value> =
        serde_json::from_str(&export(ExportForm::AlpacaEval(AlpacaEvalLayout::Results))).expect("a JSON list");
    let codes: Vec<&Value> = results.iter().map(|record| &record["preference"]).collect();
    assert_eq!(codes, [&json!(1), &json!(1.5), &json!(1.25), &Value::Null]);
    let none = ExportFilter { generator_2: Some("nobody".to_owned()), ..ExportFilter::default() };
    let mut out = Vec::new();
    assert_eq!(store.export(ExportForm::AlpacaEval(AlpacaEvalLayout::Cache), &none, &mut out).expect("written"), 0);
    assert_eq!(out, b"[]\n");
    let stats = store.verify().expect("whole");
    assert_eq!((stats.annotators[0].n_verdicts, stats.annotators[0].n_ties), (3, 1));
    assert_eq!(store.sets().expect("read")[0].generator_2.as_deref(), Some("m"));
    let error = store.import(&dir.path().join("wrong.json"), None).expect_err("not there");
    assert_eq!(error.kind(), farmhand_core::ErrorKind::MissingInput);
    std::fs::write(dir.path().join("wrong.json"), "[{\"instruction\": \"i\", \"output_1\": \"a\"}]").expect("written");
    let error = store.import(&dir.path().join("wrong.json"), None).expect_err("refused");
    assert!(error.message().contains("list index 0: field `output_2` is missing"), "{error}");
}
