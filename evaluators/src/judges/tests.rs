//! Judges measured on verdicts whose numbers are known by hand.

use farmhand_core::types::{Annotation, Comparison, Instruction, Judgement, Preference, ShownOrder};
use farmhand_core::{Error, Seed};

use super::leanings::is_same_family;
use super::pairwise::pairwise;
use super::verdicts::{Shown, Source};
use super::{JudgeOptions, JudgeReport, Verdicts, measure};

/// An instruction, two answers with their generators, and a code; 0 is a failure.
type Row<'a> = (&'a str, [&'a str; 2], [&'a str; 2], f64);

fn add(verdicts: &mut Verdicts, judge: &str, member: &str, rows: &[Row<'_>]) {
    for (instruction, [a, b], [first, second], code) in rows {
        let comparison = Comparison::new(Instruction::new(*instruction, None), *a, *b).between(*first, *second);
        let verdict = if *code == 0.0 { Err(Error::other("tired")) } else { Preference::from_code(*code) };
        let judgement = Judgement::new(comparison, verdict.map(|preference| Annotation::new(member, preference)));
        verdicts.add(Source { judge, member }, &judgement, Shown::Unknown);
    }
}

fn options() -> JudgeOptions {
    JudgeOptions { n_resamples: 200, least_verdicts: 1, ..JudgeOptions::default() }
}

fn report(verdicts: &Verdicts, judge: &str, people: Option<&str>, options: &JudgeOptions) -> JudgeReport {
    let number = |name: &str| verdicts.judge(name).expect("there");
    measure(verdicts, number(judge), people.map(number), &|generator| is_same_family(judge, generator), options)
}

fn value(report: &JudgeReport, name: &str) -> f64 {
    report.metric(name).unwrap_or_else(|| panic!("no {name} in {report:?}")).value
}

const NOBODY: [&str; 2] = ["a", "b"];

#[test]
fn alpaca_evals_own_examples_of_agreement() {
    let mut verdicts = Verdicts::default();
    for (person, second) in [("ann", 2.0), ("bob", 2.0), ("cem", 2.0), ("dee", 1.0)] {
        add(&mut verdicts, "people", person, &[("i", ["x", "y"], NOBODY, 1.0), ("j", ["x", "y"], NOBODY, second)]);
    }
    // A judge that says 1 and 1, against the modes 1 and 2.
    add(&mut verdicts, "judge", "judge", &[("i", ["x", "y"], NOBODY, 1.0), ("j", ["y", "x"], NOBODY, 2.0)]);
    let people = report(&verdicts, "people", Some("people"), &options());
    assert_eq!((value(&people, "agreement"), value(&people, "variance")), (87.5, 12.5));
    assert_eq!(people.metric("agreement").and_then(|metric| metric.std_error), Some(12.5));
    assert!(people.metric("bias").is_none());
    let judge = report(&verdicts, "judge", Some("people"), &options());
    assert_eq!((value(&judge, "agreement"), value(&judge, "bias"), value(&judge, "kappa")), (50.0, 50.0, 0.0));
    assert!(judge.metric("variance").is_none(), "a single verdict has no variance");
    assert_eq!((judge.n_pairs, judge.n_verdicts, judge.n_instructions), (2, 2, 2));
}

#[test]
fn alpaca_evals_own_examples_of_leanings() {
    let long = "much longer output".repeat(30);
    let mut verdicts = Verdicts::default();
    let rows = [
        ("1", ["long output", "short"], NOBODY, 2.0),
        ("2", ["short", "somewhat short"], NOBODY, 1.0),
        ("3", [long.as_str(), "shorter output"], NOBODY, 1.0),
    ];
    add(&mut verdicts, "lengths", "lengths", &rows);
    let lists = [
        ("4", ["apple", "1. apple\n 2. banana"], NOBODY, 1.0),
        ("5", ["- apple\n - banana", "apple"], NOBODY, 1.0),
        ("6", ["apple", "a. apple\n b. banana"], NOBODY, 2.0),
    ];
    add(&mut verdicts, "lists", "lists", &lists);
    let found = report(&verdicts, "lengths", None, &options());
    assert_eq!(value(&found, "prefers_longer"), 100.0);
    assert!((value(&found, "longer_by") - 1_212.770_562_770_563).abs() < 1e-10);
    let lists = report(&verdicts, "lists", None, &options());
    assert!((value(&lists, "prefers_list") - 200.0 / 3.0).abs() < 1e-12);
    // Noise makes a coin of every second verdict at a rate of ¼.
    let noisy = report(&verdicts, "lists", None, &JudgeOptions { p_flip: 0.25, ..options() });
    assert!((value(&noisy, "prefers_list") - (100.0 / 3.0 + 25.0)).abs() < 1e-12);
    // One comparison whose lengths differ enough: the interval is that of one draw.
    assert_eq!(found.metric("prefers_longer").and_then(|metric| metric.interval).map(|ends| ends[1]), Some(100.0));
}

#[test]
fn a_failure_is_no_tie() {
    let mut verdicts = Verdicts::default();
    let pair = ["x", "y"];
    add(
        &mut verdicts,
        "judge",
        "judge",
        &[("1", pair, NOBODY, 0.0), ("2", pair, NOBODY, 1.5), ("3", pair, NOBODY, 1.0), ("4", pair, NOBODY, 2.0)],
    );
    let found = report(&verdicts, "judge", None, &options());
    assert_eq!((found.n_failed, found.n_verdicts, value(&found, "failed")), (1, 3, 25.0));
    assert!((value(&found, "tie") - 100.0 / 3.0).abs() < 1e-12);
    assert!(["agreement", "bias", "prefers_first", "prefers_own", "spearman"].iter().all(|name| found.metric(name).is_none()));
}

#[test]
fn places_are_what_the_judge_saw_and_both_orders_are_compared() {
    let mut verdicts = Verdicts::default();
    let mut ask = |instruction: &str, preference: Preference, shown| {
        let comparison = Comparison::new(Instruction::new(instruction, None), "x", "y");
        let annotation = Annotation { shown, ..Annotation::new("judge", preference) };
        let source = Source { judge: "judge", member: "judge" };
        verdicts.add(source, &Judgement::new(comparison, Ok(annotation)), Shown::Recorded);
    };
    // Always the answer that was shown first, but for the last pair, where it is the same answer twice.
    ask("1", Preference::First, ShownOrder::AsGiven);
    ask("1", Preference::Second, ShownOrder::Swapped);
    ask("2", Preference::Second, ShownOrder::Swapped);
    ask("3", Preference::First, ShownOrder::AsGiven);
    ask("3", Preference::First, ShownOrder::Swapped);
    let found = report(&verdicts, "judge", None, &options());
    assert_eq!((value(&found, "prefers_first"), value(&found, "swap_consistency")), (80.0, 50.0));
    let noisy = report(&verdicts, "judge", None, &JudgeOptions { p_flip: 0.25, ..options() });
    // Of two coins and two verdicts: ¼ of the pairs stay as they are, the others agree by half.
    assert_eq!((value(&noisy, "prefers_first"), value(&noisy, "swap_consistency")), (65.0, 50.0));
}

#[test]
fn a_verdict_from_both_orders_counts_as_two() {
    let mut verdicts = Verdicts::default();
    let comparison = Comparison::new(Instruction::new("i", None), "z", "y");
    let mut annotation = Annotation::new("judge", Preference::Tie);
    annotation.notes.extend([("as_given".to_owned(), 1.into()), ("swapped".to_owned(), 2.into())]);
    let judgement = Judgement::new(comparison, Ok(annotation));
    verdicts.add(Source { judge: "judge", member: "judge" }, &judgement, Shown::Recorded);
    let found = report(&verdicts, "judge", None, &options());
    assert_eq!((value(&found, "prefers_first"), value(&found, "swap_consistency"), value(&found, "tie")), (100.0, 0.0, 100.0));
}

#[test]
fn preferring_oneself_is_told_from_being_good() {
    let mut verdicts = Verdicts::default();
    let row = |i: &'static str, code: f64| (i, ["x", "y"], ["gpt-4o", "claude-2"], code);
    // People take GPT's answer twice in four, the judge of its family three times.
    add(&mut verdicts, "people", "ann", &[row("1", 1.0), row("2", 1.0), row("3", 2.0), row("4", 2.0)]);
    add(&mut verdicts, "my_gpt4", "my_gpt4", &[row("1", 1.0), row("2", 1.0), row("3", 1.0), row("4", 2.0)]);
    let found = report(&verdicts, "my_gpt4", Some("people"), &options());
    assert_eq!((value(&found, "prefers_own"), value(&found, "own_excess")), (75.0, 25.0));
    assert!(is_same_family("weighted_alpaca_eval_gpt4_turbo", "gpt-3.5-turbo-0301"));
    assert!(is_same_family("my_llama_judge", "meta-llama/Llama-3.1-8B") && is_same_family("x", "x"));
    assert!(!is_same_family("weighted_alpaca_eval_gpt4_turbo", "alpaca-farm-ppo-sim-gpt4-20k"));
    assert!(!is_same_family("claude", "gpt-4") && !is_same_family("longest", "claude"));
}

/// Three models against a baseline on 40 instructions, won as often as `shares` says.
fn contest(verdicts: &mut Verdicts, judge: &str, shares: [usize; 3]) {
    for (model, share) in ["m1", "m2", "m3"].into_iter().zip(shares) {
        for i in 0..40 {
            let (instruction, answer) = (format!("{i}"), format!("{model} says {i}"));
            let code = if i % 10 < share { 2.0 } else { 1.0 };
            add(verdicts, judge, judge, &[(&instruction, ["ref", &answer], ["baseline", model], code)]);
        }
    }
}

#[test]
fn rankings_follow_win_rates_and_noise_blurs_them() {
    let mut verdicts = Verdicts::default();
    contest(&mut verdicts, "people", [2, 5, 8]);
    contest(&mut verdicts, "same", [3, 4, 9]);
    contest(&mut verdicts, "turned", [8, 5, 2]);
    let same = report(&verdicts, "same", Some("people"), &options());
    assert_eq!((value(&same, "spearman"), same.models.as_slice()), (1.0, &["m1", "m2", "m3"].map(String::from)[..]));
    assert!(value(&same, "pearson") > 0.9);
    assert_eq!(value(&report(&verdicts, "turned", Some("people"), &options()), "spearman"), -1.0);
    let noisy = report(&verdicts, "same", Some("people"), &JudgeOptions { p_flip: 0.4, ..options() });
    assert!(value(&noisy, "spearman") < 0.9 && value(&noisy, "spearman") > 0.1, "{noisy:?}");
    let ranking = [("m1", 1.0), ("m2", 3.0), ("m3", 2.0), ("other", 9.0)].map(|(name, rank)| (name.to_owned(), rank));
    let given = JudgeOptions { ranking: Some(ranking.into()), ..options() };
    assert_eq!(value(&report(&verdicts, "same", None, &given), "ranking_spearman"), 0.5);
    let few = JudgeOptions { least_verdicts: 41, ..options() };
    assert!(report(&verdicts, "same", Some("people"), &few).metric("spearman").is_none());
    let matrix = pairwise(&verdicts, 50, Seed::root(0));
    assert_eq!((matrix.len(), matrix[0].n), (3, 120));
    assert!((matrix[0].agreement - 90.0).abs() < 1e-9, "{matrix:?}");
}
