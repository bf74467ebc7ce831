//! A paged cache as tensors, for every device: the rows of a text are gathered, padded, and attended to by libtorch.

use tch::{Device, Kind, Tensor};

use crate::cached_pass::Plan;
use crate::forward_pass::{Attention, indices};
use crate::paged_cache::{CacheFormat, CacheShape};

/// The blocks of a cache: per layer one tensor of keys and one of values.
pub(crate) struct TensorBlocks {
    shape: CacheShape,
    kind: Kind,
    device: Device,
    n_blocks: usize,
    layers: Vec<[Stored; 2]>,
}

/// Keys or values of one layer, `[slots, kv_heads, d]`; with int8 a scale `[slots, kv_heads, 1]` on each.
struct Stored {
    numbers: Tensor,
    scales: Option<Tensor>,
}

/// Where the tokens of one pass are.
pub(crate) struct Places {
    /// The slot of each token, `[n]`.
    slots: Tensor,
    /// Texts, and the tokens of the longest one: earlier ones included, and new ones alone.
    n_texts: i64,
    longest: i64,
    newest: i64,
    /// The slots of all texts, padded, `[texts · longest]`.
    gathered: Tensor,
    /// The row of each new token among the padded queries `[texts · newest]`, `[n]`.
    rows: Tensor,
    /// The position of each padded query, `[texts, newest, 1]`, and of each key, `[longest]`.
    query_positions: Tensor,
    key_positions: Tensor,
}

impl TensorBlocks {
    /// No blocks yet; `kind` is what the model computes in.
    pub(crate) fn new(shape: CacheShape, kind: Kind, device: Device) -> Self {
        let layers = (0..shape.n_layers).map(|_| std::array::from_fn(|_| Stored::empty(&shape, kind, device))).collect();
        Self { shape, kind, device, n_blocks: 0, layers }
    }

    /// The bytes of a block.
    pub(crate) fn block_bytes(&self) -> usize {
        let vectors = 2 * self.shape.n_layers * self.shape.block * self.shape.n_kv_heads;
        let number = stored_kind(self.shape.format, self.kind).elt_size_in_bytes();
        let scale = if self.shape.format == CacheFormat::Int8 { self.kind.elt_size_in_bytes() } else { 0 };
        vectors * (self.shape.head_dim * number + scale)
    }

    /// Makes sure that there are `n` blocks; what there is doubles, so that copying stays a small share.
    pub(crate) fn grow(&mut self, n: usize) {
        if n <= self.n_blocks {
            return;
        }
        let grown = n.max(2 * self.n_blocks).max(8);
        let slots = ((grown - self.n_blocks) * self.shape.block) as i64;
        for stored in self.layers.iter_mut().flatten() {
            for tensor in [Some(&mut stored.numbers), stored.scales.as_mut()].into_iter().flatten() {
                let size = tensor.size();
                let more = Tensor::zeros([slots, size[1], size[2]], (tensor.kind(), tensor.device()));
                *tensor = Tensor::cat(&[&*tensor, &more], 0);
            }
        }
        self.n_blocks = grown;
    }

    /// Copies one block over another.
    pub(crate) fn copy(&mut self, from: usize, to: usize) {
        let block = self.shape.block as i64;
        let rows = |tensor: &Tensor, place: usize| tensor.narrow(0, place as i64 * block, block);
        for stored in self.layers.iter().flatten() {
            for tensor in [Some(&stored.numbers), stored.scales.as_ref()].into_iter().flatten() {
                rows(tensor, to).copy_(&rows(tensor, from));
            }
        }
    }

    /// Where the tokens of a pass are.
    pub(crate) fn places(&self, plan: &Plan) -> Places {
        let block = self.shape.block;
        let slot = |table: &[usize], position: usize| (table[position / block] * block + position % block) as i64;
        let longest = plan.spans().iter().map(|span| span.first_position + span.n_tokens).max().unwrap_or(0);
        let newest = plan.spans().iter().map(|span| span.n_tokens).max().unwrap_or(0);
        let (mut slots, mut gathered, mut rows, mut positions) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (text, span) in plan.spans().iter().enumerate() {
            let end = span.first_position + span.n_tokens;
            slots.extend((span.first_position..end).map(|position| slot(&span.table, position)));
            // Beyond its end a text repeats its first slot, and beyond its new tokens its last query: neither is read.
            gathered.extend((0..longest).map(|position| slot(&span.table, if position < end { position } else { 0 })));
            rows.extend((0..span.n_tokens).map(|token| (text * newest + token) as i64));
            positions.extend((0..newest).map(|token| (span.first_position + token.min(span.n_tokens - 1)) as i64));
        }
        let n_texts = plan.spans().len() as i64;
        Places {
            slots: indices(&slots, self.device),
            n_texts,
            longest: longest as i64,
            newest: newest as i64,
            gathered: indices(&gathered, self.device),
            rows: indices(&rows, self.device),
            query_positions: indices(&positions, self.device).view([n_texts, newest as i64, 1]),
            key_positions: Tensor::arange(longest as i64, (Kind::Int64, self.device)),
        }
    }

