//! The cache of keys and values that generation reads: blocks of some tokens each, handed out as texts grow.
//!
//! A text's cache is a list of blocks, its table. Texts that begin alike share blocks by counting references; one that
//! writes into a shared block first gets a copy of its own (Kwon et al., 2023, <https://arxiv.org/abs/2309.06180>).

use farmhand_core::{Error, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Tensor;

use crate::cached_pass::Plan;
use crate::forward_pass::Attention;
use crate::native::{Addresses, CpuBlocks};
use crate::tensor_blocks::{Places, TensorBlocks};

/// How keys and values are kept between steps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CacheFormat {
    /// As computed.
    #[default]
    F32,
    /// Half the memory; keys and values keep 8 bits of precision.
    Bf16,
    /// A quarter of the memory, and one scale for every vector of a head.
    Int8,
}

/// How much is cached, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheOptions {
    /// Bytes at most. Blocks are allocated as they are needed; when no more fit, the texts begun last wait and are
    /// computed again later.
    pub memory: usize,
    /// How keys and values are kept.
    pub format: CacheFormat,
    /// Tokens of a block, a multiple of 16.
    pub block: usize,
}

impl Default for CacheOptions {
    fn default() -> Self {
        Self { memory: 4 << 30, format: CacheFormat::F32, block: 32 }
    }
}

/// The sizes of a cache.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct CacheShape {
    pub(crate) n_layers: usize,
    pub(crate) n_kv_heads: usize,
    pub(crate) head_dim: usize,
    /// Tokens of a block.
    pub(crate) block: usize,
    pub(crate) format: CacheFormat,
}

/// The blocks of one text, in the order of its tokens.
pub(crate) type Table = Vec<usize>;

/// Blocks, who uses them, and what is in them.
pub(crate) struct PagedCache {
    block: usize,
    /// Blocks there may be.
    limit: usize,
    /// Users of each block made so far.
    references: Vec<u32>,
    free: Vec<usize>,
    store: Store,
}

/// Where the numbers are.
enum Store {
    /// For the CPU kernels.
    Cpu(CpuBlocks),
    /// For libtorch's attention, on any device.
    Tensors(TensorBlocks),
}

/// Where the tokens of one pass are.
pub(crate) enum Located {
    Cpu(Addresses),
    Tensors(Places),
}

impl PagedCache {
    /// An empty cache. With `kernels` it is laid out for the CPU kernels, else for libtorch's attention with numbers like
    /// `like`.
    ///
    /// # Errors
    /// When the block size is no multiple of 16, or not one block fits the memory.
    pub(crate) fn new(shape: CacheShape, memory: usize, kernels: bool, like: &Tensor) -> Result<Self> {
        if shape.block == 0 || !shape.block.is_multiple_of(16) {
            let message = format!("a cache block has {} tokens, expected a multiple of 16", shape.block);
            return Err(Error::invalid_config(message));
        }
        let (store, bytes) = if kernels {
            (Store::Cpu(CpuBlocks::new(shape)), CpuBlocks::block_bytes(&shape))
        } else {
            let store = TensorBlocks::new(shape, like.kind(), like.device());
            let bytes = store.block_bytes();
            (Store::Tensors(store), bytes)
        };
        Ok(Self { block: shape.block, limit: memory / bytes.max(1), references: Vec::new(), free: Vec::new(), store })
    }

    /// Checks that a text of `n_tokens` fits an otherwise empty cache of `memory` bytes.
    ///
    /// # Errors
    /// When it does not.
    pub(crate) fn check_fits(&self, n_tokens: usize, memory: usize) -> Result<()> {
        let blocks = n_tokens.div_ceil(self.block);
        if blocks <= self.limit {
            return Ok(());
        }
        let needed = blocks * self.block_bytes();
        Err(Error::invalid_config(format!(
            "a text of {n_tokens} tokens needs {} MiB of cache, the cache may take {} MiB",
            needed.div_ceil(1 << 20),
            memory >> 20
        ))
        .with_hint("allow the cache more memory, keep it as `bf16` or `int8`, or generate fewer tokens"))
    }

