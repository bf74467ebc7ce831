//! With `seeding` set to one of the Python programs', member, noise and order are theirs, example by example.
//!
//! `golden/alpaca_farm_draws.jsonl` was made with Python's own `random` (`golden/make_alpaca_farm_draws.py`). Where
//! `../shared/data/alpaca_eval` lies beside the repository, every stored order of AlpacaEval's annotations is compared, too.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use farmhand_annotators as _;
use farmhand_core::data::Records;
use farmhand_core::run::StageDir;
use farmhand_core::types::{Annotation, Comparison, Instruction, Preference, ShownOrder};
use farmhand_core::{AnnotatorSpec, BuildContext, CancelFlag, Device, NoEvents, PollingExecutor, RunContext, Seed};
use serde_json::{Value, json};

/// AlpacaFarm's thirteen, in the order of their file.
const MEMBERS: [&str; 13] = [
    "gpt4_1",
    "gpt4_2",
    "gpt4_3",
    "gpt4_4",
    "gpt4_5",
    "chatgpt_1",
    "chatgpt_2",
    "chatgpt_3",
    "chatgpt_4",
    "davinci003_1",
    "davinci003_2",
    "davinci003_3",
    "davinci003_4",
];

fn annotate(name: &str, options: &Value, comparisons: &[Comparison]) -> Vec<Annotation> {
    let dir = tempfile::tempdir().expect("a folder");
    let stage = StageDir::create(dir.path()).expect("made");
    let (cancel, executor, events, device) = (CancelFlag::new(), PollingExecutor, NoEvents, Device::Cpu);
    // The run's seed takes no part.
    let ctx = RunContext { stage: &stage, seed: Seed::root(4711), device, events: &events, cancel: &cancel, executor: &executor };
    let annotator = AnnotatorSpec::from_json(name, &options.to_string()).expect(name);
    let annotator = annotator.build(&BuildContext::new(device, dir.path())).expect("built");
    let results = ctx.block_on(annotator.annotate(comparisons, &ctx));
    results.into_iter().map(|result| result.expect("a verdict")).collect()
}

/// A pool of thirteen raters under AlpacaFarm's names.
fn thirteen(seeding: &str, seed: &Value, is_weighted: bool) -> Value {
    let weight = |i: usize| if is_weighted { 1.0 + (i % 4) as f64 } else { 1.0 };
    let member = |(i, name)| json!({ "name": name, "weight": weight(i), "annotator": { "rater": {} } });
    let members: Vec<Value> = MEMBERS.iter().enumerate().map(member).collect();
    json!({ "members": members, "seeding": seeding, "seeding_seed": seed })
}

fn is_swapped(annotation: &Annotation) -> bool {
    annotation.shown == ShownOrder::Swapped
}

#[test]
fn member_noise_and_order_are_pythons() {
    let lines: Vec<Value> = include_str!("golden/alpaca_farm_draws.jsonl")
        .lines()
        .map(|line| serde_json::from_str(line).expect("a golden line"))
        .collect();
    let mut groups: BTreeMap<(&str, String), Vec<&Value>> = BTreeMap::new();
    for line in &lines {
        groups.entry((line["seeding"].as_str().expect("a name"), line["seed"].to_string())).or_default().push(line);
    }
    assert_eq!(groups.len(), 6);
    for ((seeding, _), lines) in groups {
        let seed = &lines[0]["seed"];
        let comparison = |line: &&Value| {
            let instruction = Instruction::new(line["instruction"].as_str().expect("a text"), line["input"].as_str());
            Comparison::new(instruction, "one answer", "the other answer, which is longer")
        };
        let comparisons: Vec<Comparison> = lines.iter().map(comparison).collect();
        for (is_weighted, key) in [(false, "member"), (true, "weighted_member")] {
            let judged = annotate("pool", &thirteen(seeding, seed, is_weighted), &comparisons);
            let members: Vec<&str> = judged.iter().map(|annotation| annotation.annotator.as_str()).collect();
            assert_eq!(
                members,
                lines.iter().map(|line| line[key].as_str().expect("a name")).collect::<Vec<_>>(),
                "{seeding} {key}"
            );
        }
        for (i, p) in [0.25, 0.1].into_iter().enumerate() {
            let options = json!({ "p": p, "seeding": seeding, "seeding_seed": seed, "inner": { "rater": {} } });
            let judged = annotate("label_noise", &options, &comparisons);
            let noise = |annotation: &Annotation| annotation.noised.then_some(annotation.preference.code());
            let expected: Vec<Option<f64>> = lines.iter().map(|line| line["noise"][i].as_f64()).collect();
            assert_eq!(judged.iter().map(noise).collect::<Vec<_>>(), expected, "{seeding} {seed} p {p}");
        }
        let options = json!({ "seeding": seeding, "seeding_seed": seed, "inner": { "rater": {} } });
        let judged: Vec<bool> = annotate("order_swap", &options, &comparisons).iter().map(is_swapped).collect();
        assert_eq!(judged, lines.iter().map(|line| line["swapped"].as_bool().expect("a flag")).collect::<Vec<_>>(), "{seeding}");
    }
}

