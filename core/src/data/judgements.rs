//! Reads comparisons, judged or not.

use std::path::Path;
use std::str::FromStr;

use serde_json::Value;

use super::fields::{
    FieldProblem, Fields, is_list, is_object, is_text, kind, list, object, optional_number, optional_text, present, text, typed,
};
use super::form::{Form, Origin, Parsed, derived_forms, read_any};
use super::human_judgements::{PEOPLE, of_pair};
use super::instructions::{instruction, with_ids, with_true_id};
use super::preferences::PAIRS;
use super::report::{ReadOptions, ReadReport};
use super::verdict_scale::{VerdictScale, worded_verdict};
use crate::error::{ErrorKind, Result};
use crate::types::{Annotation, Comparison, Failure, Judgement, Judging, Outcome, Preference};

/// Who judged, where a file does not say.
pub const UNKNOWN_ANNOTATOR: &str = "unknown";

const COMPARISONS: &[Form<Comparison>] = &[
    Form {
        name: "farmhand",
        keys: "`instruction {instruction, …}`, `output_1`, `output_2`, `generator_1`?, `generator_2`?",
        fits: |fields| is_object(fields, "instruction") && has_pair(fields),
        parse: |fields, _| comparison(fields).map(Parsed::One),
    },
    Form {
        name: "farmhand_judgement",
        keys: "`comparison {instruction, output_1, output_2, …}`",
        fits: |fields| is_object(fields, "comparison"),
        parse: |fields, _| {
            let inner = fields.get("comparison").cloned().unwrap_or_default();
            let inner = with_ids(object(&inner, "comparison")?);
            typed(inner).map(renewed).map(Parsed::One).map_err(|problem| problem.under("comparison"))
        },
    },
    Form {
        name: "alpaca_farm",
        keys: "`instruction`, `input`?, `output_1`, `output_2`, `generator_1`?, `generator_2`?",
        fits: |fields| is_text(fields, "instruction") && has_pair(fields),
        parse: |fields, _| comparison(fields).map(Parsed::One),
    },
];

/// Comparisons in files of people's judgements.
const JUDGED_COMPARISONS: &[Form<Comparison>] = derived_forms!(
    PEOPLE,
    |parsed: Parsed<Judgement>| Ok(match parsed.map(&|judgement: Judgement| judgement.comparison) {
        // Several verdicts on one comparison.
        Parsed::Many(mut comparisons) => {
            comparisons.dedup_by(|a, b| a.id == b.id);
            Parsed::Many(comparisons)
        }
        other => other,
    }),
    [0, 1, 2]
);

/// Comparisons in files of preference pairs.
const PAIRED_COMPARISONS: &[Form<Comparison>] =
    derived_forms!(PAIRS, |parsed: Parsed<_>| Ok(parsed.map(&|pair| of_pair(pair).comparison)), [0, 1, 2, 3, 4, 5]);

