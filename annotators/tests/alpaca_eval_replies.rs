//! Real replies of AlpacaEval's judges, read again: every one must give the preference that was stored then.
//!
//! Reads `../shared/data/alpaca_eval` beside the repository; says that it skips when that is not there.

use std::collections::HashMap;
use std::io::Write;
use std::path::PathBuf;

use farmhand_annotators::chat::parsers::{LogProbParser, Parser, Place, Reply};
use farmhand_annotators::seeding::is_switched_in_alpaca_eval;
use farmhand_core::data::Records;
use farmhand_core::types::Preference;
use farmhand_endpoints::TokenLogProb;
use serde_json::{Map, Value};

fn data() -> Option<PathBuf> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/alpaca_eval");
    if path.is_dir() {
        return Some(path);
    }
    let _ = writeln!(std::io::stderr(), "skipped: no judgements of AlpacaEval in {}", path.display());
    None
}

fn rows(path: PathBuf) -> Vec<Map<String, Value>> {
    let records = Records::open(&path, None).expect("readable");
    records.map(|record| record.expect("a record").fields).collect()
}

/// The instruction of each index.
fn instructions(data: &std::path::Path) -> HashMap<u64, String> {
    let row = |row: Map<String, Value>| {
        (row["index"].as_u64().expect("an index"), row["instruction"].as_str().expect("a text").to_owned())
    };
    rows(data.join("instructions.jsonl.gz")).into_iter().map(row).collect()
}

/// The stored preference of a row, and the one that `parser` reads from its reply now.
fn compare(row: &Map<String, Value>, parser: &Parser, reply: Reply<'_>, instruction: &str) -> (Option<f64>, Option<f64>) {
    let is_switched = is_switched_in_alpaca_eval(instruction, 0);
    if let Some(swapped) = row.get("swapped") {
        assert_eq!(swapped.as_bool(), Some(is_switched), "{}", row["index"]);
    }
    let verdict = parser.verdicts(reply, 1).ok().and_then(|mut verdicts| verdicts.remove(0).ok());
    let turned = verdict.map(|verdict| if is_switched { verdict.swapped() } else { verdict });
    (row["preference"].as_f64(), turned.map(Preference::code))
}

#[test]
fn every_weighted_reply_gives_its_stored_preference() {
    let Some(data) = data() else { return };
    let instructions = instructions(&data);
    let parser = Parser::LogProb(LogProbParser {
        numerator_token: "m".to_owned(),
        denominator_tokens: vec!["m".to_owned(), "M".to_owned()],
        is_binarize: false,
        place: Place::Index(0),
    });
    let mut n = 0;
    for model in ["NullModel", "alpaca-7b", "alpaca-farm-ppo-human", "gpt-3.5-turbo-1106"] {
        for row in rows(data.join(format!("replies/weighted_alpaca_eval_gpt4_turbo/{model}.jsonl.gz"))) {
            let Some(listed) = row["top_logprobs"].as_array() else {
                // Identical answers are a draw, and nobody was asked.
                assert_eq!(row["preference"], Value::from(1.5));
                continue;
            };
            let entry = |pair: &Value| (pair[0].as_str().expect("a token").to_owned(), pair[1].as_f64().expect("a number"));
            let alternatives: Vec<(String, f64)> = listed.iter().map(entry).collect();
            let token = TokenLogProb { token: alternatives[0].0.clone(), log_prob: alternatives[0].1, alternatives };
            let reply = Reply { text: &token.token, log_probs: Some(std::slice::from_ref(&token)) };
            let index = row["index"].as_u64().expect("an index");
            let (stored, read) = compare(&row, &parser, reply, &instructions[&index]);
            let (stored, read) = (stored.expect("a preference"), read.expect("a verdict"));
            // The file's preferences are rounded to ten digits, and some log-probabilities were rounded before.
            assert!((stored - read).abs() < 2e-6, "{model} {index}: {stored} {read}");
            n += 1;
        }
    }
    assert!(n > 3200, "{n} replies");
}

#[test]
fn every_ranking_reply_gives_its_stored_preference() {
    let Some(data) = data() else { return };
    let instructions = instructions(&data);
    let parser = Parser::Pipeline(vec![
        Parser::Json { annotation_key: Some("ordered_models".to_owned()) },
        Parser::Ranking { model_1_name: "m".to_owned() },
    ]);
    let mut n = 0;
    for judge in ["alpaca_eval_cot_gpt4_turbo_fn/alpaca-7b", "alpaca_eval_gpt4_turbo_fn/gpt-3.5-turbo-0301"] {
        for row in rows(data.join(format!("replies/{judge}.jsonl.gz"))) {
            if row["reply"].is_null() {
                assert_eq!(row["preference"], Value::from(1.5));
                continue;
            }
            let index = row["index"].as_u64().expect("an index");
            let text = row["reply"].as_str().map_or_else(|| row["reply"].to_string(), str::to_owned);
            let (stored, read) = compare(&row, &parser, Reply { text: &text, log_probs: None }, &instructions[&index]);
            assert_eq!(stored, read, "{judge} {index}: {text}");
            n += 1;
        }
    }
    assert!(n > 1500, "{n} replies");
}
