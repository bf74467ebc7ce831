//! What a judge leans to beside quality, as sums by instruction, and what label noise leaves of it in expectation.

use std::collections::{BTreeMap, HashMap};

use super::two_raters::side;
use super::verdicts::{Verdict, Verdicts};
use crate::agreement::label_noise::expected_p;
use crate::statistics::bootstrap::ClusterSums;

/// Weighted numbers as sums by cluster: (cluster, value, weight). Clusters without one are left out.
pub fn weighted(values: impl IntoIterator<Item = (usize, f64, f64)>) -> ClusterSums {
    let mut by_cluster: BTreeMap<usize, (f64, f64)> = BTreeMap::new();
    for (cluster, value, weight) in values.into_iter().filter(|(_, _, weight)| *weight > 0.0) {
        let sums = by_cluster.entry(cluster).or_default();
        *sums = (sums.0 + value * weight, sums.1 + weight);
    }
    let (sums, counts) = by_cluster.into_values().unzip();
    ClusterSums { sums, counts }
}

/// The probability that the answer shown first is preferred; ½ without a position bias. Verdicts of which nobody recorded the order
/// are left out.
pub fn prefers_first(verdicts: &Verdicts, judge: usize, p_flip: f64) -> ClusterSums {
    let of = |verdict: &Verdict| -> Vec<f64> {
        match (verdict.both_orders, verdict.second_shown_first, verdict.p_second) {
            (Some([second_first, first_first]), _, Some(_)) => vec![second_first, 1.0 - first_first],
            (None, Some(second_first), Some(p)) => vec![if second_first { p } else { 1.0 - p }],
            _ => Vec::new(),
        }
    };
    let values = verdicts.of_judge(judge).flat_map(|verdict| {
        let cluster = verdicts.pairs[verdict.pair].instruction;
        of(verdict).into_iter().map(move |p| (cluster, expected_p(p, p_flip), 1.0))
    });
    weighted(values)
}

/// Whether the same answer is preferred in both orders, or both times neither: of pairs that a judge saw in both, its first verdict
/// in each.
pub fn swap_consistency(verdicts: &Verdicts, judge: usize, p_flip: f64) -> ClusterSums {
    let mut seen: HashMap<(usize, usize), [Option<f64>; 2]> = HashMap::new();
    let mut order = Vec::new();
    for verdict in verdicts.of_judge(judge) {
        let Some(p) = verdict.p_second else { continue };
        let entry = seen.entry((verdict.pair, verdict.member)).or_insert_with(|| {
            order.push((verdict.pair, verdict.member));
            [None; 2]
        });
        if let Some(both) = verdict.both_orders {
            *entry = both.map(Some);
        } else if let Some(second_first) = verdict.second_shown_first {
            entry[usize::from(!second_first)].get_or_insert(p);
        }
    }
    let replaced = 2.0 * p_flip;
    let same = |a: f64, b: f64| {
        let is = |yes: bool| f64::from(u8::from(yes));
        let decided = is(side(a) != 1) + is(side(b) != 1);
        (1.0 - replaced).powi(2) * is(side(a) == side(b)) + replaced * (1.0 - replaced) * decided / 2.0 + replaced.powi(2) / 2.0
    };
    let value = |key: (usize, usize)| {
        let [a, b] = seen[&key];
        Some((verdicts.pairs[key.0].instruction, same(a?, b?), 1.0))
    };
    weighted(order.into_iter().filter_map(value))
}

/// Of a verdict that picks an answer: the mean of `value` (given whether the pair's second answer is the picked one) with its weight.
/// Noise makes some ties into picks.
fn picked(verdict: &Verdict, p_flip: f64, value: impl Fn(bool) -> Option<f64>) -> Option<(f64, f64)> {
    let picks = match side(verdict.p_second?) {
        0 => [1.0 - p_flip, p_flip],
        2 => [p_flip, 1.0 - p_flip],
        _ => [p_flip, p_flip],
    };
    let parts = [(picks[0], value(false)), (picks[1], value(true))];
    let (sum, weight) =
        parts.into_iter().fold((0.0, 0.0), |(sum, n), (p, value)| value.map_or((sum, n), |value| (sum + p * value, n + p)));
    (weight > 0.0).then(|| (sum / weight, weight))
}

fn picks<'a>(
    verdicts: &'a Verdicts,
    judge: usize,
    p_flip: f64,
    value: impl Fn(&Verdict, bool) -> Option<f64> + 'a,
) -> ClusterSums {
    weighted(verdicts.of_judge(judge).filter_map(|verdict| {
        let (value, weight) = picked(verdict, p_flip, |second| value(verdict, second))?;
        Some((verdicts.pairs[verdict.pair].instruction, value, weight))
    }))
}

fn is(yes: bool) -> f64 {
    f64::from(u8::from(yes))
}