/// The forms of judgements; preference pairs are read from them, too.
pub(super) const JUDGEMENTS: &[Form<Judgement>] = &[
    Form {
        name: "farmhand_judgement",
        keys: "`comparison {instruction, output_1, output_2, …}`, `annotation` or `failure`",
        fits: |fields| is_object(fields, "comparison"),
        parse: |fields, _| {
            let judgement: Judgement = typed(with_ids(fields))?;
            Ok(Parsed::One(Judgement { comparison: renewed(judgement.comparison), ..judgement }))
        },
    },
    Form {
        name: "alpaca_eval",
        keys: "`instruction`, `input`?, `output_1`, `output_2`, `preference` (1, 2, 1.5 or 0 for a tie, null for no verdict; a \
               place on the `scale`; or words such as \"B\" or \"output_2 is slightly better\"), `raw_preference`? (1 to 4), \
               `generator_1`?, `generator_2`?, `annotator`?, `raw_completion`?, `price_per_example`?, `time_per_example`?",
        fits: |fields| has_pair(fields) && fields.contains_key("preference"),
        parse: |fields, origin| {
            let mut verdict = verdict(fields, "preference", origin)?;
            if let (Some(verdict), Some(place)) = (&mut verdict, optional_number(fields, "raw_preference")?) {
                let (side, grades) = placed(VerdictScale::ALPACA_FARM, place, "raw_preference")?;
                verdict.margin = verdict.margin.or((side == verdict.preference).then_some(grades));
            }
            judgement(fields, annotator(fields)?, verdict).map(Parsed::One)
        },
    },
    Form {
        name: "label",
        keys: "`instruction`, `input`?, `output_1`, `output_2`, `label` (1 or 2, or a place on the `scale`)",
        fits: |fields| has_pair(fields) && fields.get("label").is_some_and(Value::is_number),
        parse: |fields, origin| judgement(fields, annotator(fields)?, verdict(fields, "label", origin)?).map(Parsed::One),
    },
    Form {
        name: "votes",
        keys: "`instruction`, `input`?, `output_1`, `output_2`, `humans`: a list of 1, 2 or 0 for a tie, of places on the `scale`, \
               or of words",
        fits: |fields| has_pair(fields) && is_list(fields, "humans"),
        parse: |fields, origin| {
            let scale = scale(fields, origin)?;
            let vote = |(i, value): (usize, &Value)| {
                let verdict = value_verdict(value, &format!("humans[{i}]"), scale).transpose()?;
                Some(verdict.and_then(|verdict| judgement(fields, format!("human_{}", i + 1), Some(verdict))))
            };
            list(fields, "humans")?.iter().enumerate().filter_map(vote).collect::<Result<Vec<_>, _>>().map(Parsed::Many)
        },
    },
    Form {
        name: "rater_votes",
        keys: "`instruction`, `input`?, `output_1`, `output_2`, `votes [{rater, preference}]`",
        fits: |fields| has_pair(fields) && is_list(fields, "votes"),
        parse: |fields, origin| {
            let scale = scale(fields, origin)?;
            let vote = |(i, value): (usize, &Value)| {
                let (path, vote) = (format!("votes[{i}]"), object(value, &format!("votes[{i}]"))?);
                let rater = match annotator(vote).map_err(|problem| problem.under(&path))? {
                    rater if rater == UNKNOWN_ANNOTATOR => format!("human_{}", i + 1),
                    rater => rater,
                };
                let value = vote.get("preference").unwrap_or(&Value::Null);
                let verdict = value_verdict(value, &format!("{path}.preference"), scale)?;
                verdict.map(|verdict| judgement(fields, rater, Some(verdict))).transpose()
            };
            let votes = list(fields, "votes")?.iter().enumerate().filter_map(|vote_at| vote(vote_at).transpose());
            votes.collect::<Result<Vec<_>, _>>().map(Parsed::Many)
        },
    },
];

/// Judgements in files of preference pairs.
const PAIR_JUDGEMENTS: &[Form<Judgement>] =
    derived_forms!(PAIRS, |parsed: Parsed<_>| Ok(parsed.map(&of_pair)), [0, 1, 2, 3, 4, 5]);

/// Reads comparisons; verdicts in the file are ignored. Of a better and a worse answer, which comes first follows from the two
/// texts and says nothing.
///
/// Known forms: our own, AlpacaFarm's `instruction, input?, output_1, output_2`, and everything that [`read_judgements`] reads.
///
/// # Errors
/// When the file cannot be read, has no known form, holds a bad record that is not skipped, or holds nothing.
pub fn read_comparisons(path: &Path, options: &ReadOptions) -> Result<(Vec<Comparison>, ReadReport)> {
    read_any(path, options, "comparisons", &[COMPARISONS, JUDGED_COMPARISONS, PAIRED_COMPARISONS])
}

/// Reads judgements, one for each rater of a comparison. A tie is a judgement; no verdict (`preference` null, or −1 as
/// AlpacaEval's cache has it) is a judgement with a failure; a rater who did not vote on a comparison has none on it.
///
/// Known forms: our own; AlpacaFarm's and AlpacaEval's `instruction, output_1, output_2, preference` with everything AlpacaEval
/// adds, in its older and newer spellings; the same with `label`; several people's votes under `humans` (annotators `human_1`,
/// `human_2`, …) or under `votes` with their names; HelpSteer2's strengths of preference; Chatbot Arena's and MT-Bench's
/// conversations with a `winner`; FineGrainedRLHF's votes between all `predictions`; and preference pairs, hh-rlhf's among them,
/// whose better answer is the first or the second as follows from the texts.
///
/// Numbers are AlpacaEval's codes, unless [`ReadOptions::scale`] or the record's `scale` (`"1..5"`) says otherwise; then a
/// verdict's margin is its distance from the middle in grades.
///
/// # Errors
/// When the file cannot be read, has no known form, holds a bad record that is not skipped, or holds nothing.
pub fn read_judgements(path: &Path, options: &ReadOptions) -> Result<(Vec<Judgement>, ReadReport)> {
    read_any(path, options, "judgements", &[JUDGEMENTS, PEOPLE, PAIR_JUDGEMENTS])
}

