//! A paged cache of keys and values in the CPU's memory, and attention on it (models/shim/cpu_attention.h).

use std::ffi::c_int;
use std::ptr::{null, null_mut};

use tch::{Device, Kind, Tensor};
use torch_sys::C_tensor;

use super::{checked, expect, handle, one_tensor};
use crate::cached_pass::Plan;
use crate::forward_pass::Attention;
use crate::paged_cache::{CacheFormat, CacheShape};

/// `FarmhandCache` of models/shim/cpu_kernels.h.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct RawCache {
    kv_heads: i64,
    head_dim: i64,
    block: i64,
    layer_bytes: i64,
    format: i64,
}

/// `FarmhandAttention` of models/shim/cpu_kernels.h; the shim fills in the queries and the output.
#[repr(C)]
struct RawAttention {
    layer: i64,
    heads: i64,
    queries: *const f32,
    query_stride: i64,
    out: *mut f32,
    n_sequences: i64,
    starts: *const i64,
    first_positions: *const i64,
    tables: *const *mut u8,
    table_starts: *const i64,
    longest: i64,
    scale: f32,
    softcap: f32,
    window: i64,
}

#[expect(unsafe_code, reason = "declares functions of models/shim/cpu_kernels.cpp")]
unsafe extern "C" {
    fn farmhand_cpu_store(
        cache: *const RawCache,
        layer: i64,
        keys: *const C_tensor,
        values: *const C_tensor,
        blocks: *const *mut u8,
        slots: *const i64,
    ) -> c_int;
    fn farmhand_cpu_attend(
        cache: *const RawCache,
        attention: RawAttention,
        queries: *const C_tensor,
        result: *mut *mut C_tensor,
    ) -> c_int;
}

/// The blocks of a cache, one allocation each: all layers of some tokens.
pub(crate) struct CpuBlocks {
    shape: CacheShape,
    raw: RawCache,
    blocks: Vec<Tensor>,
}

/// Where the tokens of one pass are: addresses in the blocks they were made from.
pub(crate) struct Addresses {
    blocks: Vec<*mut u8>,
    slots: Vec<i64>,
    starts: Vec<i64>,
    first_positions: Vec<i64>,
    tables: Vec<*mut u8>,
    table_starts: Vec<i64>,
    longest: i64,
}

impl CpuBlocks {
    /// No blocks yet.
    pub(crate) fn new(shape: CacheShape) -> Self {
        let raw = RawCache {
            kv_heads: shape.n_kv_heads as i64,
            head_dim: shape.head_dim as i64,
            block: shape.block as i64,
            layer_bytes: Self::layer_bytes(&shape) as i64,
            format: match shape.format {
                CacheFormat::F32 => 0,
                CacheFormat::Bf16 => 1,
                CacheFormat::Int8 => 2,
            },
        };
        Self { shape, raw, blocks: Vec::new() }
    }

    /// The bytes of one layer in a block: keys, values whose rows are padded to whole vectors, and the scales of int8.
    fn layer_bytes(shape: &CacheShape) -> usize {
        let vectors = shape.n_kv_heads * shape.block;
        let numbers = vectors * (shape.head_dim + shape.head_dim.next_multiple_of(16));
        let bytes = match shape.format {
            CacheFormat::F32 => 4 * numbers,
            CacheFormat::Bf16 => 2 * numbers,
            CacheFormat::Int8 => numbers + 8 * vectors,
        };
        bytes.next_multiple_of(64)
    }

    /// The bytes of a block.
    pub(crate) fn block_bytes(shape: &CacheShape) -> usize {
        shape.n_layers * Self::layer_bytes(shape)
    }

    /// The bytes of each of its blocks.
    pub(crate) fn bytes(&self) -> usize {
        Self::block_bytes(&self.shape)
    }