/// Whether the longer answer is picked, of pairs whose lengths differ by more than `least_difference` characters.
pub fn prefers_longer(verdicts: &Verdicts, judge: usize, least_difference: usize, p_flip: f64) -> ClusterSums {
    picks(verdicts, judge, p_flip, move |verdict, second| {
        let [a, b] = verdicts.pairs[verdict.pair].lengths;
        let (a, b) = (a?, b?);
        (a.abs_diff(b) > least_difference).then(|| is((b > a) == second))
    })
}

/// (picked − other) / other of the lengths.
pub fn longer_by(verdicts: &Verdicts, judge: usize, p_flip: f64) -> ClusterSums {
    picks(verdicts, judge, p_flip, |verdict, second| {
        let [a, b] = verdicts.pairs[verdict.pair].lengths.map(|length| length.map(|length| length as f64));
        let (picked, other) = if second { (b?, a?) } else { (a?, b?) };
        (other > 0.0).then(|| (picked - other) / other)
    })
}

/// Whether the answer with a list is picked, of pairs in which exactly one has a list.
pub fn prefers_list(verdicts: &Verdicts, judge: usize, p_flip: f64) -> ClusterSums {
    picks(verdicts, judge, p_flip, |verdict, second| {
        let [a, b] = verdicts.pairs[verdict.pair].lists;
        let (a, b) = (a?, b?);
        (a != b).then(|| is(b == second))
    })
}

/// Which of a pair's answers is the judge's own, where exactly one is.
fn own_side(verdicts: &Verdicts, pair: usize, is_own: &dyn Fn(&str) -> bool) -> Option<usize> {
    let own = verdicts.pairs[pair].generators.each_ref().map(|name| name.as_deref().is_some_and(is_own));
    (own[0] != own[1]).then(|| usize::from(own[1]))
}

/// The probability that a judge's own answer is preferred, of pairs in which exactly one is.
pub fn prefers_own(verdicts: &Verdicts, judge: usize, is_own: &dyn Fn(&str) -> bool, p_flip: f64) -> ClusterSums {
    weighted(verdicts.of_judge(judge).filter_map(|verdict| {
        let (p, side) = (expected_p(verdict.p_second?, p_flip), own_side(verdicts, verdict.pair, is_own)?);
        Some((verdicts.pairs[verdict.pair].instruction, if side == 1 { p } else { 1.0 - p }, 1.0))
    }))
}

/// How much more the judge prefers its own answer than people do on the same pair: a difference of probabilities. This, and not
/// [`prefers_own`], tells a preference for oneself from answers that are good.
pub fn own_excess(verdicts: &Verdicts, judge: usize, people: usize, is_own: &dyn Fn(&str) -> bool, p_flip: f64) -> ClusterSums {
    let of_people = verdicts.codes(|verdict| verdict.judge == people);
    weighted(verdicts.of_judge(judge).filter_map(|verdict| {
        let (p, side) = (expected_p(verdict.p_second?, p_flip), own_side(verdicts, verdict.pair, is_own)?);
        let codes = &of_people[verdict.pair];
        let said = (!codes.is_empty()).then(|| codes.iter().sum::<f64>() / codes.len() as f64 - 1.0)?;
        Some((verdicts.pairs[verdict.pair].instruction, if side == 1 { p - said } else { said - p }, 1.0))
    }))
}

/// Makers of models, by how the names of their models begin.
const FAMILIES: [&[&str]; 9] = [
    &["gpt", "chatgpt", "text_davinci", "text-davinci", "davinci"],
    &["claude"],
    &["gemini", "gemma", "palm", "bard"],
    &["llama"],
    &["mistral", "mixtral"],
    &["qwen", "qwq"],
    &["deepseek"],
    &["cohere", "command"],
    &["phi"],
];

/// Whether a generator is of the judge's family by their names: the same name, or the name of a model of one maker
/// (`weighted_alpaca_eval_gpt4_turbo` and `gpt-3.5-turbo-0301`). A judge's name may have the model anywhere, a generator's begins with
/// it: `alpaca-farm-ppo-sim-gpt4-20k` learned from GPT-4 and is not one.
pub fn is_same_family(judge: &str, generator: &str) -> bool {
    let model = |name: &str| name.rsplit('/').next().unwrap_or(name).to_lowercase();
    let (judge, generator) = (model(judge), model(generator));
    let in_judge =
        |stem: &str| judge.match_indices(stem).any(|(at, _)| at == 0 || !judge.as_bytes()[at - 1].is_ascii_alphanumeric());
    let shared = |stems: &[&str]| stems.iter().any(|stem| in_judge(stem)) && stems.iter().any(|stem| generator.starts_with(stem));
    judge == generator || FAMILIES.iter().any(|stems| shared(stems))
}
