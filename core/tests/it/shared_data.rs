//! Reads real public data where it lies beside the repository (`../shared/data`), and says so where it does not.

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use farmhand_core::data::{
    BadRecords, ReadOptions, Records, read_comparisons, read_completions, read_demonstrations, read_instructions,
    read_judgements, read_preference_pairs, read_ranked_lists, read_scored_completions,
};
use farmhand_core::types::{Judgement, Preference};
use serde_json::{Map, Value, json};

/// The folder of real data; `None`, with a word on standard error, when it is not there.
fn data() -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data");
    if path.join("README.md").is_file() {
        return Some(path);
    }
    let _ = writeln!(std::io::stderr(), "skipped: no real data in {}", path.display());
    None
}

const OPTIONS: ReadOptions = ReadOptions { bad_records: BadRecords::Stop, parquet: None, scale: None };

#[test]
fn demonstrations() {
    let Some(data) = data() else { return };
    for (file, n) in [
        ("sft/alpaca_5000.jsonl.gz", 5000),
        ("sft/alpaca_gpt4_999.jsonl.gz", 999),
        ("sft/instruct_1100.jsonl.gz", 1100),
        ("sft/code_alpaca_2k.jsonl.gz", 2017),
        ("sft/seed_tasks.jsonl.gz", 175),
        ("alpaca_farm/outputs_baseline.jsonl.gz", 252),
    ] {
        let (demonstrations, report) = read_demonstrations(&data.join(file), &OPTIONS).expect(file);
        assert_eq!((demonstrations.len(), report.n_records, report.form.as_str()), (n, n, "alpaca"), "{file}");
        assert!(demonstrations.iter().all(|d| d.instruction.input.as_deref() != Some("")), "{file}");
    }
    let (instructions, report) = read_instructions(&data.join("sft/instruct_1100.jsonl.gz"), &OPTIONS).expect("read");
    assert_eq!((instructions.len(), report.n_duplicates), (1075, 25));
}

#[test]
fn preference_pairs() {
    let Some(data) = data() else { return };
    let read = |file: &str| read_preference_pairs(&data.join(file), &OPTIONS).expect(file);

    let (pairs, report) = read("preferences/instruct_1100_pairs.jsonl.gz");
    assert_eq!((pairs.len(), report.n_records, report.n_identical), (1094, 1100, 6));
    assert_eq!(report.form, "instruction_chosen_rejected");

    let (pairs, report) = read("preferences/hh_harmless_base_test.jsonl.gz");
    assert_eq!((report.n_records, report.n_parted, report.form.as_str()), (2312, 5, "hh_rlhf"));
    assert_eq!(pairs.len() + report.n_identical, 2307);
    assert!(pairs.iter().all(|pair| !pair.chosen.contains("\n\nAssistant:") && !pair.rejected.contains("\n\nHuman:")));

    let (pairs, report) = read("preferences/chat_pairs_300.jsonl.gz");
    assert_eq!((pairs.len(), report.form.as_str()), (300, "messages_chosen_rejected"));
    assert_eq!(pairs.iter().filter(|pair| pair.instruction.history.len() == 1).count(), 80, "those with a system turn");

    let (pairs, report) = read("preferences/llmbar_419.jsonl.gz");
    assert_eq!((pairs.len() + report.n_identical, report.form.as_str()), (419, "label"));

    let (pairs, report) = read("preferences/pandalm_human_999.jsonl.gz");
    assert_eq!((report.form.as_str(), pairs.len() + report.n_ties + report.n_identical), ("votes", 999));

    let (pairs, report) = read("preferences/qa_fine_grained_500.jsonl.gz");
    assert_eq!((report.n_records, report.form.as_str()), (500, "fine_grained"));
    assert_eq!((pairs.len() + report.n_identical, report.n_ties), (3000 - 384, 384));
    assert!(pairs.iter().filter(|pair| pair.instruction.input.is_some()).count() > 2000, "most have passages");
}

#[test]
fn judgements_and_comparisons() {
    let Some(data) = data() else { return };
    // Every file of preferences is judgements of someone; `unpaired` judges single answers.
    let n_judgements = [
        ("chat_pairs_300", 300, 300),
        ("hh_harmless_base_test", 2312, 0),
        ("instruct_1100_pairs", 1100, 1094),
        ("llmbar_419", 419, 419),
        ("pandalm_human_999", 999, 2997),
        ("qa_fine_grained_500", 500, 3000),
    ];
    for (name, n_records, n) in n_judgements {
        let path = data.join(format!("preferences/{name}.jsonl.gz"));
        let (judgements, report) = read_judgements(&path, &OPTIONS).expect(name);
        assert_eq!(report.n_records, n_records, "{name}");
        assert_eq!(judgements.len(), if n == 0 { n_records - report.n_parted - report.n_identical } else { n }, "{name}");
        assert!(judgements.iter().all(|judgement| judgement.annotation().is_some()), "{name}");
        let (comparisons, _) = read_comparisons(&path, &OPTIONS).expect(name);
        assert!(comparisons.len() >= judgements.len() / 3, "{name}");
    }
    let (judgements, _) = read_judgements(&data.join("preferences/pandalm_human_999.jsonl.gz"), &OPTIONS).expect("read");
    let ties = judgements.iter().filter(|judgement| judgement.preference() == Some(Preference::Tie)).count();
    assert!(ties > 0 && ties < 999, "{ties}");
    let (comparisons, report) = read_comparisons(&data.join("alpaca_farm/outputs_pairs.jsonl.gz"), &OPTIONS).expect("read");
    assert_eq!((comparisons.len(), report.form.as_str()), (6, "alpaca_farm"));
    let (comparisons, _) = read_comparisons(&data.join("preferences/llmbar_419.jsonl.gz"), &OPTIONS).expect("read");
    assert_eq!(comparisons.len(), 419);
}

