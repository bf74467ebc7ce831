//! Every type that travels between stages survives its JSON form and its file.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::Path;

use farmhand_core::data::{
    ReadOptions, ReadReport, read_comparisons, read_completions, read_demonstrations, read_instructions, read_judgements,
    read_preference_pairs, read_ranked_lists, read_scored_completions, write_jsonl,
};
use farmhand_core::types::{
    Annotation, Comparison, Completion, Demonstration, EvalReport, Failure, FinishReason, Instruction, Judgement, Message,
    Metric, Outcome, Preference, PreferencePair, RankedList, Role, SamplingParams, ScoredCompletion, ShownOrder,
};
use farmhand_core::{ErrorKind, Result};
use proptest::option;
use proptest::prelude::*;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;

/// Any text: controls, line ends, quotes, characters outside the basic plane.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![any::<String>(), "[ -~\n\r\t\"\\\\]{0,40}"]
}

fn number() -> impl Strategy<Value = f64> {
    prop_oneof![-1e6..1e6f64, Just(0.0), Just(f64::MAX), Just(f64::MIN_POSITIVE), Just(1.0 / 3.0)]
}

fn role() -> impl Strategy<Value = Role> {
    prop_oneof![Just(Role::System), Just(Role::User), Just(Role::Assistant)]
}

fn instruction() -> impl Strategy<Value = Instruction> {
    let message = (role(), text()).prop_map(|(role, content)| Message { role, content });
    let history = prop::collection::vec(message, 0..3);
    (text(), option::of(text()), history, option::of(text())).prop_map(|(words, input, history, dataset)| {
        let instruction = Instruction::with_history(words, input.as_deref(), history);
        Instruction { dataset, ..instruction }
    })
}

fn demonstration() -> impl Strategy<Value = Demonstration> {
    (instruction(), text()).prop_map(|(instruction, output)| Demonstration { instruction, output })
}

fn completion() -> impl Strategy<Value = Completion> {
    let finish = prop_oneof![Just(FinishReason::Stop), Just(FinishReason::StopString), Just(FinishReason::Length)];
    (instruction(), text(), text(), any::<u32>(), finish, any::<u32>(), option::of(number())).prop_map(
        |(instruction, output, model, sample, finish, n_tokens, log_prob)| Completion {
            instruction,
            output,
            model,
            sample,
            finish,
            n_tokens,
            log_prob,
        },
    )
}

fn comparison() -> impl Strategy<Value = Comparison> {
    (instruction(), text(), text(), option::of(text()), option::of(text())).prop_map(
        |(instruction, first, second, generator_1, generator_2)| {
            let comparison = Comparison::new(instruction, first, second);
            Comparison { generator_1, generator_2, ..comparison }
        },
    )
}

fn preference() -> impl Strategy<Value = Preference> {
    // The file holds 1 + p, so a probability survives when 1 + p − 1 gives it back: multiples of 2⁻⁵² do.
    (0u64..=1 << 52).prop_map(|n| Preference::from_p_second(n as f64 / (1u64 << 52) as f64).expect("a probability"))
}

fn annotation() -> impl Strategy<Value = Annotation> {
    let known =
        (option::of(text()), option::of([number(), number()]), option::of(number()), option::of(number()), option::of(number()));
    (preference(), text(), any::<[bool; 3]>(), known).prop_map(
        |(preference, annotator, [swapped, cached, noised], (raw, scores, margin, cost_usd, time_secs))| Annotation {
            preference,
            annotator,
            shown: if swapped { ShownOrder::Swapped } else { ShownOrder::AsGiven },
            raw,
            scores,
            margin,
            notes: BTreeMap::from([("explanation".to_owned(), json!({ "why": [1, "x"] }))]),
            cost_usd,
            time_secs,
            cached,
            noised,
        },
    )
}

fn judgement() -> impl Strategy<Value = Judgement> {
    let failure = text().prop_map(|message| Outcome::Failure(Failure::new(ErrorKind::RemoteService, message)));
    let outcome = prop_oneof![annotation().prop_map(Outcome::Annotation), failure];
    (comparison(), outcome).prop_map(|(comparison, outcome)| Judgement { comparison, outcome })
}

fn preference_pair() -> impl Strategy<Value = PreferencePair> {
    let sides = (text(), text()).prop_filter("identical answers are no pair", |(chosen, rejected)| chosen != rejected);
    let extra = (option::of(0.500001..=1.0f64), option::of(0.0..1e6f64));
    (instruction(), sides, extra).prop_map(|(instruction, (chosen, rejected), (p_chosen, margin))| PreferencePair {
        instruction,
        chosen,
        rejected,
        p_chosen,
        margin,
    })
}

