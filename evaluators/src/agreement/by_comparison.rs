//! AlpacaEval's agreement with every comparison counted once, however many verdicts it has, and with label noise.
//!
//! Where all comparisons have as many verdicts, the scores are those of [`super::alpaca_eval`]. Where they have not, AlpacaEval
//! takes the mean over the places of verdicts, so that the few comparisons with a seventh verdict decide as much as all that have a
//! first one; here the mean over a comparison's own verdicts is taken first.

use farmhand_core::Seed;

use super::alpaca_eval::ScoringRule;
use super::label_noise::Noisy;
use crate::estimate::Estimate;
use crate::statistics::bootstrap::ClusterSums;

/// A score for each comparison, `None` where it lacks verdicts.
#[derive(Debug, Clone, PartialEq)]
pub struct Scores(pub Vec<Option<f64>>);

impl Scores {
    /// The mean score with its standard error over comparisons; `None` without a score.
    pub fn estimate(&self) -> Option<Estimate> {
        Estimate::of_mean(&self.0.iter().flatten().copied().collect::<Vec<f64>>())
    }

    /// The scores as sums by cluster; `clusters` has the number of each comparison's cluster.
    pub fn by_cluster(&self, clusters: &[usize]) -> ClusterSums {
        let mut sums = std::collections::BTreeMap::<usize, (f64, f64)>::new();
        for (score, cluster) in self.0.iter().zip(clusters) {
            if let Some(score) = score {
                let (sum, n) = sums.entry(*cluster).or_default();
                (*sum, *n) = (*sum + score, *n + 1.0);
            }
        }
        let (sums, counts) = sums.into_values().unzip();
        ClusterSums { sums, counts }
    }

    /// The 95 % interval of the mean score when clusters are drawn anew. `None` for fewer than two.
    pub fn interval(&self, clusters: &[usize], n_replicates: usize, seed: Seed) -> Option<[f64; 2]> {
        self.by_cluster(clusters).mean_interval(n_replicates, seed)
    }
}

/// Each verdict of one annotator against the mode of another's on the same comparison: AlpacaEval's agreement with people. `p_flip` of
/// the first annotator's verdicts are noise, in expectation.
pub fn single_against_mode(codes_1: &[Vec<f64>], codes_2: &[Vec<f64>], rule: ScoringRule, p_flip: f64) -> Scores {
    let of_comparison = |(own, others): (&Vec<f64>, &Vec<f64>)| {
        let mode = rule.of_all(others)?;
        let score = |code: &f64| Noisy::of(&[*code], p_flip, 0).expected(|codes| Some(rule.score(rule.of_all(codes)?, mode)));
        mean(own.iter().filter_map(score))
    };
    Scores(codes_1.iter().zip(codes_2).map(of_comparison).collect())
}

/// The mode of one annotator's verdicts against the mode of another's: 1 − AlpacaEval's bias.
pub fn mode_against_mode(codes_1: &[Vec<f64>], codes_2: &[Vec<f64>], rule: ScoringRule, p_flip: f64) -> Scores {
    let of_comparison = |(i, (own, others)): (usize, (&Vec<f64>, &Vec<f64>))| {
        let mode = rule.of_all(others)?;
        Noisy::of(own, p_flip, i).expected(|codes| Some(rule.score(rule.of_all(codes)?, mode)))
    };
    Scores(codes_1.iter().zip(codes_2).enumerate().map(of_comparison).collect())
}

/// Each verdict against the mode of the same annotator's others on the comparison: the agreement of people among themselves, and
/// 1 − AlpacaEval's variance.
pub fn one_against_others(codes: &[Vec<f64>], rule: ScoringRule, p_flip: f64) -> Scores {
    let left_out = |codes: &[f64]| {
        let score = |i: usize| {
            let others: Vec<f64> = codes.iter().enumerate().filter(|(j, _)| *j != i).map(|(_, code)| *code).collect();
            Some(rule.score(rule.of_all(&codes[i..=i])?, rule.of_all(&others)?))
        };
        mean((0..codes.len()).filter_map(score))
    };
    Scores(codes.iter().enumerate().map(|(i, codes)| Noisy::of(codes, p_flip, i).expected(left_out)).collect())
}

/// Each verdict of one annotator against each of another's.
pub fn single_against_single(codes_1: &[Vec<f64>], codes_2: &[Vec<f64>], rule: ScoringRule) -> Scores {
    let of_comparison = |(own, others): (&Vec<f64>, &Vec<f64>)| {
        let one = |code: &f64| rule.of_all(&[*code]);
        mean(own.iter().filter_map(one).flat_map(|a| others.iter().filter_map(one).map(move |b| rule.score(a, b))))
    };
    Scores(codes_1.iter().zip(codes_2).map(of_comparison).collect())
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, n) = values.fold((0.0, 0.0), |(sum, n), value| (sum + value, n + 1.0));
    (n > 0.0).then(|| sum / n)
}

#[cfg(test)]
mod tests {
    use super::super::alpaca_eval::{between, within};
    use super::*;

    const RULES: [ScoringRule; 3] = [ScoringRule::Absolute, ScoringRule::ZeroOne, ScoringRule::Squared];

    fn drawn(n: usize, k: usize, seed: u64) -> Vec<Vec<f64>> {
        let mut rng = Seed::root(seed).rng();
        (0..n).map(|_| (0..k).map(|_| [1.0, 1.5, 2.0, 1.25][rng.below(4)]).collect()).collect()
    }

    #[test]
    fn with_as_many_verdicts_everywhere_it_is_alpaca_evals() {
        let (judge, people) = (drawn(60, 3, 1), drawn(60, 4, 2));
        let close = |one: Scores, other: f64| {
            let score = one.estimate().expect("scores").mean;
            assert!((score - other).abs() < 1e-12, "{score} {other}");
        };
        for rule in RULES {
            let expected = |n_1, n_2| between(&judge, &people, n_1, n_2, rule).expect("scores").score;
            close(single_against_mode(&judge, &people, rule, 0.0), expected(Some(1), None));
            close(mode_against_mode(&judge, &people, rule, 0.0), expected(None, None));
            close(single_against_single(&judge, &people, rule), expected(Some(1), Some(1)));
            close(one_against_others(&people, rule, 0.0), within(&people, 1, None, rule).expect("scores").score);
        }
    }

    #[test]
    fn a_comparison_with_many_verdicts_counts_once() {
        let judge = vec![vec![1.0; 9], vec![1.0], vec![1.0]];
        let people = vec![vec![1.0], vec![2.0], vec![]];
        let scores = single_against_mode(&judge, &people, ScoringRule::Absolute, 0.0);
        assert_eq!(scores.0, [Some(1.0), Some(0.0), None]);
        assert_eq!(scores.estimate().expect("two").mean, 0.5);
        assert_eq!(one_against_others(&judge, ScoringRule::Absolute, 0.0).0, [Some(1.0), None, None]);
        let sums = scores.by_cluster(&[4, 4, 5]);
        assert_eq!((sums.sums, sums.counts), (vec![1.0], vec![2.0]));
    }
}
