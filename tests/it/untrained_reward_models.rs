//! Experiments that learn from reward models which they do not train: a rule, a program, an ensemble of what others trained.

use std::path::Path;

use serde_json::Value;

use crate::command::{Finished, farmhand, fixture};

/// The tiny experiment without its reward model and with more tables.
fn experiment(dir: &Path, more: &str) {
    let tiny = std::fs::read_to_string(fixture("tiny.toml")).expect("readable");
    let (before, rest) = tiny.split_once("[reward_model.learner.reward_modeling]").expect("it trains one");
    let (_, after) = rest.split_once("\n[").expect("methods");
    std::fs::write(dir.join("experiment.toml"), format!("{before}{more}\n[{after}\n")).expect("written");
}

fn run(dir: &Path, more: &[&str]) -> Finished {
    farmhand(dir, &[&["run", "experiment.toml"], more].concat())
}

/// A rule, and a program beside it that best-of-n asks.
fn rule_and_program() -> String {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/external/reward_model.py");
    format!(
        "[reward_model.scorer.length]\ntarget = 20\n\
         [reward_models.program.scorer.command]\ncommand = [\"python3\", {:?}]\noptions = {{ words = 4 }}\n",
        program.display().to_string()
    )
}

fn read(dir: &Path, name: &str) -> String {
    std::fs::read_to_string(dir.join("runs/tiny").join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn json_lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// What the evaluation measured of a model, by name.
fn metric(dir: &Path, model: &str, name: &str) -> Option<f64> {
    let reports: Value = serde_json::from_str(&read(dir, &format!("evaluate-{model}/report.json"))).expect("JSON");
    let metrics = reports.as_array().expect("a list").iter().flat_map(|report| report["metrics"].as_array().expect("a list"));
    metrics.clone().find(|metric| metric["name"] == name).and_then(|metric| metric["value"].as_f64())
}

#[test]
fn ppo_and_best_of_n_learn_from_a_rule_and_a_program_and_nothing_trains_a_reward_model() {
    let dir = tempfile::tempdir().expect("a folder");
    experiment(dir.path(), &rule_and_program());
    let more = ["--set", "methods.best_of_4.reward_model=program"];
    let plan = run(dir.path(), &[&more[..], &["--dry-run"]].concat()).expect_success().stdout;
    assert!(!plan.contains("\n  reward-model"), "{plan}");
    assert!(plan.contains("`ppo` by the scores of `length`") && plan.contains("on annotated pairs"), "{plan}");
    assert!(plan.contains("PPO (policy, value model, reference)"), "{plan}");

    let done = run(dir.path(), &more).expect_success();
    let stages: Value = serde_json::from_str(&read(dir.path(), "manifest.json")).expect("JSON");
    let stages = stages["stages"].as_object().expect("a table");
    assert!(!stages.keys().any(|name| name.starts_with("reward-model")), "{:?}", stages.keys());
    assert_eq!(stages["learn-ppo"]["options"]["options"]["scorer"]["length"]["target"], 20);
    let chosen_by = &stages["generate-best_of_4"]["options"]["options"]["policy"]["best_of_n"]["reward_model"];
    assert_eq!(chosen_by["command"]["options"]["words"], 4, "{chosen_by}");

    // Rewards without annotations.
    let of = |model, name| metric(dir.path(), model, name).unwrap_or_else(|| panic!("{model} has no {name}"));
    assert_eq!((of("ppo", "n_labels"), of("best_of_4", "n_labels")), (0.0, 0.0));
    assert!(of("dpo", "n_labels") > 0.0);
    assert!(of("ppo", "mean_reward") <= 0.0, "points off the target");
    assert!(of("best_of_4", "mean_reward/program") > of("sft", "mean_reward/program"), "it chose by the program");

    // Both measured on the same pairs, and told apart from what is trained.
    let measured = json_lines(&read(dir.path(), "measure-reward-models/report.jsonl"));
    let scorers: Vec<&str> = measured.iter().map(|report| report["scorer"].as_str().expect("a name")).collect();
    assert_eq!(scorers, ["length", "command"]);
    assert_eq!(measured[0]["n"], measured[1]["n"]);
    let page = read(dir.path(), "report/index.html");
    assert!(page.contains("Not trained in this run: <code>reward_model</code>, which scores by <code>length</code>"), "{page}");

    let again = run(dir.path(), &more).expect_success();
    assert_eq!(again.stdout, done.stdout);
    let notes: Vec<&str> = again.stderr.lines().filter(|line| line.ends_with(':')).collect();
    assert!(notes.is_empty() && again.stderr.contains("learn-ppo: done before"), "{}", again.stderr);

    // Another target is another experiment for those that it rewards, and for nobody else.
    let other = [&more[..], &["--set", "reward_model.scorer.length.target=5"]].concat();
    run(dir.path(), &other).expect_error(&["scorers.reward-model.length.target` (20 → 5)"], Some("--redo"));
    let other = run(dir.path(), &[&other[..], &["--redo"]].concat()).expect_success().stderr;
    assert!(other.contains("learn-ppo: again") && other.contains("measure-reward-models: again"), "{other}");
    assert!(other.contains("learn-dpo: done before") && other.contains("generate-best_of_4: done before"), "{other}");
}

#[test]
fn trained_and_untrained_reward_models_stand_beside_each_other_on_the_same_pairs() {
    let dir = tempfile::tempdir().expect("a folder");
    let more = "[reward_model.scorer.ensemble]\n\
                members = [{ length = { target = 20 } }, { bradley_terry = { model = \"trained:second\" } }]\n\
                [reward_models.second]\nheld_out = 0.2\n\
                [reward_models.second.learner.reward_modeling]\nepochs = 1\nbatch_size = 8\noptim = { lr = 1e-3 }\n\
                [reward_models.unmeasured]\nheld_out = 0.0\nscorer = { length = {} }\n";
    experiment(dir.path(), more);
    // What learns nothing is left out; best-of-n chooses by the ensemble.
    let config = dir.path().join("experiment.toml");
    let mut table: toml::Table = std::fs::read_to_string(&config).expect("read").parse().expect("TOML");
    let methods = table.get_mut("methods").and_then(toml::Value::as_table_mut).expect("methods");
    methods.retain(|name, _| name == "best_of_4");
    std::fs::write(&config, toml::to_string(&table).expect("TOML")).expect("written");
    run(dir.path(), &[]).expect_success();

    let measured = json_lines(&read(dir.path(), "measure-reward-models/report.jsonl"));
    let of = |key: &str| measured.iter().map(|report| report[key].clone()).collect::<Vec<_>>();
    assert_eq!(of("model"), ["reward-model", "reward-model-second"]);
    assert_eq!(of("scorer"), ["ensemble", "bradley_terry"]);
    assert_eq!(of("n")[0], of("n")[1]);
    let pairs = read(dir.path(), "annotate/preferences.jsonl").lines().count() as u64;
    assert!(measured[0]["n"].as_u64().is_some_and(|n| n * 2 < pairs), "held out from the one that learned: {measured:?}");

    let scores = json_lines(&read(dir.path(), "evaluate-best_of_4/scores.jsonl"));
    for name in ["reward_model", "second", "unmeasured"] {
        assert!(scores.iter().all(|answer| answer["rewards"][name].is_f64()), "{name}: {scores:?}");
    }
    // The ensemble holds what the annotations taught.
    assert!(metric(dir.path(), "best_of_4", "n_labels").is_some_and(|n| n > 0.0));
    let manifest: Value = serde_json::from_str(&read(dir.path(), "manifest.json")).expect("JSON");
    let inputs = manifest["stages"]["generate-best_of_4"]["inputs"].to_string();
    assert!(inputs.contains("reward-model-second/checkpoint"), "{inputs}");
}

#[test]
fn what_has_nothing_to_load_or_to_score_is_told_before_anything_runs() {
    let dir = tempfile::tempdir().expect("a folder");
    let refuse = |more: &str, words: &[&str], hint: &str| {
        experiment(dir.path(), more);
        run(dir.path(), &["--dry-run"]).expect_error(words, Some(hint));
    };
    let nothing = "this reward model has nothing to load: `reward_model` has no `learner`";
    refuse(
        "[reward_model]\nheld_out = 0.2\n",
        &["`reward_model`: expected a `learner`, a `scorer` or both"],
        "scorer.bradley_terry",
    );
    refuse("[reward_model.scorer.bradley_terry]\n", &["`reward_model.scorer.bradley_terry`", nothing], "`reward_model.learner`");
    refuse(
        "[reward_model.scorer.ensemble]\nmembers = [{ length = {} }, { bradley_terry = {} }]\n",
        &["`reward_model.scorer.ensemble.members[1].bradley_terry`", nothing],
        "set `model` to one that exists",
    );
    refuse(
        "[reward_model.scorer.length]\n[methods.nash]\nannotator.preference_model = {}\nlearner.nash_md = {}\n",
        &["`methods.nash.annotator.preference_model`", nothing],
        "add `reward_model.learner`",
    );
    refuse(
        "[reward_model.scorer.length]\n[reward_models.other.scorer.length]\n\
         [methods.best]\npolicy.best_of_n.reward_model.bradley_terry.model = \"trained:other\"\n",
        &["`methods.best.policy.best_of_n.reward_model.bradley_terry.model`", "reward model `other` is not trained"],
        "`reward_models.other.learner`",
    );
    // Best-of-n has nothing to choose by.
    refuse(
        "",
        &["`methods.best_of_4.policy.best_of_n.reward_model.bradley_terry`", "the experiment trains none"],
        "add `[reward_model]`",
    );
}