fn has_pair(fields: &Fields) -> bool {
    fields.contains_key("output_1") && fields.contains_key("output_2")
}

fn comparison(fields: &Fields) -> Result<Comparison, FieldProblem> {
    let mut comparison = Comparison::new(instruction(fields)?, output(fields, "output_1")?, output(fields, "output_2")?);
    comparison.generator_1 = optional_text(fields, "generator_1")?.map(str::to_owned);
    comparison.generator_2 = optional_text(fields, "generator_2")?.map(str::to_owned);
    Ok(comparison)
}

/// An answer. Beside PandaLM's votes, a few answers are JSON's `true`: what was written there was "True".
fn output(fields: &Fields, key: &str) -> Result<String, FieldProblem> {
    match fields.get(key) {
        Some(Value::Bool(value)) if is_list(fields, "humans") => Ok(if *value { "True" } else { "False" }.to_owned()),
        _ => text(fields, key).map(str::to_owned),
    }
}

/// The same comparison with the ids that follow from its content.
fn renewed(comparison: Comparison) -> Comparison {
    let Comparison { instruction, output_1, output_2, generator_1, generator_2, .. } = comparison;
    let renewed = Comparison::new(with_true_id(instruction), output_1, output_2);
    Comparison { generator_1, generator_2, ..renewed }
}

/// A verdict as a file has it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Verdict {
    pub(super) preference: Preference,
    pub(super) margin: Option<f64>,
}

/// The scale of the record's numeric verdicts: its own `scale`, otherwise the one the reader was told.
pub(super) fn scale(fields: &Fields, origin: &Origin) -> Result<Option<VerdictScale>, FieldProblem> {
    let own = match present(fields, "scale") {
        Some(Value::String(text)) => text,
        _ => return Ok(origin.scale),
    };
    VerdictScale::from_str(own).map(Some).map_err(|error| FieldProblem::new("scale", error.message()))
}

/// The verdict under `key`; `None` for null and an absent field.
fn verdict(fields: &Fields, key: &str, origin: &Origin) -> Result<Option<Verdict>, FieldProblem> {
    value_verdict(present(fields, key).unwrap_or(&Value::Null), key, scale(fields, origin)?)
}

/// A verdict out of a number or words; `None` for null, and for −1 where numbers are codes.
pub(super) fn value_verdict(value: &Value, field: &str, scale: Option<VerdictScale>) -> Result<Option<Verdict>, FieldProblem> {
    let expected = || FieldProblem::new(field, format!("expected a number or words that name an answer, got {}", kind(value)));
    if let Value::String(words) = value {
        let unread = || {
            let words: String = words.chars().take(40).collect();
            FieldProblem::new(
                field,
                format!("cannot tell which answer `{words}` prefers, expected words such as `A`, `output_2` or `tie`"),
            )
        };
        let (preference, margin) = worded_verdict(words).ok_or_else(unread)?;
        return Ok(Some(Verdict { preference, margin }));
    }
    if value.is_null() {
        return Ok(None);
    }
    let number = value.as_f64().filter(|number| number.is_finite()).ok_or_else(expected)?;
    match scale {
        Some(scale) => {
            let (preference, grades) = placed(scale, number, field)?;
            Ok(Some(Verdict { preference, margin: Some(grades) }))
        }
        None if number == -1.0 => Ok(None),
        None => {
            let preference = Preference::from_code(number).map_err(|error| FieldProblem::new(field, error.message()))?;
            Ok(Some(Verdict { preference, margin: None }))
        }
    }
}

pub(super) fn placed(scale: VerdictScale, place: f64, field: &str) -> Result<(Preference, f64), FieldProblem> {
    scale.verdict(place).map_err(|error| FieldProblem::new(field, error.message()))
}

/// Who judged, under any of the names the field uses.
pub(super) fn annotator(fields: &Fields) -> Result<String, FieldProblem> {
    for key in ["annotator", "rater", "judge", "worker"] {
        match present(fields, key) {
            Some(Value::String(name)) => return Ok(name.clone()),
            Some(Value::Number(number)) => return Ok(format!("{key}_{number}")),
            // MT-Bench: a model with its prompt.
            Some(Value::Array(parts)) if key == "judge" => {
                let parts: Vec<&str> = parts.iter().filter_map(Value::as_str).collect();
                return Ok(parts.join("+"));
            }
            Some(other) => return Err(FieldProblem::new(key, format!("expected a name, got {}", kind(other)))),
            None => {}
        }
    }
    Ok(match present(fields, "annotator_index") {
        Some(Value::String(index)) => format!("human_{index}"),
        Some(Value::Number(index)) => format!("human_{index}"),
        _ => UNKNOWN_ANNOTATOR.to_owned(),
    })
}

