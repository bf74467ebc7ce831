//! Several reward models in one experiment: trained in the order in which their feedback is there, found by name, measured on the
//! same pairs; and what cannot be is told before anything runs.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use crate::command::{Finished, farmhand, fixture};

const SMALL: &str = "epochs = 1\nbatch_size = 8\noptim = { lr = 1e-3 }\n";

/// Two Bradley-Terry models in an ensemble, a preference model that judges, attributes that steer.
fn several() -> String {
    format!(
        "[reward_model.scorer.ensemble]\n\
         members = [{{ bradley_terry = {{}} }}, {{ bradley_terry = {{ model = \"trained:second\" }} }}]\ncombine = \"worst_case\"\n\
         [reward_models.second.learner.reward_modeling]\n{SMALL}\
         [reward_models.judge]\nheld_out = 0.2\n[reward_models.judge.learner.preference_modeling]\n{SMALL}\
         [reward_models.attributes.learner.attribute_regression]\n{SMALL}\
         [feedback.ratings]\nquality = {{ bradley_terry = {{}} }}\nverbosity = {{ length = {{}} }}\n\
         [methods.nash]\nreward_model = \"judge\"\nannotator.preference_model = {{}}\n\
         [methods.nash.learner.nash_md]\nsteps = 2\nprompts_per_step = 4\nmax_new_tokens = 8\n\
         [methods.steer.learner.steerlm]\n{SMALL}\
         [methods.steer.learner.steerlm.bootstrap]\nsampling = {{ max_new_tokens = 8 }}\n\
         attribute_models.quality.attributes = {{ model = \"trained:attributes\", weights = {{ quality = 1.0 }} }}\n\
         attribute_models.verbosity.attributes = {{ model = \"trained:attributes\", weights = {{ verbosity = 1.0 }} }}\n\
         [methods.steer.policy.conditioned]\n\
         [methods.after]\ninit = \"steer\"\n[methods.after.learner.dpo]\n{SMALL}"
    )
}

fn experiment(dir: &Path, more: &str) {
    let tiny = std::fs::read_to_string(fixture("tiny.toml")).expect("readable");
    std::fs::write(dir.join("experiment.toml"), format!("{tiny}\n{more}\n")).expect("written");
}

fn run(dir: &Path, more: &[&str]) -> Finished {
    farmhand(dir, &[&["run", "experiment.toml"], more].concat())
}

