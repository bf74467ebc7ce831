//! Flash attention over packed texts, a kernel for GPUs (Dao, 2023, <https://arxiv.org/abs/2307.08691>).
//!
//! Not run on a GPU yet: libtorch registers the operator everywhere and its kernel for CUDA only, so what is tested here is
//! that the operator is the one this was written for.

use farmhand_core::Result;
use tch::{Kind, Tensor};

use super::{Argument, call};

/// Where the texts of a batch begin: their queries, and the keys that these see.
#[derive(Debug)]
pub struct TextStarts {
    /// The first query of each text, and the number of queries, `[texts + 1]`, `i32`, on the device.
    pub queries: Tensor,
    /// The first key of each text, and the number of keys, `[texts + 1]`, `i32`, on the device.
    pub keys: Tensor,
    /// Queries of the longest text.
    pub most_queries: i64,
    /// Keys of the longest text.
    pub most_keys: i64,
}

/// Causal attention within texts that lie one after the other: queries `[n, heads, dim]`, keys and values `[m, kv_heads, dim]` in
/// `bf16` or `f16` on a GPU → `[n, heads, dim]`; differentiable. A text's queries are the last ones of its keys. With a `window` a
/// token sees only so many of the newest tokens, itself included.
///
/// # Errors
/// On the CPU, for which there is no kernel, and for types, widths and GPUs that the kernel does not take.
pub fn flash_attention(
    [queries, keys, values]: [&Tensor; 3],
    starts: &TextStarts,
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
            (&starts.queries).into(),
            (&starts.keys).into(),
            Argument::Int(starts.most_queries),
            Argument::Int(starts.most_keys),
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

/// Whether the kernel takes queries of this kind, width and place.
pub fn has_flash_attention(device: tch::Device, kind: Kind, dim: i64) -> bool {
    matches!(device, tch::Device::Cuda(_)) && matches!(kind, Kind::BFloat16 | Kind::Half) && dim <= 256
}

const OPERATOR: &str = "aten::_flash_attention_forward";

#[cfg(test)]
mod tests {
    use tch::Device;

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
        let starts = || Tensor::from_slice(&[0i32, 3]);
        let starts = TextStarts { queries: starts(), keys: starts(), most_queries: 3, most_keys: 3 };
        assert!(!has_flash_attention(Device::Cpu, Kind::BFloat16, 8));
        for window in [None, Some(2)] {
            let error = flash_attention([&x, &x, &x], &starts, 0.5, window).expect_err("no kernel");
            assert!(error.message().contains("_flash_attention_forward") && error.message().contains("CPU"), "{error}");
        }
    }
}
