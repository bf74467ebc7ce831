//! The reward model that options mean when they name none: the one that the experiment trains, or what scores in its place.

use farmhand_core::config::{ExperimentConfig, trained_names};
use farmhand_core::{Error, Result, RewardModelSpec};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::reward_models::stage_of;
use super::to_json;

/// Reward models that, without a `model` of their own, are the one that the experiment trains.
const TRAINED: [&str; 3] = [PLAIN, "attributes", "preference_model"];

/// The one of them that is only a score: without any option it is the experiment's reward model, whatever that is.
const PLAIN: &str = "bradley_terry";

/// Reward models that hold no language model in this process.
const WITHOUT_MODEL: [&str; 5] = ["length", "http", "command", "rubric", "ranking"];

/// Whether options name a reward model that the experiment trains, at any depth.
pub(super) fn asks_trained_reward_model(options: &Value) -> bool {
    asks_default_reward_model(options) || !trained_names(options).is_empty()
}

/// Whether options hold a reward model that names none to load, at any depth.
pub(super) fn asks_default_reward_model(options: &Value) -> bool {
    !default_reward_models(options).is_empty()
}

/// The reward models in options that name none to load, at any depth, each as the path of its table.
pub(super) fn default_reward_models(options: &Value) -> Vec<String> {
    fn visit(value: &Value, path: &str, found: &mut Vec<String>) {
        match value {
            Value::Object(table) => {
                for (key, value) in table {
                    let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                    if TRAINED.contains(&key.as_str()) && value.is_object() && value.get("model").is_none_or(Value::is_null) {
                        found.push(path.clone());
                    }
                    visit(value, &path, found);
                }
            }
            Value::Array(items) => items.iter().enumerate().for_each(|(i, item)| visit(item, &format!("{path}[{i}]"), found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    visit(options, "", &mut found);
    found
}

/// What scores for a reward model of the experiment that is not trained; `None` for one that is, and where there is none.
pub(in crate::pipeline) fn untrained_scorer<'a>(name: Option<&str>, config: &'a ExperimentConfig) -> Option<&'a RewardModelSpec> {
    stage_of(name, config).filter(|stage| stage.learner.is_none())?.scorer.as_ref()
}

/// Whether nothing is there to load for options that name no model, when they mean this reward model of the experiment.
pub(super) fn is_untrained(name: Option<&str>, config: &ExperimentConfig) -> bool {
    match stage_of(name, config) {
        Some(stage) => stage.learner.is_none(),
        // A name that does not exist is a problem of its own.
        None => name.is_none(),
    }
}

/// A component as the experiment means it: with `untrained`, the scorer of a reward model that is not trained, in the place of every
/// plain `bradley_terry` that names no model.
///
/// # Errors
/// When the component cannot be read with it.
pub(super) fn meant<S: Clone + Serialize + DeserializeOwned>(spec: &S, untrained: Option<&RewardModelSpec>) -> Result<S> {
    let Some(scorer) = untrained else { return Ok(spec.clone()) };
    let mut options = to_json(spec);
    if put_in_place(&mut options, &to_json(scorer)) == 0 {
        return Ok(spec.clone());
    }
    serde_json::from_value(options).map_err(|error| {
        Error::invalid_config("options that name no reward model cannot be read with the scorer of the experiment's")
            .with_source(error)
    })
}

/// The reward models in options that name none to load, without those that [`meant`] puts a scorer in the place of.
pub(super) fn without_place(mut options: Value) -> Vec<String> {
    put_in_place(&mut options, &Value::Null);
    default_reward_models(&options)
}

/// Puts the scorer in, and tells in how many places.
fn put_in_place(options: &mut Value, scorer: &Value) -> usize {
    match options {
        Value::Object(table) => {
            let is_plain = |inner: &Value| inner.as_object().is_some_and(serde_json::Map::is_empty);
            if table.len() == 1 && table.get(PLAIN).is_some_and(is_plain) {
                *options = scorer.clone();
                return 1;
            }
            table.values_mut().map(|value| put_in_place(value, scorer)).sum()
        }
        Value::Array(items) => items.iter_mut().map(|item| put_in_place(item, scorer)).sum(),
        _ => 0,
    }
}

/// Whether a scorer holds a language model in this process; a component that is not built in may.
pub(in crate::pipeline) fn holds_model(scorer: &RewardModelSpec) -> bool {
    fn without(scorer: &Value) -> bool {
        let Value::Object(table) = scorer else { return false };
        table.iter().all(|(name, options)| {
            let members = options.get("members").and_then(Value::as_array).filter(|_| name == "ensemble");
            WITHOUT_MODEL.contains(&name.as_str()) || members.is_some_and(|members| members.iter().all(without))
        })
    }
    !without(&to_json(scorer))
}

#[cfg(test)]
mod tests {
    use farmhand_core::{AnnotatorSpec, PolicySpec};
    use serde_json::json;

    use super::*;

    #[test]
    fn reward_models_without_a_model_are_found_at_any_depth() {
        let options = json!({
            "ensemble": { "members": [{ "length": {} }, { "bradley_terry": { "max_batch": 4 } }, { "attributes": { "model": "DIR" } }] },
            "inner": { "preference_model": { "model": null } },
        });
        assert_eq!(default_reward_models(&options), ["ensemble.members[1].bradley_terry", "inner.preference_model"]);
        assert!(asks_trained_reward_model(&json!({ "bradley_terry": { "model": "trained:second" } })));
        assert!(!asks_trained_reward_model(&json!({ "bradley_terry": { "model": "owner/name" } })));
    }

    #[test]
    fn a_scorer_stands_where_the_reward_model_of_the_experiment_is_meant() {
        let scorer = RewardModelSpec::from_json("length", r#"{"scale":2.0}"#).expect("options");
        let best = PolicySpec::from_json("best_of_n", r#"{"n":3}"#).expect("options");
        let written = to_json(&meant(&best, Some(&scorer)).expect("read"));
        assert_eq!(written["best_of_n"]["reward_model"], json!({ "length": { "scale": 2.0 } }));
        assert_eq!(written["best_of_n"]["n"], 3);
        assert_eq!(to_json(&meant(&best, None).expect("as it is")), to_json(&best));

        // What says more about itself than that stays, and what names a model.
        for options in [r#"{"model":{"bradley_terry":{"max_batch":4}}}"#, r#"{"model":{"bradley_terry":{"model":"DIR"}}}"#] {
            let judge = AnnotatorSpec::from_json("reward_judge", options).expect("options");
            assert_eq!(to_json(&meant(&judge, Some(&scorer)).expect("as it is")), to_json(&judge));
        }
    }

    #[test]
    fn scorers_that_hold_no_model_are_known() {
        let holds = |name: &str, options: &str| holds_model(&RewardModelSpec::from_json(name, options).expect("options"));
        assert!(!holds("length", "{}"));
        assert!(!holds("ensemble", r#"{"members":[{"length":{}},{"http":{}}]}"#));
        assert!(holds("ensemble", r#"{"members":[{"length":{}},{"likelihood":{}}]}"#));
        assert!(holds("bradley_terry", r#"{"model":"DIR"}"#));
    }
}
