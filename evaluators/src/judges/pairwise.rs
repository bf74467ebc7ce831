//! How far every two judges agree.

use farmhand_core::Seed;
use serde::Serialize;

use super::verdicts::Verdicts;
use crate::agreement::alpaca_eval::ScoringRule;
use crate::agreement::by_comparison::single_against_single;

/// How far two judges agree on the pairs that both judged.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PairwiseAgreement {
    /// The judges.
    pub judges: [String; 2],
    /// Pairs that both judged.
    pub n: usize,
    /// AlpacaEval's agreement of one verdict of the one with one of the other, in %: 100 × (1 − |difference|).
    pub agreement: f64,
    /// Its 95 % interval over instructions.
    pub interval: Option<[f64; 2]>,
}

/// Every two judges that share a pair, in the order of their numbers.
pub fn pairwise(verdicts: &Verdicts, n_resamples: usize, seed: Seed) -> Vec<PairwiseAgreement> {
    let codes: Vec<Vec<Vec<f64>>> =
        (0..verdicts.judges.len()).map(|judge| verdicts.codes(|verdict| verdict.judge == judge)).collect();
    let clusters = verdicts.clusters();
    let of_two = |(one, other): (usize, usize)| {
        let scores = single_against_single(&codes[one], &codes[other], ScoringRule::Absolute);
        let agreement = scores.estimate()?;
        Some(PairwiseAgreement {
            judges: [one, other].map(|judge| verdicts.judges[judge].clone()),
            n: agreement.n,
            agreement: 100.0 * agreement.mean,
            interval: scores.interval(&clusters, n_resamples, seed).map(|ends| ends.map(|end| 100.0 * end)),
        })
    };
    let n = verdicts.judges.len();
    (0..n).flat_map(|one| (one + 1..n).map(move |other| (one, other))).filter_map(of_two).collect()
}
