//! Paired differences: two methods on the same instructions, with the same judge and the same seeds.
//!
//! Win rates of two methods move together, for they answer the same instructions and meet the same reference; the difference on
//! each instruction is known better than the two rates apart.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::crossed::{CrossedMean, crossed_mean_of_several};
use crate::repetitions::{Repetitions, matched, p_wins, split_seed};
use crate::run_files::{ModelFiles, RunFiles};

/// How much more often one method wins than another.
#[derive(Debug, Clone, PartialEq)]
pub struct PairedDifference {
    /// The one.
    pub method: String,
    /// The other.
    pub other: String,
    /// Win rate of the one minus win rate of the other, in percentage points, over the instructions that both were judged on.
    pub difference: f64,
    /// Its standard error, in points; counts instructions and seeds.
    pub std_error: Option<f64>,
    /// Its 95 % interval, in points.
    pub interval: Option<[f64; 2]>,
    /// Instructions.
    pub n_instructions: usize,
    /// Repetitions.
    pub n_seeds: usize,
}

/// The difference of every two methods that were judged on common instructions, in the order of `names` (the better one first when
/// that is the leaderboard's); methods that are not in `names` are left out.
pub fn paired_differences(run: &RunFiles, names: &[&str]) -> Vec<PairedDifference> {
    let methods = run.by_method();
    let ordered: Vec<&Repetitions<'_>> =
        names.iter().filter_map(|name| methods.iter().find(|method| method.name == *name)).collect();
    let mut differences = Vec::new();
    for (place, method) in ordered.iter().enumerate() {
        differences.extend(ordered[place + 1..].iter().filter_map(|other| difference(method, other)));
    }
    differences
}

fn difference(method: &Repetitions<'_>, other: &Repetitions<'_>) -> Option<PairedDifference> {
    let percents = |model| p_wins(model).into_iter().map(|(id, p)| (id, 100.0 * p)).collect();
    let found = paired_mean(method, other, percents, 1)?;
    Some(PairedDifference {
        method: method.name.to_owned(),
        other: other.name.to_owned(),
        difference: found.mean.mean,
        std_error: found.mean.std_error,
        interval: found.mean.interval,
        n_instructions: found.n_instructions,
        n_seeds: found.n_seeds,
    })
}

/// A mean difference, and over how many instructions and repetitions.
pub(crate) struct PairedMean {
    pub(crate) mean: CrossedMean,
    pub(crate) n_instructions: usize,
    pub(crate) n_seeds: usize,
}

/// The mean of the one's numbers minus the other's, over the instructions for which `values` has a number of both in all
/// repetitions; the interval is one of `n_intervals` that hold together.
pub(crate) fn paired_mean<'a>(
    method: &Repetitions<'a>,
    other: &Repetitions<'a>,
    values: impl Fn(&'a ModelFiles) -> BTreeMap<&'a str, f64>,
    n_intervals: usize,
) -> Option<PairedMean> {
    let pairs = common_repetitions(method, other);
    let rows: Vec<BTreeMap<&str, f64>> = pairs
        .iter()
        .map(|(one, other)| {
            let (one, other) = (values(one), values(other));
            one.into_iter().filter_map(|(id, value)| Some((id, value - other.get(id)?))).collect()
        })
        .collect();
    let rows = matched(&rows);
    let mean = crossed_mean_of_several(&rows, n_intervals)?;
    Some(PairedMean { mean, n_instructions: rows.first().map_or(0, Vec::len), n_seeds: pairs.len() })
}

/// The models that share a seed; one that was not repeated goes with every repetition of the other.
fn common_repetitions<'a>(method: &Repetitions<'a>, other: &Repetitions<'a>) -> Vec<(&'a ModelFiles, &'a ModelFiles)> {
    match (method.models.as_slice(), other.models.as_slice()) {
        (ones, [other]) => ones.iter().map(|one| (*one, *other)).collect(),
        ([one], others) => others.iter().map(|other| (*one, *other)).collect(),
        (ones, others) => {
            let seed = |model: &ModelFiles| split_seed(&model.method).1;
            let partner = |one: &&'a ModelFiles| others.iter().find(|other| seed(other) == seed(one)).map(|other| (*one, *other));
            ones.iter().filter_map(partner).collect()
        }
    }
}

/// CSV with one line a pair; numbers have all their digits.
pub(crate) fn csv(differences: &[PairedDifference]) -> String {
    let mut text = "method,other,difference,standard_error,interval_low,interval_high,n_instructions,n_seeds\n".to_owned();
    let number = |value: Option<f64>| value.map(|value| value.to_string()).unwrap_or_default();
    for pair in differences {
        let [low, high] = pair.interval.map_or([None; 2], |ends| ends.map(Some)).map(number);
        let _ = writeln!(
            text,
            "{},{},{},{},{low},{high},{},{}",
            pair.method,
            pair.other,
            pair.difference,
            number(pair.std_error),
            pair.n_instructions,
            pair.n_seeds
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn a_difference_is_that_of_the_win_rates_and_turns_its_sign() {
        let dir = fixture::repeated_run();
        let run = RunFiles::read(dir.path()).expect("read");
        let pairs = paired_differences(&run, &["ppo", "dpo", "sft"]);
        let names: Vec<(&str, &str)> = pairs.iter().map(|pair| (pair.method.as_str(), pair.other.as_str())).collect();
        assert_eq!(names, [("ppo", "dpo"), ("ppo", "sft"), ("dpo", "sft")]);
        let rate = |name: &str| {
            let method = run.by_method().into_iter().find(|method| method.name == name).expect("there").reports();
            method[0].metric("win_rate").expect("there").value
        };
        assert!((pairs[0].difference - (rate("ppo") - rate("dpo"))).abs() < 1e-9);
        assert_eq!((pairs[0].n_instructions, pairs[0].n_seeds, pairs[1].n_seeds), (7, 3, 3));
        let back = &paired_differences(&run, &["dpo", "ppo"])[0];
        assert!((back.difference + pairs[0].difference).abs() < 1e-12);
        assert_eq!(back.std_error, pairs[0].std_error);
        assert_eq!(csv(&pairs).lines().count(), 4);
    }

    #[test]
    fn a_method_differs_from_itself_by_nothing_and_one_that_was_not_judged_is_left_out() {
        let dir = fixture::repeated_run();
        let mut run = RunFiles::read(dir.path()).expect("read");
        let same = &paired_differences(&run, &["dpo", "dpo"])[0];
        assert_eq!((same.difference, same.std_error), (0.0, Some(0.0)));
        run.models.retain(|model| !model.method.starts_with("ppo"));
        assert!(paired_differences(&run, &["ppo", "dpo"]).is_empty());
    }
}
