//! Reads preference pairs: a better and a worse answer.

use std::path::Path;

use serde_json::Value;

use super::conversation::{answer, answered, asked, is_transcript, messages, prompt, transcript};
use super::fields::{FieldProblem, Fields, is_list, is_object, is_text, optional_number, text, typed};
use super::form::{Form, LeftOut, Origin, Parsed, derived_forms, read_any};
use super::human_judgements::PEOPLE;
use super::instructions::{instruction, with_dataset, with_ids, with_true_id};
use super::judgements::JUDGEMENTS;
use super::report::{ReadOptions, ReadReport};
use crate::error::Result;
use crate::types::{Annotation, Instruction, Judgement, Message, Outcome, Preference, PreferencePair, Role};

/// The forms that hold a better and a worse answer; judgements and comparisons are read from them, too.
pub(super) const PAIRS: &[Form<PreferencePair>] = &[
    Form {
        name: "farmhand",
        keys: "`instruction {instruction, …}`, `chosen`, `rejected`, `p_chosen`?, `margin`?",
        fits: |fields| is_object(fields, "instruction") && has_sides(fields),
        parse: |fields, _| {
            let pair: PreferencePair = typed(with_ids(fields))?;
            margin(fields)?;
            if pair.p_chosen.is_some_and(|p| !(p > 0.5 && p <= 1.0)) {
                return Err(FieldProblem::new("p_chosen", "expected a probability above 0.5 and at most 1"));
            }
            Ok(pair_or_identical(PreferencePair { instruction: with_true_id(pair.instruction), ..pair }))
        },
    },
    Form {
        name: "instruction_chosen_rejected",
        keys: "`instruction`, `input`?, `chosen`, `rejected`",
        fits: |fields| is_text(fields, "instruction") && has_sides(fields),
        parse: |fields, _| sides(instruction(fields)?, fields),
    },
    Form {
        name: "prompt_chosen_rejected",
        keys: "`prompt`, `chosen`, `rejected`: texts or messages",
        fits: |fields| fields.contains_key("prompt") && has_sides(fields),
        parse: |fields, _| sides(with_dataset(prompt(fields, "prompt")?, fields)?, fields),
    },
    Form {
        name: "messages_chosen_rejected",
        keys: "`messages`, `chosen`, `rejected`: the conversation up to the two answers, which are texts or messages",
        fits: |fields| is_list(fields, "messages") && has_sides(fields),
        parse: |fields, _| sides(with_dataset(asked(messages(fields, "messages")?, "messages")?, fields)?, fields),
    },
    Form {
        name: "hh_rlhf",
        keys: "`chosen`, `rejected`: two transcripts with `\\n\\nHuman:` and `\\n\\nAssistant:`",
        fits: |fields| is_text(fields, "chosen") && is_text(fields, "rejected"),
        parse: two_dialogues,
    },
    Form {
        name: "messages_pair",
        keys: "`chosen`, `rejected`: two lists of messages that begin alike",
        fits: |fields| is_list(fields, "chosen") && is_list(fields, "rejected"),
        parse: two_dialogues,
    },
];

/// Pairs in files of judgements; of several votes on one comparison the majority counts.
const JUDGED: &[Form<PreferencePair>] = derived_forms!(JUDGEMENTS, |parsed| Ok(judged(parsed)), [0, 1, 2, 3, 4]);
/// Pairs in the data sets of people's judgements.
const JUDGED_BY_PEOPLE: &[Form<PreferencePair>] = derived_forms!(PEOPLE, |parsed| Ok(judged(parsed)), [0, 1, 2]);

/// Reads preference pairs. Ties, identical answers, comparisons without a verdict and dialogues that part before the
/// last answer make no pair; the report counts each.
///
/// Known forms: our own and our judgements; AlpacaFarm's `instruction, input?, output_1, output_2, preference` (and
/// everything else that [`super::read_judgements`] reads; of several votes the majority counts); TRL's `prompt, chosen,
/// rejected` with texts or messages, its prompt explicit or implicit; `instruction, input?, chosen, rejected`;
/// `messages, chosen, rejected`; and hh-rlhf's two transcripts. A margin is taken from `margin`, or is
/// `score_chosen − score_rejected`.
///
/// # Errors
/// When the file cannot be read, has no known form, holds a bad record that is not skipped, or holds no pair.
pub fn read_preference_pairs(path: &Path, options: &ReadOptions) -> Result<(Vec<PreferencePair>, ReadReport)> {
    read_any(path, options, "preference pairs", &[JUDGED, JUDGED_BY_PEOPLE, PAIRS])
}

