//! How far the rankings of methods under two annotators agree.

use farmhand_core::Seed;
use farmhand_core::types::Metric;
use serde::Serialize;

use super::judged::{JudgedMethod, JudgedMethods, TableRow};
use crate::estimate::{Estimate, NORMAL_975, plain_metric};
use crate::statistics::bootstrap::{self, quantile};
use crate::statistics::correlation::{kendall, mean_ranks, pearson, spearman};

/// A win rate under one annotator, in %.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Rate {
    /// The win rate.
    pub win_rate: f64,
    /// Its standard error over instructions.
    pub std_error: Option<f64>,
    /// Its 95 % interval.
    pub interval: Option<[f64; 2]>,
    /// Verdicts; 0 where only the rate is known.
    pub n: usize,
    /// Its place, the best 1; equal rates share the mean of their places.
    pub rank: f64,
}

/// One method under both annotators.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MethodTransfer {
    /// The method.
    pub method: String,
    /// Under A.
    pub a: Rate,
    /// Under B.
    pub b: Rate,
    /// The mean length of its answers, in characters.
    pub length: Option<f64>,
    /// The mean length of the reference's answers to the same instructions, in characters.
    pub reference_length: Option<f64>,
}

impl MethodTransfer {
    /// How many times as long as the reference's its answers are.
    pub fn length_ratio(&self) -> Option<f64> {
        let reference = self.reference_length.filter(|length| *length > 0.0)?;
        Some(self.length? / reference)
    }
}

/// What becomes of a ranking under another annotator.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Transfer {
    /// The methods, the best under B first.
    pub methods: Vec<MethodTransfer>,
    /// `spearman`, `kendall`, `pearson`, `r_squared` (its square) with intervals, for three methods or more; and where lengths are known `length_spearman_a`,
    /// `length_spearman_b`: how far the ranking of win rates is that of lengths.
    pub metrics: Vec<Metric>,
    /// The least-squares line of the win rate under B over that under A: intercept (%) and slope. `None` where A does not vary.
    pub line: Option<[f64; 2]>,
}

impl Transfer {
    /// The number of this name.
    pub fn metric(&self, name: &str) -> Option<&Metric> {
        self.metrics.iter().find(|metric| metric.name == name)
    }
}

type Statistic = fn(&[(f64, f64)]) -> Option<f64>;

const STATISTICS: [(&str, Statistic); 4] =
    [("spearman", spearman), ("kendall", kendall), ("pearson", pearson), ("r_squared", r_squared)];

fn r_squared(pairs: &[(f64, f64)]) -> Option<f64> {
    pearson(pairs).map(|r| r * r)
}

/// Win rates under both annotators and their correlations. Instructions are drawn anew for the intervals, the same for all methods
/// and both annotators, so that what their verdicts share is not counted as noise.
pub fn transfer(judged: &JudgedMethods, n_resamples: usize, seed: Seed) -> Transfer {
    let methods: Vec<MethodTransfer> = judged.methods.iter().map(|(name, method)| row(name, method)).collect();
    // Of each instruction: method, side, sum of probabilities and verdicts.
    let mut by_instruction: Vec<Vec<(usize, usize, f64)>> = vec![Vec::new(); judged.n_instructions];
    for (number, (_, method)) in judged.methods.iter().enumerate() {
        for (side, p_wins) in method.p_wins.iter().enumerate() {
            p_wins.iter().for_each(|(instruction, p)| by_instruction[*instruction].push((number, side, *p)));
        }
    }
    by_instruction.retain(|verdicts| !verdicts.is_empty());
    let rates = |drawn: &[usize]| -> Option<Vec<(f64, f64)>> {
        let mut sums = vec![[(0.0, 0.0); 2]; methods.len()];
        for (method, side, p) in drawn.iter().flat_map(|instruction| &by_instruction[*instruction]) {
            let (sum, n) = &mut sums[*method][*side];
            (*sum, *n) = (*sum + p, *n + 1.0);
        }
        sums.iter().map(|[a, b]| (a.1 > 0.0 && b.1 > 0.0).then(|| (a.0 / a.1, b.0 / b.1))).collect()
    };
    let intervals = STATISTICS
        .map(|(_, statistic)| bootstrap::interval(by_instruction.len(), n_resamples, seed, |drawn| statistic(&rates(drawn)?)));
    finished(methods, intervals)
}

/// The same from win rates alone. Where all have standard errors, the intervals are of rates drawn from normal distributions, apart
/// for each method and annotator: wider than they would be from the verdicts.
pub fn transfer_of_table(rows: &[TableRow], n_resamples: usize, seed: Seed) -> Transfer {
    let rate = |win_rate: f64, std_error: Option<f64>| Rate {
        win_rate,
        std_error,
        interval: std_error.map(|error| [win_rate - NORMAL_975 * error, win_rate + NORMAL_975 * error]),
        n: 0,
        rank: 0.0,
    };
    let method = |row: &TableRow| MethodTransfer {
        method: row.method.clone(),
        a: rate(row.a, row.a_se),
        b: rate(row.b, row.b_se),
        length: None,
        reference_length: None,
    };
    let errors: Option<Vec<(f64, f64)>> = rows.iter().map(|row| row.a_se.zip(row.b_se)).collect();
    let drawn = |statistic: Statistic| {
        let errors = errors.as_ref()?;
        let draw = |i: usize| {
            let mut rng = seed.child("rates", i as u64).rng();
            let pair = |(row, (a_se, b_se)): (&TableRow, &(f64, f64))| (row.a + a_se * rng.normal(), row.b + b_se * rng.normal());
            statistic(&rows.iter().zip(errors).map(pair).collect::<Vec<_>>())
        };
        let mut values: Vec<f64> = (0..n_resamples).filter_map(draw).collect();
        values.sort_by(f64::total_cmp);
        (!values.is_empty()).then(|| [quantile(&values, 0.025), quantile(&values, 0.975)])
    };
    finished(rows.iter().map(method).collect(), STATISTICS.map(|(_, statistic)| drawn(statistic)))
}

