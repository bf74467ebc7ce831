//! The losses that learn from more than two answers to one instruction in their order.
//!
//! A micro-batch holds lists of unequal length. The scores of all texts are one tensor `[texts]`; a list names the places of its
//! answers in it, best first, and its rewards, in the same order and descending.

use tch::{Kind, Tensor};

/// One list of a batch.
#[derive(Debug, Clone)]
pub struct RankedPlaces {
    /// The places of its answers among all scores, best first.
    pub places: Vec<usize>,
    /// Their rewards, descending.
    pub rewards: Vec<f64>,
}

/// `Σ max(0, s_i − s_j)` over all pairs of a list with `r_i < r_j`, `[lists]`, differentiable: RRHF (Yuan et al. 2023).
/// Answers of equal reward are not compared.
pub fn ranking_hinge(scores: &Tensor, lists: &[RankedPlaces]) -> Tensor {
    let pairs = ordered_pairs(lists);
    let hinge = (at(scores, &pairs.worse) - at(scores, &pairs.better)).relu();
    Tensor::zeros([lists.len() as i64], (scores.kind(), scores.device())).index_add(0, &indices(&pairs.list, scores), &hinge)
}

/// The share of a list's pairs of unequal reward that the scores put in the same order, equal scores half, `[lists]`; ½ without
/// such pairs. No gradient.
pub fn ranking_accuracy(scores: &Tensor, lists: &[RankedPlaces]) -> Tensor {
    let pairs = ordered_pairs(lists);
    let scores = scores.detach();
    let right = ((at(&scores, &pairs.better) - at(&scores, &pairs.worse)).sign() + 1.0) * 0.5;
    let counts: Vec<f64> = (0..lists.len()).map(|i| pairs.list.iter().filter(|&&list| list == i).count() as f64).collect();
    let counts = Tensor::from_slice(&counts).to_kind(scores.kind()).to_device(scores.device());
    let sums = Tensor::zeros([lists.len() as i64], (scores.kind(), scores.device()));
    let sums = sums.index_add(0, &indices(&pairs.list, &scores), &right);
    let half = sums.full_like(0.5);
    (sums / counts.clamp_min(1.0)).where_self(&counts.gt(0.0), &half)
}

/// `Σ_k [ln Σ_{i≥k} e^(s_i g_i) − s_k g_k]` over the places k of a list but the last, `[lists]`, differentiable: the Plackett-Luce
/// likelihood of the order. The factors g are 1, or with `gap_scale` the gaps `g_i = scale · (r_k − r_i)` to the answer at the head
/// and `g_k` the largest of them (PRO, Song et al. 2023: temperatures 1/g). Rewards must then be different: at a gap
/// of 0 an answer would dominate without any gradient.
pub fn plackett_luce(scores: &Tensor, lists: &[RankedPlaces], gap_scale: Option<f64>) -> Tensor {
    // A choice for each head: its own place first, then those of the answers behind it.
    let (mut list_of, mut choices, mut factors) = (Vec::new(), Vec::new(), Vec::new());
    for (number, list) in lists.iter().enumerate() {
        for head in 0..list.places.len().saturating_sub(1) {
            let gap = |i: usize| gap_scale.map_or(1.0, |scale| scale * (list.rewards[head] - list.rewards[i]));
            let behind = head + 1..list.places.len();
            let largest = behind.clone().map(gap).fold(0.0, f64::max);
            list_of.push(number);
            choices.push(list.places[head..].to_vec());
            factors.push(std::iter::once(largest).chain(behind.map(gap)).collect());
        }
    }
    let zeros = Tensor::zeros([lists.len() as i64], (scores.kind(), scores.device()));
    zeros.index_add(0, &indices(&list_of, scores), &scaled_choice_losses(scores, &choices, &factors))
}

/// The negative log-likelihood of choices under Plackett and Luce (Zhu et al. 2023, <https://arxiv.org/abs/2301.11270>, the K-wise
/// maximum likelihood): for each, `ln Σ_{j ∈ choice} e^(s_j) − s_first`, `[choices]`, differentiable. A choice is a list of places
/// among the `scores` `[n]`: the answer that was chosen, then those it was chosen over.
pub fn choice_losses(scores: &Tensor, choices: &[Vec<usize>]) -> Tensor {
    let ones: Vec<Vec<f64>> = choices.iter().map(|choice| vec![1.0; choice.len()]).collect();
    scaled_choice_losses(scores, choices, &ones)
}

