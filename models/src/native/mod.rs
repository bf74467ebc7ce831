//! What libtorch can do and tch leaves out: a thin C++ shim (`models/shim`) behind safe functions.
//!
//! Every C++ function returns 0, or 1 with the error's text kept for this thread. Functions named after a tensor operation
//! panic as tch's own operators do, for a wrong shape is a bug of the caller; those a user can make fail return an error.

mod attention;
mod autograd;
pub(crate) mod cpu;
mod cpu_cache;
mod cpu_sampling;
mod flash;
mod linear;
mod memory;
mod mkl;
mod ops;
mod read_speed;
mod rows;
mod softmax;

pub use attention::{attention, has_attention};
pub use autograd::{backward, checkpoint, set_gradient};
pub use cpu::instruction_set;
pub(crate) use cpu_cache::{Addresses, CpuBlocks};
pub(crate) use cpu_sampling::sample;
pub use flash::{TextStarts, flash_attention, has_flash_attention};
pub use linear::{linear, product};
pub use memory::{TensorMemory, give_back_memory, gpu_memory, keep_freed_memory, reset_tensor_peak, tensor_memory};
pub use ops::{Argument, call, prefer_deterministic_kernels, schema};
pub use read_speed::read_all;
pub use rows::{gated_silu, rms_norm, rotate};
pub use softmax::softmax_rows;

use std::ffi::{CStr, c_char, c_int};

use farmhand_core::{Error, Result};
use tch::Tensor;
use torch_sys::C_tensor;

#[expect(unsafe_code, reason = "declares a function of models/shim/ops.cpp")]
unsafe extern "C" {
    fn farmhand_last_error() -> *const c_char;
}

/// The outcome of a C++ function that returned `status`.
fn checked(status: c_int) -> Result<()> {
    if status == 0 {
        return Ok(());
    }
    #[expect(unsafe_code, reason = "the text belongs to this thread and ends with a zero")]
    let text = unsafe { CStr::from_ptr(farmhand_last_error()) }.to_string_lossy();
    // libtorch adds its call stack to every message.
    let message = text.split("\nException raised from").next().unwrap_or_default();
    Err(Error::other(message.trim_end()))
}

/// What a tensor operation gave; a wrong shape or type is a bug of the caller.
fn expect<T>(operation: &str, outcome: Result<T>) -> T {
    outcome.unwrap_or_else(|error| panic!("{operation}: {}", error.message()))
}

/// The handle that C++ reads; it stays the tensor's own.
fn handle(tensor: &Tensor) -> *const C_tensor {
    tensor.as_ptr()
}

/// A tensor that C++ handed over.
///
/// # Safety
/// `pointer` comes from `hand_over` in models/shim/shim.h and is used only here.
#[expect(unsafe_code, reason = "takes over a handle that C++ allocated")]
unsafe fn taken(pointer: *mut C_tensor) -> Tensor {
    unsafe { Tensor::from_ptr(pointer) }
}

/// Runs a C++ function that writes one tensor.
fn one_tensor(operation: &str, function: impl FnOnce(*mut *mut C_tensor) -> c_int) -> Tensor {
    let mut result = std::ptr::null_mut();
    expect(operation, checked(function(&mut result)));
    #[expect(unsafe_code, reason = "the function returned 0, so it wrote a tensor")]
    unsafe {
        taken(result)
    }
}
