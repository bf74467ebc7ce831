//! Memory that runs out inside tensor work becomes an error that says so.
//!
//! libtorch throws, tch's operators panic with its text; everything else that panics is a bug and goes on panicking. On
//! Linux the system may also end the process without a word when others have taken the memory that was free.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use farmhand_core::{Error, ErrorKind, Result};

/// How libtorch's allocators say it, on the CPU and on a GPU.
const SIGNS: [&str; 3] = ["not enough memory", "can't allocate memory", "out of memory"];

/// Runs `work`; when memory runs out in it, the error is of kind [`ErrorKind::OutOfMemory`] and carries `hint`: which number
/// to lower.
///
/// # Errors
/// That, and whatever `work` reports.
pub fn catch_out_of_memory<R>(hint: &str, work: impl FnOnce() -> Result<R>) -> Result<R> {
    let named = |text: &str| Error::new(ErrorKind::OutOfMemory, format!("memory ran out: {text}")).with_hint(hint);
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Err(error)) if error.kind() == ErrorKind::Other => match sentence(&error.to_string()) {
            Some(text) => Err(named(text)),
            None => Err(error),
        },
        Ok(result) => result,
        Err(panic) => match text_of(&*panic).and_then(sentence) {
            Some(text) => Err(named(text)),
            None => resume_unwind(panic),
        },
    }
}

/// Keeps the standard library from printing panics that [`catch_out_of_memory`] turns into errors. For a program's start.
pub fn silence_out_of_memory_panics() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if text_of(info.payload()).and_then(sentence).is_none() {
            print(info);
        }
    }));
}

fn text_of(panic: &(dyn Any + Send)) -> Option<&str> {
    panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied())
}

/// The part of a message from the sign on, to the end of its sentence or line; none when it has no sign.
fn sentence(message: &str) -> Option<&str> {
    let start = SIGNS.iter().filter_map(|sign| message.find(sign)).min()?;
    let text = &message[start..];
    let end = ["\n", "\\n", ". "].iter().filter_map(|end| text.find(end)).min().unwrap_or(text.len());
    Some(text[..end].trim_end_matches(['.', '"', ')', ' ']))
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind, Tensor};

    use super::*;

    #[test]
    fn a_tensor_larger_than_any_memory_is_an_error_with_the_number_to_lower() {
        let work = || Ok(Tensor::zeros([1 << 50], (Kind::Float, Device::Cpu)));
        let error = catch_out_of_memory("lower `micro_batch_tokens`", work).expect_err("there is no such memory");
        assert_eq!(error.kind(), ErrorKind::OutOfMemory);
        assert!(error.message().starts_with("memory ran out: ") && !error.message().contains('\n'), "{error}");
        assert_eq!(error.hint(), Some("lower `micro_batch_tokens`"));
    }

    #[test]
    fn other_errors_and_panics_stay_what_they_are() {
        let error = catch_out_of_memory("", || Err::<(), _>(Error::invalid_data("a torn file"))).expect_err("passed on");
        assert_eq!(error.kind(), ErrorKind::InvalidData);
        let panic = catch_unwind(|| catch_out_of_memory("", || -> Result<()> { panic!("a shape does not fit") }));
        assert_eq!(text_of(&*panic.expect_err("passed on")), Some("a shape does not fit"));
    }

    #[test]
    fn the_sentence_is_cut_out_of_libtorchs_message() {
        let message = "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to \
                       allocate 80 bytes. Error code 12 (Cannot allocate memory)\nframe #0";
        assert_eq!(sentence(message), Some("can't allocate memory: you tried to allocate 80 bytes"));
        assert_eq!(sentence("linear: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0"), Some("out of memory"));
        assert_eq!(sentence("a shape does not fit"), None);
    }
}