/// The same with each score of a choice multiplied by a factor of its own.
fn scaled_choice_losses(scores: &Tensor, choices: &[Vec<usize>], factors: &[Vec<f64>]) -> Tensor {
    let width = choices.iter().map(Vec::len).max().unwrap_or(1);
    // Short choices repeat their first place, left out of the sum.
    let padded = |choice: &Vec<usize>| (0..width).map(|i| choice.get(i).copied().unwrap_or(choice[0])).collect::<Vec<_>>();
    let places: Vec<usize> = choices.iter().flat_map(padded).collect();
    let factors: Vec<f64> =
        factors.iter().flat_map(|of_choice| (0..width).map(|i| of_choice.get(i).copied().unwrap_or(0.0))).collect();
    let is_padding: Vec<bool> = choices.iter().flat_map(|choice| (0..width).map(|i| i >= choice.len())).collect();
    let shape = [choices.len() as i64, width as i64];
    let factors = Tensor::from_slice(&factors).to_kind(scores.kind()).to_device(scores.device()).view(shape);
    let padding = Tensor::from_slice(&is_padding).to_device(scores.device()).view(shape);
    let logits = at(scores, &places).view(shape) * factors;
    logits.masked_fill(&padding, f64::NEG_INFINITY).logsumexp([1i64].as_slice(), false) - logits.select(1, 0)
}

/// All pairs of unequal reward of some lists.
struct OrderedPairs {
    list: Vec<usize>,
    better: Vec<usize>,
    worse: Vec<usize>,
}

fn ordered_pairs(lists: &[RankedPlaces]) -> OrderedPairs {
    let mut pairs = OrderedPairs { list: Vec::new(), better: Vec::new(), worse: Vec::new() };
    for (number, list) in lists.iter().enumerate() {
        for (i, better) in list.places.iter().enumerate() {
            for (j, worse) in list.places.iter().enumerate().filter(|(j, _)| list.rewards[i] > list.rewards[*j]) {
                debug_assert!(i < j, "rewards are descending");
                pairs.list.push(number);
                pairs.better.push(*better);
                pairs.worse.push(*worse);
            }
        }
    }
    pairs
}

fn indices(places: &[usize], like: &Tensor) -> Tensor {
    Tensor::from_slice(&places.iter().map(|&place| place as i64).collect::<Vec<_>>())
        .to_kind(Kind::Int64)
        .to_device(like.device())
}

