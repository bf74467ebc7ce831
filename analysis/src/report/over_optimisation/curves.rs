//! Which models of a run are points of one curve, and how far each has moved from where the curve begins.
//!
//! * best-of-n with several n from one model, whose divergence is at most `ln n − (n − 1)/n`;
//! * a method and the models that it kept on its way (`checkpoint_every`), named `METHOD.STEPS`;
//! * methods that go on from one another (`init`).
//!
//! The divergence of what a learner made is the one that it recorded (`…/kl`) for the policy after as many steps, for the last model
//! the last one that it recorded.

use std::collections::{BTreeMap, BTreeSet};

use crate::divergence::{divergence, recorded};
use crate::repetitions::split_seed;
use crate::run_files::RunFiles;

/// A curve, from its start on.
#[derive(Debug)]
pub(super) struct Curve {
    /// What makes it: `best of n`, or the method.
    pub(super) label: String,
    /// What grows along it.
    pub(super) axis: &'static str,
    /// At least two points.
    pub(super) points: Vec<Point>,
}

/// A method as a point of a curve.
#[derive(Debug, PartialEq)]
pub(super) struct Point {
    /// The method's name on the leaderboard.
    pub(super) method: String,
    /// What grows along the curve: n, steps; empty where it is not known.
    pub(super) at: String,
    /// How far it has moved, in nats; `None` when nobody recorded it.
    pub(super) divergence: Option<f64>,
}

/// The curves of a run.
pub(super) fn curves(run: &RunFiles) -> Vec<Curve> {
    let config = run.config.as_deref().and_then(|text| text.parse::<toml::Table>().ok()).unwrap_or_default();
    let Some(methods) = config.get("methods").and_then(toml::Value::as_table) else { return Vec::new() };
    best_of_n(methods).into_iter().chain(kept_on_the_way(run, methods)).chain(chains(run, methods)).collect()
}

fn init<'a>(methods: &'a toml::Table, name: &str) -> &'a str {
    methods.get(name).and_then(|method| method.get("init")?.as_str()).unwrap_or("sft")
}

fn learns(methods: &toml::Table, name: &str) -> bool {
    methods.get(name).is_some_and(|method| method.get("learner").is_some())
}

fn best_of_n(methods: &toml::Table) -> Option<Curve> {
    let best_of = |name: &String| {
        let n = methods[name].get("policy")?.get("best_of_n")?.get("n")?.as_integer()?;
        (n >= 1 && !learns(methods, name) && init(methods, name) == "sft").then(|| (n, name.clone()))
    };
    let mut sizes: Vec<(i64, String)> = methods.keys().filter_map(best_of).collect();
    sizes.sort();
    // The model itself is the best of one.
    let mut points = vec![Point { method: "sft".to_owned(), at: "1".to_owned(), divergence: Some(0.0) }];
    points.extend(sizes.into_iter().filter(|(n, _)| *n > 1).map(|(size, method)| {
        let n = size as f64;
        Point { method, at: size.to_string(), divergence: Some(n.ln() - (n - 1.0) / n) }
    }));
    (points.len() > 2).then(|| Curve { label: "best of n".to_owned(), axis: "n", points })
}

/// A curve for each method of which models on the way were evaluated.
fn kept_on_the_way(run: &RunFiles, methods: &toml::Table) -> Vec<Curve> {
    let names: BTreeSet<&str> = run.models.iter().map(|model| split_seed(&model.method).0).collect();
    let curve = |method: &String| {
        let steps = |name: &&str| name.strip_prefix(method.as_str())?.strip_prefix('.')?.parse::<u64>().ok();
        let kept: BTreeSet<u64> = names.iter().filter_map(steps).collect();
        if kept.is_empty() {
            return None;
        }
        let begins = init(methods, method).to_owned();
        let start = Point { method: begins, at: "0".to_owned(), divergence: Some(0.0) };
        let point = |steps: u64| Point {
            method: format!("{method}.{steps}"),
            at: steps.to_string(),
            divergence: divergence(run, method, Some(steps)),
        };
        let at = n_steps(run, method).map(|steps| steps.to_string()).unwrap_or_default();
        let end = Point { method: method.clone(), at, divergence: divergence(run, method, None) };
        let points = std::iter::once(start).chain(kept.into_iter().map(point)).chain([end]).collect();
        Some(Curve { label: method.clone(), axis: "steps", points })
    };
    methods.keys().filter_map(curve).collect()
}

