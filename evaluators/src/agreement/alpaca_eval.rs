//! Agreement, bias and variance of annotators as AlpacaEval's `analyze` defines them (package `alpaca_eval`, version 0.6.6).
//!
//! Verdicts on one comparison are numbered in the order of the file; who gave them does not matter. Some of them stand for all: the
//! mode of plain verdicts, the median of graded ones. Agreement is the mean score of such an estimate against another, over all
//! choices of which verdicts make the two.

use serde::Serialize;

use crate::estimate::Estimate;

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
    /// The score of one code against another, at most 1.
    pub fn score(self, a: f64, b: f64) -> f64 {
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

/// Agreement of `n_1` of the verdicts on each comparison with `n_2` others of the same verdicts; `n_2` of `None` are all the
/// others, the leave-one-out mode for an `n_1` of 1. `codes`: those of each comparison in file order. `None` when no comparison has
/// enough verdicts.
pub fn within(codes: &[Vec<f64>], n_1: usize, n_2: Option<usize>, rule: ScoringRule) -> Option<Agreement> {
    let most = codes.iter().map(Vec::len).max().unwrap_or(0);
    let n_2 = n_2.or_else(|| most.checked_sub(n_1)).filter(|n_2| *n_2 > 0 && n_1 > 0)?;
    let (first, second) = (choices(most, n_1), choices(most, n_2));
    let apart = |a: &[usize], b: &[usize]| a.iter().all(|i| !b.contains(i));
    let pairs = first.iter().flat_map(|a| second.iter().filter(|b| apart(a, b)).map(move |b| (a, b)));
    let enough: Vec<&Vec<f64>> = codes.iter().collect();
    over_choices(pairs, &at_least(&enough, n_1), &at_least(&enough, n_2), rule)
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
    let selected = |codes: &[Vec<f64>], n: Option<usize>| {
        let some: Vec<usize> = codes.iter().map(Vec::len).filter(|n| *n > 0).collect();
        let most = some.iter().copied().max()?;
        let all: Vec<&Vec<f64>> = codes.iter().collect();
        let least = n.or_else(|| some.iter().copied().min())?;
        Some((
            choices(most, n.unwrap_or(most)),
            at_least(&all, least).into_iter().map(|row| row.map(|row| row.to_vec())).collect::<Vec<_>>(),
        ))
    };
    let ((first, rows_1), (second, rows_2)) = (selected(codes_1, n_1)?, selected(codes_2, n_2)?);
    let rows_1: Vec<Option<&[f64]>> = rows_1.iter().map(Option::as_deref).collect();
    let rows_2: Vec<Option<&[f64]>> = rows_2.iter().map(Option::as_deref).collect();
    over_choices(first.iter().flat_map(|a| second.iter().map(move |b| (a, b))), &rows_1, &rows_2, rule)
}

/// The rows with at least `n` codes; the others are nothing.
fn at_least<'a>(rows: &[&'a Vec<f64>], n: usize) -> Vec<Option<&'a [f64]>> {
    rows.iter().map(|row| (row.len() >= n && !row.is_empty()).then_some(row.as_slice())).collect()
}

fn over_choices<'a>(
    pairs: impl Iterator<Item = (&'a Vec<usize>, &'a Vec<usize>)>,
    rows_1: &[Option<&[f64]>],
    rows_2: &[Option<&[f64]>],
    rule: ScoringRule,
) -> Option<Agreement> {
    let take = |row: Option<&[f64]>, choice: &[usize]| {
        let codes: Vec<f64> = choice.iter().filter_map(|i| row?.get(*i).copied()).collect();
        (!codes.is_empty()).then(|| rule.estimate(&codes))
    };
    let of_choice = |(a, b): (&Vec<usize>, &Vec<usize>)| {
        let scores = rows_1.iter().zip(rows_2).filter_map(|(x, y)| Some(rule.score(take(*x, a)?, take(*y, b)?)));
        Estimate::of_mean(&scores.collect::<Vec<f64>>())
    };
    let results: Vec<Estimate> = pairs.filter_map(of_choice).collect();
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
