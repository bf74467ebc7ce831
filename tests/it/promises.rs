//! Every registered policy, reward model, annotator and evaluator keeps its contract's promises: as many results as were asked for,
//! the same ones again, and none that depends on what is asked beside it. A new component is tested here before its author writes a
//! test; learners have `learners.rs`.

use std::path::Path;

use farmhand::core::component::{ComponentInfo, components, find_component};
use farmhand::core::run::StageDir;
use farmhand::core::types::{
    Annotation, Comparison, Completion, EvalReport, FinishReason, Instruction, Judgement, Outcome, Preference, Response,
    SamplingParams,
};
use farmhand::core::{
    AnnotatorSpec, BuildContext, CancelFlag, Checkpoint, ComponentKind, Device, EvaluationInputs, EvaluatorSpec, NoEvents,
    PolicySpec, PollingExecutor, RewardModelSpec, RunContext, Seed, checked,
};
use serde_json::{Value, json};

use crate::learners::{instructions, tiny_model};

/// Components that need a server, a file, a model with room for a judge's prompt or one trained for them; their crates test them with one.
const NEED_MORE: [(ComponentKind, &[&str]); 4] = [
    (ComponentKind::Policy, &["conditioned", "openai_chat", "openai_server"]),
    (
        ComponentKind::RewardModel,
        &["attributes", "bradley_terry", "http", "preference_model", "ranking", "rubric", "self_reward"],
    ),
    (
        ComponentKind::Annotator,
        &[
            "alpaca_eval",
            "chain_of_thought",
            "from_file",
            "human",
            "local_judge",
            "preference_model",
            "ranking",
            "rubric",
            "weighted",
        ],
    ),
    (ComponentKind::Evaluator, &[]),
];

/// Options without which a component has nothing to work with: what a wrapper wraps, which program is started.
fn needed(info: &ComponentInfo) -> Value {
    let python = |file: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/external").join(file);
        json!({ "command": ["python3", path] })
    };
    let rater = || json!({ "inner": { "rater": {} } });
    match (info.kind, info.name) {
        (ComponentKind::Policy, "best_of_n") => json!({ "n": 2, "reward_model": { "length": {} } }),
        (ComponentKind::RewardModel, "ensemble") => json!({ "members": [{ "length": {} }, { "likelihood": {} }] }),
        (ComponentKind::RewardModel, "command") => python("reward_model.py"),
        (ComponentKind::Annotator, "command") => python("annotator.py"),
        (ComponentKind::Evaluator, "command") => python("evaluator.py"),
        (ComponentKind::Annotator, "both_orders" | "cached" | "label_noise" | "order_swap") => rater(),
        (ComponentKind::Annotator, "reward_judge") => json!({ "model": { "length": {} } }),
        _ => json!({}),
    }
}

/// A folder with a tiny model to work in.
struct Desk {
    dir: tempfile::TempDir,
    model: Checkpoint,
    stage: StageDir,
    cancel: CancelFlag,
}

impl Desk {
    fn new() -> Self {
        tch::set_num_threads(1);
        let dir = tempfile::tempdir().expect("a folder");
        let model = tiny_model(&dir.path().join("model"));
        let stage = StageDir::create(dir.path().join("stage")).expect("a folder");
        Self { dir, model, stage, cancel: CancelFlag::new() }
    }

    fn building(&self) -> BuildContext<'_> {
        BuildContext { policy: Some(&self.model), ..BuildContext::new(Device::Cpu, self.dir.path()) }
    }

    fn context(&self) -> RunContext<'_> {
        RunContext {
            stage: &self.stage,
            seed: Seed::root(5),
            device: Device::Cpu,
            events: &NoEvents,
            cancel: &self.cancel,
            executor: &PollingExecutor,
        }
    }
}

/// The components of a kind that need nothing from outside.
fn testable(kind: ComponentKind) -> Vec<(&'static str, String)> {
    let need_more = NEED_MORE.iter().find(|(of, _)| *of == kind).map_or(&[][..], |(_, names)| names);
    let here = components().into_iter().filter(|info| info.kind == kind && !need_more.contains(&info.name));
    here.map(|info| (info.name, needed(info).to_string())).collect()
}

