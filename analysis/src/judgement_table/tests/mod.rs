//! Files of judgements into the table: layouts, forms, and what is wrong with bad ones.

mod parquet;

use std::io::Write;
use std::path::PathBuf;

use farmhand_core::data::BadRecords;
use serde_json::{Value, json};

use super::*;
use crate::parquet::write_parquet_records;

fn write(dir: &Path, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
    let path = dir.join(name);
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
    std::fs::write(&path, bytes).expect("written");
    path
}

fn record(i: usize, preference: Value) -> Value {
    json!({
        "instruction": format!("Say {i}."), "output_1": "länger", "generator_1": "base", "dataset": "koala", "output_2": "kurz",
        "generator_2": "m", "annotator": "gpt4", "preference": preference, "price_per_example": 0.5, "time_per_example": 2,
        "raw_completion": {"finish": ["x", null, true]},
    })
}

fn read_text(name: &str, text: &str) -> Result<JudgementTable> {
    let dir = tempfile::tempdir().expect("a folder");
    let path = write(dir.path(), name, text);
    JudgementTable::read(&[path], &TableOptions::default())
}

fn rows(table: &JudgementTable) -> Vec<(Option<f64>, Option<u32>, Option<u32>)> {
    (0..table.len()).map(|row| table.row(row)).map(|row| (row.preference, row.len_1, row.len_2)).collect()
}

#[test]
fn every_layout_gives_the_same_table() {
    let dir = tempfile::tempdir().expect("a folder");
    let records: Vec<Value> = [json!(1), json!(2.0), json!(0), json!(1.25), json!(null), json!(-1)]
        .into_iter()
        .enumerate()
        .map(|(i, code)| record(i, code))
        .collect();
    let list = serde_json::to_string_pretty(&records).expect("JSON");
    let lines: String = records.iter().map(|record| format!("{record}\r\n\n")).collect();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(lines.as_bytes()).expect("compressed");
    let parquet = dir.path().join("x.parquet");
    let maps: Vec<_> = records.iter().filter_map(|record| record.as_object().cloned()).collect();
    let maps: Vec<_> = maps.into_iter().map(|mut map| (map.remove("raw_completion"), map).1).collect();
    let floats = |mut map: crate::Record| {
        map["preference"] = map["preference"].as_f64().into();
        map
    };
    write_parquet_records(&parquet, &maps.into_iter().map(floats).collect::<Vec<_>>()).expect("written");
    let files = [
        write(dir.path(), "list.json", format!("\u{feff}{list}")),
        write(dir.path(), "lines.jsonl", &lines),
        write(dir.path(), "lines.gz", gzip.finish().expect("compressed")),
        write(dir.path(), "list.zst", zstd::encode_all(list.as_bytes(), 1).expect("compressed")),
        parquet,
    ];
    for file in files {
        let table = JudgementTable::read(&[&file], &TableOptions::default()).expect("read");
        let lengths = (Some(6), Some(4));
        let codes = [Some(1.0), Some(2.0), Some(1.5), Some(1.25), None, None];
        assert_eq!(rows(&table), codes.map(|code| (code, lengths.0, lengths.1)), "{}", file.display());
        let row = table.row(3);
        assert_eq!((row.model, row.baseline, row.annotator, row.dataset), ("m", "base", "gpt4", Some("koala")));
        assert_eq!((row.instruction, row.position, row.price, row.time), ("Say 3.", 3, Some(0.5), Some(2.0)));
        assert_eq!((table.files()[0].n_records, table.files()[0].n_no_verdict), (6, 2));
        let frame = table.frame().expect("made");
        assert_eq!((frame.height(), frame.column("preference").expect("there").null_count()), (6, 2));
    }
}

#[test]
fn the_compact_form_takes_its_names_from_beside_it() {
    let dir = tempfile::tempdir().expect("a folder");
    let text = "{\"row\":0,\"index\":1,\"preference\":1.5,\"len_1\":9,\"len_2\":7,\"price\":0.1,\"time\":null}\n";
    let file = write(dir.path(), "annotations/judge/m.jsonl", text);
    let table = JudgementTable::read(&[&file], &TableOptions::default()).expect("read");
    let row = table.row(0);
    assert_eq!((row.model, row.baseline, row.annotator, row.instruction, row.index), ("m", "baseline", "unknown", "#1", Some(1)));
    assert_eq!((row.len_1, row.len_2, row.price, row.time), (Some(9), Some(7), Some(0.1), None));
    write(
        dir.path(),
        "models.json",
        r#"{"judge/m": {"annotator": "judge", "generator_1": "gpt4", "generator_2": "M-7b", "rows": 1}}"#,
    );
    write(
        dir.path(),
        "instructions.jsonl",
        "{\"index\": 0, \"instruction\": \"a\"}\n{\"index\": 1, \"dataset\": \"koala\", \"instruction\": \"b\"}\n",
    );
    let table = JudgementTable::read(&[&file], &TableOptions::default()).expect("read");
    let row = table.row(0);
    assert_eq!((row.model, row.baseline, row.annotator, row.instruction), ("M-7b", "gpt4", "judge", "b"));
    assert_eq!(row.dataset, Some("koala"));
    let results = write(dir.path(), "results/llama/gpt4_turbo/annotations.json", "[{\"instruction\": \"b\", \"preference\": 2}]");
    let row_of = |table: &JudgementTable| (table.row(0).model.to_owned(), table.row(0).annotator.to_owned());
    let table = JudgementTable::read(&[results], &TableOptions::default()).expect("read");
    assert_eq!(row_of(&table), ("llama".to_owned(), "gpt4_turbo".to_owned()));
}

