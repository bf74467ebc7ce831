//! Numbers of whole distributions over the vocabulary, where an estimate from the sampled token is not enough.
//!
//! Rows are positions, columns the vocabulary: `[n, v]`, as natural logarithms of probabilities (`log_softmax`). Differentiable in
//! every argument that carries a gradient.

use tch::{Kind, Tensor};

/// `KL(p ‖ q) = Σ_v p_v (ln p_v − ln q_v)` of each row, `[n]`, in nats.
pub fn kl_divergence(log_p: &Tensor, log_q: &Tensor) -> Tensor {
    row_sums(&(log_p.exp() * (log_p - log_q)))
}

/// `−Σ_v p_v ln p_v` of each row, `[n]`, in nats.
pub fn entropy(log_p: &Tensor) -> Tensor {
    -row_sums(&(log_p.exp() * log_p))
}

fn row_sums(values: &Tensor) -> Tensor {
    values.sum_dim_intlist([-1i64].as_slice(), false, values.kind())
}

/// Log-probabilities `[n, v]` of logits, in `f32` at least.
pub fn log_distributions(logits: &Tensor) -> Tensor {
    let kind = if logits.kind() == Kind::Double { Kind::Double } else { Kind::Float };
    logits.log_softmax(-1, kind)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rl::kl::KlEstimator;

    fn log_p(logits: &[f64]) -> Tensor {
        log_distributions(&Tensor::from_slice(logits).unsqueeze(0))
    }

    #[test]
    fn divergences_and_entropy_match_the_goldens() {
        let (policy, reference) = (log_p(&[1.0, 0.0, -1.0]), log_p(&[0.5, 0.5, -1.0]));
        let close = |got: Tensor, expected: f64| assert!((got.double_value(&[0]) - expected).abs() < 1e-6, "{got:?} {expected}");
        close(-policy.select(1, 0), 0.407_606);
        close(kl_divergence(&policy, &reference), 0.101_566);
        close(kl_divergence(&reference, &policy), 0.108_690);
        close(entropy(&policy), 0.832_396);
        close(kl_divergence(&policy, &policy), 0.0);
        close(entropy(&log_p(&[2.0; 5])), 5f64.ln());
    }

    #[test]
    fn the_divergence_is_what_the_estimators_estimate() {
        let (policy, reference) = (log_p(&[0.3, -1.2, 0.8, 0.0]), log_p(&[-0.5, 0.1, 0.4, 0.2]));
        let exact = kl_divergence(&policy, &reference).double_value(&[0]);
        for estimator in [KlEstimator::K1, KlEstimator::K3] {
            let expected = (policy.exp() * estimator.per_token(&policy, &reference)).sum(Kind::Double).double_value(&[]);
            assert!((exact - expected).abs() < 1e-12);
        }
    }

    #[test]
    fn gradients_are_those_of_finite_differences() {
        let (logits, reference) = ([0.3, -1.2, 0.8, 0.0], log_p(&[-0.5, 0.1, 0.4, 0.2]));
        let functions: [fn(&Tensor, &Tensor) -> Tensor; 3] = [kl_divergence, |p, q| kl_divergence(q, p), |p, _| entropy(p)];
        for function in functions {
            let leaf = Tensor::from_slice(&logits).set_requires_grad(true);
            function(&log_distributions(&leaf.unsqueeze(0)), &reference).sum(Kind::Double).backward();
            for i in 0..4 {
                let at = |step: f64| {
                    let mut moved = logits;
                    moved[i] += step;
                    function(&log_p(&moved), &reference).double_value(&[0])
                };
                let expected = (at(1e-6) - at(-1e-6)) / 2e-6;
                assert!((leaf.grad().double_value(&[i as i64]) - expected).abs() < 1e-8);
            }
        }
    }
}
