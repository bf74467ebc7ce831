//! Everything about one judge: how it agrees with people, what it leans to, what it takes, how it ranks.

use std::collections::BTreeMap;

use farmhand_core::Seed;
use farmhand_core::types::Metric;
use serde::Serialize;

use super::leanings::{self, weighted};
use super::rankings::{Against, RankAgreement, rank_agreement};
use super::two_raters::{Cells, side};
use super::verdicts::{Verdict, Verdicts};
use crate::agreement::alpaca_eval::ScoringRule;
use crate::agreement::by_comparison::{Scores, mode_against_mode, one_against_others, single_against_mode};
use crate::estimate::plain_metric;
use crate::statistics::bootstrap::{self, ClusterSums};
use crate::statistics::proportion::exact_interval;

/// How judges are measured.
#[derive(Debug, Clone)]
pub struct JudgeOptions {
    /// Resamples of the instructions for the intervals; 0 leaves them out.
    pub n_resamples: usize,
    /// Seed of the resamples and of label noise, where it is drawn.
    pub seed: Seed,
    /// Answers are of unequal length when they differ by more than this many characters.
    pub least_difference: usize,
    /// Models with fewer verdicts are not ranked.
    pub least_verdicts: usize,
    /// Numbers by model that rankings are held against, beside people's.
    pub ranking: Option<BTreeMap<String, f64>>,
    /// The share of plain verdicts that label noise turns around, in [0, ½].
    pub p_flip: f64,
}

impl Default for JudgeOptions {
    fn default() -> Self {
        Self { n_resamples: 1000, seed: Seed::root(0), least_difference: 30, least_verdicts: 100, ranking: None, p_flip: 0.0 }
    }
}

/// What is known of one judge.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct JudgeReport {
    /// The judge.
    pub judge: String,
    /// The share of plain verdicts that label noise turned around.
    pub noise: f64,
    /// Pairs of answers that it judged or failed on.
    pub n_pairs: usize,
    /// Instructions of these pairs.
    pub n_instructions: usize,
    /// Verdicts; failures are not among them, ties are.
    pub n_verdicts: usize,
    /// Failures.
    pub n_failed: usize,
    /// The models that it ranks together with people.
    pub models: Vec<String>,
    /// The numbers, in a fixed order; what is not defined is left out.
    pub metrics: Vec<Metric>,
}

impl JudgeReport {
    /// The number of this name.
    pub fn metric(&self, name: &str) -> Option<&Metric> {
        self.metrics.iter().find(|metric| metric.name == name)
    }
}

