//! The global gradient norm: measured over all tensors, checked, clipped.

use farmhand_core::{Error, Result};
use tch::{Kind, Tensor, no_grad};

use crate::native::set_gradient;

/// The Euclidean norm of all gradients together; tensors without a gradient count as zero.
///
/// # Errors
/// When it is not finite: the error names the first tensor whose gradient is not.
pub fn gradient_norm(parameters: &[(String, Tensor)]) -> Result<f64> {
    no_grad(|| {
        // In `f32` whatever the gradients are.
        let norm = |(_, gradient): (&str, Tensor)| gradient.norm_scalaropt_dtype(2, Kind::Float);
        let norms: Vec<Tensor> = gradients(parameters).map(norm).collect();
        if norms.is_empty() {
            return Ok(0.0);
        }
        let norm = Tensor::stack(&norms, 0).norm().double_value(&[]);
        if norm.is_finite() {
            return Ok(norm);
        }
        let culprit = gradients(parameters).find(|(_, gradient)| !gradient.isfinite().all().int64_value(&[]).is_positive());
        Err(match culprit {
            Some((name, _)) => Error::non_finite(format!("the gradient of `{name}` is not finite")),
            None => Error::non_finite("the gradient norm over all tensors is too large for a number"),
        }
        .with_hint("lower the learning rate, or look at the data of this step"))
    })
}

/// The factor that brings gradients of norm `norm` down to `max_norm`; 1 when they are there already. As torch's
/// `clip_grad_norm_`, it is `max_norm / (norm + 1e-6)` where that is below 1.
pub fn clip_factor(norm: f64, max_norm: f64) -> f64 {
    (max_norm / (norm + 1e-6)).min(1.0)
}

/// Scales all gradients so that their norm is at most `max_norm`; `norm` is what [`gradient_norm`] measured. For loops
/// without [`AdamW`](crate::AdamW), which clips by itself.
pub fn clip_gradients(parameters: &[(String, Tensor)], norm: f64, max_norm: f64) {
    let factor = clip_factor(norm, max_norm);
    if factor < 1.0 {
        no_grad(|| gradients(parameters).for_each(|(_, mut gradient)| drop(gradient.g_mul_scalar_(factor))));
    }
}

/// Forgets all gradients and frees their memory; the next backward pass makes new ones instead of adding to zeros.
pub fn zero_gradients(parameters: &[(String, Tensor)]) {
    parameters.iter().for_each(|(_, parameter)| set_gradient(parameter, None));
}

fn gradients(parameters: &[(String, Tensor)]) -> impl Iterator<Item = (&str, Tensor)> {
    let with = parameters.iter().map(|(name, parameter)| (name.as_str(), parameter.grad()));
    with.filter(|(_, gradient)| gradient.defined())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters() -> Vec<(String, Tensor)> {
        let leaf = |values: &[f32]| Tensor::from_slice(values).set_requires_grad(true);
        vec![("a".to_owned(), leaf(&[1.0, 2.0])), ("b".to_owned(), leaf(&[3.0])), ("unused".to_owned(), leaf(&[4.0]))]
    }

    #[test]
    fn the_norm_spans_all_tensors_and_clipping_reaches_it() {
        let parameters = parameters();
        (&parameters[0].1 * 3.0).sum(Kind::Float).backward();
        (&parameters[1].1 * 4.0).sum(Kind::Float).backward();
        let expected = f64::sqrt(9.0 + 9.0 + 16.0);
        let norm = gradient_norm(&parameters).expect("finite");
        assert!((norm - expected).abs() < 1e-6);
        clip_gradients(&parameters, norm, 100.0);
        assert!((gradient_norm(&parameters).expect("finite") - expected).abs() < 1e-6);
        clip_gradients(&parameters, norm, 0.5);
        assert!((gradient_norm(&parameters).expect("finite") - 0.5).abs() < 1e-6);
        zero_gradients(&parameters);
        assert!(!parameters[0].1.grad().defined());
        assert_eq!(gradient_norm(&parameters).expect("finite"), 0.0);
    }

    #[test]
    fn a_gradient_that_is_not_finite_is_named() {
        let parameters = parameters();
        parameters[0].1.sum(Kind::Float).backward();
        (&parameters[1].1 * f64::INFINITY).sum(Kind::Float).backward();
        let error = gradient_norm(&parameters).expect_err("infinite");
        assert_eq!(error.kind(), farmhand_core::ErrorKind::NonFinite);
        assert!(error.message().contains("`b`"), "{error}");
    }
}
