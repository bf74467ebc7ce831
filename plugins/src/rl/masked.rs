//! Means, variances and whitening over the real cells of padded tensors.
//!
//! Whatever stands in a masked cell, even a NaN, never reaches a result or a gradient.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Tensor;

/// `values` with every masked cell replaced by 0. `mask`: 1 for real cells, 0 for padding, same shape.
pub fn zero_masked(values: &Tensor, mask: &Tensor) -> Tensor {
    values.where_self(&mask.ne(0.0), &values.zeros_like())
}

/// The mean of the real cells; 0 when there are none.
pub fn masked_mean(values: &Tensor, mask: &Tensor) -> Tensor {
    let n = mask.sum(values.kind()).clamp_min(1.0);
    zero_masked(values, mask).sum(values.kind()) / n
}

/// The variance of the real cells, dividing by their number minus one (Bessel's correction).
pub fn masked_variance(values: &Tensor, mask: &Tensor) -> Tensor {
    let n = mask.sum(values.kind());
    let deviation = zero_masked(&(values - masked_mean(values, mask)), mask);
    (&deviation * &deviation).sum(values.kind()) / (n - 1.0).clamp_min(1.0)
}

/// Which cells give the mean and spread when numbers are brought to mean 0 and variance 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Whitening {
    /// Leave the numbers as they are.
    Off,
    /// Real tokens only, sample variance, `(x − mean) / √(variance + 1e-8)`: TRL.
    #[default]
    Tokens,
    /// Real tokens only, population variance, `(x − mean) / √max(variance, 1e-8)`: OpenRLHF.
    TokensPopulation,
    /// All cells of the padded block, padding included, population deviation, `(x − mean) / (deviation + 1e-8)`:
    /// AlpacaFarm. The result depends on the padded width.
    AllCells,
}

impl Whitening {
    /// `values` whitened, any shape; with `keep_mean` only the spread is changed and the mean added back. Masked cells
    /// of the result are 0, except under [`Whitening::AllCells`], which treats them like the others.
    pub fn apply(self, values: &Tensor, mask: &Tensor, keep_mean: bool) -> Tensor {
        let (mean, scale) = match self {
            Self::Off => return values.shallow_clone(),
            Self::Tokens => (masked_mean(values, mask), (masked_variance(values, mask) + 1e-8).rsqrt()),
            Self::TokensPopulation => {
                let mean = masked_mean(values, mask);
                let variance = masked_mean(&(values - &mean).square(), mask);
                (mean, variance.clamp_min(1e-8).rsqrt())
            }
            Self::AllCells => {
                let mean = values.mean(values.kind());
                let deviation = (values - &mean).square().mean(values.kind()).sqrt();
                (mean, (deviation + 1e-8).reciprocal())
            }
        };
        let mut whitened = (values - &mean) * scale;
        if keep_mean {
            whitened += mean;
        }
        if self == Self::AllCells { whitened } else { zero_masked(&whitened, mask) }
    }
}

#[cfg(test)]
mod tests {
    use tch::Kind;

    use super::*;

    fn block(values: &[f64], rows: i64) -> Tensor {
        Tensor::from_slice(values).view([rows, -1])
    }

    #[test]
    fn whitening_matches_trl_with_and_without_shifting_the_mean() {
        let values = block(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 2);
        let mask = block(&[1.0, 1.0, 0.0, 1.0, 1.0, 1.0], 2);
        let golden = [-1.253_831_34, -0.771_588_51, 0.0, 0.192_897_13, 0.675_139_95, 1.157_382_77];
        let shifted = Vec::<f64>::try_from(Whitening::Tokens.apply(&values, &mask, false).view(-1)).expect("numbers");
        let kept = Vec::<f64>::try_from(Whitening::Tokens.apply(&values, &mask, true).view(-1)).expect("numbers");
        for (i, golden) in golden.iter().enumerate() {
            assert!((shifted[i] - golden).abs() < 1e-6, "{i}: {shifted:?}");
            if i != 2 {
                assert!((kept[i] - golden - 3.6).abs() < 1e-6, "{i}: {kept:?}");
            }
        }
    }

    #[test]
    fn a_nan_in_a_masked_cell_reaches_neither_results_nor_gradients() {
        let mask = block(&[1.0, 1.0, 0.0, 1.0], 1);
        let values = block(&[1.0, 2.0, f64::NAN, 4.0], 1).set_requires_grad(true);
        let mean = masked_mean(&values, &mask);
        assert!((mean.double_value(&[]) - 7.0 / 3.0).abs() < 1e-12);
        assert!((masked_variance(&values, &mask).double_value(&[]) - 7.0 / 3.0).abs() < 1e-12);
        assert!(Whitening::Tokens.apply(&values, &mask, false).isfinite().all().int64_value(&[]) == 1);
        mean.backward();
        let grad = Vec::<f64>::try_from(values.grad().view(-1)).expect("numbers");
        assert_eq!(grad[2], 0.0);
        assert!((grad[0] - 1.0 / 3.0).abs() < 1e-12);
    }

    #[test]
    fn whitening_over_tokens_ignores_padding_and_whitening_over_all_cells_does_not() {
        let narrow = (block(&[1.0, 2.0, 4.0], 1), block(&[1.0, 1.0, 1.0], 1));
        let wide = (block(&[1.0, 2.0, 4.0, 0.0, 0.0], 1), block(&[1.0, 1.0, 1.0, 0.0, 0.0], 1));
        let first =
            |whitening: Whitening, (values, mask): &(Tensor, Tensor)| whitening.apply(values, mask, false).double_value(&[0, 0]);
        assert!((first(Whitening::Tokens, &narrow) - first(Whitening::Tokens, &wide)).abs() < 1e-12);
        assert!((first(Whitening::AllCells, &narrow) - first(Whitening::AllCells, &wide)).abs() > 0.1);
        let off = Whitening::Off.apply(&narrow.0, &narrow.1, false);
        assert_eq!((off - &narrow.0).abs().sum(Kind::Double).double_value(&[]), 0.0);
    }
}
