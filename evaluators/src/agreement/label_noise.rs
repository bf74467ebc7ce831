//! What label noise makes of verdicts, in expectation.
//!
//! AlpacaFarm's noise at a flip rate p (Dubois et al., 2023, <https://arxiv.org/abs/2305.14387>, section 2.3): a verdict is replaced
//! by a fair coin with probability 2p, so that p of the plain verdicts are turned around. A tie or a graded verdict that is
//! replaced becomes a plain one.

use farmhand_core::Seed;

/// The verdicts on one comparison as noise may leave them: each outcome with its probability.
#[derive(Debug, Clone, PartialEq)]
pub struct Noisy(Vec<(f64, Vec<f64>)>);

/// Verdicts on one comparison of which every outcome is counted; of more, outcomes are drawn.
const MOST_COUNTED: usize = 6;
/// How many outcomes are drawn.
const N_DRAWN: usize = 256;

impl Noisy {
    /// The codes of one comparison (1 the first answer, 2 the second) under a flip rate in [0, ½]. `place` seeds the draws where
    /// there are too many verdicts to count all outcomes.
    pub fn of(codes: &[f64], p_flip: f64, place: usize) -> Self {
        if p_flip == 0.0 || codes.is_empty() {
            return Self(vec![(1.0, codes.to_vec())]);
        }
        if codes.len() > MOST_COUNTED {
            return Self::drawn(codes, p_flip, place);
        }
        let mut outcomes = vec![(1.0, Vec::new())];
        for code in codes {
            let stays = (1.0 - 2.0 * p_flip, *code);
            outcomes = [stays, (p_flip, 1.0), (p_flip, 2.0)]
                .into_iter()
                .filter(|(p, _)| *p > 0.0)
                .flat_map(|(p, code)| {
                    outcomes
                        .iter()
                        .map(move |(weight, codes): &(f64, Vec<f64>)| (weight * p, [codes.as_slice(), &[code]].concat()))
                })
                .collect();
        }
        Self(outcomes)
    }

    fn drawn(codes: &[f64], p_flip: f64, place: usize) -> Self {
        let mut rng = Seed::root(0).child("label_noise", place as u64).rng();
        let draw = |_| (1.0 / N_DRAWN as f64, codes.iter().map(|code| flipped(*code, p_flip, &mut rng)).collect());
        Self((0..N_DRAWN).map(draw).collect())
    }

    /// The expectation of a number that the codes have; `None` where they have none, which does not depend on the noise.
    pub fn expected(&self, of: impl Fn(&[f64]) -> Option<f64>) -> Option<f64> {
        self.0.iter().map(|(weight, codes)| Some(weight * of(codes)?)).sum()
    }
}

/// A code after noise.
pub fn flipped(code: f64, p_flip: f64, rng: &mut farmhand_core::Rng) -> f64 {
    match rng.uniform() {
        u if u < p_flip => 1.0,
        u if u < 2.0 * p_flip => 2.0,
        _ => code,
    }
}

/// The expectation of a probability after noise.
pub fn expected_p(p: f64, p_flip: f64) -> f64 {
    (1.0 - 2.0 * p_flip) * p + p_flip
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agreement::alpaca_eval::ScoringRule;
    use crate::agreement::by_comparison::{Scores, one_against_others, single_against_mode};

    fn score(scores: Scores) -> f64 {
        scores.estimate().expect("a score").mean
    }

    #[test]
    fn one_verdict_against_people_by_hand() {
        // Right with certainty: after noise of 0.25 right three times in four; a tie scores ½ either way.
        let expected = |judge: f64, human: f64, p_flip: f64| {
            score(single_against_mode(&[vec![judge]], &[vec![human]], ScoringRule::Absolute, p_flip))
        };
        assert_eq!((expected(1.0, 1.0, 0.25), expected(2.0, 1.0, 0.25), expected(1.5, 1.0, 0.25)), (0.75, 0.25, 0.5));
        assert_eq!((expected(1.0, 1.0, 0.0), expected(1.0, 1.0, 0.5)), (1.0, 0.5));
        assert!((expected(1.8, 2.0, 0.1) - (0.8 * 0.8 + 0.1)).abs() < 1e-15);
    }

    #[test]
    fn counting_all_outcomes_gives_what_drawing_them_gives_in_the_mean() {
        let codes = [1.0, 2.0, 2.0, 1.5];
        for p_flip in [0.1, 0.25] {
            let exact = score(one_against_others(&[codes.to_vec()], ScoringRule::Absolute, p_flip));
            let mut rng = Seed::root(5).rng();
            let rows: Vec<Vec<f64>> =
                (0..20_000).map(|_| codes.iter().map(|code| flipped(*code, p_flip, &mut rng)).collect()).collect();
            let drawn = score(one_against_others(&rows, ScoringRule::Absolute, 0.0));
            assert!((exact - drawn).abs() < 0.005, "{exact} {drawn}");
        }
    }

    #[test]
    fn many_verdicts_are_drawn_with_the_right_share_of_flips() {
        let noisy = Noisy::of(&[1.0; 40], 0.25, 3);
        let turned = noisy.expected(|codes| Some(codes.iter().filter(|code| **code == 2.0).count() as f64 / 40.0));
        assert!((turned.expect("codes") - 0.25).abs() < 0.02, "{turned:?}");
        assert_eq!(Noisy::of(&[1.0; 40], 0.25, 3), noisy);
        let total = Noisy::of(&[1.0, 1.5, 2.0], 0.1, 0).expected(|_| Some(1.0)).expect("a sum");
        assert!((total - 1.0).abs() < 1e-15);
        assert_eq!(expected_p(0.9, 0.25), 0.7);
    }
}