    /// As [`crate::paged_cache::PagedCache::attend`].
    pub(crate) fn attend(
        &mut self,
        at: &Places,
        layer: usize,
        attention: &Attention,
        queries: &Tensor,
        keys: &Tensor,
        values: &Tensor,
    ) -> Tensor {
        let size = queries.size();
        let (n, heads, d) = (size[0], size[1], size[2]);
        let [stored_keys, stored_values] = &mut self.layers[layer];
        stored_keys.put(&at.slots, keys);
        stored_values.put(&at.slots, values);
        let texts = |stored: &Stored| stored.get(&at.gathered, self.kind).view([at.n_texts, at.longest, -1, d]).transpose(1, 2);
        let (keys, values) = (texts(stored_keys), texts(stored_values));
        let padded = Tensor::zeros([at.n_texts * at.newest, heads, d], (queries.kind(), queries.device()));
        let padded = padded.index_copy(0, &at.rows, queries).view([at.n_texts, at.newest, heads, d]).transpose(1, 2);

        let mut visible = at.key_positions.le_tensor(&at.query_positions);
        if let Some(window) = attention.window {
            visible = visible.logical_and(&at.key_positions.gt_tensor(&(&at.query_positions - window as i64)));
        }
        let hidden = visible.logical_not().unsqueeze(1);
        let attended = match attention.softcap {
            None => {
                let mask = Tensor::zeros(hidden.size(), (padded.kind(), padded.device())).masked_fill(&hidden, f64::NEG_INFINITY);
                let grouped = keys.size()[1] != heads;
                Tensor::scaled_dot_product_attention(&padded, &keys, &values, Some(&mask), 0.0, false, attention.scale, grouped)
            }
            Some(softcap) => {
                let repeats = heads / keys.size()[1];
                let (keys, values) =
                    (keys.repeat_interleave_self_int(repeats, 1, None), values.repeat_interleave_self_int(repeats, 1, None));
                let scores = padded.matmul(&keys.transpose(2, 3)) * attention.scale;
                let bent = (scores / softcap).tanh() * softcap;
                bent.masked_fill(&hidden, f64::NEG_INFINITY).softmax(-1, padded.kind()).matmul(&values)
            }
        };
        attended.transpose(1, 2).reshape([at.n_texts * at.newest, heads * d]).index_select(0, &at.rows).view([n, heads * d])
    }
}

fn stored_kind(format: CacheFormat, kind: Kind) -> Kind {
    match format {
        CacheFormat::F32 => kind,
        CacheFormat::Bf16 => Kind::BFloat16,
        CacheFormat::Int8 => Kind::Int8,
    }
}

impl Stored {
    fn empty(shape: &CacheShape, kind: Kind, device: Device) -> Self {
        let empty = |width: usize, kind| Tensor::zeros([0, shape.n_kv_heads as i64, width as i64], (kind, device));
        Self {
            numbers: empty(shape.head_dim, stored_kind(shape.format, kind)),
            scales: (shape.format == CacheFormat::Int8).then(|| empty(1, kind)),
        }
    }

    /// Writes vectors `[n, kv_heads, d]` to slots `[n]`.
    fn put(&mut self, slots: &Tensor, vectors: &Tensor) {
        let _ = match &mut self.scales {
            None => self.numbers.index_copy_(0, slots, &vectors.to_kind(self.numbers.kind())),
            Some(scales) => {
                // A vector of zeros has the scale 0 and stays one.
                let scale = vectors.abs().amax([-1i64].as_slice(), true) / 127.0;
                let rounded = (vectors / scale.clamp_min(f64::from(f32::MIN_POSITIVE))).round();
                let _ = scales.index_copy_(0, slots, &scale);
                self.numbers.index_copy_(0, slots, &rounded.to_kind(Kind::Int8))
            }
        };
    }

    /// The vectors of slots `[n]` as the model computes, `[n, kv_heads, d]`.
    fn get(&self, slots: &Tensor, kind: Kind) -> Tensor {
        let numbers = self.numbers.index_select(0, slots).to_kind(kind);
        match &self.scales {
            None => numbers,
            Some(scales) => numbers * scales.index_select(0, slots),
        }
    }
}