#[test]
fn completions_and_scores() {
    let Some(data) = data() else { return };
    let (samples, report) = read_completions(&data.join("alpaca_farm/multisamples_sft.jsonl.gz"), &OPTIONS).expect("read");
    assert_eq!((samples.len(), report.n_records, report.form.as_str()), (32, 8, "samples"));
    assert_eq!(samples[3].sample, 3);
    for name in ["outputs_baseline", "outputs_sft", "outputs_rlhf"] {
        let (completions, _) = read_completions(&data.join(format!("alpaca_farm/{name}.jsonl.gz")), &OPTIONS).expect(name);
        assert_eq!((completions.len(), completions[0].model.as_str()), (252, name));
    }
    let (completions, _) = read_completions(&data.join("alpaca_farm/eval_gpt-3.5-turbo-0301.jsonl.gz"), &OPTIONS).expect("read");
    assert_eq!((completions.len(), completions[0].model.as_str()), (805, "gpt-3.5-turbo-0301"));
    assert_eq!(completions[0].instruction.dataset.as_deref(), Some("helpful_base"));

    let ranked = data.join("ranked/alpaca_eval_scored_805.jsonl.gz");
    let (lists, _) = read_ranked_lists(&ranked, &OPTIONS).expect("read");
    assert!(lists.len() == 805 && lists.iter().all(|list| list.outputs.len() == 11 && list.scores.is_sorted_by(|a, b| a >= b)));
    let (scored, report) = read_scored_completions(&ranked, &OPTIONS).expect("read");
    assert_eq!((scored.len(), report.form.as_str()), (805 * 11, "responses"));

    let (scored, report) = read_scored_completions(&data.join("preferences/unpaired_300.jsonl.gz"), &OPTIONS).expect("read");
    assert_eq!((scored.len(), report.form.as_str()), (300, "unpaired_messages"));
    assert_eq!(scored.iter().filter(|scored| scored.score == 1.0).count(), 150);
}

#[test]
fn files_of_other_data_are_refused_with_the_known_forms() {
    let Some(data) = data() else { return };
    let error = read_completions(&data.join("alpaca_eval/outputs/alpaca-7b.jsonl.gz"), &OPTIONS).expect_err("no instruction");
    assert!(error.message().contains("no known form of completions"), "{error}");
    assert!(error.hint().is_some_and(|hint| hint.contains("samples (")), "{error:?}");
    let error = read_preference_pairs(&data.join("preferences/unpaired_300.jsonl.gz"), &OPTIONS).expect_err("another form");
    assert!(error.message().contains("line 1: no known form of preference pairs has the fields"), "{error}");
}

fn rows(path: &Path) -> Vec<Map<String, Value>> {
    Records::open(path, None).expect("opened").map(|record| record.expect("a record").fields).collect()
}

/// Puts AlpacaEval's own file together again out of the parts that are stored apart, and reads it.
#[test]
fn alpaca_eval_annotations() {
    let Some(data) = data() else { return };
    let eval = data.join("alpaca_eval");
    let instructions = rows(&eval.join("instructions.jsonl.gz"));
    let outputs = |model: &str| -> HashMap<u64, Value> {
        let rows = rows(&eval.join(format!("outputs/{model}.jsonl.gz")));
        rows.iter().filter_map(|row| Some((row["index"].as_u64()?, row["output"].clone()))).collect()
    };
    let annotator = "weighted_alpaca_eval_gpt4_turbo";
    for (model, baseline) in [("alpaca-7b", "gpt4_1106_preview"), ("NullModel", "gpt4_1106_preview")] {
        let (mine, base) = (outputs(model), outputs(baseline));
        let verdicts = rows(&eval.join(format!("annotations/{annotator}/{model}.jsonl.gz")));
        let annotations: Vec<Value> = verdicts
            .iter()
            .map(|verdict| {
                let index = verdict["index"].as_u64().expect("an index");
                let instruction = &instructions[index as usize];
                json!({
                    "instruction": instruction["instruction"], "dataset": instruction["dataset"], "annotator": annotator,
                    "output_1": base[&index], "generator_1": baseline, "output_2": mine[&index], "generator_2": model,
                    "preference": verdict["preference"], "price_per_example": verdict["price"], "time_per_example": verdict["time"],
                })
            })
            .collect();
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("annotations.json");
        std::fs::write(&path, serde_json::to_vec_pretty(&annotations).expect("serialises")).expect("written");
        let (judgements, report) = read_judgements(&path, &OPTIONS).expect(model);
        assert_eq!((judgements.len(), report.form.as_str()), (verdicts.len(), "alpaca_eval"));
        let p: Vec<f64> = judgements.iter().filter_map(Judgement::preference).map(Preference::p_second).collect();
        let published = expected_win_rate(&eval, annotator, model);
        let win_rate = 100.0 * p.iter().sum::<f64>() / p.len() as f64;
        assert!((win_rate - published).abs() < 1e-9, "{model}: {win_rate}, published {published}");
    }
}

/// The column `win_rate` of `expected_dev.csv`.
fn expected_win_rate(eval: &Path, annotator: &str, model: &str) -> f64 {
    let table = std::fs::read_to_string(eval.join("expected_dev.csv")).expect("a table");
    let mut lines = table.lines().map(|line| line.split(',').collect::<Vec<_>>());
    let header = lines.next().expect("a header");
    let column = |name: &str| header.iter().position(|found| *found == name).expect("a column");
    let row = lines.find(|row| row[column("annotator")] == annotator && row[column("model")] == model).expect("a row");
    row[column("win_rate")].parse().expect("a number")
}
