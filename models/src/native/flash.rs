//! Flash attention over packed texts, a kernel for GPUs (Dao, 2023, <https://arxiv.org/abs/2307.08691>).
//!
//! Not run on a GPU yet: libtorch registers the operator everywhere and its kernel for CUDA only, so what is tested here is
//! that the operator is the one this was written for.

use farmhand_core::Result;
use tch::Tensor;

use super::{Argument, call};

/// Causal attention within texts that lie one after the other: queries `[n, heads, dim]`, keys and values
/// `[n, kv_heads, dim]` in `bf16` or `f16` on a GPU → `[n, heads, dim]`; differentiable.
///
/// `starts` `[texts + 1]`, `i32` on that GPU: the first token of each text, and n. `longest` is the length of the longest
/// text. With a `window` a token sees only so many of the newest tokens, itself included.
///
/// # Errors
/// On the CPU, for which there is no kernel, and for types or widths that the kernel does not take.
pub fn flash_attention(
    [queries, keys, values]: [&Tensor; 3],
    starts: &Tensor,
    longest: i64,
    scale: f64,
    window: Option<usize>,
) -> Result<Tensor> {
    let window = window.and_then(|window| i64::try_from(window).ok());
    let results = call(
        OPERATOR,
        &[
            queries.into(),
            keys.into(),
            values.into(),
            starts.into(),
            starts.into(),
            Argument::Int(longest),
            Argument::Int(longest),
            // No dropout, causal, no mask for debugging.
            Argument::Float(0.0),
            Argument::Bool(true),
            Argument::Bool(false),
            Argument::Float(scale),
            window.map_or(Argument::None, |window| Argument::Int(window - 1)),
            window.map_or(Argument::None, |_| Argument::Int(0)),
        ],
    )?;
    Ok(results.into_iter().next().expect("the operator's first result is the output"))
}

const OPERATOR: &str = "aten::_flash_attention_forward";

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;
    use crate::native::schema;

    #[test]
    fn the_operator_is_the_one_this_was_written_for() {
        let expected = "aten::_flash_attention_forward(Tensor query, Tensor key, Tensor value, Tensor? cum_seq_q, \
                        Tensor? cum_seq_k, SymInt max_q, SymInt max_k, float dropout_p, bool is_causal, \
                        bool return_debug_mask, *, float? scale=None, SymInt? window_size_left=None, \
                        SymInt? window_size_right=None, Tensor? seqused_k=None, Tensor? alibi_slopes=None) -> \
                        (Tensor output, Tensor softmax_logsumexp, Tensor rng_state, Tensor unused, Tensor debug_attn_mask)";
        assert_eq!(schema(OPERATOR).expect("registered"), expected);
    }

    #[test]
    fn the_cpu_has_no_kernel_and_the_arguments_get_as_far_as_finding_that_out() {
        let x = Tensor::zeros([3, 2, 8], (Kind::BFloat16, Device::Cpu));
        let starts = Tensor::from_slice(&[0i32, 3]);
        for window in [None, Some(2)] {
            let error = flash_attention([&x, &x, &x], &starts, 3, 0.5, window).expect_err("no kernel");
            assert!(error.message().contains("_flash_attention_forward") && error.message().contains("CPU"), "{error}");
        }
    }
}
