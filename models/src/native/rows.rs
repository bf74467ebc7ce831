//! Norms, rotations and gates, differentiable: on the CPU in one visit of memory each way, elsewhere by libtorch's operators.
//!
//! Each row is worked on by itself, so results do not depend on which rows run together.

use std::ffi::c_int;

use tch::{Device, Kind, Tensor};
use torch_sys::C_tensor;

use super::{handle, one_tensor};

#[expect(unsafe_code, reason = "declares functions of models/shim/rows.cpp")]
unsafe extern "C" {
    fn farmhand_rms_norm(x: *const C_tensor, weight: *const C_tensor, eps: f64, result: *mut *mut C_tensor) -> c_int;
    fn farmhand_rotate(x: *const C_tensor, cosines: *const C_tensor, sines: *const C_tensor, result: *mut *mut C_tensor)
    -> c_int;
    fn farmhand_gate(gates: *const C_tensor, ups: *const C_tensor, result: *mut *mut C_tensor) -> c_int;
}

/// Whether there is a kernel for this tensor.
fn has_kernel(x: &Tensor) -> bool {
    x.device() == Device::Cpu && x.kind() == Kind::Float
}

/// `x / √(mean(x²) + eps) · weight` over the last dimension, for `x` `[.., d]` and `weight` `[d]`. For the backward pass it
/// keeps `x` and one number a row.
///
/// # Panics
/// When the shapes do not fit.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Tensor {
    if !has_kernel(x) || !has_kernel(weight) {
        return x.rms_norm(weight.size(), Some(weight.to_kind(x.kind())), eps);
    }
    #[expect(unsafe_code, reason = "calls models/shim/rows.cpp with live handles")]
    one_tensor("rms_norm", |result| unsafe { farmhand_rms_norm(handle(x), handle(weight), eps, result) })
}

/// Turns pairs of components of heads `x` `[n, heads, dim]`: component i and i + t/2 for i < t/2, where t ≤ dim is the width
/// of the tables `[n, 1, t]`; components from t on stay. `cosines` hold each pair's cosine twice, `signed_sines` its sine
/// negated and as it is. The tables get no gradients.
///
/// # Panics
/// When the shapes do not fit.
pub fn rotate(x: &Tensor, cosines: &Tensor, signed_sines: &Tensor) -> Tensor {
    if !has_kernel(x) || !has_kernel(cosines) {
        return rotate_by_libtorch(x, cosines, signed_sines);
    }
    #[expect(unsafe_code, reason = "calls models/shim/rows.cpp with live handles")]
    one_tensor("rotate", |result| unsafe { farmhand_rotate(handle(x), handle(cosines), handle(signed_sines), result) })
}

fn rotate_by_libtorch(x: &Tensor, cosines: &Tensor, signed_sines: &Tensor) -> Tensor {
    let (turned, dim) = (cosines.size()[2], x.size()[2]);
    if turned < dim {
        let first = rotate_by_libtorch(&x.narrow(-1, 0, turned), cosines, signed_sines);
        return Tensor::cat(&[&first, &x.narrow(-1, turned, dim - turned)], -1);
    }
    // Rolling by half swaps the members of every pair in one operation; the signs are in the sines. The tables are `f32`.
    (x * cosines).addcmul(&x.roll([dim / 2], [-1]), signed_sines).to_kind(x.kind())
}

/// `silu(gate) · up` for two tensors of one shape `[.., d]`, the gated unit of Shazeer, 2020. For the backward pass it keeps
/// these two and nothing of its own.
///
/// # Panics
/// When the shapes differ.
pub fn gated_silu(gate: &Tensor, up: &Tensor) -> Tensor {
    if !has_kernel(gate) || !has_kernel(up) {
        return gate.silu() * up;
    }
    #[expect(unsafe_code, reason = "calls models/shim/rows.cpp with live handles")]
    one_tensor("gated_silu", |result| unsafe { farmhand_gate(handle(gate), handle(up), result) })
}

#[cfg(test)]
mod tests {
    use farmhand_core::Seed;
    use tch::no_grad;

    use super::*;
    use crate::language_model::normal;

    /// The largest difference as a share of the largest number.
    fn distance(a: &Tensor, b: &Tensor) -> f64 {
        assert_eq!(a.size(), b.size());
        let scale = b.abs().max().double_value(&[]);
        (a.to_kind(b.kind()) - b).abs().max().double_value(&[]) / scale
    }

    /// Compares value and gradients with those of the same function by libtorch's operators in double precision.
    fn compare(inputs: &[Tensor], trains: &[bool], ours: impl Fn(&[Tensor]) -> Tensor, theirs: impl Fn(&[Tensor]) -> Tensor) {
        let leaves = |kind: Kind| -> Vec<Tensor> {
            let leaf = |(tensor, trains): (&Tensor, &bool)| tensor.to_kind(kind).detach().copy().set_requires_grad(*trains);
            inputs.iter().zip(trains).map(leaf).collect()
        };
        let (single, double) = (leaves(Kind::Float), leaves(Kind::Double));
        let (y, expected) = (ours(&single), theirs(&double));
        assert!(distance(&y, &expected) < 1e-6);
        assert_eq!(y.requires_grad(), trains.contains(&true));
        assert_eq!(no_grad(|| ours(&single)), y);
        if !y.requires_grad() {
            return;
        }
        // A gradient that does not lie in one piece.
        let gradient = normal(&y.size(), 1.0, Seed::root(9)).transpose(0, 1).contiguous().transpose(0, 1);
        (&y * &gradient).sum(Kind::Float).backward();
        (&expected * gradient.to_kind(Kind::Double)).sum(Kind::Double).backward();
        for (single, double) in single.iter().zip(&double) {
            assert_eq!(single.grad().defined(), double.grad().defined());
            assert!(!single.grad().defined() || distance(&single.grad(), &double.grad()) < 2e-6);
        }
    }

