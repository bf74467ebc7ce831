//! Selectors: which of some scored answers are kept, paired, weighted or put into bins.
//!
//! All of them work on plain `f64` on the CPU and give back indices into their arguments, so that a selection never depends on a
//! device. Ties have a rule of their own everywhere: **the first index wins**; where two answers must differ in score, a tie
//! makes no pair. Scores are finite, as the contract of reward models promises.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use farmhand_core::{Error, Result, Rng};

/// A better and a worse answer, as indices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pair {
    /// The better one.
    pub better: usize,
    /// The worse one.
    pub worse: usize,
}

impl Pair {
    /// How much better the better one is, ≥ 0.
    pub fn gap(self, scores: &[f64]) -> f64 {
        scores[self.better] - scores[self.worse]
    }
}

/// The index of the highest score; the first of equal ones. `None` of no scores.
pub fn best(scores: &[f64]) -> Option<usize> {
    first_extreme(scores, |score, best| score > best)
}

/// The index of the lowest score; the first of equal ones. `None` of no scores.
pub fn worst(scores: &[f64]) -> Option<usize> {
    first_extreme(scores, |score, worst| score < worst)
}

fn first_extreme(scores: &[f64], wins: impl Fn(f64, f64) -> bool) -> Option<usize> {
    (0..scores.len()).reduce(|found, i| if wins(scores[i], scores[found]) { i } else { found })
}

/// Whether all scores are equal, so that they say nothing about which answer is better.
pub fn all_equal(scores: &[f64]) -> bool {
    scores.windows(2).all(|pair| pair[0] == pair[1])
}

/// Indices by descending score; equal ones in their order.
pub fn descending(scores: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    order
}

/// The best and the worst answer (RLHF Workflow, <https://arxiv.org/abs/2405.07863>); `None` when their scores or their texts are
/// equal.
pub fn best_worst(texts: &[&str], scores: &[f64]) -> Option<Pair> {
    let pair = Pair { better: best(scores)?, worse: worst(scores)? };
    (pair.gap(scores) > 0.0 && texts[pair.better] != texts[pair.worse]).then_some(pair)
}

/// Every pair with different scores (RRHF, <https://arxiv.org/abs/2304.05302>; K-wise reward models), in the order of the better
/// one, then of the worse one.
pub fn all_pairs(scores: &[f64]) -> Vec<Pair> {
    let worse_than = |better: usize| (0..scores.len()).filter(move |&worse| scores[better] > scores[worse]);
    (0..scores.len()).flat_map(|better| worse_than(better).map(move |worse| Pair { better, worse })).collect()
}

/// How two answers compare by these scores, for [`tournament`] and [`first_round`].
pub fn by_score(scores: &[f64]) -> impl Fn(usize, usize) -> Ordering {
    |a, b| scores[a].total_cmp(&scores[b])
}

/// A knock-out tournament (SLiC-HF, <https://arxiv.org/abs/2305.10425>): neighbours meet, winners meet again, an odd last one goes on
/// without a match. Every match makes a pair, n − 1 in all; of equal ones the first goes on and no pair is made. `compare` is asked
/// about the first and the second of a match.
pub fn tournament(ids: &[usize], mut compare: impl FnMut(usize, usize) -> Ordering) -> Vec<Pair> {
    let (mut left, mut pairs) = (ids.to_vec(), Vec::new());
    while left.len() > 1 {
        let mut winners = Vec::with_capacity(left.len().div_ceil(2));
        for meeting in left.chunks(2) {
            let &[a, b] = meeting else {
                winners.extend_from_slice(meeting);
                continue;
            };
            let (better, worse, order) = match compare(a, b) {
                Ordering::Less => (b, a, Ordering::Less),
                order => (a, b, order),
            };
            winners.push(better);
            if order != Ordering::Equal {
                pairs.push(Pair { better, worse });
            }
        }
        left = winners;
    }
    pairs
}

