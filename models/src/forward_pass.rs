//! The three ways a body is run, and the attention and positions that belong to each.

use tch::{Device, Kind, Tensor};

use crate::kv_cache::KvCache;

/// How a body is run. Rows are padded on the right, and attention is causal: a token never sees the padding after it.
pub(crate) enum ForwardPass<'a> {
    /// Whole sequences, with gradients when they are enabled.
    Whole,
    /// Whole prompts into an empty cache.
    Prefill(&'a mut KvCache),
    /// One token a row, after what the cache holds.
    Step(&'a mut KvCache),
}

impl ForwardPass<'_> {
    /// The positions of ids `[b, t]`: `[t]` for whole rows, `[b, 1]` for a step.
    pub(crate) fn positions(&self, ids: &Tensor) -> Tensor {
        match self {
            Self::Whole | Self::Prefill(_) => Tensor::arange(ids.size()[1], (Kind::Int64, ids.device())),
            Self::Step(cache) => cache.positions().unsqueeze(1),
        }
    }

    /// Attention of one layer: queries `[b, t, heads, d]`, keys and values `[b, t, kv_heads, d]` → `[b, t, heads · d]`.
    pub(crate) fn attend(&mut self, layer: usize, queries: &Tensor, keys: &Tensor, values: &Tensor) -> Tensor {
        let size = queries.size();
        let (b, t, width) = (size[0], size[1], size[2] * size[3]);
        let (keys, values) = (keys.transpose(1, 2), values.transpose(1, 2));
        match self {
            Self::Whole => causal_attention(queries, &keys, &values).reshape([b, t, width]),
            Self::Prefill(cache) => {
                cache.append(layer, &keys, &values);
                causal_attention(queries, &keys, &values).reshape([b, t, width])
            }
            Self::Step(cache) => {
                cache.append(layer, &keys, &values);
                let (keys, values) = cache.filled(layer);
                // The heads that share a key-value head stand where several queries would: grouped attention without copies.
                let n_kv_heads = keys.size()[1];
                let grouped = queries.view([b, n_kv_heads, size[2] / n_kv_heads, size[3]]);
                let attended =
                    Tensor::scaled_dot_product_attention(&grouped, &keys, &values, cache.mask(), 0.0, false, None::<f64>, false);
                attended.reshape([b, t, width])
            }
        }
    }
}

/// Causal attention of queries `[b, t, heads, d]` on keys and values `[b, kv_heads, t, d]` → `[b, t, heads, d]`.
fn causal_attention(queries: &Tensor, keys: &Tensor, values: &Tensor) -> Tensor {
    let queries = queries.transpose(1, 2);
    let grouped = queries.size()[1] != keys.size()[1];
    Tensor::scaled_dot_product_attention(&queries, keys, values, None::<Tensor>, 0.0, true, None::<f64>, grouped).transpose(1, 2)
}

/// Rows `[n, d]` of hidden states `[b, t, d]`, by flat index into `b · t`; differentiable.
pub(crate) fn select_rows(hidden: &Tensor, rows: &Tensor) -> Tensor {
    let d = *hidden.size().last().expect("hidden states have a width");
    hidden.reshape([-1, d]).index_select(0, rows)
}

/// Integers as a tensor on a device.
pub(crate) fn indices(values: &[i64], device: Device) -> Tensor {
    Tensor::from_slice(values).to_device(device)
}
