//! An experiment supplies what its methods ask for, whatever kind of feedback that is; says what is missing before it runs; and
//! repeats methods with several seeds.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use farmhand::core::component::{ComponentInfo, components};
use farmhand::core::{BuildContext, CheckpointKind, ComponentKind, Device, FeedbackKind, LearnerSpec, Requirements};
use serde_json::Value;

use crate::command::{Finished, farmhand, files_below, fixture};
use crate::learners::small_options;

/// Options that keep a learner smaller than alone.
const SMALLER: [(&str, u64); 6] =
    [("epochs", 1), ("steps", 2), ("rounds", 1), ("batch_size", 8), ("rollout_size", 8), ("max_new_tokens", 8)];

/// Every learner that makes a policy, with small options.
fn learners() -> Vec<(&'static ComponentInfo, Value, Requirements)> {
    // The program knows nothing of what is compiled into this test.
    let is_known = |info: &&ComponentInfo| info.kind == ComponentKind::Learner && info.package != env!("CARGO_PKG_NAME");
    let all = components().into_iter().filter(is_known);
    let learners = all.map(|info| {
        let defaults: Value = serde_json::from_str(&(info.defaults)()).expect("JSON");
        let mut options = small_options(&defaults.to_string());
        // Who answers each instruction once has a reason.
        if defaults.pointer("/sampling/n") == Some(&1.into()) {
            options["sampling"]["n"] = 1.into();
        }
        for (key, value) in SMALLER {
            if let Some(option) = options.get_mut(key) {
                *option = value.into();
            }
        }
        let spec = LearnerSpec::from_json(info.name, &options.to_string()).expect(info.name);
        let requires = spec.build(&BuildContext::new(Device::Cpu, Path::new("."))).expect(info.name).requires();
        (info, options, requires)
    });
    learners.filter(|(_, _, requires)| requires.produces == CheckpointKind::CausalLm).collect()
}

/// The method that a learner is; `sft` itself cannot name one.
fn method_of(info: &ComponentInfo) -> String {
    format!("by_{}", info.name)
}

/// The tiny experiment with these methods instead of its own, and more tables.
fn experiment(dir: &Path, methods: &[(&ComponentInfo, &Value)], more: &str) {
    let tiny = std::fs::read_to_string(fixture("tiny.toml")).expect("readable");
    let mut document: toml::Table = tiny.parse().expect("TOML");
    let mut table = toml::Table::new();
    for (info, options) in methods {
        let options = toml::Value::try_from(without_nulls((*options).clone())).expect("options are TOML");
        let learner = toml::Table::from_iter([(info.name.to_owned(), options)]);
        table.insert(method_of(info), toml::Table::from_iter([("learner".to_owned(), learner.into())]).into());
    }
    document.insert("methods".to_owned(), table.into());
    let mut text = String::new();
    write!(text, "{}\n{more}\n", toml::to_string(&document).expect("TOML")).expect("written");
    std::fs::write(dir.join("experiment.toml"), text).expect("written");
}

/// TOML knows no null.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(table) => {
            Value::Object(table.into_iter().filter(|(_, v)| !v.is_null()).map(|(key, v)| (key, without_nulls(v))).collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(without_nulls).collect()),
        other => other,
    }
}

fn run(dir: &Path, more: &[&str]) -> Finished {
    let mut args = vec!["run", "experiment.toml"];
    args.extend(more);
    farmhand(dir, &args)
}

const RATINGS: &str = "[feedback.ratings]\nquality = { bradley_terry = {} }\nverbosity = { length = {} }\n";

fn file<'a>(files: &'a BTreeMap<String, String>, name: &str) -> &'a str {
    files.get(name).unwrap_or_else(|| panic!("no `{name}` among {:?}", files.keys().collect::<Vec<_>>()))
}

/// The text files of the run.
fn run_files(dir: &Path) -> BTreeMap<String, String> {
    let text = |(name, bytes): (std::path::PathBuf, Vec<u8>)| Some((name.to_str()?.to_owned(), String::from_utf8(bytes).ok()?));
    files_below(&dir.join("runs/tiny")).into_iter().filter_map(text).collect()
}

