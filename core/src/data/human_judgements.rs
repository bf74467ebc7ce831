//! The forms in which particular data sets hold people's judgements: HelpSteer2, Chatbot Arena and MT-Bench, FineGrainedRLHF.

use serde_json::Value;

use super::conversation::prompt;
use super::fields::{FieldProblem, Fields, is_list, is_text, list, number, object, optional_text, present, text, texts};
use super::form::{Form, Origin, Parsed};
use super::instructions::with_dataset;
use super::judgements::{UNKNOWN_ANNOTATOR, Verdict, annotator, placed, scale, unjudged, value_verdict};
use super::preferences::dialogues;
use super::verdict_scale::{VerdictScale, worded_verdict};
use crate::types::{Annotation, Comparison, Instruction, Judgement, Outcome, Preference, PreferencePair, content_id};

pub(super) const PEOPLE: &[Form<Judgement>] = &[
    Form {
        name: "helpsteer_preference",
        keys: "`prompt`, `response_1`, `response_2`, `preference_strength` (−3 to 3, above 0 for the second), \
               `all_preferences_unprocessed [{strength}]`? (one for each rater)",
        fits: |fields| fields.contains_key("response_1") && fields.contains_key("preference_strength"),
        parse: strengths,
    },
    Form {
        name: "arena",
        keys: "`conversation_a`, `conversation_b`: messages, `winner` (`model_a`, `model_b` or `tie`), `model_a`?, `model_b`?, `judge`?",
        fits: |fields| is_list(fields, "conversation_a") && is_list(fields, "conversation_b") && is_text(fields, "winner"),
        parse: arena,
    },
    Form {
        name: "fine_grained",
        keys: "`question`, `passages [{title, text}]`?, `predictions` (n texts), `preference`: a vote for each two of them, in the \
               order 1-2, 1-3, … (1 the first, 2 the second, 0 neither)",
        fits: |fields| is_text(fields, "question") && is_list(fields, "predictions") && is_list(fields, "preference"),
        parse: between_all,
    },
];

fn judged(comparison: Comparison, annotator: String, verdict: Verdict) -> Judgement {
    let annotation = Annotation { margin: verdict.margin, ..Annotation::new(annotator, verdict.preference) };
    Judgement { comparison, outcome: Outcome::Annotation(annotation) }
}

/// The mark of a strength that is none.
const NO_STRENGTH: f64 = -100.0;

fn strengths(fields: &Fields, _: &Origin) -> Result<Parsed<Judgement>, FieldProblem> {
    let instruction = with_dataset(prompt(fields, "prompt")?, fields)?;
    let comparison = Comparison::new(instruction, text(fields, "response_1")?, text(fields, "response_2")?);
    let verdict = |place: f64, field: &str| {
        let (preference, grades) = placed(VerdictScale::SEVEN_AROUND_ZERO, place, field)?;
        Ok(Verdict { preference, margin: Some(grades) })
    };
    if let Some(Value::Array(raters)) =
        present(fields, "all_preferences_unprocessed").filter(|_| is_list(fields, "all_preferences_unprocessed"))
    {
        let vote = |(i, value): (usize, &Value)| {
            let path = format!("all_preferences_unprocessed[{i}]");
            let place = number(object(value, &path)?, "strength").map_err(|problem| problem.under(&path))?;
            Ok(judged(comparison.clone(), format!("human_{}", i + 1), verdict(place, &format!("{path}.strength"))?))
        };
        return raters.iter().enumerate().map(vote).collect::<Result<Vec<_>, _>>().map(Parsed::Many);
    }
    let place = number(fields, "preference_strength")?;
    if place == NO_STRENGTH {
        return Ok(Parsed::One(unjudged(comparison)));
    }
    Ok(Parsed::One(judged(comparison, annotator(fields)?, verdict(place, "preference_strength")?)))
}

fn arena(fields: &Fields, _: &Origin) -> Result<Parsed<Judgement>, FieldProblem> {
    let (instruction, first, second) = match dialogues(fields, ["conversation_a", "conversation_b"])? {
        Ok(parts) => parts,
        Err(why) => return Ok(Parsed::LeftOut(why)),
    };
    let mut comparison = Comparison::new(with_dataset(instruction, fields)?, first, second);
    comparison.generator_1 = optional_text(fields, "model_a")?.map(str::to_owned);
    comparison.generator_2 = optional_text(fields, "model_b")?.map(str::to_owned);
    let winner = text(fields, "winner")?;
    let (preference, margin) = worded_verdict(winner)
        .ok_or_else(|| FieldProblem::new("winner", format!("expected `model_a`, `model_b` or `tie`, got `{winner}`")))?;
    Ok(Parsed::One(judged(comparison, annotator(fields)?, Verdict { preference, margin })))
}