fn has_sides(fields: &Fields) -> bool {
    fields.contains_key("chosen") && fields.contains_key("rejected")
}

fn pair_or_identical(pair: PreferencePair) -> Parsed<PreferencePair> {
    if pair.chosen == pair.rejected { Parsed::LeftOut(LeftOut::Identical) } else { Parsed::One(pair) }
}

fn sides(instruction: Instruction, fields: &Fields) -> Result<Parsed<PreferencePair>, FieldProblem> {
    let (chosen, rejected) = (last_answer(fields, "chosen")?, last_answer(fields, "rejected")?);
    Ok(pair_or_identical(PreferencePair { instruction, chosen, rejected, p_chosen: None, margin: margin(fields)? }))
}

/// One side's answer. Some data sets repeat the conversation before it (UltraFeedback has both a `prompt` and whole
/// dialogues); then the last turn is the answer.
fn last_answer(fields: &Fields, key: &str) -> Result<String, FieldProblem> {
    match fields.get(key) {
        Some(Value::Array(turns)) if turns.len() > 1 => Ok(answered(messages(fields, key)?, key)?.1),
        _ => answer(fields, key),
    }
}

fn margin(fields: &Fields) -> Result<Option<f64>, FieldProblem> {
    if let Some(margin) = optional_number(fields, "margin")? {
        let problem = || FieldProblem::new("margin", format!("expected a number ≥ 0, got {margin}"));
        return if margin >= 0.0 { Ok(Some(margin)) } else { Err(problem()) };
    }
    match (optional_number(fields, "score_chosen")?, optional_number(fields, "score_rejected")?) {
        (Some(chosen), Some(rejected)) if chosen < rejected => {
            Err(FieldProblem::new("score_chosen", format!("expected at least `score_rejected` ({rejected}), got {chosen}")))
        }
        (Some(chosen), Some(rejected)) => Ok(Some(chosen - rejected)),
        _ => Ok(None),
    }
}

fn judged(parsed: Parsed<Judgement>) -> Parsed<PreferencePair> {
    let judgement = match parsed {
        Parsed::One(judgement) => judgement,
        Parsed::Many(judgements) => match majority(judgements) {
            Some(judgement) => judgement,
            None => return Parsed::LeftOut(LeftOut::NoVerdict),
        },
        Parsed::Each(several) => return Parsed::Each(several.into_iter().map(judged).collect()),
        Parsed::LeftOut(why) => return Parsed::LeftOut(why),
    };
    match (PreferencePair::from_judgement(&judgement), &judgement.outcome) {
        (Some(pair), _) => Parsed::One(pair),
        (None, Outcome::Failure(_)) => Parsed::LeftOut(LeftOut::NoVerdict),
        (None, Outcome::Annotation(verdict)) if verdict.preference == Preference::Tie => Parsed::LeftOut(LeftOut::Tie),
        (None, Outcome::Annotation(_)) => Parsed::LeftOut(LeftOut::Identical),
    }
}

/// What most of several verdicts on one comparison say; the margin is the mean of theirs, those of the other side counted against it.
fn majority(judgements: Vec<Judgement>) -> Option<Judgement> {
    let verdicts = || judgements.iter().filter_map(Judgement::annotation);
    let balance: f64 = verdicts().map(|verdict| verdict.preference.p_second() - 0.5).sum();
    let signed = |verdict: &Annotation| Some(verdict.margin? * (2.0 * verdict.preference.p_second() - 1.0).signum());
    let margins: Vec<f64> = verdicts().filter_map(signed).collect();
    let margin = (!margins.is_empty()).then(|| (margins.iter().sum::<f64>() / margins.len() as f64 * balance.signum()).max(0.0));
    let mut judgement = judgements.into_iter().next()?;
    if let Outcome::Annotation(annotation) = &mut judgement.outcome {
        annotation.preference = match balance {
            balance if balance > 0.0 => Preference::Second,
            balance if balance < 0.0 => Preference::First,
            _ => Preference::Tie,
        };
        annotation.margin = margin;
    }
    Some(judgement)
}

