//! The likeliest truth behind several raters' labels, and each rater's reliability, learned from the labels alone.
//!
//! Dawid and Skene, 1979, <https://doi.org/10.2307/2346806>. Every item has one true class c, drawn with probability p_c; rater r
//! says l of it with probability π_r(l | c), independently of the others. Expectation–maximisation alternates between
//! P(c | labels) ∝ p_c Π π_r(l | c) and the counts weighted with it, p_c = Σ P(c) and π_r(l | c) = Σ P(c) [r said l]. It starts at
//! the shares of each item's votes, uses no random numbers, and never lowers the posterior of its parameters. With the *one-coin* model a
//! rater has one accuracy a: π_r(c | c) = a and (1 − a) / (k − 1) for every other label, which a few labels a rater suffice for.

use farmhand_core::{Error, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a rater said of an item. All three count from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Label {
    /// The item.
    pub item: usize,
    /// The rater.
    pub rater: usize,
    /// The class the rater saw.
    pub class: usize,
}

/// What is learned of a rater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RaterModel {
    /// A matrix: how often each label for each true class. Finds raters who favour a side or never see a tie; needs tens of labels
    /// a rater.
    #[default]
    Confusion,
    /// One number: how often the rater is right.
    OneCoin,
}

/// How the model is fitted.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DawidSkene {
    /// What is learned of a rater.
    pub raters: RaterModel,
    /// Labels that count as seen before any, ≥ 0: as many for each label of each true class and for each class. It keeps a rater with
    /// three labels from being certain; 0 is the plain maximum of the likelihood.
    pub smoothing: f64,
    /// How much more of them for the true class than for each other label, ≥ 1: raters are rather right than wrong, which also
    /// settles which class is which.
    pub trust: f64,
    /// Rounds at most, ≥ 1.
    pub max_rounds: usize,
    /// It stops when no probability of an item's class changes by more than this, > 0.
    pub tolerance: f64,
}

impl Default for DawidSkene {
    fn default() -> Self {
        Self { raters: RaterModel::default(), smoothing: 0.01, trust: 1.0, max_rounds: 1000, tolerance: 1e-9 }
    }
}

/// What was learned of items and raters.
#[derive(Debug, Clone, PartialEq)]
pub struct Fit {
    /// `[item][class]`: the probability of each true class; of an item without labels, the shares of the classes.
    pub posteriors: Vec<Vec<f64>>,
    /// `[class]`: how common each is.
    pub prior: Vec<f64>,
    /// `[rater][true class][label]`: how often the rater says it.
    pub confusion: Vec<Vec<Vec<f64>>>,
    /// The logarithm of the probability of all labels.
    pub log_likelihood: f64,
    /// Rounds done.
    pub n_rounds: usize,
    /// Whether it stopped because nothing changed any more.
    pub converged: bool,
}

impl Fit {
    /// How often a rater is right on items like these: Σ p_c π_r(c | c).
    pub fn accuracy(&self, rater: usize) -> f64 {
        self.prior.iter().enumerate().map(|(c, p)| p * self.confusion[rater][c][c]).sum()
    }
}

impl DawidSkene {
    /// Values out of range: option and what was expected.
    pub fn problems(&self) -> Vec<(&'static str, String)> {
        let mut problems = Vec::new();
        let mut require = |ok: bool, option, expected: &str, got: f64| {
            if !ok {
                problems.push((option, format!("expected {expected}, got {got}")));
            }
        };
        require(self.smoothing >= 0.0 && self.smoothing.is_finite(), "smoothing", "a number ≥ 0", self.smoothing);
        require(self.trust >= 1.0 && self.trust.is_finite(), "trust", "a number ≥ 1", self.trust);
        require(self.max_rounds >= 1, "max_rounds", "at least 1", self.max_rounds as f64);
        require(self.tolerance > 0.0 && self.tolerance.is_finite(), "tolerance", "a number > 0", self.tolerance);
        problems
    }