    /// Makes sure that there are `n` blocks. New ones are zero: what no token wrote must still be a number.
    pub(crate) fn grow(&mut self, n: usize) {
        let bytes = Self::block_bytes(&self.shape) as i64;
        while self.blocks.len() < n {
            self.blocks.push(Tensor::zeros([bytes], (Kind::Uint8, Device::Cpu)));
        }
    }

    /// Copies one block over another.
    pub(crate) fn copy(&mut self, from: usize, to: usize) {
        let from = self.blocks[from].shallow_clone();
        self.blocks[to].copy_(&from);
    }

    fn address(&self, block: usize) -> *mut u8 {
        self.blocks[block].data_ptr().cast()
    }

    /// Where the tokens of a pass are.
    pub(crate) fn addresses(&self, plan: &Plan) -> Addresses {
        let mut addresses = Addresses {
            blocks: Vec::with_capacity(plan.positions().len()),
            slots: Vec::with_capacity(plan.positions().len()),
            starts: vec![0],
            first_positions: Vec::new(),
            tables: Vec::new(),
            table_starts: Vec::new(),
            longest: 0,
        };
        for span in plan.spans() {
            let first = span.first_position;
            let end = first + span.n_tokens;
            for position in first..end {
                addresses.blocks.push(self.address(span.table[position / self.shape.block]));
                addresses.slots.push((position % self.shape.block) as i64);
            }
            addresses.starts.push(addresses.blocks.len() as i64);
            addresses.first_positions.push(first as i64);
            addresses.table_starts.push(addresses.tables.len() as i64);
            addresses.tables.extend(span.table.iter().map(|block| self.address(*block)));
            addresses.longest = addresses.longest.max(end as i64);
        }
        addresses
    }

    /// Stores the keys and values `[n, kv_heads, d]` of one layer, then attends from the queries `[n, heads, d]` to what
    /// each token's own sequence holds up to it → `[n, heads · d]`. `at` was made by [`CpuBlocks::addresses`] for this pass.
    pub(crate) fn attend(
        &mut self,
        at: &Addresses,
        layer: usize,
        attention: &Attention,
        queries: &Tensor,
        keys: &Tensor,
        values: &Tensor,
    ) -> Tensor {
        let n = keys.size()[0] as usize;
        assert!(n == at.blocks.len() && layer < self.shape.n_layers, "a pass over {} tokens stores {n}", at.blocks.len());
        #[expect(unsafe_code, reason = "the addresses lie in blocks of this cache, which live and are borrowed exclusively")]
        let stored = unsafe {
            farmhand_cpu_store(&self.raw, layer as i64, handle(keys), handle(values), at.blocks.as_ptr(), at.slots.as_ptr())
        };
        expect("store", checked(stored));
        let raw = RawAttention {
            layer: layer as i64,
            heads: 0,
            queries: null(),
            query_stride: 0,
            out: null_mut(),
            n_sequences: at.first_positions.len() as i64,
            starts: at.starts.as_ptr(),
            first_positions: at.first_positions.as_ptr(),
            tables: at.tables.as_ptr(),
            table_starts: at.table_starts.as_ptr(),
            longest: at.longest,
            scale: attention.scale as f32,
            softcap: attention.softcap.unwrap_or(0.0) as f32,
            window: attention.window.unwrap_or(0) as i64,
        };
        #[expect(unsafe_code, reason = "as above; the shim checks the queries against the cache")]
        one_tensor("attend", |result| unsafe { farmhand_cpu_attend(&self.raw, raw, handle(queries), result) })
    }
}

#[cfg(test)]
mod tests {
    use farmhand_core::Seed;

    use super::*;
    use crate::cached_pass::Span;
    use crate::native::cpu::on_every_instruction_set;
    use crate::tensor_blocks::TensorBlocks;

    fn random(size: &[i64], seed: u64) -> Tensor {
        let mut rng = Seed::root(seed).rng();
        let values: Vec<f32> = (0..size.iter().product::<i64>()).map(|_| rng.normal() as f32).collect();
        Tensor::from_slice(&values).view(size)
    }

