//! Language models on libtorch: architectures, tokenizers, generation, log-probabilities, optimiser, checkpoints.
//!
//! A Hugging Face folder comes in ([`LanguageModel::load`]), a Hugging Face folder goes out. In between there is
//! one primitive for losses, [`selected_log_probs`], and one for sampling, [`generate`]. Tensors are `f32` on the
//! CPU; token batches are padded on the right and masked by their recorded lengths, never by token id.
//!
//! Letters in shapes: `b` rows of a batch, `t` tokens of the longest row, `d` hidden size, `v` vocabulary size,
//! `n` response tokens of the whole batch.

mod device;

pub use device::tch_device;
