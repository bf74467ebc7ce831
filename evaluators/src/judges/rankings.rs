//! How a judge ranks models, against people's ranking or a given one.

use std::collections::{BTreeMap, BTreeSet};

use farmhand_core::Seed;

use super::verdicts::Verdicts;
use crate::agreement::label_noise::flipped;
use crate::statistics::{bootstrap, correlation};

/// How many draws of label noise a mean is taken over.
const N_NOISE_DRAWS: usize = 200;

/// What a judge's ranking is held against.
#[derive(Debug, Clone, Copy)]
pub enum Against<'a> {
    /// The win rates under another judge, the people say, on the pairs that both judged.
    Judge(usize),
    /// These numbers, by model: a leaderboard. They are taken as they are.
    Given(&'a BTreeMap<String, f64>),
}

/// How two rankings of models agree.
#[derive(Debug, Clone, PartialEq)]
pub struct RankAgreement {
    /// The models that both rank.
    pub models: Vec<String>,
    /// Spearman's correlation with its 95 % interval; under noise the mean of many draws.
    pub spearman: Option<(f64, Option<[f64; 2]>)>,
    /// Pearson's correlation of the win rates, likewise.
    pub pearson: Option<(f64, Option<[f64; 2]>)>,
}

/// One verdict as it counts for win rates.
struct Entry {
    /// The models of the pair's first and second answer, where they are ranked.
    models: [Option<usize>; 2],
    p_second: f64,
    /// What the other judge said, as the mean of its probabilities.
    other: f64,
}

/// Correlations of the win rates under `judge` with those of `against`, over models with at least `least` verdicts. With one model in
/// every pair, the baseline, the others' win rates against it count; otherwise each model's share of all its pairs. `None` with
/// fewer than three models, of which no ranking can be told from chance.
pub fn rank_agreement(
    verdicts: &Verdicts,
    judge: usize,
    against: Against<'_>,
    least: usize,
    p_flip: f64,
    (n_resamples, seed): (usize, Seed),
) -> Option<RankAgreement> {
    let others = match against {
        Against::Judge(other) => Some(verdicts.codes(|verdict| verdict.judge == other)),
        Against::Given(_) => None,
    };
    let said = |pair: usize| match &others {
        Some(codes) => (!codes[pair].is_empty()).then(|| codes[pair].iter().sum::<f64>() / codes[pair].len() as f64 - 1.0),
        None => Some(0.5),
    };
    let counted: Vec<(usize, f64, f64)> =
        verdicts.of_judge(judge).filter_map(|verdict| Some((verdict.pair, verdict.p_second?, said(verdict.pair)?))).collect();
    let models = ranked_models(verdicts, counted.iter().map(|(pair, _, _)| *pair), least, against);
    if models.len() < 3 {
        return None;
    }
    let number = |name: &Option<String>| models.binary_search(name.as_ref()?).ok();
    let mut by_instruction: BTreeMap<usize, Vec<Entry>> = BTreeMap::new();
    for (pair, p_second, other) in counted {
        let models = verdicts.pairs[pair].generators.each_ref().map(number);
        let entry = Entry { models, p_second, other };
        by_instruction.entry(verdicts.pairs[pair].instruction).or_default().push(entry);
    }
    let clusters: Vec<Vec<Entry>> = by_instruction.into_values().collect();
    let given: Option<Vec<f64>> = match against {
        Against::Given(ranking) => Some(models.iter().map(|model| ranking[model]).collect()),
        Against::Judge(_) => None,
    };
    let of = |statistic: fn(&[(f64, f64)]) -> Option<f64>| {
        let mut rng = seed.child("label_noise", 0).rng();
        let mut value = |drawn: &[usize]| {
            let entries = drawn.iter().flat_map(|cluster| &clusters[*cluster]);
            statistic(&win_rates(entries, models.len(), given.as_deref(), |p| {
                if p_flip == 0.0 { p } else { flipped(1.0 + p, p_flip, &mut rng) - 1.0 }
            })?)
        };
        let all: Vec<usize> = (0..clusters.len()).collect();
        let draws: Vec<f64> = (0..if p_flip == 0.0 { 1 } else { N_NOISE_DRAWS }).filter_map(|_| value(&all)).collect();
        let mean = (!draws.is_empty()).then(|| draws.iter().sum::<f64>() / draws.len() as f64)?;
        Some((mean, bootstrap::interval(clusters.len(), n_resamples, seed, value)))
    };
    Some(RankAgreement { spearman: of(correlation::spearman), pearson: of(correlation::pearson), models })
}

/// Of each model the win rate under the judge and under the other, `None` when one has no verdict.
fn win_rates<'a>(
    entries: impl Iterator<Item = &'a Entry>,
    n_models: usize,
    given: Option<&[f64]>,
    mut noisy: impl FnMut(f64) -> f64,
) -> Option<Vec<(f64, f64)>> {
    let mut sums = vec![(0.0, 0.0, 0.0); n_models];
    for entry in entries {
        let p = noisy(entry.p_second);
        for (model, p, other) in [(entry.models[0], 1.0 - p, 1.0 - entry.other), (entry.models[1], p, entry.other)] {
            if let Some(model) = model {
                let (judge, people, n) = &mut sums[model];
                (*judge, *people, *n) = (*judge + p, *people + other, *n + 1.0);
            }
        }
    }
    let rate = |(model, (judge, people, n)): (usize, &(f64, f64, f64))| {
        (*n > 0.0).then(|| (judge / n, given.map_or(people / n, |given| given[model])))
    };
    sums.iter().enumerate().map(rate).collect()
}

/// The models to rank, in alphabetical order: without the baseline that is in every pair.
fn ranked_models(
    verdicts: &Verdicts,
    pairs: impl Iterator<Item = usize> + Clone,
    least: usize,
    against: Against<'_>,
) -> Vec<String> {
    let mut counts: BTreeMap<&String, usize> = BTreeMap::new();
    let mut in_all: Option<BTreeSet<&String>> = None;
    for pair in pairs {
        let names: BTreeSet<&String> = verdicts.pairs[pair].generators.iter().flatten().collect();
        names.iter().for_each(|name| *counts.entry(name).or_default() += 1);
        in_all = Some(in_all.map_or(names.clone(), |all| all.intersection(&names).copied().collect()));
    }
    let baseline = in_all.filter(|all| all.len() == 1);
    let is_ranked = |name: &&String| match against {
        Against::Given(ranking) => ranking.contains_key(name.as_str()),
        Against::Judge(_) => true,
    };
    counts
        .into_iter()
        .filter(|(name, n)| *n >= least.max(1) && baseline.as_ref().is_none_or(|baseline| !baseline.contains(name)))
        .map(|(name, _)| name)
        .filter(is_ranked)
        .cloned()
        .collect()
}
