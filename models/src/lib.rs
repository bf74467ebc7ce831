//! Language models on libtorch: architectures, tokenizers, generation, log-probabilities, optimiser, checkpoints.
//!
//! A Hugging Face folder comes in ([`LanguageModel::load`]), a Hugging Face folder goes out. In between there is
//! one primitive for losses, [`selected_log_probs`], and one for sampling, [`generate`]. Tensors are `f32` on the
//! CPU; token batches are padded on the right and masked by their recorded lengths, never by token id.
//!
//! Letters in shapes: `b` rows of a batch, `t` tokens of the longest row, `d` hidden size, `v` vocabulary size,
//! `n` response tokens of the whole batch.

mod adamw;
mod batch;
mod bpe_training;
mod chat_template;
mod data_order;
mod device;
mod encoding;
mod gradient;
mod prompt;
mod schedule;
mod tensor_file;
mod tokenizer;
mod train_state;

pub use adamw::{AdamW, OptimConfig, StepReport};
pub use batch::{TokenBatch, micro_batches};
pub use bpe_training::{TRAINED_SPECIALS, train_bpe};
pub use chat_template::{ChatTemplate, TEMPLATE_DATE};
pub use data_order::{StepPlan, epoch_order};
pub use device::tch_device;
pub use encoding::{EncodedText, Ending, TextCodec};
pub use gradient::{clip_gradients, gradient_norm, zero_gradients};
pub use prompt::{PromptFormat, alpaca_prompt, chat_messages, plain_prompt};
pub use schedule::Schedule;
pub use tensor_file::{read_tensors_into, write_tensors};
pub use tokenizer::Tokenizer;
pub use train_state::{load_train_state, save_train_state};