#[test]
fn other_forms_go_through_the_thorough_reader() {
    let text = json!({"instruction": "i", "input": "x", "output_1": "a", "output_2": "bé", "humans": [1, 0, 2]}).to_string();
    let table = read_text("votes.json", &text).expect("read");
    assert_eq!(rows(&table), [1.0, 1.5, 2.0].map(|code| (Some(code), Some(1), Some(2))));
    assert_eq!((table.row(2).annotator, table.row(2).instruction, table.row(2).model), ("human_3", "i\n\nx", "votes"));
    assert_eq!(table.row(2).position, 2);
}

#[test]
fn texts_are_kept_when_asked_for() {
    let dir = tempfile::tempdir().expect("a folder");
    let compact = write(dir.path(), "c.jsonl", "{\"index\": 0, \"preference\": 1, \"len_1\": 3, \"len_2\": 4}\n");
    let full = write(dir.path(), "f.jsonl", record(0, json!(2)).to_string());
    let table = JudgementTable::read(&[&compact, &full], &TableOptions { texts: true, ..TableOptions::default() }).expect("read");
    assert_eq!((table.row(0).outputs, table.row(1).outputs), (None, Some(("länger", "kurz"))));
    let kept = table.filtered(|row| row == 1);
    assert_eq!((kept.len(), kept.row(0).outputs, kept.path_of(0)), (1, Some(("länger", "kurz")), full.as_path()));
    let table = JudgementTable::read(&[&full], &TableOptions::default()).expect("read");
    assert_eq!(table.row(0).outputs, None);
}

#[test]
fn what_is_wrong_is_said_with_file_and_record() {
    let flat = |rest: &str| format!(r#"{{"instruction": "i", "generator_2": "m", "output_1": "a", "output_2": "b"{rest}}}"#);
    let good = flat(r#", "preference": 1"#);
    for (name, text, complaint) in [
        (
            "a.json",
            format!("[{good}, {}]", flat(r#", "preference": 3"#)),
            "a.json`, list index 1: field `preference`: expected 1 to 2",
        ),
        (
            "b.jsonl",
            format!("{good}\n\n{}\n", flat(r#", "preference": "x""#)),
            "b.jsonl`, line 3: field `preference`: expected a number",
        ),
        ("c.jsonl", format!("{good}\n{}\n", flat("")), "c.jsonl`, line 2: no field `preference`"),
        ("d.json", format!("[{}]", flat("")), "d.json`: the first record has no field `preference`"),
        (
            "e.json",
            format!("[{good},\n {}]", flat(r#", "preference": NaN"#)),
            "e.json`, line 2: a number that is not finite at column",
        ),
        ("f.jsonl", format!("{good}\n{}", flat(r#", "preference": -Infinity"#)), "f.jsonl`, line 2: a number that is not finite"),
        ("g.json", format!("[{good}, 7]"), "list index 1: expected an object, got a number"),
        ("h.json", format!("[{good}, {{]"), "h.json`, line 1: not valid JSON at column"),
        ("i.json", format!("[{}]", r#"{"index": 1.5, "preference": 1}"#), "field `index`: expected a whole number ≥ 0, got 1.5"),
        ("j.json", "[]".to_owned(), "j.json` holds no judgements: 0 records"),
        ("k.csv", "a,b\n".to_owned(), "neither JSON"),
        ("l.json", r#"[{"a": 1}]"#.to_owned(), "no known form of judgements has the fields `a`"),
        ("m.json", format!("[{good}"), "not valid JSON"),
    ] {
        let error = read_text(name, &text).expect_err(name);
        assert!(error.to_string().contains(complaint), "{name}: {error}");
    }
    let dir = tempfile::tempdir().expect("a folder");
    let missing = JudgementTable::read(&[dir.path().join("none.json")], &TableOptions::default()).expect_err("missing");
    assert_eq!(missing.kind(), farmhand_core::ErrorKind::MissingInput);
}

#[test]
fn bad_records_are_counted_when_they_may_be_skipped() {
    let dir = tempfile::tempdir().expect("a folder");
    let text = format!("{}\n{}\nx\n{}\n", record(0, json!(1)), record(1, json!(9)), record(2, json!(2)));
    let file = write(dir.path(), "x.jsonl", text);
    let options = TableOptions { bad_records: BadRecords::Skip, ..TableOptions::default() };
    let table = JudgementTable::read(&[file], &options).expect("read");
    let report = &table.files()[0];
    assert_eq!((table.len(), report.n_records, report.n_bad, report.bad.len()), (2, 4, 2, 2));
    assert_eq!(table.row(1).position, 3);
    assert!(report.bad[1].message.contains("not valid JSON"), "{report:?}");
}
