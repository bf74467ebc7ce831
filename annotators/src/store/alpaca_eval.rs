//! Verdicts as records of AlpacaEval's annotation files, and back.
//!
//! Two spellings are around: files in `results/` name price, time and raw answer `price_per_example`, `time_per_example` and
//! `raw_completion`; caches (`annotations_seed0_configs.json`) and newer results put `preference_` in front. A record without a
//! verdict has a `preference` of −1 in a cache and null in results; 0 is the old code of a tie. Whatever else a record holds is kept
//! and comes out again. Such a record does not say in which order the judge saw the answers.
//!
//! `farmhand_core::data` writes a stage's judgements for AlpacaEval to read; this is the writer for records that have to come out of
//! the store as they went in: with `input` in its own field, foreign fields, and the spelling they had.

use std::sync::Arc;

use farmhand_core::ErrorKind;
use farmhand_core::data::UNKNOWN_ANNOTATOR;
use farmhand_core::types::{Annotation, Comparison, Failure, Instruction, Judging, Preference};
use farmhand_endpoints::Date;
use serde_json::{Map, Value, json};

use super::verdict::{Judge, StoredOutcome, StoredVerdict};

/// The spelling of an exported record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AlpacaEvalLayout {
    /// As it was imported; what was not imported as [`AlpacaEvalLayout::Cache`].
    #[default]
    AsImported,
    /// As in `results/`: `price_per_example`, null without a verdict.
    Results,
    /// As in a cache: `preference_price_per_example`, −1 without a verdict.
    Cache,
}

const PRICE: &str = "price_per_example";
const TIME: &str = "time_per_example";
const RAW: &str = "raw_completion";
const PREFIX: &str = "preference_";

/// Key of the foreign fields under which the record's own spelling stands; no record has such a field.
const LAYOUT: &str = "farmhand:layout";

/// Reads a record.
///
/// # Errors
/// What is wrong with it, as a fragment.
pub(super) fn from_record(mut fields: Map<String, Value>, annotator: Option<&str>) -> Result<StoredVerdict, String> {
    let record = fields.clone();
    let instruction = required_text(&mut fields, "instruction")?;
    let input = optional_text(&mut fields, "input")?;
    let (output_1, output_2) = (required_text(&mut fields, "output_1")?, required_text(&mut fields, "output_2")?);
    let mut instruction = Instruction::new(instruction, input.as_deref());
    instruction.dataset = optional_text(&mut fields, "dataset")?;
    let mut comparison = Comparison::new(instruction, output_1, output_2);
    comparison.generator_1 = optional_text(&mut fields, "generator_1")?;
    comparison.generator_2 = optional_text(&mut fields, "generator_2")?;
    let named = optional_text(&mut fields, "annotator")?;
    let name = annotator.map(str::to_owned).or(named).unwrap_or_else(|| UNKNOWN_ANNOTATOR.to_owned());
    let code = fields.remove("preference").unwrap_or(Value::Null);
    let is_old = [PRICE, TIME, RAW].iter().any(|column| record.contains_key(*column));
    let raw = either(&mut fields, RAW);
    let (cost_usd, time_secs) = (optional_number(&mut fields, PRICE)?, optional_number(&mut fields, TIME)?);
    let date = record.get("preference_date").or_else(|| record.get("date")).and_then(Value::as_str);
    let date = date.and_then(|date| date.parse().ok()).unwrap_or_else(Date::now);
    let words = raw.as_ref().filter(|raw| !raw.is_null()).map(|raw| raw.as_str().map_or_else(|| raw.to_string(), str::to_owned));
    let preference = match code.as_f64() {
        None if code.is_null() => None,
        Some(-1.0) => None,
        Some(code) => Some(Preference::from_code(code).map_err(|error| format!("field `preference`: {}", error.message()))?),
        None => return Err(format!("field `preference`: expected a number or null, got `{code}`")),
    };
    let outcome = match preference {
        Some(preference) => {
            StoredOutcome::Verdict(Annotation { raw: words, cost_usd, time_secs, ..Annotation::new(name.clone(), preference) })
        }
        None => {
            let judging = Judging { annotator: Some(name.clone()), raw: words, cost_usd, time_secs, ..Judging::default() };
            let failure = Failure { judging, ..Failure::new(ErrorKind::UnparsableAnswer, "the file records no verdict") };
            StoredOutcome::Failure { failure, may_pass: false }
        }
    };
    let mut verdict = StoredVerdict {
        comparison,
        judge: Arc::new(Judge::imported(&name)),
        seed: String::new(),
        outcome,
        date,
        foreign: fields,
    };
    verdict.foreign.insert(LAYOUT.to_owned(), json!(if is_old { "results" } else { "cache" }));
    // Whatever would be written in another way than it was read is kept as it was.
    let written = to_record(&verdict, AlpacaEvalLayout::AsImported);
    for (name, value) in record {
        if written.get(&name).is_none_or(|other| !is_equal(other, &value)) && (annotator.is_none() || name != "annotator") {
            verdict.foreign.insert(name, value);
        }
    }
    Ok(verdict)
}