fn two_dialogues(fields: &Fields, _: &Origin) -> Result<Parsed<PreferencePair>, FieldProblem> {
    let (instruction, chosen, rejected) = match dialogues(fields, ["chosen", "rejected"])? {
        Ok(parts) => parts,
        Err(why) => return Ok(Parsed::LeftOut(why)),
    };
    let instruction = with_dataset(instruction, fields)?;
    Ok(pair_or_identical(PreferencePair { instruction, chosen, rejected, p_chosen: None, margin: margin(fields)? }))
}

/// Two whole dialogues under two keys: what they share is asked, their last answers are the two sides. The inner error says why
/// a well-formed pair is left out: the dialogues differ before the last answer.
pub(super) fn dialogues(
    fields: &Fields,
    [first, second]: [&str; 2],
) -> Result<Result<(Instruction, String, String), LeftOut>, FieldProblem> {
    let (first_turns, second_turns) = (dialogue(fields, first)?, dialogue(fields, second)?);
    let (before, first_answer) = split_last(&first_turns, first)?;
    let (second_before, second_answer) = split_last(&second_turns, second)?;
    if before != second_before {
        return Ok(Err(LeftOut::Parted));
    }
    let instruction = asked(before.to_vec(), first)?;
    Ok(Ok((instruction, first_answer.to_owned(), second_answer.to_owned())))
}

fn dialogue(fields: &Fields, key: &str) -> Result<Vec<Message>, FieldProblem> {
    if is_list(fields, key) {
        return messages(fields, key);
    }
    let words = text(fields, key)?;
    let turns = if is_transcript(words) { transcript(words) } else { None };
    turns.ok_or_else(|| {
        FieldProblem::new(
            key,
            "expected a transcript that starts with `\\n\\nHuman:`, since there is no `prompt` or `instruction`",
        )
    })
}