fn between_all(fields: &Fields, origin: &Origin) -> Result<Parsed<Judgement>, FieldProblem> {
    let answers = texts(fields, "predictions")?;
    let votes = list(fields, "preference")?;
    let pairs: Vec<(usize, usize)> =
        (0..answers.len()).flat_map(|first| (first + 1..answers.len()).map(move |second| (first, second))).collect();
    if votes.len() != pairs.len() {
        let message = format!("expected {} votes between {} answers, got {}", pairs.len(), answers.len(), votes.len());
        return Err(FieldProblem::new("preference", message));
    }
    let instruction = with_dataset(question(fields)?, fields)?;
    let name = match annotator(fields)? {
        name if name == UNKNOWN_ANNOTATOR => "human".to_owned(),
        name => name,
    };
    let scale = scale(fields, origin)?;
    let vote = |(i, (&(first, second), value)): (usize, (&(usize, usize), &Value))| {
        let comparison = Comparison::new(instruction.clone(), &answers[first], &answers[second]);
        Ok(Parsed::One(match value_verdict(value, &format!("preference[{i}]"), scale)? {
            Some(verdict) => judged(comparison, name.clone(), verdict),
            None => unjudged(comparison),
        }))
    };
    pairs.iter().zip(votes).enumerate().map(vote).collect::<Result<Vec<_>, _>>().map(Parsed::Each)
}

/// The question with its passages as input: title and text of each, a blank line between.
pub(super) fn question(fields: &Fields) -> Result<Instruction, FieldProblem> {
    let passages = if is_list(fields, "passages") { list(fields, "passages")? } else { &[] };
    let passage = |(i, value): (usize, &Value)| {
        let path = format!("passages[{i}]");
        let passage = object(value, &path)?;
        let title = optional_text(passage, "title").map_err(|problem| problem.under(&path))?;
        let words = text(passage, "text").map_err(|problem| problem.under(&path))?;
        Ok(match title {
            Some(title) => format!("{title}\n{words}"),
            None => words.to_owned(),
        })
    };
    let passages = passages.iter().enumerate().map(passage).collect::<Result<Vec<_>, FieldProblem>>()?;
    Ok(Instruction::new(text(fields, "question")?, Some(&passages.join("\n\n"))))
}