/// Writes a verdict as a record.
pub(super) fn to_record(verdict: &StoredVerdict, layout: AlpacaEvalLayout) -> Map<String, Value> {
    let StoredVerdict { comparison, outcome, foreign, judge, .. } = verdict;
    let imported = foreign.get(LAYOUT).and_then(Value::as_str);
    let is_old = match layout {
        AlpacaEvalLayout::Results => true,
        AlpacaEvalLayout::Cache => false,
        AlpacaEvalLayout::AsImported => imported == Some("results"),
    };
    let mut record = Map::new();
    let mut put = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            record.insert(name.to_owned(), value);
        }
    };
    let text = |text: &Option<String>| text.as_ref().map(|text| json!(text));
    put("instruction", Some(json!(comparison.instruction.instruction)));
    put("input", text(&comparison.instruction.input));
    put("output_1", Some(json!(comparison.output_1)));
    put("generator_1", text(&comparison.generator_1));
    put("dataset", text(&comparison.instruction.dataset));
    put("output_2", Some(json!(comparison.output_2)));
    put("generator_2", text(&comparison.generator_2));
    let (annotator, preference, raw) = match outcome {
        StoredOutcome::Verdict(annotation) => (&annotation.annotator, json!(annotation.preference), &annotation.raw),
        StoredOutcome::Failure { failure, .. } => {
            let none = if is_old { Value::Null } else { json!(-1) };
            (failure.judging.annotator.as_ref().unwrap_or(&judge.name), none, &failure.judging.raw)
        }
    };
    put("annotator", Some(json!(annotator)));
    put("preference", Some(preference));
    let column = |name: &str| if is_old { name.to_owned() } else { format!("{PREFIX}{name}") };
    put(&column(PRICE), outcome.cost_usd().map(|cost| json!(cost)));
    put(&column(TIME), outcome.time_secs().map(|time| json!(time)));
    put(&column(RAW), text(raw));
    if imported.is_none() && !is_old {
        put("preference_date", Some(json!(verdict.date.to_string())));
    }
    for (name, value) in foreign.iter().filter(|(name, _)| *name != LAYOUT) {
        let name = match [PRICE, TIME, RAW].iter().find(|column| name.strip_prefix(PREFIX).unwrap_or(name) == **column) {
            Some(known) => column(known),
            None => name.clone(),
        };
        // A failure's code is the layout's where a layout is asked for.
        if name != "preference" || layout == AlpacaEvalLayout::AsImported {
            record.insert(name, value.clone());
        }
    }
    record
}

/// Whether two values say the same, `2` and `2.0` included.
fn is_equal(one: &Value, other: &Value) -> bool {
    match (one.as_f64(), other.as_f64()) {
        (Some(one), Some(other)) => one == other,
        _ => one == other,
    }
}

/// The field under its new or its old name.
fn either(fields: &mut Map<String, Value>, column: &str) -> Option<Value> {
    let newer = fields.remove(&format!("{PREFIX}{column}"));
    let older = fields.remove(column);
    newer.filter(|value| !value.is_null()).or(older)
}

fn required_text(fields: &mut Map<String, Value>, name: &str) -> Result<String, String> {
    optional_text(fields, name)?.ok_or_else(|| format!("field `{name}` is missing"))
}

fn optional_text(fields: &mut Map<String, Value>, name: &str) -> Result<Option<String>, String> {
    match fields.remove(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => Err(format!("field `{name}`: expected a text, got `{other}`")),
    }
}

