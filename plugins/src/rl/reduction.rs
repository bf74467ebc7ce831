//! How per-token losses become one number. Papers differ here, so the choice has a name in every configuration.
//!
//! With S the sum and L the count of a row's response tokens, over B rows:
//! `token_mean` = ΣS / ΣL, `seq_mean` = mean S/L, `seq_sum` = mean S, `fixed_norm` = ΣS / (B · width).
//! The counts are those of the *whole optimiser step*, never of a micro-batch, so that a step's gradient does not
//! depend on how it is split.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

/// How per-token losses become one number per optimiser step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reduction {
    /// Every token of the step counts the same: the sum over all tokens by their number.
    #[default]
    TokenMean,
    /// Every response counts the same: the mean over responses of their mean token.
    SeqMean,
    /// The mean over responses of their summed tokens; long responses weigh more.
    SeqSum,
    /// The sum over all tokens by (responses × the longest length allowed): AlpacaFarm's mean over padded cells.
    FixedNorm,
}

/// What a step's losses are divided by: counts over all micro-batches of one optimiser step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepTotals {
    /// Responses in the step.
    pub n_rows: usize,
    /// Response tokens in the step.
    pub n_tokens: usize,
    /// The longest response allowed, in tokens; only `fixed_norm` uses it.
    pub width: usize,
}

impl StepTotals {
    /// The totals of responses with these lengths; the width is the longest of them.
    pub fn of(lengths: &[usize]) -> Self {
        Self { n_rows: lengths.len(), n_tokens: lengths.iter().sum(), width: lengths.iter().copied().max().unwrap_or(0) }
    }

    /// The same totals with another width.
    #[must_use]
    pub fn with_width(self, width: usize) -> Self {
        Self { width, ..self }
    }
}

impl Reduction {
    /// The weight of one token of a response of `length` tokens.
    pub fn token_weight(self, length: usize, totals: StepTotals) -> f64 {
        let at_least_one = |n: usize| n.max(1) as f64;
        match self {
            Self::TokenMean => 1.0 / at_least_one(totals.n_tokens),
            Self::SeqMean => 1.0 / (at_least_one(totals.n_rows) * at_least_one(length)),
            Self::SeqSum => 1.0 / at_least_one(totals.n_rows),
            Self::FixedNorm => 1.0 / (at_least_one(totals.n_rows) * at_least_one(totals.width)),
        }
    }

    /// The weights `[tokens]` of a micro-batch's tokens, flat, for responses of these lengths: the step's loss is the
    /// sum over micro-batches of `(losses · weights).sum()`.
    pub fn token_weights(self, lengths: &[usize], totals: StepTotals, kind: Kind, device: Device) -> Tensor {
        let per_row = lengths.iter().map(|&length| (length, self.token_weight(length, totals)));
        let flat: Vec<f64> = per_row.flat_map(|(length, weight)| std::iter::repeat_n(weight, length)).collect();
        Tensor::from_slice(&flat).to_kind(kind).to_device(device)
    }

    /// The reduced loss of one micro-batch: `losses` `[tokens]`, flat, for responses of these lengths. Differentiable.
    pub fn reduce(self, losses: &Tensor, lengths: &[usize], totals: StepTotals) -> Tensor {
        (losses * self.token_weights(lengths, totals, losses.kind(), losses.device())).sum(losses.kind())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reduced(reduction: Reduction, losses: &[f64], lengths: &[usize]) -> f64 {
        reduction.reduce(&Tensor::from_slice(losses), lengths, StepTotals::of(lengths)).double_value(&[])
    }

    #[test]
    fn the_four_reductions_match_the_goldens() {
        // Minus the log-probs of the pair of fixture A, three and four tokens.
        let losses = [0.5, 1.0, 0.3, 0.9, 0.4, 1.2, 0.6];
        for (reduction, golden) in [(Reduction::SeqSum, 2.45), (Reduction::TokenMean, 0.7), (Reduction::SeqMean, 0.6875)] {
            assert!((reduced(reduction, &losses, &[3, 4]) - golden).abs() < 1e-9, "{reduction:?}");
        }
        // [[1, 2, 3, –], [5, 6, 7, 8]] of a padded width of 4; a mean over padded cells divides 32 by 8.
        let losses = [1.0, 2.0, 3.0, 5.0, 6.0, 7.0, 8.0];
        let cases = [
            (Reduction::TokenMean, 32.0 / 7.0),
            (Reduction::SeqSum, 16.0),
            (Reduction::SeqMean, 4.25),
            (Reduction::FixedNorm, 4.0),
        ];
        for (reduction, golden) in cases {
            assert!((reduced(reduction, &losses, &[3, 4]) - golden).abs() < 1e-9, "{reduction:?}");
        }
    }

    #[test]
    fn micro_batches_add_up_to_the_whole_step_for_every_reduction() {
        let lengths = [3, 1, 4, 2, 5];
        let losses: Vec<f64> = (0..15).map(|i| f64::from(i) * 0.37 - 1.0).collect();
        let totals = StepTotals::of(&lengths).with_width(6);
        for reduction in [Reduction::TokenMean, Reduction::SeqMean, Reduction::SeqSum, Reduction::FixedNorm] {
            let whole = reduction.reduce(&Tensor::from_slice(&losses), &lengths, totals).double_value(&[]);
            let parts = [(0..2, 0..4), (2..3, 4..8), (3..5, 8..15)];
            let sum: f64 = parts
                .map(|(rows, tokens)| {
                    reduction.reduce(&Tensor::from_slice(&losses[tokens]), &lengths[rows], totals).double_value(&[])
                })
                .iter()
                .sum();
            assert!((whole - sum).abs() < 1e-12, "{reduction:?}");
        }
    }
}
