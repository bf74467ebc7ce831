//! The pass of generation: some new tokens of each of many texts, after what a cache holds of them.

use tch::{Device, Tensor};

use crate::forward_pass::{Attention, Pass, indices};
use crate::layers::{Activation, LayerNorm, Linear, RmsNorm};
use crate::native::cpu;
use crate::paged_cache::{Located, PagedCache, Table};
use crate::rotary::RotaryTables;

/// The new tokens of one text in a pass.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Span {
    /// The position of the first of them; the cache holds all before it.
    pub(crate) first_position: usize,
    pub(crate) n_tokens: usize,
    /// The text's blocks, with room for the new tokens.
    pub(crate) table: Table,
}

/// The tokens of a pass, flat: one text after the other.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Plan {
    positions: Vec<i64>,
    spans: Vec<Span>,
}

impl Plan {
    /// Adds new tokens of another text.
    pub(crate) fn push(&mut self, span: Span) {
        let first = span.first_position as i64;
        self.positions.extend(first..first + span.n_tokens as i64);
        self.spans.push(span);
    }

    /// The position of each token in its text.
    pub(crate) fn positions(&self) -> &[i64] {
        &self.positions
    }

    /// The texts.
    pub(crate) fn spans(&self) -> &[Span] {
        &self.spans
    }
}

/// A pass over a plan's tokens that reads and fills a cache.
pub(crate) struct CachedPass<'a> {
    cache: &'a mut PagedCache,
    at: Located,
    positions: Tensor,
    /// The layer of the cache that is the model's first.
    first_layer: usize,
}

impl<'a> CachedPass<'a> {
    /// The pass over the tokens of a plan, on the model's device.
    pub(crate) fn new(cache: &'a mut PagedCache, plan: &Plan, first_layer: usize, device: Device) -> Self {
        let at = cache.locate(plan);
        Self { cache, at, positions: indices(plan.positions(), device), first_layer }
    }

    fn has_kernels(&self) -> bool {
        matches!(self.at, Located::Cpu(_))
    }
}

impl Pass for CachedPass<'_> {
    fn positions(&self) -> Tensor {
        self.positions.shallow_clone()
    }

    fn attend(&mut self, layer: usize, attention: &Attention, queries: &Tensor, keys: &Tensor, values: &Tensor) -> Tensor {
        self.cache.attend(&self.at, self.first_layer + layer, attention, [queries, keys, values])
    }

    fn linear(&self, linear: &Linear, x: &Tensor) -> Tensor {
        if self.has_kernels() { linear.forward_by_kernel(x) } else { linear.forward(x) }
    }

    fn rms_norm(&self, norm: &RmsNorm, x: &Tensor) -> Tensor {
        if self.has_kernels() { cpu::rms_norm(x, &norm.weight, norm.plus, norm.eps) } else { norm.forward(x) }
    }

    fn layer_norm(&self, norm: &LayerNorm, x: &Tensor) -> Tensor {
        if self.has_kernels() { cpu::layer_norm(x, &norm.weight, Some(&norm.bias), norm.eps) } else { norm.forward(x) }
    }

    fn activate(&self, activation: Activation, x: &Tensor) -> Tensor {
        if self.has_kernels() { cpu::activate(activation, x, None) } else { activation.apply(x) }
    }

    fn gated(&self, activation: Activation, gate: &Tensor, up: &Tensor) -> Tensor {
        if self.has_kernels() { cpu::activate(activation, gate, Some(up)) } else { activation.gated(gate, up) }
    }

    fn rotate(&self, tables: &RotaryTables, x: &Tensor) -> Tensor {
        if self.has_kernels() { tables.rotate_by_kernel(x) } else { tables.rotate(x) }
    }

    fn head(&self, head: &Tensor, x: &Tensor) -> Tensor {
        if self.has_kernels() { cpu::linear(x, head, None, false) } else { x.linear(head, None::<Tensor>) }
    }

    fn bend(&self, logits: &Tensor, cap: f64) -> Tensor {
        if self.has_kernels() { cpu::bend(logits, cap) } else { (logits / cap).tanh() * cap }
    }
}
