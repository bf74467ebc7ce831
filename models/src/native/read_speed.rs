//! Reading memory as fast as the processor can.

use std::ffi::c_int;

use tch::Tensor;
use torch_sys::C_tensor;

use super::{checked, expect, handle};

#[expect(unsafe_code, reason = "declares a function of models/shim/read_speed.cpp")]
unsafe extern "C" {
    fn farmhand_read_all(tensor: *const C_tensor, result: *mut u64) -> c_int;
}

/// Reads every 8-byte word of a contiguous CPU tensor once; gives their exclusive or, in four interleaved quarters.
///
/// # Panics
/// When the tensor is elsewhere or not contiguous.
pub fn read_all(tensor: &Tensor) -> u64 {
    let mut result = 0;
    #[expect(unsafe_code, reason = "calls models/shim/read_speed.cpp with a live handle and a place to write")]
    let status = unsafe { farmhand_read_all(handle(tensor), &mut result) };
    expect("read_all", checked(status));
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_read() {
        let mut words: Vec<i64> = vec![0; 64];
        assert_eq!(read_all(&Tensor::from_slice(&words)), 0);
        for (place, word) in words.iter_mut().enumerate() {
            *word = 1 << place;
        }
        assert_eq!(read_all(&Tensor::from_slice(&words)), u64::MAX);
    }

    #[test]
    #[should_panic(expected = "contiguous")]
    fn a_view_across_rows_is_refused() {
        let _ = read_all(&Tensor::from_slice(&[1i64, 2, 3, 4]).view([2, 2]).tr());
    }
}
