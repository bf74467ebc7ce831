//! Agreement, bias and variance of annotators as AlpacaEval's `analyze` defines them (package `alpaca_eval`, version 0.6.6).
//!
//! Verdicts on one comparison are numbered in the order of the file; who gave them does not matter. Some of them stand for all: the
//! mode of plain verdicts, the median of graded ones. Agreement is the mean score of such an estimate against another, over all
//! choices of which verdicts make the two.

use farmhand_core::Seed;
use serde::Serialize;

use super::label_noise::Noisy;
use crate::estimate::Estimate;
use crate::statistics::bootstrap;

/// How a verdict scores against another, both as codes: 1 the first answer, 2 the second, 1.5 a tie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ScoringRule {
    /// 1 − |a − b|: the default of AlpacaEval.
    #[default]
    Absolute,
    /// 1 when both, rounded, are the same.
    ZeroOne,
    /// 1 − (a − b)².
    Squared,
}

impl ScoringRule {
    fn score(self, a: f64, b: f64) -> f64 {
        match self {
            Self::Absolute => 1.0 - (a - b).abs(),
            Self::ZeroOne => f64::from(u8::from(rounded(a) == rounded(b))),
            Self::Squared => 1.0 - (a - b).powi(2),
        }
    }

    /// The one code that stands for all of these; `None` without one.
    pub fn of_all(self, codes: &[f64]) -> Option<f64> {
        (!codes.is_empty()).then(|| self.estimate(codes))
    }

    /// The one code that stands for several.
    fn estimate(self, codes: &[f64]) -> f64 {
        match self {
            Self::Squared => codes.iter().sum::<f64>() / codes.len() as f64,
            Self::ZeroOne => mode(codes.iter().map(|code| rounded(*code)).collect()),
            Self::Absolute if codes.iter().all(|code| [1.0, 1.5, 2.0].contains(code)) => mode(codes.to_vec()),
            Self::Absolute => crate::length::median(codes),
        }
    }
}

/// A code as a plain verdict; ties are 0, below the others. Halves round to even, as in numpy.
fn rounded(code: f64) -> f64 {
    if code == 1.5 { 0.0 } else { code.round_ties_even() }
}

/// The most frequent code. Of several, the one that numpy's `RandomState(123)` draws from them in ascending order: the second of
/// two, the first of three.
fn mode(mut codes: Vec<f64>) -> f64 {
    codes.sort_by(f64::total_cmp);
    let runs: Vec<&[f64]> = codes.chunk_by(|a, b| a == b).collect();
    let most = runs.iter().map(|run| run.len()).max().unwrap_or(0);
    let modes: Vec<f64> = runs.iter().filter(|run| run.len() == most).map(|run| run[0]).collect();
    if modes.len() == 2 { modes[1] } else { modes[0] }
}

/// How two sets of verdicts agree.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Agreement {
    /// Mean score in [0, 1].
    pub score: f64,
    /// 1 − score.
    pub error: f64,
    /// Standard error over comparisons, the mean of that of each choice of verdicts; `None` for one comparison.
    pub sem_samples: Option<f64>,
    /// Standard error over the choices of verdicts; `None` for one choice.
    pub sem_annotators: Option<f64>,
    /// Comparisons, the mean over the choices.
    pub n: f64,
}

/// The scores behind an agreement: `[choice of verdicts][comparison]`, `None` where a comparison lacks the chosen verdicts.
#[derive(Debug, Clone, PartialEq)]
pub struct Scores(Vec<Vec<Option<f64>>>);

impl Scores {
    /// The agreement; `None` without a score.
    pub fn agreement(&self) -> Option<Agreement> {
        let of_choice = |scores: &Vec<Option<f64>>| Estimate::of_mean(&scores.iter().flatten().copied().collect::<Vec<f64>>());
        let results: Vec<Estimate> = self.0.iter().filter_map(of_choice).collect();
        let over = Estimate::of_mean(&results.iter().map(|result| result.mean).collect::<Vec<_>>())?;
        let errors: Option<Vec<f64>> = results.iter().map(|result| result.std_error).collect();
        let mean = |values: Vec<f64>| values.iter().sum::<f64>() / values.len() as f64;
        Some(Agreement {
            score: over.mean,
            error: 1.0 - over.mean,
            sem_samples: errors.map(mean),
            sem_annotators: over.std_error,
            n: mean(results.iter().map(|result| result.n as f64).collect()),
        })
    }