    /// Fits the model. Neither the order of the labels nor any random number matters beyond rounding.
    ///
    /// # Errors
    /// When there is no label, or one of a class, rater or item beyond the numbers given.
    pub fn fit(&self, labels: &[Label], n_items: usize, n_raters: usize, n_classes: usize) -> Result<Fit> {
        let outside = |label: &&Label| label.item >= n_items || label.rater >= n_raters || label.class >= n_classes;
        if let Some(Label { item, rater, class }) = labels.iter().find(outside) {
            return Err(Error::invalid_data(format!(
                "a label ({item}, {rater}, {class}) beyond {n_items} items, {n_raters} raters or {n_classes} classes"
            )));
        }
        if labels.is_empty() {
            return Err(Error::missing_input("no labels to learn raters from"));
        }
        let mut posteriors = vote_shares(labels, n_items, n_classes);
        let mut n_rounds = 0;
        loop {
            let (prior, confusion) = self.parameters(labels, &posteriors, n_raters);
            let (next, log_likelihood) = expectation(labels, &prior, &confusion, n_items);
            let change = posteriors.iter().flatten().zip(next.iter().flatten()).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            posteriors = next;
            n_rounds += 1;
            let converged = change <= self.tolerance;
            if converged || n_rounds == self.max_rounds.max(1) {
                return Ok(Fit { posteriors, prior, confusion, log_likelihood, n_rounds, converged });
            }
        }
    }

    /// Maximisation: shares of classes and of each rater's labels, from weighted counts.
    fn parameters(&self, labels: &[Label], posteriors: &[Vec<f64>], n_raters: usize) -> (Vec<f64>, Vec<Vec<Vec<f64>>>) {
        let n_classes = posteriors[0].len();
        let mut prior = vec![self.smoothing; n_classes];
        let mut labelled: Vec<usize> = labels.iter().map(|label| label.item).collect();
        labelled.sort_unstable();
        labelled.dedup();
        for item in labelled {
            prior.iter_mut().zip(&posteriors[item]).for_each(|(sum, p)| *sum += p);
        }
        normalise(&mut prior);
        let mut counts = vec![vec![vec![self.smoothing; n_classes]; n_classes]; n_raters];
        for matrix in &mut counts {
            (0..n_classes).for_each(|c| matrix[c][c] *= self.trust);
        }
        for Label { item, rater, class } in labels {
            counts[*rater].iter_mut().zip(&posteriors[*item]).for_each(|(row, p)| row[*class] += p);
        }
        for matrix in &mut counts {
            match self.raters {
                RaterModel::Confusion => matrix.iter_mut().for_each(|row| normalise(row)),
                RaterModel::OneCoin => one_coin(matrix),
            }
        }
        (prior, counts)
    }
}

/// Counts of labels as the confusion of a rater with one accuracy.
fn one_coin(counts: &mut [Vec<f64>]) {
    let n = counts.len();
    let right: f64 = (0..n).map(|c| counts[c][c]).sum();
    let all: f64 = counts.iter().flatten().sum();
    let accuracy = if all > 0.0 { right / all } else { 1.0 / n as f64 };
    let wrong = if n > 1 { (1.0 - accuracy) / (n - 1) as f64 } else { 0.0 };
    for (c, row) in counts.iter_mut().enumerate() {
        row.iter_mut().enumerate().for_each(|(l, cell)| *cell = if l == c { accuracy } else { wrong });
    }
}

/// Makes numbers shares; all the same when there is nothing to share.
fn normalise(numbers: &mut [f64]) {
    let (sum, n) = (numbers.iter().sum::<f64>(), numbers.len() as f64);
    numbers.iter_mut().for_each(|number| *number = if sum > 0.0 { *number / sum } else { 1.0 / n });
}

fn vote_shares(labels: &[Label], n_items: usize, n_classes: usize) -> Vec<Vec<f64>> {
    let mut shares = vec![vec![0.0; n_classes]; n_items];
    labels.iter().for_each(|label| shares[label.item][label.class] += 1.0);
    shares.iter_mut().for_each(|row| normalise(row));
    shares
}

/// Expectation: the probability of each item's classes, and the log-likelihood of all labels. In logarithms, for many raters.
fn expectation(labels: &[Label], prior: &[f64], confusion: &[Vec<Vec<f64>>], n_items: usize) -> (Vec<Vec<f64>>, f64) {
    let log_prior: Vec<f64> = prior.iter().map(|p| p.ln()).collect();
    let mut rows = vec![log_prior; n_items];
    for Label { item, rater, class } in labels {
        rows[*item].iter_mut().zip(&confusion[*rater]).for_each(|(sum, row)| *sum += row[*class].ln());
    }
    let mut total = 0.0;
    for row in &mut rows {
        let highest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        if highest == f64::NEG_INFINITY {
            // Impossible under these parameters, which only smoothing 0 can lead to: nothing is known.
            row.copy_from_slice(prior);
            total = f64::NEG_INFINITY;
            continue;
        }
        let sum: f64 = row.iter().map(|value| (value - highest).exp()).sum();
        total += highest + sum.ln();
        row.iter_mut().for_each(|value| *value = (*value - highest).exp() / sum);
    }
    (rows, total)
}

