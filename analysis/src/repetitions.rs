//! Repetitions of a method, each with its own seed, as one row: means over the seeds, with intervals that count seeds and
//! instructions.
//!
//! A run with `seeds` names its folders `evaluate-METHOD@SEED`; without, there is one repetition a method.

use std::collections::BTreeMap;

use farmhand_core::types::{EvalReport, Metric};

use crate::crossed::crossed_mean;
use crate::run_files::{ModelFiles, RunFiles};

/// The models of one method, one a seed, in the order of the seeds.
#[derive(Debug, Clone)]
pub struct Repetitions<'a> {
    /// The method's name, without a seed.
    pub name: &'a str,
    /// Its models, at least one.
    pub models: Vec<&'a ModelFiles>,
}

/// A name without its seed, and the seed: `dpo@1` is (`dpo`, 1).
pub(crate) fn split_seed(name: &str) -> (&str, Option<u64>) {
    match name.rsplit_once('@').map(|(method, seed)| (method, seed.parse().ok())) {
        Some((method, seed @ Some(_))) => (method, seed),
        _ => (name, None),
    }
}

impl RunFiles {
    /// The evaluated models, method by method in the order of their names.
    pub fn by_method(&self) -> Vec<Repetitions<'_>> {
        let mut methods: BTreeMap<&str, Vec<&ModelFiles>> = BTreeMap::new();
        for model in &self.models {
            methods.entry(split_seed(&model.method).0).or_default().push(model);
        }
        methods.values_mut().for_each(|models| models.sort_by_key(|model| split_seed(&model.method).1));
        methods.into_values().map(|models| Repetitions { name: split_seed(models[0].model()).0, models }).collect()
    }
}

impl Repetitions<'_> {
    /// The seeds, where the method was repeated.
    pub fn seeds(&self) -> Vec<u64> {
        self.models.iter().filter_map(|model| split_seed(&model.method).1).collect()
    }

    /// The reports of all repetitions as one: counts of comparisons are added up, everything else is the mean. The error of a win
    /// rate counts instructions and seeds ([`crate::crossed`]); of another metric, where the single values are not kept, it is the
    /// root of the mean squared error of a repetition plus the variance between them over their number, which is too large rather
    /// than too small.
    pub fn reports(&self) -> Vec<EvalReport> {
        let [first, others @ ..] = self.models.as_slice() else { return Vec::new() };
        if others.is_empty() {
            return first.reports.clone();
        }
        let pooled = |report: &EvalReport| EvalReport {
            model: self.name.to_owned(),
            metrics: report.metrics.iter().map(|metric| self.pooled(metric)).collect(),
            ..report.clone()
        };
        let mut reports: Vec<EvalReport> = first.reports.iter().map(pooled).collect();
        if let Some(report) = reports.first_mut() {
            report.metrics.push(Metric {
                name: "n_seeds".to_owned(),
                value: self.models.len() as f64,
                std_error: None,
                interval: None,
                n: self.models.len(),
                unit: "repetitions".to_owned(),
                higher_is_better: None,
            });
        }
        reports
    }

    fn pooled(&self, metric: &Metric) -> Metric {
        let same = |model: &&ModelFiles| model.reports.iter().find_map(|report| report.metric(&metric.name)).cloned();
        let all: Vec<Metric> = self.models.iter().filter_map(same).collect();
        let n = all.len() as f64;
        let total: f64 = all.iter().map(|metric| metric.value).sum();
        let mean = total / n;
        let mut pooled =
            Metric { value: mean, std_error: None, interval: None, n: all.iter().map(|m| m.n).sum(), ..metric.clone() };
        if metric.unit == "comparisons" {
            pooled.value = total;
        } else if metric.name == "win_rate" {
            let percents = |p: Vec<f64>| p.into_iter().map(|p| 100.0 * p).collect();
            let judged = matched(&self.models.iter().map(|model| p_wins(model)).collect::<Vec<_>>());
            if let Some(found) = crossed_mean(&judged.into_iter().map(percents).collect::<Vec<_>>()) {
                pooled.std_error = found.std_error;
                let ends = |[low, high]: [f64; 2]| [low, high].map(|end| (end - found.mean + mean).clamp(0.0, 100.0));
                pooled.interval = found.interval.map(ends);
            }
        } else if metric.std_error.is_some() {
            let within = all.iter().filter_map(|metric| metric.std_error).map(|error| error * error).sum::<f64>() / n;
            let between = all.iter().map(|metric| (metric.value - mean).powi(2)).sum::<f64>() / (n - 1.0).max(1.0);
            pooled.std_error = Some((within + between / n).sqrt());
        }
        pooled
    }
}

/// The probability that the model's answer is better, by instruction, where there is a verdict.
pub(crate) fn p_wins(model: &ModelFiles) -> BTreeMap<&str, f64> {
    let p = |judgement: &farmhand_core::types::Judgement| judgement.preference().map(|preference| preference.p_second());
    model.judgements.iter().filter_map(|judged| Some((judged.comparison.instruction.id.as_str(), p(judged)?))).collect()
}

/// A row for each map, over the keys that all of them have, in the order of the keys.
pub(crate) fn matched(maps: &[BTreeMap<&str, f64>]) -> Vec<Vec<f64>> {
    let Some((first, others)) = maps.split_first() else { return Vec::new() };
    let common: Vec<&&str> = first.keys().filter(|key| others.iter().all(|map| map.contains_key(**key))).collect();
    maps.iter().map(|map| common.iter().map(|key| map[**key]).collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn a_seed_is_told_from_a_name() {
        assert_eq!(split_seed("dpo@12"), ("dpo", Some(12)));
        assert_eq!(split_seed("dpo"), ("dpo", None));
        assert_eq!(split_seed("a@b"), ("a@b", None));
    }

    #[test]
    fn repetitions_become_one_row_with_their_counts_added_up() {
        let dir = fixture::repeated_run();
        let run = RunFiles::read(dir.path()).expect("read");
        let methods = run.by_method();
        assert_eq!(
            methods.iter().map(|method| (method.name, method.models.len())).collect::<Vec<_>>(),
            [("dpo", 3), ("ppo", 3), ("sft", 1)]
        );
        assert_eq!((methods[0].seeds(), methods[2].seeds()), (vec![0, 1, 2], vec![]));
        let single: Vec<f64> =
            methods[0].models.iter().map(|model| model.reports[0].metric("win_rate").expect("there").value).collect();
        let reports = methods[0].reports();
        let metric = |name: &str| reports.iter().find_map(|report| report.metric(name)).expect("there");
        assert!((metric("win_rate").value - single.iter().sum::<f64>() / 3.0).abs() < 1e-12);
        assert_eq!((metric("n_total").value, metric("n_seeds").value), (21.0, 3.0));
        let [low, high] = metric("win_rate").interval.expect("an interval");
        assert!(low < metric("win_rate").value && metric("win_rate").value < high);
        // What is not repeated stays as it is.
        assert_eq!(methods[2].reports(), methods[2].models[0].reports);
    }
}