    /// The 95 % interval of the mean score when clusters of comparisons are drawn anew; `clusters` has the number of each
    /// comparison's cluster. `None` for fewer than two clusters.
    pub fn interval(&self, clusters: &[usize], n_replicates: usize, seed: Seed) -> Option<[f64; 2]> {
        let n_clusters = clusters.iter().max().map_or(0, |most| most + 1);
        let sums_of = |scores: &Vec<Option<f64>>| {
            let mut sums = vec![(0.0, 0.0); n_clusters];
            for (score, cluster) in scores.iter().zip(clusters) {
                if let Some(score) = score {
                    sums[*cluster] = (sums[*cluster].0 + score, sums[*cluster].1 + 1.0);
                }
            }
            sums
        };
        let by_choice: Vec<Vec<(f64, f64)>> = self.0.iter().map(sums_of).collect();
        // Clusters without a score are not drawn, or the others would be too few.
        let used: Vec<usize> = (0..n_clusters).filter(|c| by_choice.iter().any(|sums| sums[*c].1 > 0.0)).collect();
        bootstrap::interval(used.len(), n_replicates, seed, |drawn| {
            let mean = |sums: &Vec<(f64, f64)>| {
                let (sum, n) = drawn.iter().map(|i| sums[used[*i]]).fold((0.0, 0.0), |a, b| (a.0 + b.0, a.1 + b.1));
                (n > 0.0).then(|| sum / n)
            };
            let means: Vec<f64> = by_choice.iter().filter_map(mean).collect();
            (!means.is_empty()).then(|| means.iter().sum::<f64>() / means.len() as f64)
        })
    }
}

/// Agreement of `n_1` of the verdicts on each comparison with `n_2` others of the same verdicts; `n_2` of `None` are all the
/// others, the leave-one-out mode for an `n_1` of 1. `codes`: those of each comparison in file order. `None` when no comparison has
/// enough verdicts.
pub fn within(codes: &[Vec<f64>], n_1: usize, n_2: Option<usize>, rule: ScoringRule) -> Option<Agreement> {
    within_scores(codes, n_1, n_2, rule, 0.0)?.agreement()
}

/// The scores behind [`within`], as they are expected when `p_flip` of the verdicts are noise (see [`super::label_noise`]).
pub fn within_scores(codes: &[Vec<f64>], n_1: usize, n_2: Option<usize>, rule: ScoringRule, p_flip: f64) -> Option<Scores> {
    let most = codes.iter().map(Vec::len).max().unwrap_or(0);
    let n_2 = n_2.or_else(|| most.checked_sub(n_1)).filter(|n_2| *n_2 > 0 && n_1 > 0)?;
    let (first, second) = (choices(most, n_1), choices(most, n_2));
    let least = n_1.max(n_2);
    let noisy: Vec<Noisy> =
        codes.iter().enumerate().map(|(i, row)| Noisy::of(if row.len() >= least { row } else { &[] }, p_flip, i)).collect();
    let score = |row: &Noisy, a: &[usize], b: &[usize]| {
        row.expected(|codes| Some(rule.score(chosen(codes, a, rule)?, chosen(codes, b, rule)?)))
    };
    let apart = |a: &[usize], b: &[usize]| a.iter().all(|i| !b.contains(i));
    let pairs = first.iter().flat_map(|a| second.iter().filter(|b| apart(a, b)).map(move |b| (a, b)));
    Some(Scores(pairs.map(|(a, b)| noisy.iter().map(|row| score(row, a, b)).collect()).collect()))
}

/// Agreement of `n_1` of one annotator's verdicts on each comparison with `n_2` of another's; `None` for `n_1` or `n_2` are as many
/// as every comparison has. `codes_1` and `codes_2` have one entry for each comparison, in the same order.
pub fn between(
    codes_1: &[Vec<f64>],
    codes_2: &[Vec<f64>],
    n_1: Option<usize>,
    n_2: Option<usize>,
    rule: ScoringRule,
) -> Option<Agreement> {
    between_scores(codes_1, codes_2, n_1, n_2, rule, 0.0)?.agreement()
}

/// The scores behind [`between`], as they are expected when `p_flip` of the first annotator's verdicts are noise (see
/// [`label_noise`]).
pub fn between_scores(
    codes_1: &[Vec<f64>],
    codes_2: &[Vec<f64>],
    n_1: Option<usize>,
    n_2: Option<usize>,
    rule: ScoringRule,
    p_flip: f64,
) -> Option<Scores> {
    let selected = |codes: &[Vec<f64>], n: Option<usize>| {
        let some: Vec<usize> = codes.iter().map(Vec::len).filter(|n| *n > 0).collect();
        let most = some.iter().copied().max()?;
        let least = n.or_else(|| some.iter().copied().min())?;
        Some((choices(most, n.unwrap_or(most)), least.max(1)))
    };
    let ((first, least_1), (second, least_2)) = (selected(codes_1, n_1)?, selected(codes_2, n_2)?);
    let enough = |row: &'_ [f64], least: usize| row.len() >= least;
    let noisy: Vec<Noisy> =
        codes_1.iter().enumerate().map(|(i, row)| Noisy::of(if enough(row, least_1) { row } else { &[] }, p_flip, i)).collect();
    let score = |row: &Noisy, other: &[f64], a: &[usize], b: &[usize]| {
        let other = chosen(if enough(other, least_2) { other } else { &[] }, b, rule)?;
        row.expected(|codes| Some(rule.score(chosen(codes, a, rule)?, other)))
    };
    let of_choice =
        |a: &[usize], b: &[usize]| noisy.iter().zip(codes_2).map(|(row, other)| score(row, other, a, b)).collect::<Vec<_>>();
    Some(Scores(first.iter().flat_map(|a| second.iter().map(|b| of_choice(a, b)).collect::<Vec<_>>()).collect()))
}