fn finished(mut methods: Vec<MethodTransfer>, intervals: [Option<[f64; 2]>; 4]) -> Transfer {
    let places = |rate: fn(&MethodTransfer) -> f64| mean_ranks(&methods.iter().map(|method| -rate(method)).collect::<Vec<_>>());
    let (under_a, under_b) = (places(|method| method.a.win_rate), places(|method| method.b.win_rate));
    for (method, (a, b)) in methods.iter_mut().zip(under_a.into_iter().zip(under_b)) {
        (method.a.rank, method.b.rank) = (a, b);
    }
    methods.sort_by(|one, other| one.b.rank.total_cmp(&other.b.rank).then_with(|| one.method.cmp(&other.method)));
    let pairs: Vec<(f64, f64)> = methods.iter().map(|method| (method.a.win_rate, method.b.win_rate)).collect();
    // Two points are always on a line, and in order or not: their correlation is no evidence.
    let is_enough = methods.len() > 2;
    let metric = |name: &str, value: Option<f64>| {
        let value = value.filter(|_| is_enough);
        Some(plain_metric(name, value.filter(|value| value.is_finite())?, methods.len(), "", Some(true)))
    };
    let mut metrics: Vec<Metric> = STATISTICS
        .into_iter()
        .zip(intervals)
        .filter_map(|((name, statistic), interval)| Some(Metric { interval, ..metric(name, statistic(&pairs))? }))
        .collect();
    for (name, rate) in [
        ("length_spearman_a", (|method| method.a.win_rate) as fn(&MethodTransfer) -> f64),
        ("length_spearman_b", |method| method.b.win_rate),
    ] {
        let lengths: Option<Vec<(f64, f64)>> = methods.iter().map(|method| Some((method.length?, rate(method)))).collect();
        let found = lengths.and_then(|lengths| metric(name, spearman(&lengths)));
        metrics.extend(found.map(|metric| Metric { higher_is_better: None, ..metric }));
    }
    Transfer { line: line(&pairs), methods, metrics }
}

/// Intercept and slope of the least-squares line of the second numbers over the first.
fn line(pairs: &[(f64, f64)]) -> Option<[f64; 2]> {
    let n = pairs.len() as f64;
    let (mean_a, mean_b) = pairs.iter().fold((0.0, 0.0), |(a, b), pair| (a + pair.0 / n, b + pair.1 / n));
    let (ab, aa) =
        pairs.iter().fold((0.0, 0.0), |(ab, aa), (a, b)| (ab + (a - mean_a) * (b - mean_b), aa + (a - mean_a).powi(2)));
    (aa > 0.0).then(|| [mean_b - ab / aa * mean_a, ab / aa])
}

fn row(name: &str, method: &JudgedMethod) -> MethodTransfer {
    let [a, b] = method.p_wins.each_ref().map(|p_wins| rate(p_wins));
    let mean = |side: usize| {
        let lengths = method.lengths.values();
        (!method.lengths.is_empty()).then(|| lengths.map(|both| both[side]).sum::<f64>() / method.lengths.len() as f64)
    };
    MethodTransfer { method: name.to_owned(), a, b, length: mean(0), reference_length: mean(1) }
}

/// The win rate with its error over instructions: several verdicts on one are averaged for the error.
fn rate(p_wins: &[(usize, f64)]) -> Rate {
    let mut sums: std::collections::BTreeMap<usize, (f64, f64)> = std::collections::BTreeMap::new();
    for (instruction, p) in p_wins {
        let (sum, n) = sums.entry(*instruction).or_default();
        (*sum, *n) = (*sum + p, *n + 1.0);
    }
    let n = p_wins.len() as f64;
    let mean = p_wins.iter().map(|(_, p)| p).sum::<f64>() / n;
    // Residual sums by instruction, which with one verdict each is the usual standard error.
    let n_clusters = sums.len() as f64;
    let squares: f64 = sums.values().map(|(sum, count)| (sum - count * mean).powi(2)).sum();
    let std_error = (sums.len() > 1).then(|| (squares * n_clusters / (n_clusters - 1.0)).sqrt() / n);
    let estimate = Estimate { mean: 100.0 * mean, std_error: std_error.map(|error| 100.0 * error), n: p_wins.len() };
    Rate {
        win_rate: estimate.mean,
        std_error: estimate.std_error,
        interval: estimate.interval().map(|ends| ends.map(|end| end.clamp(0.0, 100.0))),
        n: p_wins.len(),
        rank: 0.0,
    }
}
