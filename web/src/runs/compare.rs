//! Two runs side by side: where their configurations differ, and what came of it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::{Value, json};

use super::leaderboard::reports;

/// Differences of configuration and results.
pub(crate) fn compare(a: &Path, b: &Path) -> Value {
    json!({ "config": different(&config(a), &config(b)), "n_same": n_same(&config(a), &config(b)), "results": results(a, b) })
}

/// Every value of a run's configuration by its path.
fn config(run: &Path) -> BTreeMap<String, String> {
    let mut values = BTreeMap::new();
    let text = std::fs::read_to_string(run.join("run.toml")).unwrap_or_default();
    if let Ok(table) = text.parse::<toml::Table>() {
        flatten("", &toml::Value::Table(table), &mut values);
    }
    values
}

fn flatten(path: &str, value: &toml::Value, values: &mut BTreeMap<String, String>) {
    let below = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    match value {
        toml::Value::Table(table) if !table.is_empty() => {
            table.iter().for_each(|(key, value)| flatten(&below(key), value, values));
        }
        toml::Value::Array(list) if list.iter().any(toml::Value::is_table) => {
            list.iter().enumerate().for_each(|(i, value)| flatten(&format!("{path}[{i}]"), value, values));
        }
        other => {
            values.insert(path.to_owned(), other.to_string());
        }
    }
}

fn different(a: &BTreeMap<String, String>, b: &BTreeMap<String, String>) -> Vec<Value> {
    let keys: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    let differing = keys.into_iter().filter(|key| a.get(*key) != b.get(*key));
    differing.map(|key| json!({ "key": key, "a": a.get(key), "b": b.get(key) })).collect()
}

fn n_same(a: &BTreeMap<String, String>, b: &BTreeMap<String, String>) -> usize {
    a.iter().filter(|(key, value)| b.get(*key) == Some(value)).count()
}

/// One row for each metric of each model that either run measured.
fn results(a: &Path, b: &Path) -> Vec<Value> {
    let of_run = |run: &Path| {
        let mut metrics = BTreeMap::new();
        for (method, reports) in reports(run) {
            for metric in reports.into_iter().flat_map(|report| report.metrics) {
                metrics.insert((method.clone(), metric.name.clone()), metric);
            }
        }
        metrics
    };
    let (a, b) = (of_run(a), of_run(b));
    let keys: BTreeSet<_> = a.keys().chain(b.keys()).collect();
    let row = |key: &(String, String)| {
        let (left, right) = (a.get(key), b.get(key));
        let either = left.or(right);
        let side = |metric: Option<&farmhand_core::types::Metric>| {
            metric.map(|metric| json!({ "value": metric.value, "std_error": metric.std_error, "n": metric.n }))
        };
        json!({
            "model": key.0, "metric": key.1, "a": side(left), "b": side(right),
            "unit": either.map(|metric| &metric.unit), "higher_is_better": either.and_then(|metric| metric.higher_is_better),
        })
    };
    keys.into_iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_told() {
        let (one, two) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        let text = "seed = 1\nseeds = [1, 2]\n[methods.dpo.learner.dpo]\nbeta = 0.1\n[[pool]]\nname = \"x\"\n";
        std::fs::write(one.path().join("run.toml"), text).expect("written");
        std::fs::write(two.path().join("run.toml"), text.replace("0.1", "0.2").replace("[1, 2]", "[1]") + "more = true\n")
            .expect("written");
        let compared = compare(one.path(), two.path());
        assert_eq!(
            compared["config"],
            json!([
                { "key": "methods.dpo.learner.dpo.beta", "a": "0.1", "b": "0.2" },
                { "key": "pool[0].more", "a": null, "b": "true" },
                { "key": "seeds", "a": "[1, 2]", "b": "[1]" },
            ])
        );
        assert_eq!((&compared["n_same"], &compared["results"]), (&json!(2), &json!([])));
        std::fs::write(two.path().join("run.toml"), "half = ").expect("written");
        assert_eq!(compare(one.path(), two.path())["config"].as_array().expect("a list").len(), 4);
    }
}
