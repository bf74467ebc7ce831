//! Rows of logits to probabilities, in place.

use std::ffi::c_int;

use tch::{Device, Kind, Tensor};
use torch_sys::C_tensor;

use super::{checked, expect, handle};

#[expect(unsafe_code, reason = "declares a function of models/shim/softmax.cpp")]
unsafe extern "C" {
    fn farmhand_softmax_rows(
        logits: *const C_tensor,
        targets: *const C_tensor,
        temperature: f64,
        log_probs: *const C_tensor,
        entropies: *const C_tensor,
    ) -> c_int;
}

/// Turns logits `[n, v]` into the probabilities of softmax(logits / `temperature`), in place where it can; returns them with
/// the log-probabilities `[n]` of `targets` `[n]` (i64) and the entropies `[n]`, both in nats and `f32`. Not differentiable.
///
/// # Panics
/// When the shapes do not fit or a target is not below v.
pub fn softmax_rows(logits: Tensor, targets: &Tensor, temperature: f64) -> (Tensor, Tensor, Tensor) {
    if logits.device() != Device::Cpu || logits.kind() != Kind::Float {
        return by_libtorch(&logits, targets, temperature);
    }
    let logits = logits.contiguous();
    let n = [targets.numel() as i64];
    let empty = || Tensor::empty(n, tch::kind::FLOAT_CPU);
    let (log_probs, entropies) = (empty(), empty());
    #[expect(unsafe_code, reason = "calls models/shim/softmax.cpp with live handles; nothing else reads the tensors written to")]
    let status = unsafe {
        farmhand_softmax_rows(handle(&logits), handle(&targets.contiguous()), temperature, handle(&log_probs), handle(&entropies))
    };
    expect("softmax of rows", checked(status));
    (logits, log_probs, entropies)
}

fn by_libtorch(logits: &Tensor, targets: &Tensor, temperature: f64) -> (Tensor, Tensor, Tensor) {
    let log_probs = (logits.to_kind(Kind::Float) / temperature).log_softmax(-1, Kind::Float);
    let values = log_probs.gather(1, &targets.unsqueeze(1), false).squeeze_dim(1);
    let probabilities = log_probs.exp();
    let entropies =
        (log_probs * &probabilities).nan_to_num(0.0, None, None).sum_dim_intlist([-1i64].as_slice(), false, Kind::Float);
    (probabilities, values, -entropies)
}

#[cfg(test)]
mod tests {
    use farmhand_core::Seed;

    use super::*;
    use crate::language_model::normal;

    #[test]
    fn the_kernel_gives_what_libtorch_gives_for_any_width_and_temperature() {
        for (v, temperature) in [(1, 1.0), (15, 1.0), (16, 0.7), (33, 1.3), (1000, 1.0), (1031, 0.2)] {
            let logits = normal(&[5, v], 3.0, Seed::root(v as u64));
            let _ = logits.get(4).fill_(2.5);
            if v > 20 {
                // A logit that cannot be drawn, and one far above the others.
                let _ = logits.get(3).get(2).fill_(f64::NEG_INFINITY);
                let _ = logits.get(2).get(7).fill_(300.0);
            }
            let targets = Tensor::from_slice(&[0i64, v - 1, v / 2, 0, v - 1]);
            let (expected, expected_values, expected_entropies) =
                by_libtorch(&logits.to_kind(Kind::Double), &targets, temperature);
            let (probabilities, values, entropies) = softmax_rows(logits, &targets, temperature);
            let distance = |a: &Tensor, b: &Tensor| ((a - b).abs() / (b.abs() + 1.0)).max().double_value(&[]);
            assert!(distance(&probabilities, &expected) < 1e-6, "{v}");
            assert!(distance(&values, &expected_values) < 1e-5, "{v}");
            assert!(distance(&entropies, &expected_entropies) < 1e-5, "{v}: {entropies:?}");
        }
    }
}