#[cfg(test)]
mod tests {
    use farmhand_core::Seed;

    use super::*;

    const PLAIN: DawidSkene =
        DawidSkene { raters: RaterModel::Confusion, smoothing: 0.0, trust: 1.0, max_rounds: 1000, tolerance: 1e-12 };

    fn labels(table: &[&[usize]]) -> Vec<Label> {
        let row = |(item, row): (usize, &&[usize])| -> Vec<Label> {
            row.iter().enumerate().map(|(rater, class)| Label { item, rater, class: *class }).collect()
        };
        table.iter().enumerate().flat_map(row).collect()
    }

    #[test]
    fn one_round_by_hand() {
        // Items 0 0 0, 1 1 1 and 0 0 1. Vote shares (1, 0), (0, 1), (2/3, 1/3): p₀ = 5/9. Raters 0 and 1 say 0 of the true 0 for
        // sure and 0 of the true 1 with (1/3) / (4/3) = 1/4; rater 2 says 1 of the true 0 with (2/3) / (5/3) = 2/5, and 1 of the true 1
        // for sure. On item 2: 5/9 · 1 · 1 · 2/5 = 2/9 against 4/9 · 1/4 · 1/4 · 1 = 1/36, so P(0) = 8/9.
        let fit =
            DawidSkene { max_rounds: 1, ..PLAIN }.fit(&labels(&[&[0, 0, 0], &[1, 1, 1], &[0, 0, 1]]), 3, 3, 2).expect("fitted");
        assert!((fit.prior[0] - 5.0 / 9.0).abs() < 1e-15);
        assert!((fit.confusion[0][1][0] - 0.25).abs() < 1e-15 && (fit.confusion[2][0][1] - 0.4).abs() < 1e-15);
        assert!((fit.posteriors[2][0] - 8.0 / 9.0).abs() < 1e-14);
        // Items 0 and 1: 5/9 · 3/5 = 1/3 and 0 with it; 4/9 · 9/16 and 0.
        let expected = (1.0_f64 / 3.0).ln() + (4.0_f64 / 9.0 * 9.0 / 16.0).ln() + (2.0_f64 / 9.0 + 1.0 / 36.0).ln();
        assert!((fit.log_likelihood - expected).abs() < 1e-13);
        assert_eq!((fit.n_rounds, fit.converged), (1, false));
    }

    #[test]
    fn it_converges_where_the_dissenter_is_wrong() {
        let fit = PLAIN.fit(&labels(&[&[0, 0, 0], &[1, 1, 1], &[0, 0, 1]]), 3, 3, 2).expect("fitted");
        assert!(fit.converged && fit.posteriors[2][0] > 1.0 - 1e-9);
        // Then p₀ = 2/3 and rater 2 is right on one of two zeros.
        assert!((fit.prior[0] - 2.0 / 3.0).abs() < 1e-9 && (fit.accuracy(2) - 2.0 / 3.0).abs() < 1e-9);
        assert!((fit.accuracy(0) - 1.0).abs() < 1e-9);
    }

    /// Labels of raters with these confusions on items whose classes have these shares; the truth with them.
    fn simulated(confusion: &[Vec<Vec<f64>>], shares: &[f64], n: usize, coverage: f64) -> (Vec<Label>, Vec<usize>) {
        let mut rng = Seed::root(5).rng();
        let (mut labels, mut truth) = (Vec::new(), Vec::new());
        for item in 0..n {
            let class = rng.weighted(shares).expect("shares");
            truth.push(class);
            for (rater, matrix) in confusion.iter().enumerate() {
                if rng.uniform() < coverage {
                    labels.push(Label { item, rater, class: rng.weighted(&matrix[class]).expect("shares") });
                }
            }
        }
        (labels, truth)
    }

