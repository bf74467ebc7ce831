//! Keys and values of earlier tokens, so that a generation step computes one token a row.
//!
//! Slots are shared by all rows: prompts occupy slots `0..t`, padded on the right, and the k-th new token of every
//! row goes to slot `t + k`. Appending is then one copy into a slice, and the padding between a short prompt and the
//! first new slot is masked once. Rotary embeddings are applied before keys are stored, so a slot is not a position.

use tch::{Device, Kind, Tensor};

use crate::forward_pass::{Attention, Pass};
use crate::layout::Layout;

/// Slots a cache grows by.
const BLOCK: i64 = 128;

/// The cache of one batch.
pub(crate) struct KvCache {
    /// Per layer, keys and values `[b, kv_heads, capacity, d]`; empty until the layer is first used.
    layers: Vec<Option<(Tensor, Tensor)>>,
    /// Slots in use before this forward pass.
    filled: i64,
    /// Slots this forward pass adds.
    adding: i64,
    capacity: i64,
    /// Added to attention scores, `[b, 1, 1, capacity]`: 0, or −∞ at padding. Absent when there is no padding.
    mask: Option<Tensor>,
    /// The next position of each row, `[b]`.
    positions: Tensor,
    /// Slots of the prompts.
    longest: i64,
    /// How far the slots after the prompts lie behind their positions in each row, `[b]`: the padding of its prompt.
    shifts: Tensor,
}

impl KvCache {
    /// An empty cache for prompts of these lengths, with room for `n_new` more tokens at first.
    pub(crate) fn new(n_layers: usize, prompt_lengths: &[usize], n_new: usize, device: Device) -> Self {
        let longest = prompt_lengths.iter().copied().max().unwrap_or(0) as i64;
        let lengths: Vec<i64> = prompt_lengths.iter().map(|length| *length as i64).collect();
        let capacity = longest + (n_new as i64).min(BLOCK);
        let positions = Tensor::from_slice(&lengths).to_device(device);
        let mask = lengths.iter().any(|length| *length < longest).then(|| {
            let slots = Tensor::arange(capacity, (Kind::Int64, device)).unsqueeze(0);
            let padding = slots.ge_tensor(&positions.unsqueeze(1)).logical_and(&slots.lt(longest));
            let zeros = Tensor::zeros(padding.size(), (Kind::Float, device));
            zeros.masked_fill(&padding, f64::NEG_INFINITY).unsqueeze(1).unsqueeze(1)
        });
        let shifts = longest - &positions;
        let layers = (0..n_layers).map(|_| None).collect();
        Self { layers, filled: 0, adding: longest, capacity, mask, positions, longest, shifts }
    }

    /// Stores this pass's keys and values `[b, kv_heads, t, d]` of one layer.
    pub(crate) fn append(&mut self, layer: usize, keys: &Tensor, values: &Tensor) {
        let (filled, adding, capacity) = (self.filled, self.adding, self.capacity);
        let (stored_keys, stored_values) = self.layers[layer].get_or_insert_with(|| {
            let size = keys.size();
            let empty = || Tensor::empty([size[0], size[1], capacity, size[3]], (keys.kind(), keys.device()));
            (empty(), empty())
        });
        stored_keys.narrow(2, filled, adding).copy_(keys);
        stored_values.narrow(2, filled, adding).copy_(values);
    }

    /// All keys and values of one layer, those of this pass included.
    pub(crate) fn filled(&self, layer: usize) -> (Tensor, Tensor) {
        let (keys, values) = self.layers[layer].as_ref().expect("a layer appends before it reads");
        let slots = self.filled + self.adding;
        (keys.narrow(2, 0, slots), values.narrow(2, 0, slots))
    }

    /// The mask over the slots of a step, if there is padding or something has left the window.
    pub(crate) fn mask(&self, window: Option<usize>) -> Option<Tensor> {
        let slots = self.filled + self.adding;
        let padding = self.mask.as_ref().map(|mask| mask.narrow(3, 0, slots));
        let Some(window) = window.map(|window| window as i64).filter(|window| *window < slots) else { return padding };
        let slots = Tensor::arange(slots, (Kind::Int64, self.positions.device())).unsqueeze(0);
        let positions = &slots - slots.ge(self.longest).to_kind(Kind::Int64) * self.shifts.unsqueeze(1);
        let left = positions.le_tensor(&(&self.positions - window).unsqueeze(1));
        let zeros = Tensor::zeros(left.size(), (Kind::Float, left.device()));
        let mask = zeros.masked_fill(&left, f64::NEG_INFINITY).unsqueeze(1).unsqueeze(1);
        Some(padding.map_or_else(|| mask.shallow_clone(), |padding| padding + &mask))
    }