#[test]
fn what_needs_more_is_registered_under_that_name() {
    for (kind, names) in NEED_MORE {
        for name in names {
            assert!(find_component(kind, name).is_some(), "no {} `{name}` any more", kind.noun());
        }
    }
}

#[test]
fn policies_answer_each_instruction_alike_whatever_is_asked_beside_it() {
    let desk = Desk::new();
    let ctx = desk.context();
    let sampling = SamplingParams { n: 2, max_new_tokens: 8, ..SamplingParams::default() };
    let asked = instructions();
    for (name, options) in testable(ComponentKind::Policy) {
        let spec = PolicySpec::from_json(name, &options).unwrap_or_else(|error| panic!("policy `{name}`: {error}"));
        let mut policy = spec.build(&desk.building()).unwrap_or_else(|error| panic!("policy `{name}`: {error}"));
        let mut answers = |asked: &[Instruction]| -> Vec<Completion> {
            checked::generate(&mut *policy, asked, &sampling, &ctx).unwrap_or_else(|error| panic!("policy `{name}`: {error}"))
        };
        let all = answers(&asked);
        assert_eq!(all, answers(&asked), "policy `{name}` answers otherwise the second time");
        assert_eq!(all[4..6], answers(&asked[2..3]), "policy `{name}` answers otherwise when asked alone");
        assert_eq!(answers(&[]), [], "policy `{name}`");
    }
}

#[test]
fn reward_models_score_each_answer_alike_whatever_is_asked_beside_it() {
    let desk = Desk::new();
    let ctx = desk.context();
    let asked = instructions();
    let outputs = ["the number", "no", "", "number number number it is", "number 7 it is. Is it?"];
    let pairs = asked.iter().zip(outputs.iter().cycle());
    let items: Vec<_> = pairs.map(|(instruction, output)| Response { instruction, output }).collect();
    for (name, options) in testable(ComponentKind::RewardModel) {
        let spec = RewardModelSpec::from_json(name, &options).unwrap_or_else(|error| panic!("reward model `{name}`: {error}"));
        let mut model = spec.build(&desk.building()).unwrap_or_else(|error| panic!("reward model `{name}`: {error}"));
        let mut scores = |items: &[Response<'_>]| -> Vec<f64> {
            checked::score(&mut *model, items, &ctx).unwrap_or_else(|error| panic!("reward model `{name}`: {error}"))
        };
        let all = scores(&items);
        assert_eq!(all, scores(&items), "reward model `{name}` scores otherwise the second time");
        for (item, score) in items.iter().zip(&all) {
            let alone = scores(&[*item])[0];
            assert!((alone - score).abs() < 1e-5, "reward model `{name}`: {score} among others, {alone} alone");
        }
        assert_eq!(scores(&[]), [0.0; 0], "reward model `{name}`");
    }
}

#[test]
fn annotators_judge_each_pair_alike_wherever_it_stands() {
    let desk = Desk::new();
    let ctx = desk.context();
    let outputs =
        [("the number", "no"), ("a", "a"), ("", "number it is"), ("number 7 it is.", "number 7"), ("no?", "the number")];
    let pairs: Vec<Comparison> = instructions()
        .into_iter()
        .zip(outputs.into_iter().cycle())
        .map(|(instruction, (first, second))| Comparison::new(instruction, first, second))
        .collect();
    for (name, options) in testable(ComponentKind::Annotator) {
        let spec = AnnotatorSpec::from_json(name, &options).unwrap_or_else(|error| panic!("annotator `{name}`: {error}"));
        let annotator = spec.build(&desk.building()).unwrap_or_else(|error| panic!("annotator `{name}`: {error}"));
        let verdicts = |pairs: &[Comparison]| -> Vec<Preference> {
            let judgements = ctx.block_on(checked::annotate(&*annotator, pairs, &ctx));
            let judgements = judgements.unwrap_or_else(|error| panic!("annotator `{name}`: {error}"));
            let verdict = |judgement: &Judgement| match &judgement.outcome {
                Outcome::Annotation(annotation) => annotation.preference,
                other => panic!("annotator `{name}` came to no verdict: {other:?}"),
            };
            judgements.iter().map(verdict).collect()
        };
        let all = verdicts(&pairs);
        assert_eq!(all, verdicts(&pairs), "annotator `{name}` judges otherwise the second time");
        let mut turned: Vec<Comparison> = pairs.clone();
        turned.reverse();
        let mut of_turned = verdicts(&turned);
        of_turned.reverse();
        assert_eq!(all, of_turned, "annotator `{name}` looks at the order of the list");
        assert_eq!(all[3..4], verdicts(&pairs[3..4]), "annotator `{name}` judges otherwise when asked alone");
        assert_eq!(verdicts(&[]), [], "annotator `{name}`");
    }
}

