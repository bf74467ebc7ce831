//! Gradients where tch has no way in: backward from given gradients, a parameter's gradient, and checkpoints.

use std::ffi::{CString, c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::null;

use tch::Tensor;
use torch_sys::{C_tensor, at_shallow_clone};

use super::{checked, expect, handle, one_tensor};

type Call = extern "C" fn(*mut c_void, *const C_tensor, *mut *mut C_tensor) -> c_int;
type Free = extern "C" fn(*mut c_void);

#[expect(unsafe_code, reason = "declares functions of models/shim/autograd.cpp and ops.cpp")]
unsafe extern "C" {
    fn farmhand_backward(outputs: *const *const C_tensor, gradients: *const *const C_tensor, n: usize) -> c_int;
    fn farmhand_set_grad(parameter: *const C_tensor, gradient: *const C_tensor) -> c_int;
    fn farmhand_checkpoint(x: *const C_tensor, data: *mut c_void, call: Call, free: Free, result: *mut *mut C_tensor) -> c_int;
    fn farmhand_keep_error(text: *const c_char);
}

/// Adds, to every leaf that `outputs` depend on, the gradient that follows from `gradients`, each of its output's shape.
///
/// # Panics
/// When an output does not depend on a leaf that trains, or a gradient has another shape than its output.
pub fn backward(outputs: &[&Tensor], gradients: &[&Tensor]) {
    assert_eq!(outputs.len(), gradients.len(), "backward: one gradient for each output");
    let [outputs, gradients] = [outputs, gradients].map(|list| list.iter().map(|tensor| handle(tensor)).collect::<Vec<_>>());
    #[expect(unsafe_code, reason = "both lists hold live handles")]
    let status = unsafe { farmhand_backward(outputs.as_ptr(), gradients.as_ptr(), outputs.len()) };
    expect("backward", checked(status));
}

/// Makes `gradient`, which shares its storage from then on, the gradient of `parameter`; `None` forgets the one it has and
/// frees its memory.
///
/// # Panics
/// When shape or device differ.
pub fn set_gradient(parameter: &Tensor, gradient: Option<&Tensor>) {
    #[expect(unsafe_code, reason = "calls models/shim/autograd.cpp with live handles")]
    let status = unsafe { farmhand_set_grad(handle(parameter), gradient.map_or(null(), handle)) };
    expect("set_gradient", checked(status));
}

/// `function(x)`, keeping nothing of its insides for the backward pass but `x`: there, `function` runs once more. Parameters
/// used inside get their gradients as they would otherwise, bit for bit, so `function` has to give the same result both
/// times. Its captures live until the graph of the result is gone. Without gradients it is a plain call.
///
/// The result counts as differentiable even where `x` is not, since the parameters inside may be.
///
/// # Panics
/// When `function` panics, with its message: here, or in the backward pass.
pub fn checkpoint(x: &Tensor, function: Box<dyn Fn(&Tensor) -> Tensor + Send>) -> Tensor {
    // A box of the box, because a fat pointer does not fit through a `void*`.
    let data = Box::into_raw(Box::new(function)).cast();
    #[expect(unsafe_code, reason = "the C++ side calls `free` exactly once, after its last `call`")]
    one_tensor("checkpoint", |result| unsafe { farmhand_checkpoint(handle(x), data, call, free, result) })
}

type Function = Box<dyn Fn(&Tensor) -> Tensor + Send>;

/// Calls the closure; a panic must not cross C++, so it becomes an error text.
extern "C" fn call(data: *mut c_void, x: *const C_tensor, result: *mut *mut C_tensor) -> c_int {
    let run = || {
        #[expect(unsafe_code, reason = "`data` is the closure of `checkpoint`, `x` a live handle, `result` a place to write")]
        unsafe {
            let function = &*data.cast::<Function>();
            let y = function(&Tensor::clone_from_ptr(x.cast_mut()));
            *result = at_shallow_clone(y.as_ptr().cast_mut());
        }
    };
    let Err(panic) = catch_unwind(AssertUnwindSafe(run)) else { return 0 };
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    let text = CString::new(text.unwrap_or("a panic without a message").replace('\0', " ")).unwrap_or_default();
    #[expect(unsafe_code, reason = "the text ends with a zero and is copied")]
    unsafe {
        farmhand_keep_error(text.as_ptr());
    }
    1
}

extern "C" fn free(data: *mut c_void) {
    #[expect(unsafe_code, reason = "`data` came from `Box::into_raw` in `checkpoint` and is freed here only")]
    drop(unsafe { Box::from_raw(data.cast::<Function>()) });
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tch::{Device, Kind, no_grad};

    use super::*;

    fn leaf(values: &[f32]) -> Tensor {
        Tensor::from_slice(values).set_requires_grad(true)
    }

    #[test]
    fn backward_starts_from_given_gradients() {
        let (a, b) = (leaf(&[1.0, 2.0]), leaf(&[3.0]));
        let (first, second) = (&a * &a, &a * &b);
        backward(&[&first, &second], &[&Tensor::from_slice(&[10f32, 100.0]), &Tensor::from_slice(&[1f32, 0.0])]);
        assert_eq!(a.grad(), Tensor::from_slice(&[23f32, 400.0]));
        assert_eq!(b.grad(), Tensor::from_slice(&[1f32]));
    }

    #[test]
    fn a_gradient_is_set_added_to_and_forgotten() {
        let a = leaf(&[1.0, 2.0]);
        let buffer = Tensor::from_slice(&[5f32, 6.0]);
        set_gradient(&a, Some(&buffer));
        (&a * 2.0).sum(Kind::Float).backward();
        assert_eq!(a.grad(), Tensor::from_slice(&[7f32, 8.0]));
        assert_eq!(buffer, a.grad());
        set_gradient(&a, None);
        assert!(!a.grad().defined());
    }

    #[test]
    #[should_panic(expected = "a gradient of shape [3] for a parameter of shape [2]")]
    fn a_gradient_of_another_shape_is_refused() {
        set_gradient(&leaf(&[1.0, 2.0]), Some(&Tensor::from_slice(&[1f32, 2.0, 3.0])));
    }

    /// Three layers; gradients of input and weights.
    fn gradients(trains_x: bool, checkpointed: bool) -> Vec<Tensor> {
        let options = (Kind::Float, Device::Cpu);
        let weights: Vec<Tensor> =
            (1..=3).map(|i| (Tensor::arange(49, options).view([7, 7]) * f64::from(i)).cos().set_requires_grad(true)).collect();
        let x = Tensor::arange(35, options).view([5, 7]).sin().set_requires_grad(trains_x);
        let mut hidden = x.shallow_clone();
        for weight in &weights {
            let shared = weight.shallow_clone();
            let layer = move |x: &Tensor| (x + x.matmul(&shared).silu()).tanh();
            hidden = if checkpointed { checkpoint(&hidden, Box::new(layer)) } else { layer(&hidden) };
        }
        hidden.square().sum(Kind::Float).backward();
        std::iter::once(&x).chain(&weights).map(Tensor::grad).collect()
    }

    #[test]
    fn checkpoints_give_the_same_gradients_bit_for_bit() {
        assert_eq!(gradients(true, true), gradients(true, false));
        let (with, without) = (gradients(false, true), gradients(false, false));
        assert!(!with[0].defined() && with[1..] == without[1..]);
    }

    #[test]
    fn the_closure_goes_with_the_graph() {
        let alive = Arc::new(());
        let held = Arc::clone(&alive);
        let double = move |x: &Tensor| {
            let _held = &held;
            x * 2.0
        };
        let x = leaf(&[1.0]);
        let y = checkpoint(&x, Box::new(double.clone()));
        assert_eq!(Arc::strong_count(&alive), 3);
        y.backward();
        drop(y);
        assert_eq!((x.grad(), Arc::strong_count(&alive)), (Tensor::from_slice(&[2f32]), 2));
        let y = no_grad(|| checkpoint(&x, Box::new(double)));
        assert_eq!((y.requires_grad(), Arc::strong_count(&alive)), (false, 1));
    }

    #[test]
    fn a_checkpoint_of_the_identity_and_of_frozen_insides_works() {
        let x = leaf(&[1.0, 2.0]);
        checkpoint(&x, Box::new(Tensor::shallow_clone)).sum(Kind::Float).backward();
        assert_eq!(x.grad(), Tensor::from_slice(&[1f32, 1.0]));
        checkpoint(&Tensor::from_slice(&[1f32]), Box::new(|x| x * 2.0)).backward();
    }

    #[test]
    fn a_panic_inside_arrives_with_its_message_and_frees_the_closure() {
        let text = |panic: Box<dyn std::any::Any + Send>| *panic.downcast::<String>().expect("a text");
        let x = leaf(&[1.0]);
        let alive = Arc::new(());
        let held = Arc::clone(&alive);
        let refuse: Function = Box::new(move |_| panic!("layer {} is broken", Arc::strong_count(&held)));
        let panic = catch_unwind(AssertUnwindSafe(|| checkpoint(&x, refuse))).expect_err("refused");
        assert_eq!((text(panic).as_str(), Arc::strong_count(&alive)), ("checkpoint: layer 2 is broken", 1));
        // Only the second run, in the backward pass, fails: gradients are on there.
        let later: Function = Box::new(|x| {
            let y = x * 2.0;
            assert!(!y.requires_grad(), "no second time");
            y
        });
        let y = checkpoint(&x, later);
        let panic = catch_unwind(AssertUnwindSafe(|| backward(&[&y], &[&Tensor::from_slice(&[1f32])]))).expect_err("refused");
        assert_eq!(text(panic), "backward: no second time");
    }
}