fn records(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[test]
fn every_learner_can_be_a_method_of_one_experiment() {
    let dir = tempfile::tempdir().expect("a folder");
    let learners = learners();
    let methods: Vec<_> = learners.iter().map(|(info, options, _)| (*info, options)).collect();
    experiment(dir.path(), &methods, RATINGS);
    let plan = run(dir.path(), &["--dry-run"]).expect_success().stdout;
    for (info, ..) in &learners {
        assert!(plan.contains(&format!("learn-{} ", method_of(info))), "no `{}` in:\n{plan}", info.name);
    }
    let kinds: Vec<FeedbackKind> = learners.iter().map(|(_, _, requires)| requires.feedback).collect();
    for (stage, wanted) in [
        ("score", kinds.contains(&FeedbackKind::Scored) || kinds.contains(&FeedbackKind::RankedLists)),
        ("label", kinds.contains(&FeedbackKind::Labelled)),
        ("rate", kinds.contains(&FeedbackKind::Rated)),
    ] {
        let planned = plan.lines().any(|line| line.trim_start().starts_with(&format!("{stage} ")));
        assert_eq!(planned, wanted, "stage `{stage}` in:\n{plan}");
    }
}

/// One learner for each kind of feedback, and one that asks the annotator; two seeds; run twice.
#[test]
fn every_kind_of_feedback_is_made_once_and_the_label_budget_is_told() {
    let dir = tempfile::tempdir().expect("a folder");
    let learners = learners();
    let mut chosen: Vec<&(&ComponentInfo, Value, Requirements)> = Vec::new();
    for learner in &learners {
        let key = |requires: Requirements| (requires.feedback, requires.annotator);
        if !chosen.iter().any(|other| key(other.2) == key(learner.2)) {
            chosen.push(learner);
        }
    }
    let methods: Vec<_> = chosen.iter().map(|(info, options, _)| (*info, options)).collect();
    experiment(dir.path(), &methods, RATINGS);
    let done = run(dir.path(), &["--set", "seeds=[3, 0]", "--set", "sample.sampling.n=3"]).expect_success();
    let files = run_files(dir.path());
    let n_annotated = records(file(&files, "annotate/summary.json"))[0]["n_comparisons"].as_u64().expect("a count");
    for (info, _, requires) in &chosen {
        assert!(done.stdout.contains(&method_of(info)), "no `{}` in:\n{}", info.name, done.stdout);
        let models: Vec<String> = [0, 3]
            .map(|seed| format!("learn-{}@{seed}/checkpoint/model.safetensors", method_of(info)))
            .map(|name| blake(&dir.path().join("runs/tiny").join(name)))
            .into();
        assert_ne!(models[0], models[1], "`{}` learns the same with two seeds", info.name);
        let report = file(&files, &format!("evaluate-{}@3/report.json", method_of(info)));
        let reports: Value = serde_json::from_str(report).expect("JSON");
        let metrics = reports.as_array().expect("a list").iter().flat_map(|report| report["metrics"].as_array().expect("a list"));
        let n_labels = metrics.filter(|metric| metric["name"] == "n_labels").map(|metric| metric["value"].as_f64()).next();
        let n_labels = n_labels.flatten().expect("told") as u64;
        match (requires.feedback, requires.annotator) {
            (FeedbackKind::Demonstrations, false) => assert_eq!(n_labels, 0, "`{}`", info.name),
            (_, false) => assert_eq!(n_labels, n_annotated, "`{}`", info.name),
            (_, true) => {
                let asked = records(file(&files, &format!("learn-{}@3/labels.json", method_of(info))))[0]["n_asked"].as_u64();
                assert!(asked.is_some_and(|asked| asked > 0 && n_labels >= asked), "`{}`: {asked:?} of {n_labels}", info.name);
            }
        }
    }
    let has = |kind: FeedbackKind| chosen.iter().any(|(_, _, requires)| requires.feedback == kind);
    if has(FeedbackKind::Scored) || has(FeedbackKind::RankedLists) {
        let scored = records(file(&files, "score/scored.jsonl"));
        assert_eq!(scored.len(), 3 * 48);
        let lists = records(file(&files, "score/ranked_lists.jsonl"));
        let scores = |list: &Value| {
            list["scores"].as_array().expect("a list").iter().map(|s| s.as_f64().expect("a number")).collect::<Vec<_>>()
        };
        assert!(!lists.is_empty() && lists.iter().all(|list| scores(list).is_sorted_by(|a, b| a >= b)));
    }
    if has(FeedbackKind::Labelled) {
        let labelled = records(file(&files, "label/labelled.jsonl"));
        let n_pairs = records(file(&files, "annotate/preferences.jsonl")).len();
        assert_eq!(labelled.len(), 2 * n_pairs);
        assert_eq!(labelled.iter().filter(|answer| answer["desirable"] == true).count(), n_pairs);
    }
    if has(FeedbackKind::Rated) {
        let rated = records(file(&files, "rate/rated.jsonl"));
        let levels = |name: &str| rated.iter().map(|answer| answer["ratings"][name].as_f64().expect("rated")).collect::<Vec<_>>();
        assert!(levels("quality").iter().all(|level| (0.0..=4.0).contains(level) && level.fract() == 0.0));
        assert!(levels("verbosity").contains(&4.0));
    }
    let again = run(dir.path(), &["--set", "seeds=[3, 0]", "--set", "sample.sampling.n=3"]).expect_success();
    assert_eq!(again.stdout, done.stdout);
}

fn blake(path: &Path) -> String {
    farmhand::core::run::file_hash(path).expect("readable")
}

#[test]
fn a_method_goes_on_from_another_and_keeps_its_reference() {
    let dir = tempfile::tempdir().expect("a folder");
    let tiny = std::fs::read_to_string(fixture("tiny.toml")).expect("readable");
    let more = "[methods.a_second]\ninit = \"dpo\"\nreference = \"sft\"\nlearner.dpo = { epochs = 1, batch_size = 8, optim = { lr = 1e-3 } }\n\
                [methods.a_best]\ninit = \"dpo\"\npolicy.best_of_n = { n = 2 }\n";
    std::fs::write(dir.path().join("experiment.toml"), format!("{tiny}\n{more}")).expect("written");
    let plan = run(dir.path(), &["--dry-run"]).expect_success().stdout;
    let place = |stage: &str| plan.find(stage).unwrap_or_else(|| panic!("no `{stage}` in:\n{plan}"));
    assert!(place("learn-dpo ") < place("learn-a_second "), "{plan}");
    for (set, words) in [
        ("methods.dpo.init=\"a_second\"", "a circle"),
        ("methods.dpo.init=\"best_of_4\"", "method `best_of_4` learns nothing"),
        ("methods.dpo.reference=\"dop\"", "unknown method `dop`"),
        ("methods.best_of_4.reference=\"sft\"", "a method without a `learner` has no reference policy"),
        ("seeds=[1, 1]", "1 stands there twice"),
    ] {
        run(dir.path(), &["--dry-run", "--set", set]).expect_error(&[words], None);
    }
    run(dir.path(), &[]).expect_success();
    let files = run_files(dir.path());
    let manifest: Value = serde_json::from_str(file(&files, "manifest.json")).expect("JSON");
    let inputs = manifest["stages"]["learn-a_second"]["inputs"].to_string();
    assert!(inputs.contains("learn-dpo/checkpoint") && inputs.contains("sft/checkpoint"), "{inputs}");
    assert!(manifest["stages"]["generate-a_best"]["inputs"].to_string().contains("learn-dpo/checkpoint"));
}

#[test]
fn too_little_for_a_method_is_told_before_anything_runs() {
    let dir = tempfile::tempdir().expect("a folder");
    let learners = learners();
    let of = |kind: FeedbackKind| learners.iter().find(|(_, _, requires)| requires.feedback == kind);
    if let Some((info, options, _)) = of(FeedbackKind::Rated) {
        experiment(dir.path(), &[(*info, options)], "");
        run(dir.path(), &[])
            .expect_error(&["learns from rated completions, and nothing rates answers"], Some("feedback.files.rated"));
    }
    if let Some((info, options, _)) = of(FeedbackKind::Scored).or(of(FeedbackKind::RankedLists)) {
        let more = "[feedback]\nscores.reward_model.bradley_terry = {}\n";
        experiment(dir.path(), &[(*info, options)], more);
        let text = std::fs::read_to_string(dir.path().join("experiment.toml")).expect("readable");
        let mut document: toml::Table = text.parse().expect("TOML");
        document.remove("reward_model");
        std::fs::write(dir.path().join("experiment.toml"), toml::to_string(&document).expect("TOML")).expect("written");
        run(dir.path(), &[]).expect_error(&["this reward model has nothing to load"], Some("[reward_model]"));
        let scored = run(dir.path(), &["--dry-run", "--set", "feedback.scores=annotations"]).expect_success();
        assert!(scored.stdout.contains("score "), "{}", scored.stdout);
    }
    let prompts = learners.iter().find(|(_, _, requires)| requires.feedback == FeedbackKind::Prompts);
    let (info, options, _) = prompts.expect("ppo");
    experiment(dir.path(), &[(*info, options)], "");
    run(dir.path(), &["--set", "data.split.unlabeled=0"])
        .expect_error(&["learns from the `unlabeled` split, which has no records"], Some("data.split.unlabeled"));
    run(dir.path(), &["--set", "feedback.files.rated=nowhere.jsonl"])
        .expect_error(&["there is no data file", "nowhere.jsonl"], None);
    run(dir.path(), &["--set", "feedback.rating_levels=1"])
        .expect_error(&["feedback.rating_levels", "expected 0 or at least 2"], None);
}

#[test]
fn the_example_configurations_can_be_run() {
    let dir = tempfile::tempdir().expect("a folder");
    for name in [
        "quickstart",
        "compare-methods",
        "over-optimisation",
        "expectations",
        "judges",
        "swap-annotators",
        "alpaca-farm-pool",
        "external-programs",
    ] {
        let config = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("examples/configs/{name}.toml"));
        let plan = farmhand(dir.path(), &["run", config.to_str().expect("a path"), "--dry-run"]).expect_success();
        assert!(plan.stdout.contains("leaderboard, charts, page"), "{}", plan.stdout);
    }
}