    fn random(shape: &[i64], seed: u64) -> Tensor {
        normal(shape, 2.0, Seed::root(seed))
    }

    #[test]
    fn norms_are_those_of_libtorch_for_any_width() {
        for (n, d) in [(1, 7), (3, 15), (5, 16), (70, 33), (130, 576)] {
            let inputs = [random(&[n, d], 1), random(&[d], 2)];
            let theirs = |x: &[Tensor]| x[0].rms_norm([d], Some(&x[1]), 1e-5);
            for trains in [[true, true], [true, false], [false, true], [false, false]] {
                compare(&inputs, &trains, |x| rms_norm(&x[0], &x[1], 1e-5), theirs);
            }
            // Columns of a wider tensor, and heads.
            compare(&inputs, &[true, true], |x| rms_norm(&Tensor::cat(&[&x[0], &x[0]], 1).narrow(1, d, d), &x[1], 1e-5), theirs);
        }
        let heads = [random(&[7, 3, 20], 1), random(&[20], 2)];
        compare(&heads, &[true, true], |x| rms_norm(&x[0], &x[1], 1e-6), |x| x[0].rms_norm([20], Some(&x[1]), 1e-6));
    }

    #[test]
    fn rotations_are_those_of_libtorch_for_any_width_and_share() {
        for (n, heads, dim, turned) in [(1, 1, 2, 2), (5, 3, 64, 64), (9, 2, 80, 20), (4, 2, 34, 34)] {
            let angles = random(&[n, 1, turned / 2], 3);
            let tables = [Tensor::cat(&[angles.cos(), angles.cos()], -1), Tensor::cat(&[-angles.sin(), angles.sin()], -1)];
            let [cosines, sines] = tables;
            let inputs = [random(&[n, heads, dim], 1), cosines, sines];
            for trains in [true, false] {
                let theirs = |x: &[Tensor]| rotate_by_libtorch(&x[0], &x[1], &x[2]);
                compare(&inputs, &[trains, false, false], |x| rotate(&x[0], &x[1], &x[2]), theirs);
            }
        }
    }

    #[test]
    fn gates_are_those_of_libtorch_for_any_width_and_for_large_numbers() {
        for (n, d) in [(1, 1), (3, 15), (5, 16), (70, 33)] {
            let inputs = [random(&[n, d], 1) * 20.0, random(&[n, d], 2)];
            for trains in [[true, true], [true, false], [false, false]] {
                compare(&inputs, &trains, |x| gated_silu(&x[0], &x[1]), |x| x[0].silu() * &x[1]);
            }
            // Two halves of one tensor, as a fused projection gives them.
            let halves = |x: &[Tensor]| gated_silu(&Tensor::cat(x, 1).narrow(1, 0, d), &Tensor::cat(x, 1).narrow(1, d, d));
            compare(&inputs, &[true, true], halves, |x| x[0].silu() * &x[1]);
        }
        let far = Tensor::from_slice(&[-1e4f32, -100.0, 100.0, 1e4]).set_requires_grad(true);
        let y = gated_silu(&far, &far.ones_like());
        y.sum(Kind::Float).backward();
        assert_eq!(y, Tensor::from_slice(&[0f32, 0.0, 100.0, 1e4]));
        assert_eq!(far.grad(), Tensor::from_slice(&[0f32, 0.0, 1.0, 1.0]));
    }

    #[test]
    fn other_types_take_libtorchs_operators_and_empty_tensors_work() {
        let half = |shape: &[i64], seed| random(shape, seed).to_kind(Kind::BFloat16);
        assert_eq!(rms_norm(&half(&[3, 8], 1), &half(&[8], 2), 1e-5).kind(), Kind::BFloat16);
        assert_eq!(gated_silu(&half(&[3, 8], 1), &half(&[3, 8], 2)).kind(), Kind::BFloat16);
        let table = random(&[3, 1, 4], 3);
        assert_eq!(rotate(&half(&[3, 2, 8], 1), &table, &table).kind(), Kind::BFloat16);
        let none = random(&[0, 8], 1).set_requires_grad(true);
        let (weight, tables) = (random(&[8], 2), random(&[0, 1, 4], 3));
        for y in [rms_norm(&none, &weight, 1e-5), gated_silu(&none, &none), rotate(&none.view([0, 2, 4]), &tables, &tables)] {
            y.sum(Kind::Float).backward();
            assert_eq!(none.grad().size(), [0, 8]);
        }
    }
}