    /// Three texts over scattered blocks, fed in passes of these many tokens each.
    fn passes() -> Vec<Plan> {
        let tables = [vec![3, 0, 7, 5], vec![1, 6], vec![2, 4, 8]];
        let fed = [[40, 1, 17], [1, 1, 0], [9, 0, 20], [1, 20, 1], [5, 1, 1]];
        let mut lengths = [0; 3];
        fed.into_iter()
            .map(|counts| {
                let mut plan = Plan::default();
                for (text, n_tokens) in counts.into_iter().enumerate().filter(|(_, n)| *n > 0) {
                    plan.push(Span { first_position: lengths[text], n_tokens, table: tables[text].clone() });
                    lengths[text] += n_tokens;
                }
                plan
            })
            .collect()
    }

    #[test]
    fn attention_is_libtorchs_with_every_format_window_and_cap() {
        on_every_instruction_set(|set| {
            let plain = Attention { scale: 0.3, window: None, softcap: None };
            let kinds = [
                plain,
                Attention { window: Some(7), ..plain },
                Attention { softcap: Some(3.0), ..plain },
                Attention { window: Some(21), softcap: Some(2.0), ..plain },
            ];
            for (heads, n_kv_heads, head_dim) in [(4, 2, 8), (3, 1, 64), (2, 2, 20), (8, 1, 6)] {
                for format in [CacheFormat::F32, CacheFormat::Bf16, CacheFormat::Int8] {
                    for (i, attention) in kinds.iter().enumerate() {
                        let shape = CacheShape { n_layers: 2, n_kv_heads, head_dim, block: 16, format };
                        let (mut ours, mut theirs) = (CpuBlocks::new(shape), TensorBlocks::new(shape, Kind::Float, Device::Cpu));
                        ours.grow(9);
                        theirs.grow(9);
                        for (pass, plan) in passes().iter().enumerate() {
                            let n = plan.positions().len() as i64;
                            let part = |n_heads, seed| random(&[n, n_heads as i64, head_dim as i64], 10 * pass as u64 + seed);
                            let (q, k, v) = (part(heads, 1), part(n_kv_heads, 2), part(n_kv_heads, 3));
                            let (at, places) = (ours.addresses(plan), theirs.places(plan));
                            for layer in 0..2 {
                                let k = &k + layer as f64;
                                let got = ours.attend(&at, layer, attention, &q, &k, &v);
                                let expected = theirs.attend(&places, layer, attention, &q, &k, &v);
                                let far = (got - expected).abs().max().double_value(&[]);
                                assert!(
                                    far < 2e-5,
                                    "{set}, {heads} heads of {head_dim}, {format:?}, kind {i}, pass {pass}: {far}"
                                );
                            }
                        }
                    }
                }
            }
        });
    }

    #[test]
    fn a_copied_block_is_one_of_its_own() {
        let shape = CacheShape { n_layers: 1, n_kv_heads: 1, head_dim: 4, block: 16, format: CacheFormat::F32 };
        let mut blocks = CpuBlocks::new(shape);
        blocks.grow(2);
        let attention = Attention::causal(4);
        let (first, second) = (random(&[1, 1, 4], 1), random(&[1, 1, 4], 2));
        let mut feed = |block: usize, position: usize, value: &Tensor| {
            let mut plan = Plan::default();
            plan.push(Span { first_position: position, n_tokens: 1, table: vec![block] });
            let at = blocks.addresses(&plan);
            let out = blocks.attend(&at, 0, &attention, &value.zeros_like(), value, value);
            blocks.copy(0, 1);
            out
        };
        let _ = feed(0, 0, &first);
        // Scores of a query of zeros are equal, so the output is the mean of what is seen.
        let seen = feed(1, 1, &second);
        assert!((seen - (&first + &second).view([1, 4]) / 2.0).abs().max().double_value(&[]) < 1e-6);
    }
}
