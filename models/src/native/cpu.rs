//! The CPU kernels of generation: `f32`, every element by one fixed order of operations, so that a token's numbers do not
//! depend on the tokens computed beside it, nor on the number of threads.

use std::ffi::{CStr, c_char, c_int};
use std::ptr::null;

use tch::{Device, Kind, Tensor};
use torch_sys::C_tensor;

use super::{handle, one_tensor};
use crate::layers::Activation;

#[expect(unsafe_code, reason = "declares functions of models/shim/cpu_kernels.cpp")]
unsafe extern "C" {
    fn farmhand_cpu_name() -> *const c_char;
    fn farmhand_cpu_linear(
        x: *const C_tensor,
        weight: *const C_tensor,
        bias: *const C_tensor,
        is_input_first: bool,
        result: *mut *mut C_tensor,
    ) -> c_int;
    fn farmhand_cpu_rms_norm(
        x: *const C_tensor,
        weight: *const C_tensor,
        plus: f64,
        eps: f64,
        result: *mut *mut C_tensor,
    ) -> c_int;
    fn farmhand_cpu_layer_norm(
        x: *const C_tensor,
        weight: *const C_tensor,
        bias: *const C_tensor,
        eps: f64,
        result: *mut *mut C_tensor,
    ) -> c_int;
    fn farmhand_cpu_activate(kind: i32, x: *const C_tensor, factor: *const C_tensor, result: *mut *mut C_tensor) -> c_int;
    fn farmhand_cpu_rotate(
        x: *const C_tensor,
        cosines: *const C_tensor,
        sines: *const C_tensor,
        result: *mut *mut C_tensor,
    ) -> c_int;
    fn farmhand_cpu_bend(x: *const C_tensor, cap: f64, result: *mut *mut C_tensor) -> c_int;
    #[cfg(test)]
    fn farmhand_cpu_choose(which: i32) -> c_int;
}

/// Whether the kernels work on tensors like this one.
pub(crate) fn is_known(tensor: &Tensor) -> bool {
    tensor.device() == Device::Cpu && tensor.kind() == Kind::Float
}

/// The instruction set in use: `avx512`, `avx2`, or `any`.
pub fn instruction_set() -> &'static str {
    #[expect(unsafe_code, reason = "a constant text that ends with a zero")]
    let name = unsafe { CStr::from_ptr(farmhand_cpu_name()) };
    name.to_str().unwrap_or("any")
}

/// `x` `[m, k]` times `weight` `[n, k]` transposed, or `[k, n]` when it is stored input-first, plus `bias` `[n]`.
pub(crate) fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, is_input_first: bool) -> Tensor {
    #[expect(unsafe_code, reason = "calls models/shim/cpu_kernels.cpp with live handles")]
    one_tensor("linear", |result| unsafe {
        farmhand_cpu_linear(handle(x), handle(weight), bias.map_or(null(), handle), is_input_first, result)
    })
}

/// `x / √(mean x² + eps) · (weight + plus)` over the last dimension.
pub(crate) fn rms_norm(x: &Tensor, weight: &Tensor, plus: f64, eps: f64) -> Tensor {
    #[expect(unsafe_code, reason = "calls models/shim/cpu_kernels.cpp with live handles")]
    one_tensor("rms_norm", |result| unsafe { farmhand_cpu_rms_norm(handle(x), handle(weight), plus, eps, result) })
}

/// `(x − mean) / √(variance + eps) · weight + bias` over the last dimension.
pub(crate) fn layer_norm(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, eps: f64) -> Tensor {
    #[expect(unsafe_code, reason = "calls models/shim/cpu_kernels.cpp with live handles")]
    one_tensor("layer_norm", |result| unsafe {
        farmhand_cpu_layer_norm(handle(x), handle(weight), bias.map_or(null(), handle), eps, result)
    })
}

/// An activation, elementwise, times `factor` where there is one.
pub(crate) fn activate(activation: Activation, x: &Tensor, factor: Option<&Tensor>) -> Tensor {
    let kind = match activation {
        Activation::Silu => 0,
        Activation::Gelu => 1,
        Activation::GeluTanh => 2,
        Activation::Relu => 3,
    };
    #[expect(unsafe_code, reason = "calls models/shim/cpu_kernels.cpp with live handles")]
    one_tensor("activate", |result| unsafe { farmhand_cpu_activate(kind, handle(x), factor.map_or(null(), handle), result) })
}