fn at(scores: &Tensor, places: &[usize]) -> Tensor {
    scores.index_select(0, &indices(places, scores))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(places: &[usize], rewards: &[f64]) -> RankedPlaces {
        RankedPlaces { places: places.to_vec(), rewards: rewards.to_vec() }
    }

    /// The means of fixture B's answers, with rewards 1.0, 0.2 and −0.5.
    const MEANS: [f64; 3] = [-0.6, -0.775, -0.4];
    const REWARDS: [f64; 3] = [1.0, 0.2, -0.5];

    fn one(loss: impl Fn(&Tensor, &[RankedPlaces]) -> Tensor, scores: &[f64], rewards: &[f64]) -> f64 {
        let places: Vec<usize> = (0..scores.len()).collect();
        loss(&Tensor::from_slice(scores), &[list(&places, rewards)]).double_value(&[0])
    }

    fn pl(scores: &[f64], rewards: &[f64], gap_scale: Option<f64>) -> f64 {
        one(|scores, lists| plackett_luce(scores, lists, gap_scale), scores, rewards)
    }

    #[test]
    fn the_losses_match_the_goldens() {
        let close = |got: f64, golden: f64| assert!((got - golden).abs() < 1e-6, "{got}, not {golden}");
        close(one(ranking_hinge, &MEANS, &REWARDS), 0.575);
        close(pl(&MEANS, &REWARDS, Some(1.0)), 2.133_992);
        close(pl(&MEANS[1..], &REWARDS[1..], Some(1.0)), 0.832_986);
        close(pl(&MEANS, &REWARDS, None), 2.016_819);
        close(pl(&MEANS[..2], &REWARDS[..2], Some(1.0)), 0.625_595);
        // Plackett-Luce alone, the order of the scores and its reverse, without and with the gaps.
        close(pl(&[0.0, -0.4, -1.2], &REWARDS, None), 1.049_903);
        close(pl(&[-1.2, -0.4, 0.0], &REWARDS, None), 2.791_817);
        close(pl(&[0.0, -0.4, -1.2], &REWARDS, Some(1.0)), 1.089_188);
        close(pl(&[-1.2, -0.4, 0.0], &REWARDS, Some(1.0)), 3.280_258);
        // With log-ratios to a reference at β = 0.1 as scores: listwise direct preference optimisation.
        close(pl(&[0.04, -0.03, 0.0], &REWARDS, None), 1.770_617);
        // The heads of the list one by one: the best of three, then the better of the other two.
        let heads = |scores: &[f64], factors: &[Vec<f64>]| {
            let choices = [vec![0, 1, 2], vec![1, 2]];
            Vec::<f64>::try_from(scaled_choice_losses(&Tensor::from_slice(scores), &choices, factors)).expect("numbers")
        };
        let gaps = [vec![1.5, 0.8, 1.5], vec![0.7, 0.7]];
        heads(&MEANS, &gaps).into_iter().zip([1.301_006, 0.832_986]).for_each(|(got, golden)| close(got, golden));
        let ones = [vec![1.0; 3], vec![1.0; 2]];
        heads(&MEANS, &ones).into_iter().zip([1.118_696, 0.898_123]).for_each(|(got, golden)| close(got, golden));
    }

    #[test]
    fn a_choice_of_two_is_bradley_terry_and_ties_make_shorter_rankings() {
        let losses = |scores: &[f64], choices: &[Vec<usize>]| {
            Vec::<f64>::try_from(choice_losses(&Tensor::from_slice(scores), choices)).expect("numbers")
        };
        assert!((losses(&[1.2, 0.5], &[vec![0, 1]])[0] - 0.403_186).abs() < 1e-6);
        assert!(losses(&[900.0, -900.0], &[vec![1, 0]])[0].is_finite());
        let together = losses(&MEANS, &[vec![0, 1, 2], vec![1, 2]]);
        assert!((together.iter().sum::<f64>() - pl(&MEANS, &REWARDS, None)).abs() < 1e-12);
        // Two best answers of equal score, each chosen over the third alone.
        let tied = losses(&MEANS, &[vec![0, 2], vec![1, 2]]);
        assert!((tied[0] - losses(&[MEANS[0], MEANS[2]], &[vec![0, 1]])[0]).abs() < 1e-12, "{tied:?}");
    }

    #[test]
    fn ties_are_not_compared_by_the_hinge_and_have_no_gradient_under_gaps() {
        assert_eq!(one(ranking_hinge, &[-1.0, -0.5], &[1.0, 1.0]), 0.0);
        let leaf = Tensor::from_slice(&[-1.0, -0.5]).set_requires_grad(true);
        let loss = plackett_luce(&leaf, &[list(&[0, 1], &[1.0, 1.0])], Some(1.0)).sum(Kind::Double);
        loss.backward();
        assert!((loss.double_value(&[]) - std::f64::consts::LN_2).abs() < 1e-12);
        assert_eq!(Vec::<f64>::try_from(leaf.grad()).expect("numbers"), [0.0, 0.0]);
        assert_eq!(one(ranking_accuracy, &[-1.0, -0.5], &[1.0, 1.0]), 0.5);
        assert!((one(ranking_accuracy, &MEANS, &REWARDS) - 1.0 / 3.0).abs() < 1e-12);
    }

    #[test]
    fn lists_of_unequal_length_in_one_batch_are_those_apart() {
        let scores = Tensor::from_slice(&[-0.4, -0.6, -0.9, -0.775, -0.1, -2.0]);
        let lists = [list(&[1, 3, 0], &REWARDS), list(&[5, 2], &[0.3, 0.1]), list(&[4], &[1.0])];
        for gap_scale in [None, Some(1.0), Some(0.5)] {
            let together = Vec::<f64>::try_from(plackett_luce(&scores, &lists, gap_scale)).expect("numbers");
            let expected = [pl(&MEANS, &REWARDS, gap_scale), pl(&[-2.0, -0.9], &[0.3, 0.1], gap_scale), 0.0];
            assert!(together.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12), "{together:?} {expected:?}");
        }
        let hinge = Vec::<f64>::try_from(ranking_hinge(&scores, &lists)).expect("numbers");
        assert!(hinge.iter().zip([0.575, 1.1, 0.0]).all(|(a, b)| (a - b).abs() < 1e-12), "{hinge:?}");
    }

    #[test]
    fn gradients_match_finite_differences_and_the_hand_count() {
        let leaf = Tensor::from_slice(&MEANS).set_requires_grad(true);
        ranking_hinge(&leaf, &[list(&[0, 1, 2], &REWARDS)]).sum(Kind::Double).backward();
        // The third answer stands above both others, the second not above the first.
        assert_eq!(Vec::<f64>::try_from(leaf.grad()).expect("numbers"), [-1.0, -1.0, 2.0]);
        for gap_scale in [None, Some(1.0)] {
            let leaf = Tensor::from_slice(&MEANS).set_requires_grad(true);
            plackett_luce(&leaf, &[list(&[0, 1, 2], &REWARDS)], gap_scale).sum(Kind::Double).backward();
            for i in 0..3 {
                let moved = |step: f64| {
                    let mut scores = MEANS;
                    scores[i] += step;
                    pl(&scores, &REWARDS, gap_scale)
                };
                let slope = (moved(1e-6) - moved(-1e-6)) / 2e-6;
                assert!((slope - leaf.grad().double_value(&[i as i64])).abs() < 1e-6);
            }
        }
    }
}