/// Measures a judge; `people` is the number of those whose verdicts count as true, if there are any. Of the people themselves:
/// each against the others.
///
/// Metrics, in % unless said otherwise, intervals over instructions: `agreement`, `agreement_zero_one`, `agreement_squared` (AlpacaEval's
/// three rules), `kappa`, `alpha` (of the judge and the people's majority, at most 1), `bias`, `variance` (AlpacaEval's, absolute
/// rule), `failed`, `tie`, `prefers_first`, `swap_consistency`, `prefers_longer`, `longer_by` (of the other answer's length),
/// `prefers_list`, `prefers_own`, `own_excess` (points), `price_per_1000` (US dollars), `time_per_1000` (seconds), `spearman`, `pearson`
/// (of win rates with people's), `ranking_spearman`, `ranking_pearson` (with the given ranking).
pub fn measure(
    verdicts: &Verdicts,
    judge: usize,
    people: Option<usize>,
    is_own: &dyn Fn(&str) -> bool,
    options: &JudgeOptions,
) -> JudgeReport {
    let own: Vec<&Verdict> = verdicts.of_judge(judge).collect();
    let mut pairs: Vec<usize> = own.iter().map(|verdict| verdict.pair).collect();
    pairs.sort_unstable();
    pairs.dedup();
    let mut instructions: Vec<usize> = pairs.iter().map(|pair| verdicts.pairs[*pair].instruction).collect();
    instructions.sort_unstable();
    instructions.dedup();
    let n_failed = own.iter().filter(|verdict| verdict.p_second.is_none()).count();
    let p_flip = options.p_flip;
    let measurer = Measurer { verdicts, options };
    let mut metrics = measurer.agreement(judge, people);
    let cluster = |verdict: &Verdict| verdicts.pairs[verdict.pair].instruction;
    let is = |yes: bool| f64::from(u8::from(yes));
    let failed = weighted(own.iter().map(|verdict| (cluster(verdict), is(verdict.p_second.is_none()), 1.0)));
    let stays = 1.0 - 2.0 * p_flip;
    let ties = weighted(own.iter().filter_map(|one| Some((cluster(one), stays * is(side(one.p_second?) == 1), 1.0))));
    metrics.extend(
        [
            measurer.mean("failed", &failed, true),
            measurer.mean("tie", &ties, true),
            measurer.mean("prefers_first", &leanings::prefers_first(verdicts, judge, p_flip), true),
            measurer.mean("swap_consistency", &leanings::swap_consistency(verdicts, judge, p_flip), true),
            measurer.mean("prefers_longer", &leanings::prefers_longer(verdicts, judge, options.least_difference, p_flip), true),
            measurer.mean("longer_by", &leanings::longer_by(verdicts, judge, p_flip), false),
            measurer.mean("prefers_list", &leanings::prefers_list(verdicts, judge, p_flip), true),
            measurer.mean("prefers_own", &leanings::prefers_own(verdicts, judge, is_own, p_flip), true),
            people.filter(|people| *people != judge).and_then(|people| {
                measurer.mean("own_excess", &leanings::own_excess(verdicts, judge, people, is_own, p_flip), false)
            }),
        ]
        .into_iter()
        .flatten(),
    );
    for (name, of, unit) in [
        ("price_per_1000", (|verdict| verdict.price) as fn(&Verdict) -> Option<f64>, "USD"),
        ("time_per_1000", |verdict| verdict.time, "s"),
    ] {
        let values: Vec<f64> = own.iter().filter_map(|verdict| of(verdict)).collect();
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        metrics.extend((!values.is_empty()).then(|| plain_metric(name, 1000.0 * mean, values.len(), unit, Some(false))));
    }
    let with_people = people.filter(|people| *people != judge).and_then(|people| measurer.ranks(judge, Against::Judge(people)));
    let with_given = options.ranking.as_ref().and_then(|ranking| measurer.ranks(judge, Against::Given(ranking)));
    metrics.extend(with_people.iter().flat_map(|ranks| ranked("", ranks)));
    metrics.extend(with_given.iter().flat_map(|ranks| ranked("ranking_", ranks)));
    JudgeReport {
        judge: verdicts.judges[judge].clone(),
        noise: p_flip,
        n_pairs: pairs.len(),
        n_instructions: instructions.len(),
        n_verdicts: own.len() - n_failed,
        n_failed,
        models: with_people.map(|ranks| ranks.models).unwrap_or_default(),
        metrics,
    }
}

fn ranked(prefix: &str, ranks: &RankAgreement) -> Vec<Metric> {
    [("spearman", ranks.spearman), ("pearson", ranks.pearson)]
        .into_iter()
        .filter_map(|(name, found)| {
            let (value, interval) = found?;
            let metric = plain_metric(&format!("{prefix}{name}"), value, ranks.models.len(), "", Some(true));
            Some(Metric { interval, ..metric })
        })
        .collect()
}

struct Measurer<'a> {
    verdicts: &'a Verdicts,
    options: &'a JudgeOptions,
}