    fn block_bytes(&self) -> usize {
        match &self.store {
            Store::Cpu(blocks) => blocks.bytes(),
            Store::Tensors(blocks) => blocks.block_bytes(),
        }
    }

    /// Tokens of a block.
    pub(crate) fn block(&self) -> usize {
        self.block
    }

    /// Blocks that can still be taken.
    pub(crate) fn n_free(&self) -> usize {
        self.limit - (self.references.len() - self.free.len())
    }

    fn take(&mut self) -> usize {
        let block = self.free.pop().unwrap_or_else(|| {
            assert!(self.references.len() < self.limit, "the caller counted the free blocks");
            self.references.push(0);
            let n = self.references.len();
            match &mut self.store {
                Store::Cpu(blocks) => blocks.grow(n),
                Store::Tensors(blocks) => blocks.grow(n),
            }
            n - 1
        });
        self.references[block] = 1;
        block
    }

    /// The blocks of the first `n_tokens` tokens of a text, for one more user.
    pub(crate) fn share(&mut self, table: &[usize], n_tokens: usize) -> Table {
        let shared = table[..n_tokens.div_ceil(self.block)].to_vec();
        for block in &shared {
            self.references[*block] += 1;
        }
        shared
    }

    /// Gives the blocks of a text back.
    pub(crate) fn release(&mut self, table: &mut Table) {
        for block in table.drain(..) {
            self.references[block] -= 1;
            if self.references[block] == 0 {
                self.free.push(block);
            }
        }
    }

    /// Blocks that must be free before tokens `from..to` can be written.
    pub(crate) fn n_needed(&self, table: &[usize], from: usize, to: usize) -> usize {
        let missing = to.div_ceil(self.block).saturating_sub(table.len());
        missing + usize::from(self.shared_block(table, from).is_some())
    }

    /// The place in the table of the block that token `from` goes to, when others use that block too.
    fn shared_block(&self, table: &[usize], from: usize) -> Option<usize> {
        let place = from / self.block;
        table.get(place).is_some_and(|block| self.references[*block] > 1).then_some(place)
    }

    /// Makes room for tokens `from..to` that nobody else sees. As many blocks as [`PagedCache::n_needed`] says must be free.
    pub(crate) fn reserve(&mut self, table: &mut Table, from: usize, to: usize) {
        if let Some(place) = self.shared_block(table, from) {
            let copy = self.take();
            match &mut self.store {
                Store::Cpu(blocks) => blocks.copy(table[place], copy),
                Store::Tensors(blocks) => blocks.copy(table[place], copy),
            }
            self.references[table[place]] -= 1;
            table[place] = copy;
        }
        while table.len() < to.div_ceil(self.block) {
            table.push(self.take());
        }
    }

    /// Where the tokens of a pass are.
    pub(crate) fn locate(&self, plan: &Plan) -> Located {
        match &self.store {
            Store::Cpu(blocks) => Located::Cpu(blocks.addresses(plan)),
            Store::Tensors(blocks) => Located::Tensors(blocks.places(plan)),
        }
    }

    /// Stores the keys and values `[n, kv_heads, d]` of one layer, then attends from the queries `[n, heads, d]` to what
    /// each token's own text holds up to it → `[n, heads · d]`.
    pub(crate) fn attend(
        &mut self,
        at: &Located,
        layer: usize,
        attention: &Attention,
        [queries, keys, values]: [&Tensor; 3],
    ) -> Tensor {
        match (&mut self.store, at) {
            (Store::Cpu(blocks), Located::Cpu(at)) => blocks.attend(at, layer, attention, queries, keys, values),
            (Store::Tensors(blocks), Located::Tensors(at)) => blocks.attend(at, layer, attention, queries, keys, values),
            _ => unreachable!("a pass is located in the cache it runs on"),
        }
    }
}
