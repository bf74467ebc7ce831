//! The methods of an experiment: what each learns with, where it starts, how it answers, and in which order they run.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::experiment::is_folder_name;
use crate::component::{AnnotatorSpec, LearnerSpec, PolicySpec};
use crate::error::Problem;

/// One method: a learner, a way of sampling, or both.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MethodConfig {
    /// Where it starts: `sft`, or the name of a method whose model it goes on from; unset: `sft`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init: Option<String>,
    /// The frozen reference policy of a learner that has one: `sft`, or the name of a method; unset: where the method starts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// Keeps and evaluates the model after every so many of the learner's steps, ≥ 1, as a point of the method's curve, beside the
    /// one it ends with: optimiser steps, rounds of a learner that samples its own answers, or rounds of one that trains in rounds.
    /// Unset: the last model alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint_every: Option<u64>,
    /// What it learns with; unset: the model it starts from, as it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub learner: Option<LearnerSpec>,
    /// The reward model of a learner or a policy that asks one, by its name in `[reward_models]`; unset: `[reward_model]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reward_model: Option<String>,
    /// The annotator of a learner that asks one while it learns, for example `preference_model`; unset: the experiment's. What a
    /// reward model of the experiment judges costs no labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub annotator: Option<AnnotatorSpec>,
    /// How it answers; unset: `generate.policy`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<PolicySpec>,
}

impl MethodConfig {
    /// The methods whose models this one uses, in the order init, reference.
    fn uses(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let named = [("init", &self.init), ("reference", &self.reference)];
        named.into_iter().filter_map(|(key, name)| Some((key, name.as_deref().filter(|name| *name != "sft")?)))
    }
}

/// The names of the methods, each after those whose models it uses, otherwise by name. A method in a circle, which
/// [`ExperimentConfig::problems`](super::ExperimentConfig::problems) refuses, stands where it was met first.
pub fn methods_in_order(methods: &BTreeMap<String, MethodConfig>) -> Vec<&str> {
    fn visit<'a>(name: &'a str, methods: &'a BTreeMap<String, MethodConfig>, seen: &mut Vec<&'a str>, order: &mut Vec<&'a str>) {
        let Some((name, method)) = methods.get_key_value(name).filter(|_| !seen.contains(&name)) else { return };
        seen.push(name);
        for (_, used) in method.uses() {
            visit(used, methods, seen, order);
        }
        order.push(name);
    }
    let (mut seen, mut order) = (Vec::new(), Vec::new());
    for name in methods.keys() {
        visit(name, methods, &mut seen, &mut order);
    }
    order
}

