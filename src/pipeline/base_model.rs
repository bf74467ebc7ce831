//! A model from nothing: a tokenizer trained on the demonstrations and a small Llama with random weights.

use std::path::Path;

use farmhand_core::config::ScratchModel;
use farmhand_core::data::{ReadOptions, read_demonstrations};
use farmhand_core::{Result, RunContext};
use farmhand_models::{
    LanguageModel, LlamaOptions, ModelConfig, PromptFormat, TextCodec, save_checkpoint, tch_device, train_bpe,
};

/// Makes the model and writes it as the stage's checkpoint.
///
/// # Errors
/// When the sizes do not fit together, or the disk refuses.
pub(super) fn make(sizes: &ScratchModel, demonstrations: &Path, ctx: &RunContext<'_>) -> Result<()> {
    let format: PromptFormat = PromptFormat::from_name(&sizes.prompt)?;
    let (demonstrations, _) = read_demonstrations(demonstrations, &ReadOptions::default())?;
    let texts = demonstrations.iter().map(|shown| format!("{}\n{}", shown.instruction.text(), shown.output));
    let tokenizer = train_bpe(texts, sizes.vocab_size)?;
    let codec = TextCodec::new(tokenizer, format)?;
    let config = ModelConfig::tiny_llama(LlamaOptions {
        vocab_size: codec.tokenizer.vocab_size(),
        bos_token_id: codec.tokenizer.bos_id(),
        eos_token_id: Some(codec.tokenizer.eos_id()),
        pad_token_id: Some(codec.tokenizer.pad_id()),
        ..llama_options(sizes)
    });
    ctx.events.info(&format!(
        "  {:.2} M parameters, {} tokens in the vocabulary",
        config.n_parameters() as f64 / 1e6,
        config.vocab_size()
    ));
    let model = LanguageModel::random(config, ctx.seed.child("weights", 0), tch_device(ctx.device)?)?;
    save_checkpoint(&model, &codec, "scratch", ctx).map(|_| ())
}

/// The model of these sizes, before there is a tokenizer.
pub(super) fn llama_options(sizes: &ScratchModel) -> LlamaOptions {
    LlamaOptions {
        vocab_size: sizes.vocab_size,
        hidden_size: sizes.hidden_size,
        intermediate_size: sizes.intermediate_size,
        n_layers: sizes.n_layers,
        n_heads: sizes.n_heads,
        n_kv_heads: sizes.n_kv_heads,
        max_positions: sizes.max_positions,
        ..LlamaOptions::default()
    }
}