fn optional_number(fields: &mut Map<String, Value>, column: &str) -> Result<Option<f64>, String> {
    match either(fields, column) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => value.as_f64().map(Some).ok_or_else(|| format!("field `{column}`: expected a number, got `{value}`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(rest: Value) -> Map<String, Value> {
        let mut record = json!({ "instruction": "i", "output_1": "a", "output_2": "b", "annotator": "gpt4" });
        let fields = record.as_object_mut().expect("an object");
        fields.extend(rest.as_object().expect("an object").clone());
        fields.clone()
    }

    #[test]
    fn records_come_out_as_they_went_in() {
        for rest in [
            json!({ "preference": 1.0, "generator_1": "base", "generator_2": "m", "dataset": "d", "price_per_example": 0.01,
                    "time_per_example": 1.5, "raw_completion": "(a)", "glm_preference": 1.2 }),
            json!({ "preference": 1.000_000_123, "preference_price_per_example": 0.01, "preference_date": "2024-01-31T10:00:00.5",
                    "preference_version": "0.6", "preference_raw_completion": { "logprobs": [1, 2] } }),
            json!({ "preference": -1, "preference_raw_completion": null }),
            json!({ "preference": null, "raw_completion": null, "price_per_example": null }),
            json!({ "preference": 0, "input": "" }),
            json!({ "preference": 1.5, "input": "more", "index": 7 }),
            json!({ "preference": null }),
        ] {
            let record = record(rest);
            let verdict = from_record(record.clone(), None).expect("read");
            let back = to_record(&verdict, AlpacaEvalLayout::AsImported);
            assert_eq!(back.len(), record.len(), "{back:?} {record:?}");
            for (name, value) in &record {
                assert!(is_equal(&back[name], value), "{name}: {} and {value}", back[name]);
            }
        }
    }

    #[test]
    fn layouts_spell_columns_and_failures_their_way() {
        let old = json!({ "preference": null, "price_per_example": 0.5, "raw_completion": { "x": 1 }, "glm_preference": 1.1 });
        let verdict = from_record(record(old), None).expect("read");
        let cache = to_record(&verdict, AlpacaEvalLayout::Cache);
        let expected = record(json!({ "preference": -1, "preference_price_per_example": 0.5,
                                      "preference_raw_completion": { "x": 1 }, "glm_preference": 1.1 }));
        assert_eq!(Value::Object(cache), Value::Object(expected));
        let new = record(json!({ "preference": -1, "preference_time_per_example": 2.0 }));
        let results = to_record(&from_record(new, None).expect("read"), AlpacaEvalLayout::Results);
        assert_eq!((&results["preference"], &results["time_per_example"]), (&Value::Null, &json!(2.0)));
    }

    #[test]
    fn meaning_is_understood() {
        let read = |rest: Value| from_record(record(rest), None);
        let StoredOutcome::Verdict(tie) = read(json!({ "preference": 0 })).expect("read").outcome else { panic!("a verdict") };
        assert_eq!(tie.preference, Preference::Tie);
        let verdict = read(json!({ "preference": 2, "preference_date": "2024-01-31T10:00:00" })).expect("read");
        assert_eq!((verdict.date.to_string().as_str(), verdict.judge.name.as_str()), ("2024-01-31T10:00:00Z", "gpt4"));
        let StoredOutcome::Failure { failure, may_pass } = read(json!({ "preference": -1 })).expect("read").outcome else {
            panic!("a failure")
        };
        assert_eq!((failure.kind, may_pass), (ErrorKind::UnparsableAnswer, false));
        let renamed = from_record(record(json!({ "preference": 1 })), Some("mine")).expect("read");
        assert_eq!(to_record(&renamed, AlpacaEvalLayout::AsImported)["annotator"], "mine");
        for (wrong, says) in [
            (json!({ "preference": 3 }), "expected a preference of 0"),
            (json!({ "preference": "1" }), "expected a number or null"),
            (json!({ "preference": 1, "output_2": 3 }), "`output_2`: expected a text"),
            (json!({ "preference": 1, "output_1": null }), "`output_1` is missing"),
            (json!({ "preference": 1, "price_per_example": "x" }), "`price_per_example`: expected a number"),
        ] {
            let error = read(wrong).expect_err(says);
            assert!(error.contains(says), "{error}");
        }
    }
}
