//! The layers that architectures are made of. All work on flat tokens `[n, d]`: one row a token, whatever the layout.

use farmhand_core::Result;
use tch::Tensor;

use crate::config_json::ConfigJson;
use crate::dropout::Dropout;
use crate::low_rank::LowRank;
use crate::native::{self, cpu};
use crate::precision::like_activations;

/// An affine map of the last dimension, with a low-rank change where the model has an adapter.
pub(crate) struct Linear {
    /// `[to, from]`, or `[from, to]` when stored input-first.
    weight: Tensor,
    /// `[to]`.
    bias: Option<Tensor>,
    is_input_first: bool,
    low_rank: Option<LowRank>,
}

impl Linear {
    /// A map whose weight is `[to, from]`, as nearly all checkpoints store it.
    pub(crate) fn new(weight: Tensor, bias: Option<Tensor>) -> Self {
        Self { weight, bias, is_input_first: false, low_rank: None }
    }

    /// A map whose weight is `[from, to]`, as GPT-2's checkpoints store it.
    pub(crate) fn input_first(weight: Tensor, bias: Option<Tensor>) -> Self {
        Self { weight, bias, is_input_first: true, low_rank: None }
    }

    /// The weight as `[to, from]`; of one stored input-first a transposed view.
    fn weight(&self) -> Tensor {
        if self.is_input_first { self.weight.tr() } else { self.weight.shallow_clone() }
    }

    /// The same map with a low-rank change.
    pub(crate) fn with_low_rank(self, low_rank: Option<LowRank>) -> Self {
        Self { low_rank, ..self }
    }

    /// `[n, from]` → `[n, to]`, differentiable.
    pub(crate) fn forward(&self, x: &Tensor) -> Tensor {
        self.forward_with_dropout(x, None)
    }

    /// The same with dropout on what the low-rank change reads.
    pub(crate) fn forward_with_dropout(&self, x: &Tensor, dropout: Option<&Dropout>) -> Tensor {
        let bias = self.bias.as_ref().map(|bias| like_activations(bias, x));
        self.adapted(x, native::linear(x, &like_activations(&self.weight(), x), bias.as_ref()), dropout)
    }

    /// The outputs `[n, to]` of the map itself for inputs `[n, from]`, with the low-rank change added, if there is one.
    pub(crate) fn adapted(&self, x: &Tensor, y: Tensor, dropout: Option<&Dropout>) -> Tensor {
        match &self.low_rank {
            Some(low_rank) => low_rank.add_to(&y, x, dropout),
            None => y,
        }
    }

    /// `[n, from]` → `[n, to]` by the CPU kernel: each row's numbers are the same whatever rows are beside it.
    pub(crate) fn forward_by_kernel(&self, x: &Tensor) -> Tensor {
        let y = cpu::linear(x, &self.weight, self.bias.as_ref(), self.is_input_first);
        match &self.low_rank {
            Some(low_rank) => low_rank.add_by_kernel(&y, x),
            None => y,
        }
    }
}

/// Root-mean-square normalisation (Zhang and Sennrich, 2019, <https://arxiv.org/abs/1910.07467>).
pub(crate) struct RmsNorm {
    /// `[d]`.
    pub(crate) weight: Tensor,
    /// What is added to the weight: 0, or 1 where weights count from one.
    pub(crate) plus: f64,
    pub(crate) eps: f64,
}

impl RmsNorm {
    /// Normalises the last dimension.
    pub(crate) fn forward(&self, x: &Tensor) -> Tensor {
        let shifted = (self.plus != 0.0).then(|| &self.weight + self.plus);
        native::rms_norm(x, shifted.as_ref().unwrap_or(&self.weight), self.eps)
    }
}

/// Layer normalisation (Ba et al., 2016, <https://arxiv.org/abs/1607.06450>).
pub(crate) struct LayerNorm {
    /// `[d]`.
    pub(crate) weight: Tensor,
    /// `[d]`.
    pub(crate) bias: Tensor,
    pub(crate) eps: f64,
}

impl LayerNorm {
    /// Normalises the last dimension.
    pub(crate) fn forward(&self, x: &Tensor) -> Tensor {
        let (weight, bias) = (like_activations(&self.weight, x), like_activations(&self.bias, x));
        x.layer_norm(weight.size(), Some(&weight), Some(&bias), self.eps, true)
    }
}

/// The activation functions of feed-forward layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Activation {
    Silu,
    Gelu,
    GeluTanh,
    Relu,
}

impl Activation {
    /// The activation under `key`, by transformers' name.
    pub(crate) fn read(json: &ConfigJson<'_>, key: &str, default: &str) -> Result<Self> {
        match json.text_or(key, default)? {
            "silu" | "swish" => Ok(Self::Silu),
            "gelu" => Ok(Self::Gelu),
            "gelu_new" | "gelu_pytorch_tanh" => Ok(Self::GeluTanh),
            "relu" => Ok(Self::Relu),
            _ => Err(json.unsupported(key, "one of silu, gelu, gelu_new, gelu_pytorch_tanh, relu")),
        }
    }

    /// Elementwise.
    pub(crate) fn apply(self, x: &Tensor) -> Tensor {
        match self {
            Self::Silu => x.silu(),
            Self::Gelu => x.gelu("none"),
            Self::GeluTanh => x.gelu("tanh"),
            Self::Relu => x.relu(),
        }
    }

    /// The gated unit of Shazeer, 2020, <https://arxiv.org/abs/2002.05202>: the activation of `gate`, times `up`.
    pub(crate) fn gated(self, gate: &Tensor, up: &Tensor) -> Tensor {
        match self {
            Self::Silu => native::gated_silu(gate, up),
            _ => self.apply(gate) * up,
        }
    }
}