/// cap · tanh(x / cap), elementwise.
pub(crate) fn bend(x: &Tensor, cap: f64) -> Tensor {
    #[expect(unsafe_code, reason = "calls models/shim/cpu_kernels.cpp with live handles")]
    one_tensor("bend", |result| unsafe { farmhand_cpu_bend(handle(x), cap, result) })
}

/// Heads `[n, heads, d]` whose first components are turned by tables of as many numbers a token, the sines with the signs of
/// the rotation.
pub(crate) fn rotate(x: &Tensor, cosines: &Tensor, signed_sines: &Tensor) -> Tensor {
    #[expect(unsafe_code, reason = "calls models/shim/cpu_kernels.cpp with live handles")]
    one_tensor("rotate", |result| unsafe { farmhand_cpu_rotate(handle(x), handle(cosines), handle(signed_sines), result) })
}

/// Runs something by the kernels of every instruction set that the processor has.
#[cfg(test)]
pub(crate) fn on_every_instruction_set(check: impl Fn(&str)) {
    for which in 0..3 {
        #[expect(unsafe_code, reason = "sets a choice of this thread")]
        let status = unsafe { farmhand_cpu_choose(which) };
        if status == 0 {
            check(instruction_set());
        }
    }
    #[expect(unsafe_code, reason = "sets a choice of this thread")]
    let status = unsafe { farmhand_cpu_choose(-1) };
    assert_eq!(status, 0);
}

#[cfg(test)]
mod tests {
    use farmhand_core::Seed;

    use super::*;

    fn random(size: &[i64], seed: u64) -> Tensor {
        let mut rng = Seed::root(seed).rng();
        let values: Vec<f32> = (0..size.iter().product::<i64>()).map(|_| rng.normal() as f32).collect();
        Tensor::from_slice(&values).view(size)
    }

    fn bits(x: &Tensor) -> Vec<u32> {
        Vec::<f32>::try_from(x.flatten(0, -1)).expect("numbers").into_iter().map(f32::to_bits).collect()
    }

    /// The largest difference as a share of the largest number.
    fn distance(a: &Tensor, b: &Tensor) -> f64 {
        assert_eq!(a.size(), b.size());
        (a - b).abs().max().double_value(&[]) / b.abs().max().double_value(&[])
    }

    /// Checks a function of rows: that it is right, and that groups of every size give the same bits.
    fn check_rows(what: &str, x: &Tensor, ours: impl Fn(&Tensor) -> Tensor, theirs: impl Fn(&Tensor) -> Tensor) {
        let all = ours(x);
        let far = distance(&all, &theirs(x));
        assert!(far < 2e-6, "{what}: {far}");
        let n = x.size()[0];
        for group in [1, 2, 3, 4, 5, 6, 7, 9, 13, 29] {
            let parts: Vec<Tensor> =
                (0..n).step_by(group).map(|at| ours(&x.narrow(0, at, n.min(at + group as i64) - at))).collect();
            let (parts, all) = (bits(&Tensor::cat(&parts, 0)), bits(&all));
            if let Some(at) = (0..all.len()).find(|at| parts[*at] != all[*at]) {
                let input = Vec::<f32>::try_from(x.flatten(0, -1)).expect("numbers").get(at).copied();
                let [part, all] = [parts[at], all[at]].map(f32::from_bits);
                panic!("{what}: element {at}, {input:?}, is {all:e} among all and {part:e} in groups of {group}");
            }
        }
    }

    #[test]
    fn matrix_products_are_right_and_rows_do_not_touch_each_other() {
        on_every_instruction_set(|set| {
            for (k, n) in [(1, 1), (7, 3), (64, 64), (100, 37), (131, 200), (576, 70), (2100, 12)] {
                let (x, bias) = (random(&[61, k], 1), random(&[n], 2));
                for is_input_first in [false, true] {
                    let weight = random(&if is_input_first { [k, n] } else { [n, k] }, 3);
                    let plain = if is_input_first { weight.tr() } else { weight.shallow_clone() };
                    for bias in [None, Some(&bias)] {
                        let what = format!("{set}, {k} to {n}, input first: {is_input_first}, bias: {}", bias.is_some());
                        let (x, weight) = (x.to_kind(Kind::Double), plain.to_kind(Kind::Double));
                        let exact = x.linear(&weight, bias.map(|bias| bias.to_kind(Kind::Double))).to_kind(Kind::Float);
                        let (x, weight) = (x.to_kind(Kind::Float), weight.to_kind(Kind::Float));
                        let stored = if is_input_first { weight.tr().contiguous() } else { weight };
                        check_rows(&what, &x, |x| linear(x, &stored, bias, is_input_first), |_| exact.shallow_clone());
                    }
                }
            }
        });
    }