/// A curve for each chain of methods that go on from one another.
fn chains(run: &RunFiles, methods: &toml::Table) -> Vec<Curve> {
    // A chain ends in a method from which no other goes on.
    let goes_on = |name: &str| {
        let on = |other: &String| other != name && learns(methods, other) && init(methods, other) == name;
        methods.keys().any(on)
    };
    let mut curves = Vec::new();
    for last in methods.keys().filter(|name| learns(methods, name) && !goes_on(name)) {
        let mut chain = vec![last.as_str()];
        while let Some(before) = chain.last().map(|name| init(methods, name)) {
            if !learns(methods, before) || chain.contains(&before) {
                break;
            }
            chain.push(before);
        }
        chain.reverse();
        if chain.len() < 2 {
            continue;
        }
        let start = Point { method: "sft".to_owned(), at: String::new(), divergence: Some(0.0) };
        let point =
            |name: &&str| Point { method: (*name).to_owned(), at: String::new(), divergence: divergence(run, name, None) };
        let points = std::iter::once(start).chain(chain.iter().map(point)).collect();
        curves.push(Curve { label: format!("{} …", chain[0]), axis: "", points });
    }
    curves
}

/// How many steps a method made, by what it recorded.
fn n_steps(run: &RunFiles, method: &str) -> Option<u64> {
    let last = |scalars: &BTreeMap<String, BTreeMap<u64, f64>>| {
        scalars.values().filter_map(|values| values.keys().next_back()).max().copied()
    };
    recorded(run, method).filter_map(last).max().map(|step| step + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run_files::ModelFiles;

    fn run(config: &str, models: &[&str]) -> RunFiles {
        let kl = |end: f64| BTreeMap::from([("ppo/kl".to_owned(), BTreeMap::from([(0, 0.0), (10, end / 2.0), (19, end)]))]);
        let scalars =
            [("learn-ppo_1@0", 1.0), ("learn-ppo_1@1", 3.0), ("learn-ppo_2@0", 7.0), ("learn-ppo_2@1", 9.0), ("sft", 5.0)];
        RunFiles {
            config: Some(config.to_owned()),
            scalars: scalars.into_iter().map(|(stage, end)| (stage.to_owned(), kl(end))).collect(),
            models: models.iter().map(|name| ModelFiles { method: (*name).to_owned(), ..ModelFiles::default() }).collect(),
            ..RunFiles::default()
        }
    }

    type Shape = (String, Vec<(String, String, f64)>);

    fn shape(run: &RunFiles) -> Vec<Shape> {
        let point = |p: &Point| (p.method.clone(), p.at.clone(), p.divergence.expect("recorded"));
        curves(run).iter().map(|curve| (curve.label.clone(), curve.points.iter().map(point).collect())).collect()
    }

    fn points(points: &[(&str, &str, f64)]) -> Vec<(String, String, f64)> {
        points.iter().map(|(method, at, divergence)| ((*method).to_owned(), (*at).to_owned(), *divergence)).collect()
    }

    #[test]
    fn best_of_n_and_chains_of_methods_make_curves() {
        let config = "[methods.b4.policy.best_of_n]\nn = 4\n[methods.b1.policy.best_of_n]\nn = 1\n\
            [methods.b2.policy.best_of_n]\nn = 2\n[methods.ppo_1.learner.ppo]\nsteps = 20\n[methods.ppo_2]\ninit = \"ppo_1\"\n\
            [methods.ppo_2.learner.ppo]\nsteps = 20\n[methods.alone.learner.dpo]\nbeta = 0.1\n";
        let two = 2_f64.ln() - 0.5;
        let four = 4_f64.ln() - 0.75;
        assert_eq!(
            shape(&run(config, &[])),
            [
                ("best of n".to_owned(), points(&[("sft", "1", 0.0), ("b2", "2", two), ("b4", "4", four)])),
                ("ppo_1 …".to_owned(), points(&[("sft", "", 0.0), ("ppo_1", "", 2.0), ("ppo_2", "", 8.0)])),
            ]
        );
        assert!(curves(&run("[methods.ppo_1.learner.ppo]\nsteps = 1\n", &[])).is_empty());
    }

    #[test]
    fn models_kept_on_the_way_are_points_in_the_order_of_their_steps() {
        let config = "[methods.ppo_1]\ncheckpoint_every = 5\n[methods.ppo_1.learner.ppo]\nsteps = 20\n\
            [methods.dpo.learner.dpo]\nbeta = 0.1\n";
        let models = ["ppo_1.15@0", "ppo_1.5@0", "ppo_1.5@1", "ppo_1@0", "sft"];
        let expected = points(&[("sft", "0", 0.0), ("ppo_1.5", "5", 0.0), ("ppo_1.15", "15", 1.0), ("ppo_1", "20", 2.0)]);
        assert_eq!(shape(&run(config, &models)), [("ppo_1".to_owned(), expected)]);
    }
}
