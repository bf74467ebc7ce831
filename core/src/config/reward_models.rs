//! The reward models of an experiment, trained here or not, and the names under which its options find them.

use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::experiment::{ExperimentConfig, is_folder_name};
use crate::component::{LearnerSpec, RewardModelSpec};
use crate::error::Problem;

/// A reward model: a learner that trains it on the experiment's feedback, a scorer, or both.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RewardModelStage {
    /// The learner, a component that makes a reward model: `learner.reward_modeling = { … }`; or `preference_modeling`, or
    /// `attribute_regression` where answers are rated. Unset: nothing is trained, and `scorer` says what scores.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learner: Option<LearnerSpec>,
    /// Share of the feedback, in [0, 1), held out to measure the reward model's accuracy; 0 holds none out. Reward models with the
    /// same share hold out the same instructions. Without a `learner` nothing is held out: it is measured on what the learners of
    /// others leave, on this share where there are none, and with 0 not at all.
    #[serde(default = "default_held_out")]
    pub held_out: f64,
    /// How the trained model scores answers, for methods and the evaluation; unset: `bradley_terry`, for what `preference_modeling`
    /// and `attribute_regression` make `preference_model` and `attributes`. One that names no `model` is the trained one, also
    /// inside an `ensemble`. Without a `learner`, what scores in its place: `scorer.http = { … }`, `scorer.command = { … }`,
    /// `scorer.bradley_terry.model = "owner/name"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scorer: Option<RewardModelSpec>,
}

fn default_held_out() -> f64 {
    0.1
}

impl RewardModelStage {
    /// Values out of range, paths relative to the stage's table.
    pub(super) fn problems(&self) -> Vec<Problem> {
        let learner = self.learner.as_ref().map(LearnerSpec::problems).unwrap_or_default();
        let scorer = self.scorer.as_ref().map(RewardModelSpec::problems).unwrap_or_default();
        let mut problems: Vec<Problem> = learner.into_iter().map(|problem| problem.under("learner")).collect();
        problems.extend(scorer.into_iter().map(|problem| problem.under("scorer")));
        if self.learner.is_none() && self.scorer.is_none() {
            let problem = Problem::new("", "expected a `learner`, a `scorer` or both");
            problems.push(problem.with_hint(
                "train one with `learner.reward_modeling = {}`, or take one that exists, for example `scorer.bradley_terry.model = \"DIR\"`",
            ));
        }
        if !(0.0..1.0).contains(&self.held_out) {
            problems.push(Problem::new("held_out", format!("expected a number in [0, 1), got {}", self.held_out)));
        }
        problems
    }
}

/// What stands before the name of a reward model of the experiment where a model is named.
const TRAINED: &str = "trained:";

/// The name of the reward model of the experiment that a model's name means: `second` of `trained:second`.
pub fn trained_name(model: &Path) -> Option<&str> {
    model.to_str()?.strip_prefix(TRAINED)
}

/// The reward models of the experiment that options name, at any depth, each with the path of the option.
pub fn trained_names(options: &Value) -> Vec<(String, String)> {
    fn visit(value: &Value, path: &str, found: &mut Vec<(String, String)>) {
        let under = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
        match value {
            Value::Object(table) => table.iter().for_each(|(key, value)| visit(value, &under(key), found)),
            Value::Array(items) => items.iter().enumerate().for_each(|(i, item)| visit(item, &format!("{path}[{i}]"), found)),
            Value::String(text) => {
                found.extend(trained_name(Path::new(text)).map(|name| (path.to_owned(), name.to_owned())));
            }
            _ => {}
        }
    }
    let mut found = Vec::new();
    visit(options, "", &mut found);
    found
}

/// Names of reward models that there are not, that are not trained, or only later than they are needed; paths from the
/// experiment's top.
pub(super) fn reference_problems(config: &ExperimentConfig) -> Vec<Problem> {
    let mut problems = Vec::new();
    let known: Vec<&str> = config.reward_models.keys().map(String::as_str).collect();
    for name in known.iter().filter(|name| !is_folder_name(name)) {
        let message = format!("`{name}` cannot name a reward model: letters, digits, `-` and `_`");
        problems.push(Problem::new(format!("reward_models.{name}"), message));
    }
    let unknown = |path: String, name: &str| {
        let problem = Problem::new(path, format!("the experiment trains no reward model `{name}`"));
        problem.with_hint(match known.is_empty() {
            true => format!("add `[reward_models.{name}]` with a `learner`"),
            false => super::did_you_mean(name, &known),
        })
    };
    for (method, name) in config.methods.iter().filter_map(|(method, config)| Some((method, config.reward_model.as_ref()?))) {
        if !config.reward_models.contains_key(name) {
            problems.push(unknown(format!("methods.{method}.reward_model"), name));
        }
    }
    let options = serde_json::to_value(config).expect("a configuration is JSON");
    for (path, name) in trained_names(&options) {
        let is_in = |table: &str| path.strip_prefix(table).is_some_and(|rest| rest.starts_with(['.', '[']));
        let Some(stage) = config.reward_models.get(&name) else {
            problems.push(unknown(path, &name));
            continue;
        };
        if stage.learner.is_none() {
            let problem =
                Problem::new(&path, format!("reward model `{name}` is not trained, so there is no model of it to load"));
            problems.push(
                problem
                    .with_hint(format!("name what `reward_models.{name}.scorer` names, or add `reward_models.{name}.learner`")),
            );
        } else if ["model", "sft", "sample", "annotator"].into_iter().any(is_in) {
            problems.push(Problem::new(&path, format!("reward model `{name}` is trained only after this")));
        } else if path.starts_with("reward_model") && !path.contains(".scorer.") {
            problems.push(Problem::new(&path, format!("reward model `{name}` is trained beside this one")));
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_stage_without_learner_and_scorer_is_a_problem() {
        let problems = RewardModelStage { learner: None, held_out: 0.1, scorer: None }.problems();
        let told: Vec<&str> = problems.iter().map(|problem| problem.message.as_str()).collect();
        assert_eq!(told, ["expected a `learner`, a `scorer` or both"]);
    }

    #[test]
    fn names_are_found_at_any_depth_with_their_path() {
        let options = json!({
            "scorer": { "ensemble": { "members": [{ "bradley_terry": { "model": "trained:a" } }, { "length": { "scale": 1.0 } }] } },
            "model": "trained:b-2", "text": "was trained:no", "path": "folder/trained:c",
        });
        let expected = [("model", "b-2"), ("scorer.ensemble.members[0].bradley_terry.model", "a")];
        let mut found = trained_names(&options);
        found.sort();
        assert_eq!(found, expected.map(|(path, name)| (path.to_owned(), name.to_owned())));
        assert_eq!(trained_name(Path::new("trained:b")), Some("b"));
        assert_eq!(trained_name(Path::new("hf:owner/name")), None);
    }
}