fn judgement(fields: &Fields, annotator: String, verdict: Option<Verdict>) -> Result<Judgement, FieldProblem> {
    let comparison = comparison(fields)?;
    let either = |newer: &str, older: &str| match optional_number(fields, newer)? {
        Some(value) => Ok(Some(value)),
        None => optional_number(fields, older),
    };
    let (cost_usd, time_secs) = (
        either("preference_price_per_example", "price_per_example")?,
        either("preference_time_per_example", "time_per_example")?,
    );
    let outcome = match verdict {
        Some(Verdict { preference, margin }) => {
            let known = Annotation::new(annotator, preference);
            Outcome::Annotation(Annotation { margin, cost_usd, time_secs, raw: raw(fields), ..known })
        }
        // An answer that could not be read was paid for, too.
        None => {
            let annotator = (annotator != UNKNOWN_ANNOTATOR).then_some(annotator);
            let judging = Judging { annotator, cost_usd, time_secs, raw: raw(fields), ..Judging::default() };
            Outcome::Failure(Failure { judging, ..no_verdict() })
        }
    };
    Ok(Judgement { comparison, outcome })
}

fn no_verdict() -> Failure {
    Failure::new(ErrorKind::UnparsableAnswer, "the file records no verdict")
}

/// A comparison for which the file has no verdict.
pub(super) fn unjudged(comparison: Comparison) -> Judgement {
    Judgement { comparison, outcome: Outcome::Failure(no_verdict()) }
}