impl Measurer<'_> {
    fn resampling(&self) -> (usize, Seed) {
        (self.options.n_resamples, self.options.seed)
    }

    /// A mean as a percentage. A share of which every instruction says the same has the exact interval of as many draws.
    fn mean(&self, name: &str, sums: &ClusterSums, is_share: bool) -> Option<Metric> {
        let mean = sums.mean()?;
        let n: f64 = sums.counts.iter().sum();
        let n_clusters = sums.counts.len();
        let interval = match mean {
            _ if self.options.n_resamples == 0 => None,
            0.0 if is_share => exact_interval(0, n_clusters),
            1.0 if is_share => exact_interval(n_clusters, n_clusters),
            _ => sums.mean_interval(self.options.n_resamples, self.options.seed),
        };
        let metric = plain_metric(name, 100.0 * mean, n.round() as usize, "%", None);
        Some(Metric { interval: interval.map(|ends| ends.map(|end| 100.0 * end)), ..metric })
    }

    fn scored(&self, name: &str, scores: &Scores, of_error: bool) -> Option<Metric> {
        let estimate = scores.estimate()?;
        let sums = scores.by_cluster(&self.verdicts.clusters());
        let metric = self.mean(name, &sums, true)?;
        let turned = |[low, high]: [f64; 2]| if of_error { [100.0 - high, 100.0 - low] } else { [low, high] };
        Some(Metric {
            value: if of_error { 100.0 - metric.value } else { metric.value },
            std_error: estimate.std_error.map(|error| 100.0 * error),
            interval: metric.interval.map(turned),
            n: estimate.n,
            higher_is_better: Some(!of_error),
            ..metric
        })
    }

    fn agreement(&self, judge: usize, people: Option<usize>) -> Vec<Metric> {
        let p_flip = self.options.p_flip;
        let codes = self.verdicts.codes(|verdict| verdict.judge == judge);
        let absolute = ScoringRule::Absolute;
        let mut metrics = Vec::new();
        let rules =
            [("agreement", absolute), ("agreement_zero_one", ScoringRule::ZeroOne), ("agreement_squared", ScoringRule::Squared)];
        match people {
            Some(people) if people == judge => {
                for (name, rule) in rules {
                    metrics.extend(self.scored(name, &one_against_others(&codes, rule, p_flip), false));
                }
            }
            Some(people) => {
                let of_people = self.verdicts.codes(|verdict| verdict.judge == people);
                for (name, rule) in rules {
                    metrics.extend(self.scored(name, &single_against_mode(&codes, &of_people, rule, p_flip), false));
                }
                metrics.extend(self.kappa_and_alpha(judge, &of_people));
                metrics.extend(self.scored("bias", &mode_against_mode(&codes, &of_people, absolute, p_flip), true));
            }
            None => {}
        }
        metrics.extend(self.scored("variance", &one_against_others(&codes, absolute, p_flip), true));
        metrics
    }

    /// κ and α of each of the judge's verdicts and the people's mode.
    fn kappa_and_alpha(&self, judge: usize, of_people: &[Vec<f64>]) -> Vec<Metric> {
        let mut by_instruction: BTreeMap<usize, Cells> = BTreeMap::new();
        let mut n = 0;
        for verdict in self.verdicts.of_judge(judge) {
            if let (Some(p), Some(people)) = (verdict.p_second, ScoringRule::Absolute.of_all(&of_people[verdict.pair])) {
                let cells = by_instruction.entry(self.verdicts.pairs[verdict.pair].instruction).or_default();
                cells.add(p, side(people - 1.0), self.options.p_flip);
                n += 1;
            }
        }
        let clusters: Vec<Cells> = by_instruction.into_values().collect();
        let sum = |drawn: &[usize]| {
            let mut all = Cells::default();
            drawn.iter().for_each(|cluster| all.merge(&clusters[*cluster]));
            all
        };
        let everything: Vec<usize> = (0..clusters.len()).collect();
        let (n_resamples, seed) = self.resampling();
        [("kappa", Cells::kappa as fn(&Cells) -> Option<f64>), ("alpha", Cells::alpha)]
            .into_iter()
            .filter_map(|(name, statistic)| {
                let metric = plain_metric(name, statistic(&sum(&everything))?, n, "", Some(true));
                let interval = bootstrap::interval(clusters.len(), n_resamples, seed, |drawn| statistic(&sum(drawn)));
                Some(Metric { interval, ..metric })
            })
            .collect()
    }

    fn ranks(&self, judge: usize, against: Against<'_>) -> Option<RankAgreement> {
        let options = self.options;
        rank_agreement(self.verdicts, judge, against, options.least_verdicts, options.p_flip, self.resampling())
    }
}