#[test]
fn evaluators_measure_the_same_in_any_order_and_say_what_they_miss() {
    let desk = Desk::new();
    let answer = |(i, instruction): (usize, Instruction)| Completion {
        instruction: instruction.from_dataset(if i % 2 == 0 { "even" } else { "odd" }),
        output: format!("number {i} it is{}", ".".repeat(i % 3)),
        model: "dpo".into(),
        sample: 0,
        finish: if i == 3 { FinishReason::Length } else { FinishReason::Stop },
        n_tokens: 4 + i as u32,
        log_prob: None,
    };
    let mut completions: Vec<Completion> = instructions().into_iter().enumerate().map(answer).collect();
    let judged = |completion: &Completion| {
        let preference = [Preference::First, Preference::Second, Preference::Tie][completion.n_tokens as usize % 3];
        Judgement {
            comparison: Comparison::new(completion.instruction.clone(), "the number it is", completion.output.clone()),
            outcome: Outcome::Annotation(Annotation::new("judge", preference)),
        }
    };
    let mut judgements: Vec<Judgement> = completions.iter().map(judged).collect();
    let mut rewards: Vec<f64> = completions.iter().map(|completion| f64::from(completion.n_tokens)).collect();
    let mut reports = Vec::new();
    for turn in 0..2 {
        let inputs = EvaluationInputs { model: "dpo", completions: &completions, judgements: &judgements, rewards: &rewards };
        for (name, options) in testable(ComponentKind::Evaluator) {
            let spec = EvaluatorSpec::from_json(name, &options).unwrap_or_else(|error| panic!("evaluator `{name}`: {error}"));
            let evaluator = spec.build(&desk.building()).unwrap_or_else(|error| panic!("evaluator `{name}`: {error}"));
            let report = evaluator.evaluate(&inputs).unwrap_or_else(|error| panic!("evaluator `{name}`: {error}"));
            assert_eq!(report.model, "dpo", "evaluator `{name}`");
            assert!(!report.metrics.is_empty(), "evaluator `{name}` measured nothing");
            if turn == 0 {
                let again = evaluator.evaluate(&inputs).unwrap_or_else(|error| panic!("evaluator `{name}`: {error}"));
                assert_eq!(report, again, "evaluator `{name}` measures otherwise the second time");
            }
            // Nothing to look at is an error or a report of nothing, never a panic.
            let nothing = EvaluationInputs { model: "dpo", completions: &[], judgements: &[], rewards: &[] };
            if let Err(error) = evaluator.evaluate(&nothing) {
                assert!(!error.message().is_empty(), "evaluator `{name}`");
            }
            reports.push((name, report));
        }
        completions.reverse();
        judgements.reverse();
        rewards.reverse();
    }
    let (given, turned) = reports.split_at(reports.len() / 2);
    for ((name, given), (_, turned)) in given.iter().zip(turned) {
        let values =
            |report: &EvalReport| report.metrics.iter().map(|metric| (metric.name.clone(), metric.value)).collect::<Vec<_>>();
        for ((metric, a), (_, b)) in values(given).into_iter().zip(values(turned)) {
            assert!(
                (a - b).abs() < 1e-9 || a.is_nan() && b.is_nan(),
                "evaluator `{name}`, `{metric}`: {a}, in another order {b}"
            );
            assert!(a.is_finite(), "evaluator `{name}`, `{metric}`: {a}");
        }
    }
}