/// What the judge said: its words, or the JSON of a structured reply.
fn raw(fields: &Fields) -> Option<String> {
    let value = present(fields, "preference_raw_completion").or_else(|| present(fields, "raw_completion"))?;
    Some(value.as_str().map_or_else(|| value.to_string(), str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("x.json");
        std::fs::write(&path, text).expect("written");
        (dir, path)
    }

    fn judgements(text: &str) -> Result<Vec<Judgement>> {
        let (_dir, path) = file(text);
        read_judgements(&path, &ReadOptions::default()).map(|(judgements, _)| judgements)
    }

    #[test]
    fn alpaca_eval_annotations_keep_price_time_and_words() {
        for prefix in ["", "preference_"] {
            let text = format!(
                r#"[{{"instruction": "i", "output_1": "a", "generator_1": "base", "dataset": "d", "output_2": "b", "generator_2": "m",
                "annotator": "gpt4", "preference": 1.75, "{prefix}price_per_example": 0.01, "{prefix}time_per_example": 1.5,
                "{prefix}raw_completion": {{"text": "m"}}}}]"#
            );
            let judgement = judgements(&text).expect("read").remove(0);
            assert_eq!(judgement.comparison.generator_2.as_deref(), Some("m"));
            assert_eq!(judgement.comparison.instruction.dataset.as_deref(), Some("d"));
            let annotation = judgement.annotation().expect("a verdict");
            assert_eq!(annotation.preference, Preference::Graded(0.75));
            assert_eq!((annotation.cost_usd, annotation.time_secs), (Some(0.01), Some(1.5)));
            assert_eq!((annotation.annotator.as_str(), annotation.raw.as_deref()), ("gpt4", Some("{\"text\":\"m\"}")));
        }
    }

    #[test]
    fn verdicts_ties_and_failures_are_told_apart() {
        let record =
            |preference: &str| format!(r#"{{"instruction": "i", "output_1": "a", "output_2": "b", "preference": {preference}}}"#);
        let all: Vec<String> = ["1", "2.0", "0", "1.5", "null", "-1"].iter().map(|code| record(code)).collect();
        let read: Vec<Option<Preference>> =
            judgements(&format!("[{}]", all.join(","))).expect("read").iter().map(Judgement::preference).collect();
        let (first, second, tie) = (Some(Preference::First), Some(Preference::Second), Some(Preference::Tie));
        assert_eq!(read, [first, second, tie, tie, None, None]);
        let error = judgements(&record("3")).expect_err("no such code");
        assert!(error.to_string().contains("list index 0: field `preference`: expected a preference of 0"), "{error}");
    }

    #[test]
    fn votes_make_one_judgement_each() {
        let text = r#"{"instruction": "i", "output_1": "a", "output_2": "b", "humans": [1, 0, 2]}"#;
        let judgements = judgements(text).expect("read");
        let names: Vec<&str> = judgements.iter().filter_map(|j| j.annotation()).map(|a| a.annotator.as_str()).collect();
        assert_eq!(names, ["human_1", "human_2", "human_3"]);
        assert_eq!(judgements[1].preference(), Some(Preference::Tie));
    }

    /// Preference, margin and rater of each judgement.
    fn verdicts(text: &str, scale: Option<&str>) -> Result<Vec<(f64, Option<f64>, String)>> {
        let (_dir, path) = file(text);
        let scale = scale.map(|scale| scale.parse().expect("a scale"));
        let (judgements, _) = read_judgements(&path, &ReadOptions { scale, ..ReadOptions::default() })?;
        let verdict = |judgement: &Judgement| {
            let annotation = judgement.annotation().expect("a verdict");
            (annotation.preference.p_second(), annotation.margin, annotation.annotator.clone())
        };
        Ok(judgements.iter().map(verdict).collect())
    }

    fn record(rest: &str) -> String {
        format!(r#"{{"instruction": "i", "output_1": "a", "output_2": "b", {rest}}}"#)
    }

    #[test]
    fn grades_words_and_named_raters_are_read() {
        let unknown = || UNKNOWN_ANNOTATOR.to_owned();
        for (rest, scale, expected) in [
            (r#""preference": 5"#, Some("1..7"), (1.0, Some(1.0), unknown())),
            (r#""preference": -3, "rater": "ann""#, Some("-3..3"), (0.0, Some(3.0), "ann".to_owned())),
            (r#""preference": 3, "scale": "1..5""#, None, (0.5, Some(0.0), unknown())),
            (r#""preference": -1, "scale": "-2..2""#, None, (0.0, Some(1.0), unknown())),
            (r#""label": 4, "worker": 7"#, Some("1..4"), (1.0, Some(2.0), "worker_7".to_owned())),
            (r#""preference": 2, "raw_preference": 3"#, None, (1.0, Some(1.0), unknown())),
            (r#""preference": 1, "raw_preference": 1, "annotator_index": 4"#, None, (0.0, Some(2.0), "human_4".to_owned())),
            (r#""preference": "B is much better""#, None, (1.0, Some(3.0), unknown())),
            (r#""preference": "tie""#, None, (0.5, None, unknown())),
            (
                r#""votes": [{"rater": "bob", "preference": "output_1"}, {"preference": null}]"#,
                None,
                (0.0, None, "bob".to_owned()),
            ),
            (r#""humans": [null, 2]"#, None, (1.0, None, "human_2".to_owned())),
        ] {
            assert_eq!(verdicts(&record(rest), scale).expect(rest), [expected], "{rest}");
        }
        for (rest, scale, complaint) in [
            (r#""preference": 5"#, Some("1..4"), "field `preference`: expected a place on the scale `1..4`, got 5"),
            (r#""preference": 1, "scale": "a lot""#, None, "field `scale`: expected a scale such as"),
            (r#""preference": "who knows""#, None, "field `preference`: cannot tell which answer `who knows` prefers"),
            (r#""preference": [1]"#, None, "field `preference`: expected a number or words that name an answer, got a list"),
            (r#""humans": [1, 3]"#, None, "field `humans[1]`: expected a preference of 0 (tie) or between 1 and 2, got 3"),
            (r#""votes": [{"rater": [], "preference": 1}]"#, None, "field `votes[0].rater`: expected a name, got a list"),
        ] {
            let error = verdicts(&format!("[{}]", record(rest)), scale).expect_err(rest);
            assert!(error.to_string().contains(complaint), "{error}");
        }
    }

    #[test]
    fn comparisons_come_from_judged_and_unjudged_files() {
        let own = Comparison::new(crate::types::Instruction::new("i", None), "a", "b");
        let judged = Judgement::new(own.clone(), Ok(Annotation::new("x", Preference::First)));
        for text in [
            serde_json::to_string(&own).expect("serialises"),
            serde_json::to_string(&judged).expect("serialises"),
            r#"{"instruction": "i", "input": "", "output_1": "a", "output_2": "b"}"#.to_owned(),
            r#"{"instruction": {"instruction": "i"}, "output_1": "a", "output_2": "b"}"#.to_owned(),
            r#"{"comparison": {"instruction": {"instruction": "i"}, "output_1": "a", "output_2": "b"}}"#.to_owned(),
        ] {
            let (_dir, path) = file(&text);
            let (read, _) = read_comparisons(&path, &ReadOptions::default()).expect(&text);
            assert_eq!(read, std::slice::from_ref(&own), "{text}");
        }
    }
}