/// The first round of a tournament in random order (RSO): n / 2 pairs without a common answer. An odd last one sits out; equal ones
/// make no pair.
pub fn first_round(ids: &[usize], mut compare: impl FnMut(usize, usize) -> Ordering, rng: &mut Rng) -> Vec<Pair> {
    let mut shuffled = ids.to_vec();
    rng.shuffle(&mut shuffled);
    let pair = |meeting: &[usize]| match (meeting, compare(meeting[0], meeting[1])) {
        (_, Ordering::Equal) => None,
        (&[a, b], Ordering::Greater) => Some(Pair { better: a, worse: b }),
        (&[a, b], _) => Some(Pair { better: b, worse: a }),
        _ => None,
    };
    shuffled.chunks_exact(2).filter_map(pair).collect()
}

/// The chance that statistical rejection sampling accepts an answer when it is looked at: `exp((r − r_max) / β)`. β = 0 accepts the
/// best alone.
pub fn acceptance(score: f64, highest: f64, beta: f64) -> f64 {
    if score >= highest {
        1.0
    } else if beta == 0.0 {
        0.0
    } else {
        ((score - highest) / beta).exp()
    }
}

/// Statistical rejection sampling (RSO, <https://arxiv.org/abs/2309.06657>, algorithm 1): up to `n` answers drawn so that they are
/// distributed about as `π · exp(r / β)`, in the order of acceptance.
///
/// Texts that occur twice count once, at their first place. Passes go over the answers that are left; the highest reward is that of
/// the answers left at the start of a pass, and it ends the moment the `n`-th is accepted. `β → 0` takes the best `n`, `β → ∞` the
/// first `n`. `uniform` draws from [0, 1), once an answer looked at; every pass accepts its best, so this ends.
pub fn rejection_sample(texts: &[&str], scores: &[f64], beta: f64, n: usize, mut uniform: impl FnMut() -> f64) -> Vec<usize> {
    let mut seen = BTreeSet::new();
    let mut left: Vec<usize> = (0..texts.len()).filter(|&i| seen.insert(texts[i])).collect();
    let n = n.min(left.len());
    let mut accepted = Vec::with_capacity(n);
    while accepted.len() < n {
        let highest = left.iter().map(|&i| scores[i]).fold(f64::NEG_INFINITY, f64::max);
        let mut refused = Vec::with_capacity(left.len());
        for i in left {
            if accepted.len() < n && uniform() < acceptance(scores[i], highest, beta) {
                accepted.push(i);
            } else {
                refused.push(i);
            }
        }
        left = refused;
    }
    accepted
}

/// The best fraction α of all answers, at least one (RAFT's global selection, <https://arxiv.org/abs/2304.06767>): `max(1, ⌊α N⌋)`
/// indices by descending score. None of none.
pub fn top_fraction(scores: &[f64], alpha: f64) -> Vec<usize> {
    // 0.3 · 10 is a little less than 3 in binary.
    let n = ((alpha * scores.len() as f64 + 1e-9).floor() as usize).max(1);
    let mut order = descending(scores);
    order.truncate(n);
    order
}

/// The answers that score more than τ, in their order.
pub fn above(scores: &[f64], tau: f64) -> Vec<usize> {
    (0..scores.len()).filter(|&i| scores[i] > tau).collect()
}

/// The answers that score τ or more, in their order.
pub fn at_least(scores: &[f64], tau: f64) -> Vec<usize> {
    (0..scores.len()).filter(|&i| scores[i] >= tau).collect()
}

/// The bin of each answer among `k` bins of equal size by descending score, 0 the best (Quark,
/// <https://arxiv.org/abs/2205.13636>): rank / ⌊N / k⌋, what is left over goes to the worst bin.
///
/// # Errors
/// When there are fewer answers than bins, or no bins.
pub fn quantiles(scores: &[f64], k: usize) -> Result<Vec<usize>> {
    if k == 0 || scores.len() < k {
        let message = format!("{} scored answers cannot be put into {k} bins", scores.len());
        return Err(Error::invalid_data(message).with_hint("give more answers, or ask for fewer bins"));
    }
    let size = scores.len() / k;
    let mut bins = vec![0; scores.len()];
    for (rank, i) in descending(scores).into_iter().enumerate() {
        bins[i] = (rank / size).min(k - 1);
    }
    Ok(bins)
}

/// Scores minus β times the log-ratio of policy and reference, `r − β (S − S_ref)`: answers that moved far from the reference rank
/// lower (RAFT's regularised ranking). For selection only.
pub fn kl_adjusted(scores: &[f64], log_ratios: &[f64], beta: f64) -> Vec<f64> {
    scores.iter().zip(log_ratios).map(|(score, log_ratio)| score - beta * log_ratio).collect()
}