/// What is wrong with the methods, paths from the experiment's top.
pub(super) fn method_problems(methods: &BTreeMap<String, MethodConfig>) -> Vec<Problem> {
    let mut problems = Vec::new();
    let order = methods_in_order(methods);
    let place = |name: &str| order.iter().position(|other| *other == name);
    for (name, method) in methods {
        let path = format!("methods.{name}");
        if !is_folder_name(name) || ["sft", "demonstrations"].contains(&name.as_str()) {
            let message =
                format!("`{name}` cannot name a method: letters, digits, `-` and `_`, and not `sft` or `demonstrations`");
            problems.push(Problem::new(&path, message));
        }
        if method.learner.is_none() && method.policy.is_none() {
            let problem = Problem::new(&path, "expected a `learner`, a `policy` or both");
            problems.push(problem.with_hint(format!("for example `methods.{name}.learner.dpo = {{}}`")));
        }
        if method.reference.is_some() && method.learner.is_none() {
            problems.push(Problem::new(format!("{path}.reference"), "a method without a `learner` has no reference policy"));
        }
        if let Some(every) = method.checkpoint_every {
            let path = format!("{path}.checkpoint_every");
            if every == 0 {
                problems.push(Problem::new(&path, "expected at least 1 step, got 0"));
            }
            if method.learner.is_none() {
                problems.push(Problem::new(path, "a method without a `learner` makes no steps"));
            }
        }
        for (key, used) in method.uses() {
            let path = format!("{path}.{key}");
            match methods.get(used) {
                None => {
                    let known: Vec<&str> = methods.keys().map(String::as_str).chain(["sft"]).collect();
                    let problem = Problem::new(path, format!("unknown method `{used}`"));
                    problems.push(problem.with_hint(super::did_you_mean(used, &known)));
                }
                Some(_) if place(used) >= place(name) => {
                    let message = format!("a circle: `{name}` needs the model of `{used}`, which needs the one of `{name}`");
                    problems.push(Problem::new(path, message));
                }
                Some(other) if other.learner.is_none() => {
                    let problem = Problem::new(path, format!("method `{used}` learns nothing, so it has no model of its own"));
                    problems.push(problem.with_hint("name a method with a `learner`, or `sft`"));
                }
                Some(_) => {}
            }
        }
        if method.annotator.is_some() && method.learner.is_none() {
            problems.push(Problem::new(format!("{path}.annotator"), "a method without a `learner` asks no annotator"));
        }
        let mut under = |key: &str, found: Vec<Problem>| {
            problems.extend(found.into_iter().map(|problem| problem.under(&format!("{path}.{key}"))));
        };
        under("learner", method.learner.as_ref().map(LearnerSpec::problems).unwrap_or_default());
        under("annotator", method.annotator.as_ref().map(AnnotatorSpec::problems).unwrap_or_default());
        under("policy", method.policy.as_ref().map(PolicySpec::problems).unwrap_or_default());
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    fn methods(uses: &[(&str, Option<&str>, Option<&str>)]) -> BTreeMap<String, MethodConfig> {
        let method = |init: Option<&str>, reference: Option<&str>| MethodConfig {
            init: init.map(str::to_owned),
            reference: reference.map(str::to_owned),
            ..MethodConfig::default()
        };
        uses.iter().map(|(name, init, reference)| ((*name).to_owned(), method(*init, *reference))).collect()
    }

    #[test]
    fn a_method_runs_after_those_whose_models_it_uses() {
        let chain =
            methods(&[("a", Some("c"), Some("sft")), ("b", None, Some("a")), ("c", Some("sft"), None), ("d", None, None)]);
        assert_eq!(methods_in_order(&chain), ["c", "a", "b", "d"]);
    }

    #[test]
    fn checkpoints_need_steps() {
        let kept = |every| MethodConfig { checkpoint_every: Some(every), ..MethodConfig::default() };
        let methods = BTreeMap::from([("a".to_owned(), kept(0)), ("b".to_owned(), kept(5))]);
        let paths: Vec<String> = method_problems(&methods).into_iter().map(|problem| problem.path).collect();
        let of = |name: &str| paths.iter().filter(|path| **path == format!("methods.{name}.checkpoint_every")).count();
        assert_eq!((of("a"), of("b")), (2, 1));
    }

    #[test]
    fn circles_and_names_that_do_not_exist_are_problems() {
        let circle = methods(&[("a", Some("b"), None), ("b", Some("c"), None), ("c", Some("a"), None), ("d", Some("x"), None)]);
        assert_eq!(methods_in_order(&circle).len(), 4);
        let with = |wanted: &str| method_problems(&circle).iter().filter(|problem| problem.message.contains(wanted)).count();
        assert_eq!((with("unknown method `x`"), with("a circle: `c` needs the model of `a`")), (1, 1));
        assert_eq!(with("method `b` learns nothing"), 1);
        let itself = methods(&[("a", Some("a"), None)]);
        assert_eq!(methods_in_order(&itself), ["a"]);
        assert!(
            method_problems(&itself)
                .iter()
                .any(|problem| problem.path == "methods.a.init" && problem.message.contains("a circle"))
        );
    }
}
