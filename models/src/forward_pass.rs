//! How a body is run: what architectures ask of a pass, and the pass over whole texts that training and scoring use.

use std::sync::Arc;

use tch::{Device, Kind, Tensor};

use crate::dropout::Dropout;
use crate::layers::{Activation, LayerNorm, Linear, RmsNorm};
use crate::layout::Layout;
use crate::rotary::RotaryTables;

/// What an architecture's attention looks like in one layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Attention {
    /// The factor on the scores, usually 1/√(head width).
    pub(crate) scale: f64,
    /// How many of the newest tokens a token sees, itself included; all before it when absent.
    pub(crate) window: Option<usize>,
    /// Scores are bent to softcap · tanh(score / softcap) before the softmax.
    pub(crate) softcap: Option<f64>,
}

impl Attention {
    /// Plain causal attention with heads of this width.
    pub(crate) fn causal(head_dim: usize) -> Self {
        Self { scale: 1.0 / (head_dim as f64).sqrt(), window: None, softcap: None }
    }
}

/// One run of a body over n tokens. Attention is causal: a token sees those of its own text before it, and itself.
pub(crate) trait Pass {
    /// The position of each token in its text, `[n]`.
    fn positions(&self) -> Tensor;

    /// The type activations are computed in.
    fn kind(&self) -> Kind {
        Kind::Float
    }

    /// Attention of one layer: queries `[n, heads, dim]`, keys and values `[n, kv_heads, dim]` → `[n, heads · dim]`.
    fn attend(&mut self, layer: usize, attention: &Attention, queries: &Tensor, keys: &Tensor, values: &Tensor) -> Tensor;

    /// Applies a linear layer, `[n, from]` → `[n, to]`.
    fn linear(&self, linear: &Linear, x: &Tensor) -> Tensor {
        linear.forward(x)
    }

    /// Applies a norm to the last dimension.
    fn rms_norm(&self, norm: &RmsNorm, x: &Tensor) -> Tensor {
        norm.forward(x)
    }

    /// Applies a norm to the last dimension.
    fn layer_norm(&self, norm: &LayerNorm, x: &Tensor) -> Tensor {
        norm.forward(x)
    }

    /// Applies an activation, elementwise.
    fn activate(&self, activation: Activation, x: &Tensor) -> Tensor {
        activation.apply(x)
    }

    /// Applies a gated unit, elementwise.
    fn gated(&self, activation: Activation, gate: &Tensor, up: &Tensor) -> Tensor {
        activation.gated(gate, up)
    }

    /// Turns queries or keys `[n, heads, dim]`.
    fn rotate(&self, tables: &RotaryTables, x: &Tensor) -> Tensor {
        tables.rotate(x)
    }

    /// The output head's map, `[n, d]` → `[n, v]`.
    fn head(&self, head: &Tensor, x: &Tensor) -> Tensor {
        x.linear(head, None::<Tensor>)
    }

    /// Bends logits to cap · tanh(logit / cap).
    fn bend(&self, logits: &Tensor, cap: f64) -> Tensor {
        (logits / cap).tanh() * cap
    }
}

/// The pass over whole texts, differentiable.
#[derive(Clone)]
pub(crate) struct WholePass {
    layout: Arc<Layout>,
    dropout: Option<Arc<Dropout>>,
    device: Device,
    kind: Kind,
}

impl WholePass {
    pub(crate) fn new(layout: &Arc<Layout>, dropout: Option<&Arc<Dropout>>, device: Device, kind: Kind) -> Self {
        Self { layout: Arc::clone(layout), dropout: dropout.map(Arc::clone), device, kind }
    }
}

impl Pass for WholePass {
    fn positions(&self) -> Tensor {
        indices(self.layout.positions(), self.device)
    }

    fn kind(&self) -> Kind {
        self.kind
    }

    fn attend(&mut self, _: usize, attention: &Attention, queries: &Tensor, keys: &Tensor, values: &Tensor) -> Tensor {
        self.layout.attend(attention, queries, keys, values)
    }

    fn linear(&self, linear: &Linear, x: &Tensor) -> Tensor {
        linear.forward_with_dropout(x, self.dropout.as_deref())
    }
}

/// Integers as a tensor on a device.
pub(crate) fn indices(values: &[i64], device: Device) -> Tensor {
    Tensor::from_slice(values).to_device(device)
}
