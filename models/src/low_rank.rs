//! The low-rank change to one linear layer: `y + s · (x · Aᵀ) · Bᵀ`.
//!
//! Hu et al., 2021, <https://arxiv.org/abs/2106.09685>, section 4.1.

use tch::{Tensor, no_grad};

use crate::dropout::Dropout;
use crate::native::cpu;
use crate::precision::like_activations;

/// The change to one layer. Handles share their tensors.
#[derive(Debug)]
pub(crate) struct LowRank {
    /// The layer's name, such as `model.layers.0.self_attn.q_proj`.
    pub(crate) module: String,
    /// `[rank, from]`.
    pub(crate) a: Tensor,
    /// `[to, rank]`.
    pub(crate) b: Tensor,
    /// The factor s.
    pub(crate) scale: f64,
    /// Share of the inputs that is dropped in training, in [0, 1).
    pub(crate) dropout: f64,
}

impl LowRank {
    /// Another handle on the same tensors.
    pub(crate) fn handle(&self) -> Self {
        self.map(Tensor::shallow_clone)
    }

    /// The same change over other tensors.
    pub(crate) fn map(&self, tensor: impl Fn(&Tensor) -> Tensor) -> Self {
        Self { module: self.module.clone(), a: tensor(&self.a), b: tensor(&self.b), scale: self.scale, dropout: self.dropout }
    }

    /// The layer's outputs `[n, to]` for inputs `[n, from]`, with the change added; differentiable. Inputs are dropped only
    /// where a batch in training asks for it.
    pub(crate) fn add_to(&self, y: &Tensor, x: &Tensor, dropout: Option<&Dropout>) -> Tensor {
        let (a, b) = (like_activations(&self.a, x), like_activations(&self.b, x));
        let low = match dropout {
            Some(dropout) if self.dropout > 0.0 => {
                let mask = dropout.mask(&self.module, x.size()[1] as usize, self.dropout, x.device());
                (x * mask.to_kind(x.kind())).linear(&a, None::<Tensor>)
            }
            _ => x.linear(&a, None::<Tensor>),
        };
        y.addmm(&(low * self.scale), &b.tr())
    }

    /// As [`LowRank::add_to`] without dropout, by the CPU kernel: each row's numbers are the same whatever rows are beside it.
    pub(crate) fn add_by_kernel(&self, y: &Tensor, x: &Tensor) -> Tensor {
        let low = cpu::linear(x, &self.a, None, false) * self.scale;
        y + cpu::linear(&low, &self.b, None, false)
    }

    /// What the change adds to the layer's weight, laid out as the weight is: `[to, from]`, or `[from, to]` where weights are
    /// stored input-first.
    pub(crate) fn delta(&self, is_input_first: bool) -> Tensor {
        no_grad(|| {
            let delta = self.b.matmul(&self.a) * self.scale;
            if is_input_first { delta.tr() } else { delta }
        })
    }
}
