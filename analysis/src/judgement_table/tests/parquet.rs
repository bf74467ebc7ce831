//! Judgements in Parquet are read by columns, with the same result as the same records in JSON Lines.

use super::*;

/// The records as JSON Lines and as Parquet.
fn both(dir: &Path, records: &[Value]) -> [PathBuf; 2] {
    let lines: String = records.iter().map(|record| format!("{record}\n")).collect();
    let parquet = dir.join("x.parquet");
    let maps: Vec<_> = records.iter().filter_map(|record| record.as_object().cloned()).collect();
    write_parquet_records(&parquet, &maps).expect("written");
    [write(dir, "x.jsonl", lines), parquet]
}

fn read(path: &Path, bad_records: BadRecords) -> Result<JudgementTable> {
    JudgementTable::read(&[path], &TableOptions { bad_records, texts: false })
}

fn all_rows(table: &JudgementTable) -> Vec<String> {
    (0..table.len()).map(|row| format!("{:?}", table.row(row))).collect()
}

#[test]
fn columns_give_the_table_that_records_give() {
    let dir = tempfile::tempdir().expect("a folder");
    let records = [
        json!({"index": 3, "dataset": "koala", "generator_1": "b", "generator_2": "m", "annotator": "j", "preference": 1.25,
               "len_1": 10, "len_2": 20, "price": 0.5, "time": 1.5}),
        json!({"index": 3, "generator_2": "n", "preference": null, "len_1": null, "price_per_example": 0.25}),
        json!({"index": 0, "instruction": "Say.", "input": "", "generator_2": "m", "preference": 0.0, "len_2": 7}),
        json!({"instruction": "Say.", "input": "It.", "annotator": "k", "preference": -1.0, "dataset": "vicuna"}),
        json!({"instruction": "Say.", "generator_1": "b", "preference": 2.0}),
    ];
    let [lines, parquet] = both(dir.path(), &records);
    let (expected, table) = (read(&lines, BadRecords::Stop).expect("lines"), read(&parquet, BadRecords::Stop).expect("columns"));
    assert_eq!(all_rows(&table), all_rows(&expected));
    assert_eq!(table.instructions().iter().collect::<Vec<_>>(), ["#3", "Say.", "Say.\n\nIt."]);
    assert_eq!((table.files()[0].n_records, table.files()[0].n_no_verdict), (5, 2));
    assert_eq!(table.models().iter().collect::<Vec<_>>(), expected.models().iter().collect::<Vec<_>>());
}

#[test]
fn bad_rows_are_named_or_counted() {
    let dir = tempfile::tempdir().expect("a folder");
    let records = [
        json!({"index": 0, "generator_2": "m", "preference": 1.0}),
        json!({"index": 1, "generator_2": "x", "preference": 2.5}),
        json!({"index": 1.5, "generator_2": "m", "preference": 2.0}),
        json!({"index": null, "generator_2": "m", "preference": 2.0}),
        json!({"index": 2, "generator_2": "m", "preference": 2.0}),
    ];
    let [_, parquet] = both(dir.path(), &records);
    let error = read(&parquet, BadRecords::Stop).expect_err("refused").to_string();
    assert!(error.contains("x.parquet`, row 1: field `preference`: expected 1 to 2"), "{error}");
    let table = read(&parquet, BadRecords::Skip).expect("read");
    let messages: Vec<&str> = table.files()[0].bad.iter().map(|bad| bad.message.as_str()).collect();
    assert_eq!((table.len(), table.files()[0].n_records, table.files()[0].n_bad), (2, 5, 3));
    assert!(messages[1].contains("`index`") && messages[2].contains("got neither"), "{messages:?}");
    assert_eq!(table.models().iter().collect::<Vec<_>>(), ["m"], "a model with bad rows alone has no name here");
}
