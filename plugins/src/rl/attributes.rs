//! Regression on attributes: each answer has some of several numbers, and the others are unknown.
//!
//! SteerLM's attribute prediction model (Dong et al. 2023, <https://arxiv.org/abs/2310.05344>) with regression heads, as its
//! authors' library has it: `Σ mask · (prediction − label)² / Σ mask`.

use tch::{Kind, Tensor};

/// The summed squared errors of the labels that are known; differentiable. `predictions` `[answers, attributes]`; `labels` one row an
/// answer. Dividing by [`n_labels`] of the whole optimiser step gives the loss. What stands for an unknown label never reaches
/// the result or a gradient.
pub fn squared_errors(predictions: &Tensor, labels: &[&[Option<f64>]]) -> Tensor {
    let known: Vec<bool> = labels.iter().flat_map(|row| row.iter().map(Option::is_some)).collect();
    let values: Vec<f64> = labels.iter().flat_map(|row| row.iter().map(|label| label.unwrap_or(0.0))).collect();
    let shaped = |tensor: Tensor| tensor.to_device(predictions.device()).view_as(predictions);
    let differences = predictions - shaped(Tensor::from_slice(&values).to_kind(predictions.kind()));
    // Masked before they are squared: a gradient of 0 times a NaN would be a NaN.
    differences.where_self(&shaped(Tensor::from_slice(&known)), &differences.zeros_like()).square().sum(Kind::Double)
}

/// How many labels are known; at least 1, so that it can divide.
pub fn n_labels<'a>(labels: impl IntoIterator<Item = &'a [Option<f64>]>) -> usize {
    labels.into_iter().map(|row| row.iter().flatten().count()).sum::<usize>().max(1)
}

/// Predictions as labels on a scale of whole numbers from 0 to `highest`: clamped, then rounded half to even.
pub fn rounded_labels(predictions: &[f64], highest: u32) -> Vec<u32> {
    predictions.iter().map(|prediction| prediction.clamp(0.0, f64::from(highest)).round_ties_even() as u32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PREDICTIONS: [f64; 5] = [3.4, 2.5, 0.6, 5.2, -0.3];
    const LABELS: [Option<f64>; 5] = [Some(4.0), Some(2.0), None, Some(4.0), Some(0.0)];

    #[test]
    fn the_loss_and_the_labels_match_the_goldens() {
        let sum = squared_errors(&Tensor::from_slice(&PREDICTIONS).view([1, 5]), &[&LABELS]);
        assert_eq!(n_labels([&LABELS[..]]), 4);
        assert!((sum.double_value(&[]) / 4.0 - 0.535).abs() < 1e-9);
        assert_eq!(rounded_labels(&PREDICTIONS, 4), [3, 2, 1, 4, 0]);
    }

    #[test]
    fn an_unknown_label_has_no_gradient_and_none_at_all_no_loss() {
        let leaf = Tensor::from_slice(&[1.0, f64::NAN, 3.0, f64::INFINITY]).view([2, 2]).set_requires_grad(true);
        let loss = squared_errors(&leaf, &[&[Some(0.0), None], &[Some(1.0), None]]);
        loss.backward();
        assert_eq!(Vec::<f64>::try_from(leaf.grad().view([-1])).expect("numbers"), [2.0, 0.0, 4.0, 0.0]);
        let nothing = squared_errors(&Tensor::from_slice(&[1.0]).view([1, 1]), &[&[None]]);
        assert_eq!((nothing.double_value(&[]), n_labels([&[None][..]])), (0.0, 1));
    }

    #[test]
    fn the_gradient_matches_finite_differences() {
        let at = |x: f64| squared_errors(&Tensor::from_slice(&[x, 1.0]).view([1, 2]), &[&[Some(2.0), None]]).double_value(&[]);
        let leaf = Tensor::from_slice(&[0.3, 1.0]).set_requires_grad(true);
        squared_errors(&leaf.view([1, 2]), &[&[Some(2.0), None]]).backward();
        let slope = (at(0.3 + 1e-6) - at(0.3 - 1e-6)) / 2e-6;
        assert!((slope - leaf.grad().double_value(&[0])).abs() < 1e-6);
    }
}
