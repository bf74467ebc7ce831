//! How much memory tensors and this process hold, and an allocator for CPU tensors that keeps what is freed.
//!
//! The C library gives large blocks back to the system when they are freed and takes them anew page by page; that costs a
//! training step on the CPU 10 to 15 % of its time and a fifth more memory at its highest (measured with SmolLM2-135M).
//! [`keep_freed_memory`] keeps them instead. What is kept can be given back between two phases of a run
//! ([`give_back_memory`]).

use std::ffi::c_int;

use farmhand_core::Result;
use tch::Device;

use super::{checked, expect};

#[expect(unsafe_code, reason = "declares functions of models/shim/memory.cpp")]
unsafe extern "C" {
    fn farmhand_keep_freed_memory() -> c_int;
    fn farmhand_give_back_memory() -> c_int;
    fn farmhand_tensor_memory(gpu: c_int, now: *mut usize, peak: *mut usize) -> c_int;
    fn farmhand_reset_tensor_peak(gpu: c_int) -> c_int;
    fn farmhand_gpu_memory(gpu: c_int, total: *mut usize, free: *mut usize) -> c_int;
}

/// Bytes that tensors hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TensorMemory {
    /// Now.
    pub now: u64,
    /// At the highest since the start or the last [`reset_tensor_peak`].
    pub peak: u64,
}

/// From here on memory of freed CPU tensors is kept for the next ones and counted; a request that goes beyond the memory
/// of the machine, or of this process's control group, is an error instead of the end of the process. Does nothing when
/// called again, or where the system refuses to reserve the addresses.
pub fn keep_freed_memory() {
    #[expect(unsafe_code, reason = "takes no arguments")]
    let status = unsafe { farmhand_keep_freed_memory() };
    expect("keep_freed_memory", checked(status));
}

/// Gives what is kept of freed CPU tensors back to the system.
pub fn give_back_memory() {
    #[expect(unsafe_code, reason = "takes no arguments")]
    let status = unsafe { farmhand_give_back_memory() };
    expect("give_back_memory", checked(status));
}

/// Bytes that tensors hold on a device. On the CPU they are counted after [`keep_freed_memory`] only, and 0 before.
///
/// # Errors
/// When libtorch cannot use the device.
pub fn tensor_memory(device: Device) -> Result<TensorMemory> {
    let (mut now, mut peak) = (0, 0);
    #[expect(unsafe_code, reason = "writes two numbers")]
    checked(unsafe { farmhand_tensor_memory(gpu(device), &mut now, &mut peak) })?;
    Ok(TensorMemory { now: now as u64, peak: peak as u64 })
}

/// Starts anew with what is held now as the highest of [`tensor_memory`].
///
/// # Errors
/// When libtorch cannot use the device.
pub fn reset_tensor_peak(device: Device) -> Result<()> {
    #[expect(unsafe_code, reason = "takes a number")]
    checked(unsafe { farmhand_reset_tensor_peak(gpu(device)) })
}

/// Bytes of memory that GPU number `gpu` has in all, and that are free. Not run on a GPU yet.
///
/// # Errors
/// When libtorch cannot use it.
pub fn gpu_memory(gpu: usize) -> Result<(u64, u64)> {
    let (mut total, mut free) = (0, 0);
    #[expect(unsafe_code, reason = "writes two numbers")]
    checked(unsafe { farmhand_gpu_memory(c_int::try_from(gpu).unwrap_or(c_int::MAX), &mut total, &mut free) })?;
    Ok((total as u64, free as u64))
}

/// The number of a GPU, or −1 for the CPU.
fn gpu(device: Device) -> c_int {
    if let Device::Cuda(index) = device { c_int::try_from(index).unwrap_or(c_int::MAX) } else { -1 }
}

#[cfg(test)]
mod tests {
    use farmhand_core::Seed;
    use tch::{Kind, Tensor};

    use super::*;
    use crate::memory_in_use;

    const MB: u64 = 1 << 20;
    const OPTIONS: (Kind, Device) = (Kind::Uint8, Device::Cpu);

    // Other tests of this process make tensors too, though no large ones: bounds leave room for them.

    #[test]
    fn tensors_are_counted_while_they_live() {
        keep_freed_memory();
        let tensor = Tensor::empty([512 * MB as i64], OPTIONS);
        let held = tensor_memory(Device::Cpu).expect("counted");
        assert!(held.now >= 512 * MB && held.peak >= held.now, "{held:?}");
        drop(tensor);
        assert!(tensor_memory(Device::Cpu).expect("counted").now < 512 * MB);
        reset_tensor_peak(Device::Cpu).expect("reset");
        assert!(tensor_memory(Device::Cpu).expect("counted").peak < 512 * MB);
    }

    #[test]
    fn blocks_of_all_sizes_keep_what_is_written_into_them() {
        keep_freed_memory();
        let mut rng = Seed::root(1).rng();
        let mut held: Vec<(Tensor, i64)> = Vec::new();
        for round in 0..400 {
            let bytes = 1usize << rng.below(22);
            let size = (bytes + rng.below(bytes)) as i64;
            let value = round % 251;
            held.push((Tensor::full([size], value, OPTIONS), value));
            if held.len() > 12 {
                let (tensor, value) = held.swap_remove(rng.below(held.len()));
                assert!(tensor.data_ptr().addr().is_multiple_of(64));
                assert_eq!((tensor.min().int64_value(&[]), tensor.max().int64_value(&[])), (value, value));
            }
            if round == 200 {
                give_back_memory();
            }
        }
        for (tensor, value) in held {
            assert_eq!((tensor.min().int64_value(&[]), tensor.max().int64_value(&[])), (value, value));
        }
    }

    #[test]
    fn freed_memory_is_used_again_and_can_be_given_back() {
        keep_freed_memory();
        let large = || Tensor::ones([96 * MB as i64], OPTIONS);
        drop(large());
        let resident = || memory_in_use(Device::Cpu).expect("Linux says");
        let (before, again) = (resident(), large());
        assert!(resident() < before + 64 * MB);
        drop(again);
        give_back_memory();
        assert!(resident() < before - 64 * MB);
    }

    #[test]
    fn more_than_the_machine_has_is_an_error() {
        keep_freed_memory();
        let error = Tensor::f_empty([1 << 50], OPTIONS).expect_err("a petabyte");
        assert!(error.to_string().contains("not enough memory"), "{error}");
        assert_eq!(Tensor::empty([0], OPTIONS).numel(), 0);
    }

    #[test]
    fn a_gpu_that_is_not_there_is_an_error() {
        if !tch::Cuda::is_available() {
            assert!(tensor_memory(Device::Cuda(0)).is_err());
            assert!(reset_tensor_peak(Device::Cuda(0)).is_err());
            assert!(gpu_memory(0).is_err());
        }
    }
}