    #[test]
    fn a_simulations_raters_are_recovered() {
        let good = vec![vec![0.9, 0.05, 0.05], vec![0.1, 0.8, 0.1], vec![0.05, 0.05, 0.9]];
        let first_sider = vec![vec![0.95, 0.03, 0.02], vec![0.5, 0.4, 0.1], vec![0.45, 0.05, 0.5]];
        let coin = vec![vec![0.45, 0.1, 0.45]; 3];
        let confusion = [good.clone(), good, first_sider, coin];
        let shares = [0.45, 0.15, 0.4];
        let (labels, truth) = simulated(&confusion, &shares, 4000, 0.9);
        let fit = DawidSkene::default().fit(&labels, 4000, 4, 3).expect("fitted");
        assert!(fit.converged);
        let near = |a: &[f64], b: &[f64], within: f64| a.iter().zip(b).all(|(a, b)| (a - b).abs() < within);
        assert!(near(&fit.prior, &shares, 0.03), "{:?}", fit.prior);
        for (rater, expected) in confusion.iter().enumerate() {
            assert!(near(&fit.confusion[rater].concat(), &expected.concat(), 0.08), "{rater}: {:?}", fit.confusion[rater]);
        }
        // Better than the majority, which the coin and the first-sider mislead.
        let share =
            |guess: &dyn Fn(usize) -> usize| (0..4000).filter(|item| guess(*item) == truth[*item]).count() as f64 / 4000.0;
        let likeliest = |row: &[f64]| (0..3).max_by(|a, b| row[*a].total_cmp(&row[*b])).expect("three");
        let votes = vote_shares(&labels, 4000, 3);
        let (ours, majority) = (share(&|i| likeliest(&fit.posteriors[i])), share(&|i| likeliest(&votes[i])));
        assert!(ours > majority + 0.03, "{ours} against {majority}");
    }

    #[test]
    fn one_coin_recovers_accuracies() {
        let coin = |a: f64| vec![vec![a, 1.0 - a], vec![1.0 - a, a]];
        let accuracies = [0.95, 0.8, 0.65, 0.55, 0.7];
        let (labels, _) = simulated(&accuracies.map(coin), &[0.5, 0.5], 3000, 0.7);
        let model = DawidSkene { raters: RaterModel::OneCoin, ..DawidSkene::default() };
        let fit = model.fit(&labels, 3000, 5, 2).expect("fitted");
        for (rater, accuracy) in accuracies.iter().enumerate() {
            assert!((fit.accuracy(rater) - accuracy).abs() < 0.04, "{rater}: {}", fit.accuracy(rater));
            assert!((fit.confusion[rater][0][0] - fit.confusion[rater][1][1]).abs() < 1e-15);
        }
    }

    #[test]
    fn the_order_of_labels_does_not_matter_and_the_likelihood_does_not_fall() {
        let matrix = vec![vec![0.8, 0.2], vec![0.3, 0.7]];
        let (labels, _) = simulated(&[matrix.clone(), matrix.clone(), matrix], &[0.6, 0.4], 200, 1.0);
        let mut backwards = labels.clone();
        backwards.reverse();
        let fit = |labels: &[Label], max_rounds| DawidSkene { max_rounds, ..PLAIN }.fit(labels, 200, 3, 2).expect("fitted");
        let (a, b) = (fit(&labels, 500), fit(&backwards, 500));
        assert!(a.posteriors.iter().flatten().zip(b.posteriors.iter().flatten()).all(|(a, b)| (a - b).abs() < 1e-6));
        let likelihoods: Vec<f64> = (1..12).map(|rounds| fit(&labels, rounds).log_likelihood).collect();
        assert!(likelihoods.is_sorted_by(|a, b| *a <= b + 1e-9), "{likelihoods:?}");
    }

    #[test]
    fn items_without_labels_have_the_shares_and_bad_labels_are_refused() {
        let fit = DawidSkene::default().fit(&labels(&[&[0], &[0], &[1]]), 4, 1, 2).expect("fitted");
        assert!(fit.posteriors[3].iter().zip(&fit.prior).all(|(p, q)| (p - q).abs() < 1e-12));
        assert!(DawidSkene::default().fit(&[], 1, 1, 2).is_err());
        assert!(DawidSkene::default().fit(&labels(&[&[2]]), 1, 1, 2).is_err());
        let broken = DawidSkene { smoothing: -1.0, trust: 0.0, max_rounds: 0, tolerance: 0.0, ..DawidSkene::default() };
        assert_eq!(broken.problems().len(), 4);
    }
}