/// AlpacaEval's folder of `../shared/data`, if it is there.
#[expect(clippy::print_stderr, reason = "a skipped check is said aloud")]
fn alpaca_eval_data() -> Option<PathBuf> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/alpaca_eval");
    if !folder.is_dir() {
        eprintln!("skipped: there is no {}", folder.display());
        return None;
    }
    Some(folder)
}

fn records(path: &Path) -> Vec<Value> {
    let records = Records::open(path, None).expect("a file of records");
    records.map(|record| Value::Object(record.expect("a record").fields)).collect()
}

/// One comparison for each of AlpacaEval's 805 instructions.
fn instructions(data: &Path) -> Vec<Comparison> {
    let comparison = |record: Value| {
        let instruction = Instruction::new(record["instruction"].as_str().expect("a text"), None);
        Comparison::new(instruction, "one answer", "the other answer, which is longer")
    };
    records(&data.join("instructions.jsonl.gz")).into_iter().map(comparison).collect()
}

#[test]
fn every_stored_order_is_reproduced() {
    let Some(data) = alpaca_eval_data() else { return };
    let judged = annotate("order_swap", &json!({ "seeding": "alpaca_eval", "inner": { "rater": {} } }), &instructions(&data));
    let swapped: Vec<bool> = judged.iter().map(is_swapped).collect();
    assert_eq!(swapped.iter().filter(|swapped| **swapped).count(), 406);
    let mut n_compared = 0;
    for judge in std::fs::read_dir(data.join("replies")).expect("a folder") {
        for file in std::fs::read_dir(judge.expect("a folder").path()).expect("a folder") {
            for record in records(&file.expect("a file").path()) {
                if let Some(stored) = record["swapped"].as_bool() {
                    let index = record["index"].as_u64().expect("an index") as usize;
                    assert_eq!(swapped[index], stored, "instruction {index}");
                    n_compared += 1;
                }
            }
        }
    }
    assert!(n_compared >= 3000, "{n_compared} orders compared");
}

#[test]
fn the_thirteen_and_the_noise_fall_on_alpaca_evals_instructions_as_in_python() {
    let Some(data) = alpaca_eval_data() else { return };
    let comparisons = instructions(&data);
    let judged = annotate("pool", &thirteen("alpaca_farm", &json!(0), false), &comparisons);
    let first: Vec<&str> = judged[..6].iter().map(|annotation| annotation.annotator.as_str()).collect();
    assert_eq!(first, ["chatgpt_4", "chatgpt_2", "chatgpt_3", "davinci003_3", "davinci003_2", "davinci003_3"]);
    let count = |name: &&str| judged.iter().filter(|annotation| annotation.annotator == **name).count();
    assert_eq!(MEMBERS.iter().map(count).collect::<Vec<_>>(), [53, 63, 54, 56, 47, 76, 77, 68, 78, 48, 63, 65, 57]);
    let options = json!({ "p": 0.25, "seeding": "alpaca_farm", "inner": { "rater": {} } });
    let noised: Vec<Annotation> =
        annotate("label_noise", &options, &comparisons).into_iter().filter(|annotation| annotation.noised).collect();
    let count = |preference| noised.iter().filter(|annotation| annotation.preference == preference).count();
    assert_eq!((count(Preference::First), count(Preference::Second)), (198, 205));
}