fn split_last<'a>(turns: &'a [Message], key: &str) -> Result<(&'a [Message], &'a str), FieldProblem> {
    match turns.split_last() {
        Some((last, before)) if last.role == Role::Assistant => Ok((before, &last.content)),
        _ => Err(FieldProblem::new(key, "expected an assistant turn at the end")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> Result<(Vec<PreferencePair>, ReadReport)> {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("x.jsonl");
        std::fs::write(&path, text).expect("written");
        read_preference_pairs(&path, &ReadOptions::default())
    }

    #[test]
    fn every_form_gives_the_same_pair() {
        let instruction = Instruction::new("i", None);
        let expected =
            PreferencePair { instruction, chosen: "good".to_owned(), rejected: "bad".to_owned(), p_chosen: None, margin: None };
        let ours = serde_json::to_string(&expected).expect("serialises");
        for line in [
            ours.as_str(),
            r#"{"instruction": "i", "input": "", "output_1": "bad", "output_2": "good", "preference": 2}"#,
            r#"{"instruction": "i", "output_1": "good", "output_2": "bad", "preference": 1.0}"#,
            r#"{"instruction": "i", "output_1": "good", "output_2": "bad", "label": 1}"#,
            r#"{"instruction": "i", "output_1": "good", "output_2": "bad", "humans": [1, 2, 1]}"#,
            r#"{"instruction": "i", "input": null, "output": "good", "chosen": "good", "rejected": "bad"}"#,
            r#"{"prompt": "i", "chosen": "good", "rejected": "bad"}"#,
            r#"{"prompt": [{"role": "user", "content": "i"}], "chosen": [{"role": "assistant", "content": "good"}],
                "rejected": [{"role": "assistant", "content": "bad"}]}"#,
            r#"{"prompt": "i", "chosen": [{"role": "user", "content": "i"}, {"role": "assistant", "content": "good"}],
                "rejected": [{"role": "user", "content": "i"}, {"role": "assistant", "content": "bad"}]}"#,
            r#"{"messages": [{"role": "user", "content": "i"}], "chosen": "good", "rejected": {"role": "assistant", "content": "bad"}}"#,
            r#"{"chosen": "\n\nHuman: i\n\nAssistant: good", "rejected": "\n\nHuman: i\n\nAssistant: bad"}"#,
            r#"{"chosen": [{"role": "user", "content": "i"}, {"role": "assistant", "content": "good"}],
                "rejected": [{"role": "user", "content": "i"}, {"role": "assistant", "content": "bad"}]}"#,
        ] {
            let line = line.replace('\n', " ");
            assert_eq!(read_text(&line).expect(&line).0, std::slice::from_ref(&expected), "{line}");
        }
    }

    #[test]
    fn what_makes_no_pair_is_counted() {
        let judged = |code: &str, second: &str| {
            format!(r#"{{"instruction": "i", "output_1": "a", "output_2": "{second}", "preference": {code}}}"#)
        };
        let lines = [judged("1", "b"), judged("1.5", "b"), judged("0", "b"), judged("2", "a"), judged("null", "b")].join("\n");
        let (pairs, report) = read_text(&lines).expect("read");
        assert_eq!((pairs.len(), report.n_ties, report.n_identical, report.n_no_verdict), (1, 2, 1, 1));
        let error = read_text(&judged("0", "b")).expect_err("only a tie");
        assert!(error.to_string().contains("holds no preference pairs: 1 records, left out: 1 ties"), "{error}");
    }

    #[test]
    fn dialogues_share_all_but_the_last_answer() {
        let line = |chosen: &str, rejected: &str| {
            serde_json::json!({"chosen": format!("\n\nHuman: a\n\nAssistant: b{chosen}"), "rejected": format!("\n\nHuman: a\n\nAssistant: {rejected}")})
                .to_string()
        };
        let good = line("\n\nHuman: c\n\nAssistant: d", "b\n\nHuman: c\n\nAssistant: e");
        let parted = line("\n\nHuman: c\n\nAssistant: d", "x");
        let (pairs, report) = read_text(&format!("{good}\n{parted}")).expect("read");
        assert_eq!((pairs[0].instruction.instruction.as_str(), pairs[0].instruction.history.len()), ("c", 2));
        assert_eq!((pairs.len(), report.n_parted), (1, 1));
        let unfinished = line("\n\nHuman: c", "b");
        assert!(
            read_text(&unfinished).expect_err("no answer").to_string().contains("field `chosen`: expected an assistant turn")
        );
        let plain = read_text(r#"{"chosen": "a", "rejected": "b"}"#).expect_err("no prompt");
        assert!(plain.to_string().contains("expected a transcript"), "{plain}");
    }

    #[test]
    fn margins_and_probabilities_are_kept_and_checked() {
        let with = |extra: &str| read_text(&format!(r#"{{"prompt": "i", "chosen": "a", "rejected": "b", {extra}}}"#));
        assert_eq!(with(r#""margin": 2"#).expect("read").0[0].margin, Some(2.0));
        assert_eq!(with(r#""score_chosen": 8.5, "score_rejected": 6"#).expect("read").0[0].margin, Some(2.5));
        assert!(with(r#""score_chosen": 1, "score_rejected": 6"#).is_err());
        assert!(with(r#""margin": -1"#).is_err());
        let graded = r#"{"instruction": "i", "output_1": "a", "output_2": "b", "preference": 1.75}"#;
        let pair = read_text(graded).expect("read").0.remove(0);
        assert_eq!((pair.chosen.as_str(), pair.p_chosen), ("b", Some(0.75)));
        let ours = r#"{"instruction": {"instruction": "i"}, "chosen": "a", "rejected": "b", "p_chosen": 0.25}"#;
        assert!(read_text(ours).expect_err("out of range").to_string().contains("field `p_chosen`"));
    }
}