    /// Ends the prefill: the next pass is a step.
    pub(crate) fn finish_prefill(&mut self) {
        self.filled += self.adding;
        self.adding = 1;
        self.grow_if_full();
    }

    /// Ends a step: every row is one token longer.
    pub(crate) fn finish_step(&mut self) {
        self.filled += 1;
        let _ = self.positions.g_add_scalar_(1);
        self.grow_if_full();
    }

    /// Keeps the rows `[k]` in this order, which may also repeat rows.
    pub(crate) fn select(&mut self, rows: &Tensor) {
        for (keys, values) in self.layers.iter_mut().flatten() {
            *keys = keys.index_select(0, rows);
            *values = values.index_select(0, rows);
        }
        self.mask = self.mask.as_ref().map(|mask| mask.index_select(0, rows));
        self.positions = self.positions.index_select(0, rows);
        self.shifts = self.shifts.index_select(0, rows);
    }

    /// Whether the next pass feeds the prompts.
    fn is_prefill(&self) -> bool {
        self.filled == 0
    }

    fn grow_if_full(&mut self) {
        if self.filled < self.capacity {
            return;
        }
        // Half as much again, in whole blocks: copying stays a small share however long the answers get.
        let grown = self.capacity + (self.capacity / 2).max(BLOCK);
        for stored in self.layers.iter_mut().flatten().flat_map(|(keys, values)| [keys, values]) {
            let size = stored.size();
            let larger = Tensor::empty([size[0], size[1], grown, size[3]], (stored.kind(), stored.device()));
            larger.narrow(2, 0, self.filled).copy_(&stored.narrow(2, 0, self.filled));
            *stored = larger;
        }
        self.mask = self.mask.as_ref().map(|mask| mask.constant_pad_nd([0, grown - self.capacity]));
        self.capacity = grown;
    }
}

/// A pass over the rows of a cache: whole prompts, padded on the right, into an empty one; then one token a row.
pub(crate) struct CachedPass<'a> {
    pub(crate) cache: &'a mut KvCache,
    /// Rows, b.
    pub(crate) rows: i64,
}

impl Pass for CachedPass<'_> {
    fn positions(&self) -> Tensor {
        if self.cache.is_prefill() {
            let positions = Tensor::arange(self.cache.adding, (Kind::Int64, self.cache.positions.device()));
            return positions.repeat([self.rows]);
        }
        self.cache.positions.shallow_clone()
    }

    fn attend(&mut self, layer: usize, attention: &Attention, queries: &Tensor, keys: &Tensor, values: &Tensor) -> Tensor {
        let size = queries.size();
        let rows = |x: &Tensor| x.view([self.rows, -1, x.size()[1], x.size()[2]]).transpose(1, 2);
        self.cache.append(layer, &rows(keys), &rows(values));
        if self.cache.is_prefill() {
            return Layout::padded(self.rows as usize, self.cache.adding as usize).attend(attention, queries, keys, values);
        }
        let (keys, values) = self.cache.filled(layer);
        // The heads that share a key-value head stand where several queries would: grouped attention without copies.
        let n_kv_heads = keys.size()[1];
        let queries = rows(queries).reshape([self.rows, n_kv_heads, size[1] / n_kv_heads, size[2]]);
        let mask = self.cache.mask(attention.window);
        let attended = match attention.softcap {
            None => Tensor::scaled_dot_product_attention(&queries, &keys, &values, mask, 0.0, false, attention.scale, false),
            Some(cap) => {
                let scores = (queries.matmul(&keys.transpose(2, 3)) * (attention.scale / cap)).tanh() * cap;
                let scores = if let Some(mask) = mask { scores + mask } else { scores };
                scores.softmax(-1, Kind::Float).matmul(&values)
            }
        };
        attended.reshape([size[0], size[1] * size[2]])
    }
}