#[test]
fn one_file_trains_an_ensemble_a_preference_model_and_attributes() {
    let dir = tempfile::tempdir().expect("a folder");
    experiment(dir.path(), &several());
    let plan = run(dir.path(), &["--dry-run"]).expect_success().stdout;
    let place = |stage: &str| plan.find(&format!("\n  {stage} ")).unwrap_or_else(|| panic!("no `{stage}` in:\n{plan}"));
    let order = ["reward-model", "reward-model-judge", "reward-model-second", "rate", "reward-model-attributes"];
    let order = order.into_iter().chain(["measure-reward-models", "learn-nash"]).map(place).collect::<Vec<_>>();
    assert!(order.is_sorted(), "{plan}");

    let done = run(dir.path(), &[]).expect_success();
    let read = |name: &str| std::fs::read_to_string(dir.path().join("runs/tiny").join(name)).expect(name);
    let measured: BTreeMap<String, Value> = read("measure-reward-models/report.jsonl")
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON"))
        .map(|report| (report["model"].as_str().expect("a name").to_owned(), report))
        .collect();
    let scorers: Vec<(&str, &str)> =
        measured.iter().map(|(name, report)| (name.as_str(), report["scorer"].as_str().expect("a name"))).collect();
    assert_eq!(
        scorers,
        [
            ("reward-model", "ensemble"),
            ("reward-model-attributes", "attributes"),
            ("reward-model-judge", "preference_model"),
            ("reward-model-second", "bradley_terry"),
        ]
    );
    for report in measured.values() {
        assert!(report["n"].as_u64().is_some_and(|n| n > 0), "{report}");
        for number in ["accuracy", "accuracy_low", "brier", "calibration_error"] {
            assert!(report["numbers"][number].as_f64().is_some_and(|share| (0.0..=1.0).contains(&share)), "{report}");
        }
    }
    assert!(done.stderr.contains("held-out pairs rightly"), "{}", done.stderr);

    // The answers are scored by every reward model that scores one answer alone.
    let report: Value = serde_json::from_str(&read("evaluate-dpo/report.json")).expect("JSON");
    let metrics = report.as_array().expect("a list").iter().flat_map(|report| report["metrics"].as_array().expect("a list"));
    let rewards: Vec<&str> =
        metrics.filter_map(|metric| metric["name"].as_str()).filter(|name| name.starts_with("mean_reward")).collect();
    assert_eq!(rewards, ["mean_reward", "mean_reward/attributes", "mean_reward/second"]);
    let scores: Value = serde_json::from_str(read("evaluate-dpo/scores.jsonl").lines().next().expect("a line")).expect("JSON");
    assert!(scores["rewards"]["second"].is_f64() && scores["rewards"]["reward_model"].is_f64(), "{scores}");

    let manifest: Value = serde_json::from_str(&read("manifest.json")).expect("JSON");
    let reads = |stage: &str, model: &str| {
        let inputs = manifest["stages"][stage]["inputs"].to_string();
        assert!(inputs.contains(&format!("{model}/checkpoint")), "`{stage}` reads {inputs}");
    };
    reads("learn-nash", "reward-model-judge");
    reads("learn-steer", "reward-model-attributes");
    reads("learn-ppo", "reward-model");
    reads("generate-best_of_4", "reward-model");
    assert_eq!(read("learn-nash/labels.json").trim(), r#"{"n_asked":0}"#);
    assert!(read("run.toml").contains("[reward_models.judge.learner.preference_modeling]"), "{}", read("run.toml"));
    assert_eq!(read("learn-after/checkpoint/controls.json"), read("learn-steer/checkpoint/controls.json"));
    assert!(done.stderr.contains("the model keeps them"), "{}", done.stderr);

    let again = run(dir.path(), &[]).expect_success();
    assert_eq!(again.stdout, done.stdout);
    assert!(again.stderr.contains("measure-reward-models: done before"), "{}", again.stderr);
}

#[test]
fn names_that_cannot_be_are_told_before_anything_runs() {
    let dir = tempfile::tempdir().expect("a folder");
    experiment(dir.path(), &several());
    for (set, words, hint) in [
        ("methods.nash.reward_model=\"jugde\"", "the experiment trains no reward model `jugde`", "did you mean `judge`?"),
        ("reward_models.judge.held_out=1.0", "expected a number in [0, 1)", ""),
        ("sample.policy.best_of_n.reward_model.bradley_terry.model=\"trained:second\"", "is trained only after this", ""),
        (
            "feedback.ratings.quality.attributes.model=\"trained:attributes\"",
            "a circle: `reward-model-attributes` learns",
            "rate with",
        ),
        ("methods.dpo.annotator.pool={}", "learner `dpo` asks no annotator", ""),
        ("methods.best_of_4.annotator.pool={}", "a method without a `learner` asks no annotator", ""),
    ] {
        let set = match set.starts_with("feedback") {
            // In the place of the one that stands there.
            true => "feedback.ratings={ quality = { attributes = { model = \"trained:attributes\" } } }",
            false => set,
        };
        run(dir.path(), &["--dry-run", "--set", set]).expect_error(&[words], (!hint.is_empty()).then_some(hint));
    }
    let scorer = "reward_model.scorer={ ensemble = { members = [{ bradley_terry = { model = \"trained:third\" } }] } }";
    run(dir.path(), &["--dry-run", "--set", scorer])
        .expect_error(&["members[0].bradley_terry.model", "no reward model `third`"], Some("known"));
    // Without `[reward_model]` a method has to say which it means.
    let tiny = std::fs::read_to_string(fixture("tiny.toml")).expect("readable");
    let without = tiny.replace("[reward_model.learner.reward_modeling]", "[reward_models.only.learner.reward_modeling]");
    std::fs::write(dir.path().join("experiment.toml"), without).expect("written");
    run(dir.path(), &["--dry-run"])
        .expect_error(&["learner `ppo` needs a reward model"], Some("`methods.ppo.reward_model = \"only\"`"));
}