/// The one code that stands for the chosen ones; `None` where none of them is there.
fn chosen(codes: &[f64], choice: &[usize], rule: ScoringRule) -> Option<f64> {
    let codes: Vec<f64> = choice.iter().filter_map(|i| codes.get(*i).copied()).collect();
    (!codes.is_empty()).then(|| rule.estimate(&codes))
}

/// Every way to choose `k` of the numbers below `n`, in ascending order.
fn choices(n: usize, k: usize) -> Vec<Vec<usize>> {
    if k == 0 {
        return vec![Vec::new()];
    }
    let with_last = |last: usize| {
        choices(last, k - 1).into_iter().map(move |mut choice| {
            choice.push(last);
            choice
        })
    };
    (k - 1..n).flat_map(with_last).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(value: Option<f64>, expected: f64) {
        let value = value.expect("defined");
        assert!((value - expected).abs() < 1e-12, "{value}, expected {expected}");
    }

    fn two(second: [f64; 4]) -> Vec<Vec<f64>> {
        vec![vec![1.0; 4], second.to_vec()]
    }

    #[test]
    fn alpaca_evals_own_examples() {
        let codes = two([2.0, 2.0, 2.0, 1.0]);
        for rule in [ScoringRule::Absolute, ScoringRule::ZeroOne, ScoringRule::Squared] {
            let one = within(&codes, 1, Some(1), rule).expect("enough");
            assert_eq!((one.score, one.error, one.n), (0.75, 0.25, 2.0), "{rule:?}");
            close(one.sem_samples, 0.25);
            close(one.sem_annotators, 0.075_377_836_144_440_91);
        }
        let rest = within(&codes, 1, None, ScoringRule::Absolute).expect("enough");
        assert_eq!((rest.score, rest.error), (0.875, 0.125));
        close(rest.sem_samples, 0.125);
        close(rest.sem_annotators, 0.125);
        for (last, expected) in [([2.0, 2.0, 2.0, 1.5], 0.9375), ([1.9, 1.8, 1.7, 1.6], 0.925)] {
            close(within(&two(last), 1, None, ScoringRule::Absolute).map(|agreement| agreement.score), expected);
        }
    }

    #[test]
    fn bias_and_agreement_with_people_by_hand() {
        // An annotator with two runs against four people: their modes are 1 and, of two and two, 2.
        let people = vec![vec![1.0, 1.0, 1.0, 2.0], vec![1.0, 1.0, 2.0, 2.0]];
        let judge = vec![vec![1.0, 2.0], vec![2.0, 2.0]];
        // One run against all: (1 + 1) / 2 and (0 + 1) / 2.
        let one = between(&judge, &people, Some(1), None, ScoringRule::Absolute).expect("enough");
        assert_eq!((one.score, one.n), (0.75, 2.0));
        // All against all: the mode of 1 and 2 is 2.
        let bias = between(&judge, &people, None, None, ScoringRule::Absolute).expect("enough");
        assert_eq!(bias.error, 0.5);
        assert_eq!(between(&judge, &[vec![], vec![]], None, None, ScoringRule::Absolute), None);
    }

    #[test]
    fn comparisons_with_too_few_verdicts_are_left_out() {
        let codes = vec![vec![1.0, 1.0, 1.0], vec![2.0], vec![2.0, 2.0, 1.0]];
        let rest = within(&codes, 1, None, ScoringRule::Absolute).expect("enough");
        // First third 1; of the last, 2 against {2, 1} is 2, twice, and 1 against {2, 2}.
        assert_eq!(rest.n, 2.0);
        close(Some(rest.score), (1.0 + 2.0 / 3.0) / 2.0);
        assert_eq!(within(&[vec![1.0]], 1, None, ScoringRule::Absolute), None);
        assert_eq!(within(&[], 1, None, ScoringRule::Absolute), None);
    }

    #[test]
    fn choices_and_modes() {
        assert_eq!(choices(3, 2), [[0, 1], [0, 2], [1, 2]]);
        assert_eq!(choices(2, 3).len(), 0);
        assert_eq!((mode(vec![2.0, 1.0]), mode(vec![1.0, 2.0, 1.5]), mode(vec![2.0, 1.0, 2.0])), (2.0, 1.0, 2.0));
        assert_eq!((rounded(1.5), rounded(1.6), rounded(1.2)), (0.0, 2.0, 1.0));
    }
}