/// Mean and standard deviation, unbiased (divisor n − 1); the deviation of fewer than two numbers is 0.
pub fn mean_and_std(scores: &[f64]) -> (f64, f64) {
    let n = scores.len() as f64;
    let mean = scores.iter().sum::<f64>() / n.max(1.0);
    let squares: f64 = scores.iter().map(|score| (score - mean).powi(2)).sum();
    (mean, if scores.len() > 1 { (squares / (n - 1.0)).sqrt() } else { 0.0 })
}

/// Scores as distances from their mean in (unbiased) standard deviations; `None` when all are equal, so that there is no scale.
pub fn z_scores(scores: &[f64]) -> Option<Vec<f64>> {
    let (mean, std) = mean_and_std(scores);
    (!all_equal(scores) && std > 0.0).then(|| scores.iter().map(|score| (score - mean) / std).collect())
}

/// Weights `n · softmax(c z)` of the answers to one instruction, z their z-scores (soft RAFT): they sum to n, and c → ∞ keeps the
/// best alone. Equal scores weigh 1 each.
pub fn soft_weights(scores: &[f64], c: f64) -> Vec<f64> {
    match z_scores(scores) {
        Some(z) => softmax_weights(&z, 1.0 / c),
        None => vec![1.0; scores.len()],
    }
}

