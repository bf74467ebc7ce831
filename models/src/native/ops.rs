//! Any operator registered in libtorch, by its name.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr::{null, null_mut};

use farmhand_core::{Error, Result};
use tch::Tensor;
use torch_sys::C_tensor;

use super::{checked, handle, taken};

/// One argument of an operator.
#[derive(Debug, Clone, Copy)]
pub enum Argument<'a> {
    /// An optional argument that is not given.
    None,
    /// `Tensor`
    Tensor(&'a Tensor),
    /// `int`
    Int(i64),
    /// `float`
    Float(f64),
    /// `bool`
    Bool(bool),
    /// `str`
    Str(&'a str),
    /// `int[]`
    Ints(&'a [i64]),
    /// `Tensor[]`
    Tensors(&'a [&'a Tensor]),
}

impl<'a> From<&'a Tensor> for Argument<'a> {
    fn from(tensor: &'a Tensor) -> Self {
        Self::Tensor(tensor)
    }
}

/// `Argument` of models/shim/ops.cpp.
#[repr(C)]
struct RawArgument {
    kind: i32,
    integer: i64,
    real: f64,
    pointer: *const c_void,
    length: usize,
}

#[expect(unsafe_code, reason = "declares functions of models/shim/ops.cpp")]
unsafe extern "C" {
    fn farmhand_schema(name: *const c_char, overload: *const c_char, text: *mut c_char, capacity: usize) -> c_int;
    fn farmhand_call(
        name: *const c_char,
        overload: *const c_char,
        arguments: *const RawArgument,
        n_arguments: usize,
        results: *mut *mut C_tensor,
        n_results: *mut usize,
    ) -> c_int;
    fn farmhand_prefer_deterministic_kernels() -> c_int;
}

/// From here on libtorch takes kernels that give the same bits every time, wherever it has such ones.
///
/// # Errors
/// When libtorch refuses the setting.
pub fn prefer_deterministic_kernels() -> Result<()> {
    #[expect(unsafe_code, reason = "takes no arguments")]
    checked(unsafe { farmhand_prefer_deterministic_kernels() })
}

/// Room for the tensors that an operator gives.
const MAX_RESULTS: usize = 8;

