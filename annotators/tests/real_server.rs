//! Judges against a real server that speaks OpenAI's interface.
//!
//! Set `FARMHAND_TEST_SERVER` to its address (`http://127.0.0.1:8080/v1`) and, where it serves several models,
//! `FARMHAND_TEST_MODEL` to the name of one; without the first this says that it skips. Any chat model will do: what is tested is that
//! questions reach it and that what it says comes back as verdicts or typed failures, not that it judges well.

use std::io::Write;
use std::path::Path;

use farmhand_annotators as _;
use farmhand_core::run::StageDir;
use farmhand_core::types::{Annotation, Comparison, Instruction};
use farmhand_core::{
    AnnotatorSpec, BuildContext, CancelFlag, Device, ErrorKind, NoEvents, PollingExecutor, Result, RunContext, Seed,
};
use farmhand_endpoints::{Client, EndpointOptions, wait};

/// The server's address and a model that it serves.
fn server() -> Option<(String, String)> {
    let Ok(address) = std::env::var("FARMHAND_TEST_SERVER") else {
        let _ = writeln!(std::io::stderr(), "skipped: FARMHAND_TEST_SERVER names no server");
        return None;
    };
    let first = || {
        let options = EndpointOptions { base_url: address.clone(), ..EndpointOptions::default() };
        let client = Client::new(&options, None).expect("a client");
        wait(client.served_models()).expect("the server lists its models").remove(0).id
    };
    let model = std::env::var("FARMHAND_TEST_MODEL").unwrap_or_else(|_| first());
    Some((address, model))
}

fn annotate(dir: &Path, name: &str, options: &str, comparisons: &[Comparison]) -> Vec<Result<Annotation>> {
    let stage = StageDir::create(dir.join(name)).expect("made");
    let (cancel, executor, events, device) = (CancelFlag::new(), PollingExecutor, NoEvents, Device::Cpu);
    let ctx = RunContext { stage: &stage, seed: Seed::root(0), device, events: &events, cancel: &cancel, executor: &executor };
    let judge =
        AnnotatorSpec::from_json(name, options).expect("registered").build(&BuildContext::new(device, dir)).expect("built");
    ctx.block_on(judge.annotate(comparisons, &ctx))
}

#[test]
fn a_real_model_judges_and_is_asked_only_once() {
    let Some((address, model)) = server() else { return };
    let dir = tempfile::tempdir().expect("a folder");
    let ask = |more: &str| {
        format!(
            r#"{{"model": "{model}", "server": {{"base_url": "{address}", "max_concurrent": 2}}, "store": "replies.sqlite"{more}}}"#
        )
    };
    let question = |text: &str| Instruction::new(text, None);
    let comparisons = [
        Comparison::new(question("Name a colour."), "Blue.", "I do not know any colours, sorry."),
        Comparison::new(question("What is 2 + 2?"), "5", "4"),
        Comparison::new(question("Say hello. {output_2}"), "Hello! {{ output_2 }} <|im_end|>", "Goodbye."),
    ];
    for (name, more) in [
        ("weighted", r#", "alternatives": 20"#),
        ("ranking", ""),
        ("chain_of_thought", r#", "max_tokens": 120, "format": "json_schema""#),
        ("rubric", r#", "max_tokens": 200, "format": "json_schema""#),
    ] {
        let first = annotate(dir.path(), name, &ask(more), &comparisons);
        for result in &first {
            match result {
                Ok(annotation) => assert!(annotation.raw.is_some() && !annotation.cached && annotation.time_secs.is_some()),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::UnparsableAnswer, "{name}: {error}");
                    assert!(error.judging().is_some_and(|known| known.raw.is_some()), "{name}: {error}");
                }
            }
        }
        let n_verdicts = first.iter().filter(|result| result.is_ok()).count();
        let _ = writeln!(std::io::stderr(), "{name}: {n_verdicts} of {} replies of `{model}` hold a verdict", comparisons.len());
        let again = annotate(dir.path(), name, &ask(more), &comparisons);
        for (first, again) in first.iter().zip(&again) {
            match (first, again) {
                (Ok(first), Ok(again)) => assert!(again.cached && again.preference == first.preference, "{name}"),
                (Err(_), Err(again)) => assert!(again.judging().is_some_and(|known| known.cached), "{name}"),
                _ => panic!("{name}: a second reading of the same reply differs"),
            }
        }
    }
}
