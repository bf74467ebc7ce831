//! Attention over whole texts on the CPU: one call for all segments of a batch, without padding, forward and backward.

use std::ffi::c_int;

use tch::{Device, Kind, Tensor};
use torch_sys::C_tensor;

use super::{handle, one_tensor};

#[expect(unsafe_code, reason = "declares a function of models/shim/attention.cpp")]
unsafe extern "C" {
    fn farmhand_attention(
        queries: *const C_tensor,
        keys: *const C_tensor,
        values: *const C_tensor,
        segments: *const C_tensor,
        scale: f64,
        window: i64,
        result: *mut *mut C_tensor,
    ) -> c_int;
}

/// Whether [`attention`] takes tensors of this type on this device.
pub fn has_attention(device: Device, kind: Kind) -> bool {
    device == Device::Cpu && kind == Kind::Float
}

/// Causal attention of queries `[n, heads, dim]` on keys and values `[n, kv_heads, dim]` → `[n, heads, dim]`; differentiable.
///
/// `segments` `[s, 2]`, i64: runs of tokens in order, each with its length and the row of the segment it continues (one
/// before it that continues none), or −1. A token sees the tokens of that segment, those before it in its own, and itself;
/// with a `window`, only so many of the newest.
///
/// # Panics
/// When the shapes do not fit.
pub fn attention(
    queries: &Tensor,
    keys: &Tensor,
    values: &Tensor,
    segments: &Tensor,
    scale: f64,
    window: Option<usize>,
) -> Tensor {
    let window = window.unwrap_or(0) as i64;
    #[expect(unsafe_code, reason = "calls models/shim/attention.cpp with live handles")]
    one_tensor("attention", |result| unsafe {
        farmhand_attention(handle(queries), handle(keys), handle(values), handle(segments), scale, window, result)
    })
}