/// Weights `n · softmax(r / β)`: they sum to n.
pub fn softmax_weights(scores: &[f64], beta: f64) -> Vec<f64> {
    let Some(best) = best(scores) else { return Vec::new() };
    let powers: Vec<f64> = scores.iter().map(|score| ((score - scores[best]) / beta).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.iter().map(|power| power / sum * scores.len() as f64).collect()
}

/// Weights `min(exp(r / β), clip)` of reward-weighted regression (Peters and Schaal 2007).
pub fn exponential_weights(scores: &[f64], beta: f64, clip: f64) -> Vec<f64> {
    scores.iter().map(|score| (score / beta).exp().min(clip)).collect()
}

/// How many equally weighted answers these weights are worth: `(Σ w)² / Σ w²`; 0 of none.
pub fn effective_sample_size(weights: &[f64]) -> f64 {
    let squares: f64 = weights.iter().map(|weight| weight * weight).sum();
    if squares > 0.0 { weights.iter().sum::<f64>().powi(2) / squares } else { 0.0 }
}

/// What the best of `n` answers by `scores` is worth on average in `values`, estimated without bias from N ≥ n answers (Nakano et al.
/// 2021, <https://arxiv.org/abs/2112.09332>, appendix I): `Σ_{i=n..N} C(i−1, n−1) / C(N, n) · value_(i)`, in ascending order of
/// the scores. With `values = scores` it is the expected maximum; with another judge's values it is what optimising for the
/// scores brings by that judge. `None` when n is 0 or more than N.
pub fn expected_best_of(scores: &[f64], values: &[f64], n: usize) -> Option<f64> {
    let total = scores.len();
    if n == 0 || n > total {
        return None;
    }
    // The weight of the best is n / N; each one below has the share of the one above that C(i−2, n−1) has of C(i−1, n−1).
    let mut weight = n as f64 / total as f64;
    let mut sum = 0.0;
    for (place, i) in descending(scores).into_iter().enumerate() {
        let rank = total - place;
        if rank < n {
            break;
        }
        sum += weight * values[i];
        weight *= (rank - n) as f64 / (rank as f64 - 1.0).max(1.0);
    }
    Some(sum)
}

/// The divergence of the best of n answers from one answer, `ln n − (n − 1) / n` nats; an upper bound.
pub fn best_of_n_kl(n: usize) -> f64 {
    let n = n.max(1) as f64;
    n.ln() - (n - 1.0) / n
}

#[cfg(test)]
mod tests {
    use farmhand_core::Seed;

    use super::*;

    /// Fixture C: four answers, two of them equally good.
    const GROUP: [f64; 4] = [1.0, 0.2, -0.5, 0.2];
    /// Fixture E: candidates a to d.
    const BANDIT: [f64; 4] = [1.0, 0.5, 0.0, -1.0];
    const ABCD: [&str; 4] = ["a", "b", "c", "d"];

    fn assert_close(got: &[f64], expected: &[f64]) {
        assert_eq!(got.len(), expected.len());
        assert!(got.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{got:?} is not {expected:?}");
    }

    fn pairs(pairs: &[Pair]) -> Vec<(usize, usize)> {
        pairs.iter().map(|pair| (pair.better, pair.worse)).collect()
    }

    #[test]
    fn of_equal_scores_the_first_is_best_and_worst() {
        assert_eq!((best(&[0.3, 1.1, 1.1, -0.2]), worst(&[0.3, 1.1, 1.1, -0.2])), (Some(1), Some(3)));
        assert_eq!((best(&[0.0, 0.0]), worst(&[0.0, 0.0]), best(&[]), worst(&[])), (Some(0), Some(0), None, None));
        // Llama-2's best of three prompts.
        let rewards = [[0.1, 0.9, 0.4], [1.5, 1.2, 1.4], [-0.3, -0.9, 0.0]];
        let picks = rewards.map(|rewards| best(&rewards).expect("three"));
        assert_eq!(picks, [1, 0, 2]);
        let mean = rewards.iter().zip(picks).map(|(rewards, pick)| rewards[pick]).sum::<f64>() / 3.0;
        assert_close(&[mean], &[0.8]);
        assert_eq!(descending(&GROUP), [0, 1, 3, 2]);
        assert!(all_equal(&[2.0, 2.0]) && all_equal(&[]) && !all_equal(&GROUP));
    }

    #[test]
    fn best_and_worst_make_a_pair_unless_they_are_equal() {
        let texts = ["w", "x", "y", "z"];
        let scores = [0.3, 1.1, 1.1, -0.2];
        assert_eq!(best_worst(&texts, &scores), Some(Pair { better: 1, worse: 3 }));
        // With a length penalty of 0.001 a character.
        let penalised: Vec<f64> = scores.iter().zip([120.0, 400.0, 300.0, 50.0]).map(|(r, length)| r - 0.001 * length).collect();
        assert_close(&penalised, &[0.18, 0.70, 0.80, -0.25]);
        assert_eq!(best_worst(&texts, &penalised), Some(Pair { better: 2, worse: 3 }));
        assert_eq!(best_worst(&texts, &[0.5; 4]), None);
        assert_eq!(best_worst(&["same", "same"], &[1.0, 0.0]), None);
        assert_eq!(best_worst(&[], &[]), None);
        assert_close(&[Pair { better: 1, worse: 3 }.gap(&scores)], &[1.3]);
    }

    #[test]
    fn all_pairs_leave_ties_out() {
        assert_eq!(pairs(&all_pairs(&GROUP)), [(0, 1), (0, 2), (0, 3), (1, 2), (3, 2)]);
        assert!(all_pairs(&[1.0; 3]).is_empty());
    }

    #[test]
    fn a_tournament_has_a_match_less_than_players_and_an_odd_one_gets_a_bye() {
        let scores = [0.1, 0.9, 0.4, 0.7];
        assert_eq!(pairs(&tournament(&[0, 1, 2, 3], by_score(&scores))), [(1, 0), (3, 2), (1, 3)]);
        let scores = [0.1, 0.9, 0.4, 0.7, 0.8];
        assert_eq!(pairs(&tournament(&[0, 1, 2, 3, 4], by_score(&scores))), [(1, 0), (3, 2), (1, 3), (1, 4)]);
        // Of equals the first goes on, without a pair.
        assert_eq!(pairs(&tournament(&[0, 1, 2, 3], by_score(&GROUP))), [(0, 1), (3, 2), (0, 3)]);
        assert_eq!(pairs(&tournament(&[0, 1, 2], by_score(&[5.0, 5.0, 1.0]))), [(0, 2)]);
        assert!(tournament(&[7], by_score(&[])).is_empty() && tournament(&[], by_score(&[])).is_empty());
    }

    #[test]
    fn the_first_round_pairs_each_answer_once_at_most_in_an_order_of_the_seed() {
        let scores: Vec<f64> = (0..9).map(f64::from).collect();
        let ids: Vec<usize> = (0..9).collect();
        let round = |seed| first_round(&ids, by_score(&scores), &mut Seed::root(seed).rng());
        let made = round(1);
        assert_eq!(made.len(), 4);
        let players: BTreeSet<usize> = made.iter().flat_map(|pair| [pair.better, pair.worse]).collect();
        assert_eq!(players.len(), 8);
        assert!(made.iter().all(|pair| pair.gap(&scores) > 0.0));
        assert_eq!(made, round(1));
        assert_ne!(made, round(2));
        assert!(first_round(&ids, by_score(&[0.0; 9]), &mut Seed::root(1).rng()).is_empty());
    }

    #[test]
    fn rejection_sampling_accepts_as_the_paper_says() {
        let chances = |beta: f64| BANDIT.map(|score| acceptance(score, 1.0, beta));
        assert_close(&chances(0.5), &[1.0, 0.367_879, 0.135_335, 0.018_316]);
        assert_close(&chances(0.05), &[1.0, 0.000_045_4, 0.0, 0.0]);
        assert_close(&chances(5.0), &[1.0, 0.904_837, 0.818_731, 0.670_320]);
        for (n, expected) in [(2, vec![0, 2]), (3, vec![0, 2, 3]), (4, vec![0, 2, 3, 1])] {
            let mut numbers = [0.9, 0.5, 0.1, 0.01, 0.3].into_iter();
            let accepted = rejection_sample(&ABCD, &BANDIT, 0.5, n, || numbers.next().expect("five suffice"));
            assert_eq!(accepted, expected, "n = {n}");
        }
        // What the law tends to.
        let law: Vec<f64> = softmax_weights(&BANDIT, 0.5).iter().map(|weight| weight / 4.0).collect();
        assert_close(&law, &[0.657_233, 0.241_783, 0.088_947, 0.012_038]);
    }

    #[test]
    fn rejection_sampling_ends_with_duplicates_ties_and_extreme_temperatures() {
        let mut rng = Seed::root(0).rng();
        let mut sample = |texts: &[&str], scores: &[f64], beta, n| rejection_sample(texts, scores, beta, n, || rng.uniform());
        assert_eq!(sample(&["x", "x", "y"], &[0.0, 9.0, 1.0], 0.5, 8).len(), 2);
        assert_eq!(sample(&["x", "x"], &[0.0, 9.0], 0.5, 1), [0], "the first of equal texts stays");
        assert_eq!(sample(&ABCD, &[2.0; 4], 0.5, 3), [0, 1, 2]);
        assert_eq!(sample(&ABCD, &[0.0, 3.0, 1.0, 2.0], 0.0, 3), [1, 3, 2], "the best three");
        assert_eq!(sample(&ABCD, &BANDIT, f64::INFINITY, 3), [0, 1, 2], "the first three");
        assert!(sample(&[], &[], 0.5, 3).is_empty() && sample(&ABCD, &BANDIT, 0.5, 0).is_empty());
    }

    #[test]
    fn fractions_thresholds_and_adjusted_ranks() {
        // RAFT's global selection.
        let mut kept = top_fraction(&[0.1, 1.5, -0.3, 0.9], 0.5);
        assert_eq!(kept, [1, 3]);
        kept = top_fraction(&GROUP, 0.01);
        assert_eq!(kept, [0], "at least one");
        assert_eq!(top_fraction(&[0.0; 10], 0.3), [0, 1, 2]);
        assert!(top_fraction(&[], 0.5).is_empty());
        assert_eq!((above(&GROUP, 0.2), at_least(&GROUP, 0.2)), (vec![0], vec![0, 1, 3]));
        let adjusted = kl_adjusted(&[0.1, 0.9, 0.4], &[0.2, 3.0, -0.5], 0.2);
        assert_close(&adjusted, &[0.06, 0.30, 0.50]);
        assert_eq!(best(&adjusted), Some(2));
    }

    #[test]
    fn bins_have_equal_size_and_the_rest_goes_to_the_worst() {
        let falling = |n: usize| (0..n).map(|i| -(i as f64)).collect::<Vec<_>>();
        assert_eq!(quantiles(&falling(7), 3).expect("enough"), [0, 0, 1, 1, 2, 2, 2]);
        assert_eq!(quantiles(&falling(8), 5).expect("enough"), [0, 1, 2, 3, 4, 4, 4, 4]);
        let of_ten = quantiles(&falling(10), 4).expect("enough");
        let sizes = [0, 1, 2, 3].map(|bin| of_ten.iter().filter(|&&of| of == bin).count());
        assert_eq!(sizes, [2, 2, 2, 4]);
        assert_eq!(quantiles(&GROUP, 4).expect("enough"), [0, 1, 3, 2]);
        let error = quantiles(&GROUP, 5).expect_err("too few");
        assert!(error.message().contains("4 scored answers cannot be put into 5 bins"), "{error}");
        assert!(quantiles(&GROUP, 0).is_err());
    }

    #[test]
    fn weights_match_soft_raft_and_reward_weighted_regression() {
        let scores = [0.1, 0.9, 0.4];
        assert_close(&soft_weights(&scores, 1.0), &[0.290_141, 2.100_338, 0.609_521]);
        assert_close(&soft_weights(&scores, 8.0), &[4e-7, 2.999_849, 0.000_151]);
        assert_eq!(soft_weights(&[2.0; 3], 8.0), [1.0; 3]);
        let (rewards, log_probs) = ([1.0, 0.2, -0.5], [-1.8, -3.1, -0.8]);
        let loss = |weights: &[f64]| weights.iter().zip(log_probs).map(|(weight, s)| -weight * s).sum::<f64>() / 3.0;
        assert_close(&[loss(&exponential_weights(&rewards, 1.0, f64::INFINITY))], &[3.054_827]);
        assert_close(&[loss(&softmax_weights(&rewards, 1.0))], &[2.015_848]);
        assert_eq!(exponential_weights(&[50.0], 1.0, 20.0), [20.0]);
        assert!(softmax_weights(&[700.0, -700.0], 0.5).iter().all(|weight| weight.is_finite()));
        assert_close(
            &[effective_sample_size(&[1.0; 5]), effective_sample_size(&[1.0, 0.0]), effective_sample_size(&[])],
            &[5.0, 1.0, 0.0],
        );
        // The threshold 0 of filtered maximum likelihood keeps the first two.
        let kept = above(&rewards, 0.0);
        assert_close(&[kept.iter().map(|&i| -log_probs[i]).sum::<f64>() / kept.len() as f64], &[2.45]);
    }

    #[test]
    fn z_scores_are_unbiased_and_need_a_spread() {
        let (mean, std) = mean_and_std(&[1.0, 0.2, -0.5]);
        assert_close(&[mean, std], &[0.233_333, 0.750_555]);
        let texts: Vec<String> = z_scores(&[1.0, 0.2, -0.5]).expect("a spread").iter().map(|z| format!("{z:.2}")).collect();
        assert_eq!(texts, ["1.02", "-0.04", "-0.98"]);
        assert_close(&[mean_and_std(&GROUP).0, mean_and_std(&GROUP).1], &[0.225, 0.613_052]);
        // 0.1 + 0.1 + 0.1 is not 0.3: equality is asked of the scores, not of rounded deviations.
        assert!(z_scores(&[0.1; 3]).is_none() && z_scores(&[4.0]).is_none() && z_scores(&[]).is_none());
    }

    #[test]
    fn the_expected_best_of_n_matches_the_goldens_and_counting() {
        let estimates = [1, 2, 3, 4].map(|n| expected_best_of(&GROUP, &GROUP, n).expect("enough"));
        assert_close(&estimates, &[0.225, 0.6, 0.8, 1.0]);
        assert!(expected_best_of(&GROUP, &GROUP, 5).is_none() && expected_best_of(&GROUP, &GROUP, 0).is_none());
        // Another judge's values, by counting all pairs.
        let (scores, gold) = ([3.0, 1.0, 2.0], [0.0, 5.0, 7.0]);
        assert_close(&[expected_best_of(&scores, &gold, 2).expect("enough")], &[(0.0 + 0.0 + 7.0) / 3.0]);
        assert_close(&[4, 8, 16, 1].map(best_of_n_kl), &[0.636_294, 1.204_442, 1.835_089, 0.0]);
        // It grows with n.
        let many: Vec<f64> = (0..200).map(|i| f64::from(i * 37 % 101)).collect();
        let curve: Vec<f64> = (1..=200).map(|n| expected_best_of(&many, &many, n).expect("enough")).collect();
        assert!(curve.windows(2).all(|pair| pair[1] >= pair[0] - 1e-9) && (curve[199] - 100.0).abs() < 1e-9);
    }
}