fn ranked_list() -> impl Strategy<Value = RankedList> {
    (instruction(), prop::collection::vec((text(), number()), 2..5)).prop_map(|(instruction, mut answers)| {
        answers.sort_by(|a, b| b.1.total_cmp(&a.1));
        let (outputs, scores) = answers.into_iter().unzip();
        RankedList { instruction, outputs, scores }
    })
}

fn scored_completion() -> impl Strategy<Value = ScoredCompletion> {
    (completion(), number()).prop_map(|(completion, score)| ScoredCompletion { completion, score })
}

/// A report on metrics with every field set or unset.
fn eval_report() -> impl Strategy<Value = EvalReport> {
    let metric =
        (text(), number(), option::of(number()), option::of([number(), number()]), any::<usize>(), option::of(any::<bool>()))
            .prop_map(|(name, value, std_error, interval, n, higher_is_better)| Metric {
                unit: name.chars().rev().collect(),
                name,
                value,
                std_error,
                interval,
                n,
                higher_is_better,
            });
    (text(), option::of(text()), option::of(text()), prop::collection::vec(metric, 0..3))
        .prop_map(|(model, reference, annotator, metrics)| EvalReport { model, reference, annotator, metrics })
}

fn through_json<T: Serialize + DeserializeOwned>(value: &T) -> T {
    let line = serde_json::to_string(value).expect("serialises");
    assert!(!line.contains('\n'), "one record is one line");
    serde_json::from_str(&line).expect("reads its own form")
}

type Read<T> = fn(&Path, &ReadOptions) -> Result<(Vec<T>, ReadReport)>;

fn through_file<T: Serialize + PartialEq + Debug>(values: &[T], read: Read<T>) -> Result<(), TestCaseError> {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("records.jsonl.zst");
    write_jsonl(&path, values).expect("written");
    let (back, report) = read(&path, &ReadOptions::default()).expect("read");
    prop_assert_eq!(report.n_records, values.len());
    prop_assert_eq!(back, values);
    Ok(())
}

/// Swapping bits at random, any bytes at all: a reader answers with data or an error, never a panic.
fn reads_without_panic(bytes: &[u8]) {
    let dir = tempfile::tempdir().expect("a folder");
    let options = ReadOptions { bad_records: farmhand_core::data::BadRecords::Skip, parquet: None, scale: None };
    for name in ["x.jsonl", "x.json"] {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).expect("written");
        let outcomes = [
            read_demonstrations(&path, &options).is_ok(),
            read_preference_pairs(&path, &options).is_ok(),
            read_judgements(&path, &options).is_ok(),
            read_scored_completions(&path, &options).is_ok(),
        ];
        assert!(!bytes.is_empty() || outcomes == [false; 4], "nothing is no data");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn json_gives_the_same_value_back(
        report in eval_report(), one in comparison(), judged in judgement(), scored in scored_completion(),
    ) {
        prop_assert_eq!(through_json(&report), report);
        prop_assert_eq!(through_json(&one), one);
        prop_assert_eq!(through_json(&judged), judged);
        prop_assert_eq!(through_json(&scored), scored);
    }

    #[test]
    fn sampling_parameters_come_back(n in 1u32.., temperature in 0.0..3.0f64, stop in prop::collection::vec(text(), 0..3)) {
        let sampling = SamplingParams { n, temperature, stop, ..SamplingParams::default() };
        prop_assert_eq!(through_json(&sampling), sampling);
    }

    #[test]
    fn files_give_the_same_records_back(
        demonstrations in prop::collection::vec(demonstration(), 1..3),
        completions in prop::collection::vec(completion(), 1..3),
        comparisons in prop::collection::vec(comparison(), 1..3),
        judgements in prop::collection::vec(judgement(), 1..3),
        pairs in prop::collection::vec(preference_pair(), 1..3),
        lists in prop::collection::vec(ranked_list(), 1..3),
        scored in prop::collection::vec(scored_completion(), 1..3),
        only in instruction(),
    ) {
        through_file(&demonstrations, read_demonstrations)?;
        through_file(&completions, read_completions)?;
        through_file(&comparisons, read_comparisons)?;
        through_file(&judgements, read_judgements)?;
        through_file(&pairs, read_preference_pairs)?;
        through_file(&lists, read_ranked_lists)?;
        through_file(&scored, read_scored_completions)?;
        through_file(&[only], read_instructions)?;
    }

    #[test]
    fn readers_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..60), pair in preference_pair(), at: prop::sample::Index, byte: u8) {
        reads_without_panic(&bytes);
        let mut damaged = serde_json::to_vec(&[pair]).expect("serialises");
        let at = at.index(damaged.len());
        damaged[at] = byte;
        reads_without_panic(&damaged);
        reads_without_panic(&damaged[..at]);
    }
}