    #[test]
    fn norms_are_right_and_rows_do_not_touch_each_other() {
        on_every_instruction_set(|set| {
            for d in [1, 5, 16, 33, 100, 576] {
                let (x, weight, bias) = (random(&[61, d], 4) + 0.3, random(&[d], 5), random(&[d], 6));
                for plus in [0.0, 1.0] {
                    let theirs = |x: &Tensor| x.rms_norm([d], Some(&weight + plus), 1e-5);
                    check_rows(&format!("{set}, width {d}"), &x, |x| rms_norm(x, &weight, plus, 1e-5), theirs);
                }
                let theirs = |x: &Tensor| x.layer_norm([d], Some(&weight), Some(&bias), 1e-5, true);
                check_rows(&format!("{set}, width {d}"), &x, |x| layer_norm(x, &weight, Some(&bias), 1e-5), theirs);
            }
        });
    }

    #[test]
    fn activations_are_right_and_elements_do_not_touch_each_other() {
        on_every_instruction_set(|set| {
            let x = Tensor::cat(&[random(&[61, 37], 7), random(&[61, 37], 8) * 30.0], 1);
            for activation in [Activation::Silu, Activation::Gelu, Activation::GeluTanh, Activation::Relu] {
                let what = format!("{set}, {activation:?}");
                check_rows(&what, &x, |x| activate(activation, x, None), |x| activation.apply(x));
                check_rows(&what, &x, |x| activate(activation, x, Some(&(x * 2.0))), |x| activation.gated(x, &(x * 2.0)));
            }
            check_rows(set, &x, |x| bend(x, 5.0), |x| (x / 5.0).tanh() * 5.0);
            let odd = Tensor::from_slice(&[f32::NAN, f32::INFINITY, -f32::INFINITY, 0.0, -1e30, 1e30]);
            let silu = Vec::<f32>::try_from(activate(Activation::Silu, &odd, None)).expect("numbers");
            assert!(silu[0].is_nan() && silu[1] == f32::INFINITY && silu[3] == 0.0 && silu[5] == 1e30, "{set}: {silu:?}");
        });
    }

    #[test]
    fn heads_are_turned_by_their_own_tables() {
        on_every_instruction_set(|set| {
            for (dim, turned) in [(8, 8), (12, 6), (64, 64), (80, 20)] {
                let (cosines, sines) = (random(&[61, 1, turned], 9), random(&[61, 1, turned], 10));
                let x = random(&[61, 3, dim], 11);
                let part = x.narrow(2, 0, turned);
                let rotated = &part * &cosines + part.roll([turned / 2], [-1]) * &sines;
                let expected = Tensor::cat(&[rotated, x.narrow(2, turned, dim - turned)], 2);
                let all = rotate(&x, &cosines, &sines);
                assert!(distance(&all, &expected) < 1e-6, "{set}");
                let rows = |x: &Tensor| x.narrow(0, 17, 5);
                assert_eq!(bits(&rotate(&rows(&x), &rows(&cosines), &rows(&sines))), bits(&rows(&all)), "{set}");
                // Heads that lie apart, as parts of a joint projection do.
                let joint = Tensor::cat(&[&x, &x], 2);
                assert_eq!(bits(&rotate(&joint.chunk(2, 2)[1], &cosines, &sines)), bits(&all), "{set}");
            }
        });
    }

    #[test]
    fn one_thread_or_several_give_the_same_bits() {
        let (x, weight) = (random(&[40, 300], 12), random(&[500, 300], 13));
        let one = linear(&x, &weight, None, false);
        let threads = tch::get_num_threads();
        tch::set_num_threads(3);
        let several = linear(&x, &weight, None, false);
        tch::set_num_threads(threads);
        assert_eq!(bits(&one), bits(&several));
    }
}
