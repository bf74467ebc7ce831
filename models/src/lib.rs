//! Language models on libtorch: architectures, tokenizers, generation, log-probabilities, optimiser, checkpoints.
//!
//! A Hugging Face folder comes in ([`LanguageModel::load`]), a Hugging Face folder goes out. In between there is
//! one primitive for losses, [`selected_log_probs`], and one for sampling, [`generate`]. Tensors are `f32` on the
//! CPU; token batches are padded on the right and masked by their recorded lengths, never by token id.
//!
//! Letters in shapes: `b` rows of a batch, `t` tokens of the longest row, `d` hidden size, `v` vocabulary size,
//! `n` response tokens of the whole batch.

mod adamw;
mod adapter_folder;
mod architecture;
mod batch;
mod bpe_training;
mod cached_pass;
mod ceilings;
mod chat_template;
mod checkpoint_folder;
mod config;
mod config_json;
mod continuous_batch;
mod data_order;
mod device;
mod dropout;
mod encoding;
mod flops;
mod forward_pass;
mod freeze;
mod gemma;
mod generate;
mod gpt2;
mod gpt_neox;
mod gradient;
mod heads;
mod language_model;
mod layer_windows;
mod layers;
mod layout;
mod llama;
mod log_probs;
mod lora;
mod low_rank;
mod memory_estimate;
mod memory_use;
mod merge_adapter;
mod micro_batch;
mod model_folders;
pub mod native;
mod numerics;
mod optim_config;
mod out_of_memory;
mod paged_cache;
mod precision;
mod prompt;
mod recompute;
mod recovered_folder;
mod restore_tensors;
mod rope_scaling;
mod rotary;
mod safetensors_file;
mod sampling;
mod schedule;
mod sharded_weights;
mod stored_tensors;
mod template_functions;
mod tensor_blocks;
mod threads;
mod tokenizer;
mod torch_file;
mod torch_pickle;
mod train_state;
mod weight_difference;
mod weights;
mod work;

pub use adamw::{AdamW, StepReport};
pub use architecture::ModelShape;
pub use batch::{BatchLayout, TokenBatch};
pub use bpe_training::{TRAINED_SPECIALS, train_bpe};
pub use ceilings::{Ceilings, ceilings, measure as measure_ceilings};
pub use chat_template::ChatTemplate;
pub use checkpoint_folder::{save_checkpoint, save_scalar_checkpoint, write_checkpoint, write_scalar_checkpoint};
pub use config::{LlamaOptions, ModelConfig};
pub use data_order::{StepPlan, epoch_order};
pub use device::tch_device;
pub use encoding::{EncodedText, Ending, TextCodec};
pub use flops::{ModelFlops, PassFlops};
pub use freeze::FreezeConfig;
pub use generate::{GenerateOptions, Generated, GenerationRequest, Mixture, generate, generate_from_mixture, text_before_stop};
pub use gradient::{clip_factor, clip_gradients, gradient_norm, zero_gradients};
pub use heads::{ScalarHead, ScalarModel};
pub use language_model::LanguageModel;
pub use log_probs::{
    SelectedLogProbs, selected_log_probs, selected_log_probs_at, selected_log_probs_no_grad, selected_log_probs_no_grad_at,
    sequence_sums,
};
pub use lora::{Adapter, AdapterOutput, LoraConfig};
pub use memory_estimate::{Activity, HeldModel, MemoryEstimate, PassSize, Storage, estimate_memory, tokens_that_fit};
pub use memory_use::{MachineMemory, machine_memory, memory_in_use, peak_memory, reset_peak_memory};
pub use merge_adapter::merge_adapter;
pub use micro_batch::{computed_tokens, default_pass_tokens, micro_batches};
pub use numerics::{engine_numerics, model_content_hash};
pub use optim_config::OptimConfig;
pub use out_of_memory::{catch_out_of_memory, silence_out_of_memory_panics};
pub use paged_cache::{CacheFormat, CacheOptions};
pub use precision::Precision;
pub use prompt::{PromptFormat, alpaca_prompt, chat_messages, plain_prompt};
pub use restore_tensors::restore_tensors;
pub use safetensors_file::{SafetensorsFile, write_safetensors};
pub use schedule::Schedule;
pub use stored_tensors::{StoredWeights, stored_weights};
pub use template_functions::TEMPLATE_DATE;
pub use threads::configure_threads;
pub use tokenizer::Tokenizer;
pub use train_state::{load_train_state, save_train_state};
pub use weight_difference::{Recovered, Recovery, SumCheck, WeightType, recover};
pub use work::{Work, backward, tensor_work, work_so_far};