/// A better and a worse answer as a judgement. Which is the first follows from the two texts, so that the place of an answer says
/// nothing about it.
pub(super) fn of_pair(pair: PreferencePair) -> Judgement {
    let PreferencePair { instruction, chosen, rejected, p_chosen, margin } = pair;
    let chosen_first = content_id([chosen.as_str()]) < content_id([rejected.as_str()]);
    let p_chosen = p_chosen.unwrap_or(1.0);
    let p_second = if chosen_first { 1.0 - p_chosen } else { p_chosen };
    let preference =
        Preference::from_p_second(p_second).unwrap_or(if chosen_first { Preference::First } else { Preference::Second });
    let (first, second) = if chosen_first { (chosen, rejected) } else { (rejected, chosen) };
    judged(Comparison::new(instruction, first, second), UNKNOWN_ANNOTATOR.to_owned(), Verdict { preference, margin })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::data::{ReadOptions, read_comparisons, read_instructions, read_judgements, read_preference_pairs};
    use crate::error::Result;
    use crate::types::{Instruction, Judgement, Preference};

    fn read<T>(text: &str, with: impl Fn(&Path, &ReadOptions) -> Result<T>) -> Result<T> {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("x.jsonl");
        std::fs::write(&path, text).expect("written");
        with(&path, &ReadOptions::default())
    }

    fn verdicts(judgements: &[Judgement]) -> Vec<(Preference, Option<f64>, &str)> {
        let annotations = judgements.iter().filter_map(Judgement::annotation);
        annotations.map(|a| (a.preference, a.margin, a.annotator.as_str())).collect()
    }

    #[test]
    fn help_steer_strengths_count_from_the_middle_and_raters_are_kept() {
        let line = r#"{"prompt": "p", "response_1": "a", "response_2": "b", "preference_strength": -2}"#;
        let (judgements, report) = read(line, read_judgements).expect("read");
        assert_eq!(verdicts(&judgements), [(Preference::First, Some(2.0), "unknown")]);
        assert_eq!(report.form, "helpsteer_preference");
        let (pairs, _) = read(line, read_preference_pairs).expect("read");
        assert_eq!((pairs[0].chosen.as_str(), pairs[0].margin), ("a", Some(2.0)));
        let raters =
            line.replace("-2}", r#"1, "all_preferences_unprocessed": [{"strength": 3}, {"strength": -1}, {"strength": 1}]}"#);
        let (judgements, _) = read(&raters, read_judgements).expect("read");
        let (first, second) = (Preference::First, Preference::Second);
        let expected = [(second, Some(3.0), "human_1"), (first, Some(1.0), "human_2"), (second, Some(1.0), "human_3")];
        assert_eq!(verdicts(&judgements), expected);
        // Their majority, and the mean of 3, -1 and 1.
        let (pairs, _) = read(&raters, read_preference_pairs).expect("read");
        assert_eq!((pairs[0].chosen.as_str(), pairs[0].margin), ("b", Some(1.0)));
        assert_eq!(read(&raters, read_comparisons).expect("read").0.len(), 1);
        let none = line.replace("-2}", "-100}");
        assert!(read(&none, read_judgements).expect("read").0[0].annotation().is_none());
        let off = read(&line.replace("-2}", "4}"), read_judgements).expect_err("off the scale");
        assert!(off.message().contains("field `preference_strength`: expected a place on the scale `-3..3`"), "{off}");
    }

    #[test]
    fn arena_conversations_share_what_was_asked() {
        let talk =
            |answer: &str| format!(r#"[{{"role": "user", "content": "q"}}, {{"role": "assistant", "content": "{answer}"}}]"#);
        let line = |winner: &str| {
            let (a, b) = (talk("x"), talk("y"));
            format!(
                r#"{{"conversation_a": {a}, "conversation_b": {b}, "winner": "{winner}", "model_a": "m", "model_b": "n", "judge": "author_2"}}"#
            )
        };
        let text = [line("model_b"), line("tie (bothbad)")].join("\n");
        let (judgements, _) = read(&text, read_judgements).expect("read");
        assert_eq!(verdicts(&judgements), [(Preference::Second, None, "author_2"), (Preference::Tie, None, "author_2")]);
        assert_eq!(judgements[0].comparison.generator_2.as_deref(), Some("n"));
        assert_eq!(judgements[0].comparison.instruction, Instruction::new("q", None));
        let error = read(&line("me"), read_judgements).expect_err("no winner");
        assert!(error.message().contains("line 1: field `winner`: expected `model_a`, `model_b` or `tie`, got `me`"), "{error}");
    }

    #[test]
    fn votes_between_all_answers_make_a_comparison_each() {
        let line = r#"{"question": "q", "passages": [{"title": "t", "text": "w"}], "predictions": ["a", "b", "c"], "preference": [0, 1, 2]}"#;
        let (judgements, _) = read(line, read_judgements).expect("read");
        let sides: Vec<(&str, &str)> =
            judgements.iter().map(|j| (j.comparison.output_1.as_str(), j.comparison.output_2.as_str())).collect();
        assert_eq!(sides, [("a", "b"), ("a", "c"), ("b", "c")]);
        let preferences: Vec<Preference> = judgements.iter().filter_map(Judgement::preference).collect();
        assert_eq!(preferences, [Preference::Tie, Preference::First, Preference::Second]);
        let (pairs, report) = read(line, read_preference_pairs).expect("read");
        assert_eq!((pairs.len(), report.n_ties, pairs[1].chosen.as_str()), (2, 1, "c"));
        assert_eq!(read(line, read_comparisons).expect("read").0.len(), 3);
        assert_eq!(read(line, read_instructions).expect("read").0, [Instruction::new("q", Some("t\nw"))]);
        let error = read(&line.replace("[0, 1, 2]", "[1]"), read_judgements).expect_err("too few");
        assert!(error.message().contains("field `preference`: expected 3 votes between 3 answers, got 1"), "{error}");
    }

    #[test]
    fn the_better_answer_of_a_pair_stands_in_no_fixed_place() {
        let lines: Vec<String> =
            (0..40).map(|i| format!(r#"{{"prompt": "p", "chosen": "good {i}", "rejected": "bad {i}"}}"#)).collect();
        let (judgements, _) = read(&lines.join("\n"), read_judgements).expect("read");
        let n_first = judgements.iter().filter(|judgement| judgement.preference() == Some(Preference::First)).count();
        assert!((10..30).contains(&n_first), "{n_first}");
        for judgement in &judgements {
            let comparison = &judgement.comparison;
            let better =
                if judgement.preference() == Some(Preference::First) { &comparison.output_1 } else { &comparison.output_2 };
            assert!(better.starts_with("good"));
        }
        let (comparisons, _) = read(&lines.join("\n"), read_comparisons).expect("read");
        assert!(comparisons.iter().zip(&judgements).all(|(comparison, judgement)| *comparison == judgement.comparison));
    }
}