/// Calls an operator, for example `aten::addmm` or, with its overload, `aten::sum.dim_IntList`. Arguments stand in the
/// order of the schema; those left out at the end keep their defaults. Gives the tensors among the results, in order.
///
/// # Errors
/// When there is no such operator, an argument has the wrong type, or the operator fails.
pub fn call(operator: &str, arguments: &[Argument<'_>]) -> Result<Vec<Tensor>> {
    let (name, overload) = split(operator)?;
    // Lists of tensors become lists of handles, which have to live as long as the call.
    let lists: Vec<Vec<*const C_tensor>> = arguments.iter().map(handles).collect();
    let raw: Vec<RawArgument> = arguments.iter().zip(&lists).map(|(argument, list)| raw(argument, list)).collect();
    let mut results = [null_mut(); MAX_RESULTS];
    let mut n_results = MAX_RESULTS;
    #[expect(unsafe_code, reason = "all pointers live until the call returns, and it wrote `n_results` handles")]
    unsafe {
        let arguments = raw.as_ptr();
        checked(farmhand_call(name.as_ptr(), overload.as_ptr(), arguments, raw.len(), results.as_mut_ptr(), &mut n_results))?;
        Ok(results[..n_results].iter().map(|&result| taken(result)).collect())
    }
}

/// An operator's schema as libtorch writes it, for example `aten::neg(Tensor self) -> Tensor`.
///
/// # Errors
/// When there is no such operator.
pub fn schema(operator: &str) -> Result<String> {
    let (name, overload) = split(operator)?;
    let mut text: [c_char; 2048] = [0; 2048];
    #[expect(unsafe_code, reason = "`text` has room for its length and ends with a zero afterwards")]
    unsafe {
        checked(farmhand_schema(name.as_ptr(), overload.as_ptr(), text.as_mut_ptr(), text.len()))?;
        Ok(CStr::from_ptr(text.as_ptr()).to_string_lossy().into_owned())
    }
}

/// Name and overload.
fn split(operator: &str) -> Result<(CString, CString)> {
    let (name, overload) = operator.split_once('.').unwrap_or((operator, ""));
    let text = |part: &str| CString::new(part).map_err(|error| Error::other("an operator name with a zero").with_source(error));
    Ok((text(name)?, text(overload)?))
}

fn handles(argument: &Argument<'_>) -> Vec<*const C_tensor> {
    match argument {
        Argument::Tensors(tensors) => tensors.iter().map(|tensor| handle(tensor)).collect(),
        _ => Vec::new(),
    }
}

fn raw(argument: &Argument<'_>, list: &[*const C_tensor]) -> RawArgument {
    let none = RawArgument { kind: 0, integer: 0, real: 0.0, pointer: null(), length: 0 };
    match *argument {
        Argument::None => none,
        Argument::Tensor(tensor) => RawArgument { kind: 1, pointer: handle(tensor).cast(), ..none },
        Argument::Int(integer) => RawArgument { kind: 2, integer, ..none },
        Argument::Float(real) => RawArgument { kind: 3, real, ..none },
        Argument::Bool(truth) => RawArgument { kind: 4, integer: i64::from(truth), ..none },
        Argument::Str(text) => RawArgument { kind: 5, pointer: text.as_ptr().cast(), length: text.len(), ..none },
        Argument::Ints(list) => RawArgument { kind: 6, pointer: list.as_ptr().cast(), length: list.len(), ..none },
        Argument::Tensors(_) => RawArgument { kind: 7, pointer: list.as_ptr().cast(), length: list.len(), ..none },
    }
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;

    fn numbers(values: &[f32]) -> Tensor {
        Tensor::from_slice(values)
    }

    #[test]
    fn operators_are_called_by_name_with_defaults_and_lists() {
        let (a, b) = (numbers(&[1.0, 2.0, 3.0]), numbers(&[10.0, 20.0, 30.0]));
        let sum = call("aten::add.Tensor", &[(&a).into(), (&b).into()]).expect("called");
        assert_eq!(sum, [numbers(&[11.0, 22.0, 33.0])]);
        let joined = call("aten::cat", &[Argument::Tensors(&[&a, &b]), Argument::Int(0)]).expect("called");
        assert_eq!(joined[0].size(), [6]);
        let top = call("aten::topk", &[(&a).into(), Argument::Int(2), Argument::Int(-1), Argument::Bool(true)]).expect("called");
        assert_eq!(top, [numbers(&[3.0, 2.0]), Tensor::from_slice(&[2i64, 1])]);
        let parts = call("aten::split_with_sizes", &[(&a).into(), Argument::Ints(&[1, 2])]).expect("called");
        assert_eq!(parts.iter().map(|part| part.size()[0]).collect::<Vec<_>>(), [1, 2]);
        let gelu = call("aten::gelu", &[(&a).into(), Argument::Str("tanh")]).expect("called");
        assert_eq!(gelu, [a.gelu("tanh")]);
        call("aten::mul_.Scalar", &[(&a).into(), Argument::Float(2.0)]).expect("called");
        assert_eq!(a, numbers(&[2.0, 4.0, 6.0]));
    }

    #[test]
    fn calls_are_differentiable() {
        let x = Tensor::ones([3], (Kind::Float, Device::Cpu)).set_requires_grad(true);
        let y = call("aten::exp", &[(&x).into()]).expect("called");
        y[0].sum(Kind::Float).backward();
        assert_eq!(x.grad(), y[0]);
    }

    #[test]
    fn mistakes_are_errors_without_a_call_stack() {
        let a = numbers(&[1.0]);
        let message =
            |operator: &str, arguments: &[Argument<'_>]| call(operator, arguments).expect_err("refused").message().to_owned();
        assert_eq!(message("aten::no_such", &[]), "libtorch has no operator `aten::no_such`");
        assert!(message("aten::mm", &[(&a).into()]).contains("needs argument `mat2`"));
        assert!(message("aten::neg", &[(&a).into(), (&a).into()]).contains("takes 1 arguments, got 2"));
        let text = message("aten::mm", &[(&a).into(), (&a).into()]);
        assert!(text.contains("self must be a matrix") && !text.contains("Exception raised"), "{text}");
        assert!(!message("aten::neg", &[Argument::Int(1)]).is_empty());
        assert_eq!(schema("aten::neg").expect("known"), "aten::neg(Tensor self) -> Tensor");
    }
}
