//! Options that learners share. A learner's own options take them in with `#[serde(flatten)]`, so that a user sees one table,
//! and gives them defaults of its own.

use farmhand_core::{Checkpoint, Result, RunContext};
use farmhand_models::{
    BatchLayout, FreezeConfig, LanguageModel, LoraConfig, OptimConfig, Precision, PromptFormat, TextCodec, tch_device,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::micro_batching::MicroBatching;
use super::options::Ranges;
use super::records::TokenLimit;

/// How texts pass through the model, and which part of it is trained.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct PassOptions {
    /// How instructions become text; by default as the checkpoint says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt: Option<PromptFormat>,
    /// Records per forward pass at most, ≥ 1; by default as many as `micro_batch_tokens` allows. Changes speed and memory, not
    /// the result.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub micro_batch_size: Option<usize>,
    /// Tokens per forward pass at most, ≥ 1: padding counts, an equal prompt counts once. By default 1024 on the CPU and 8192
    /// on a GPU. Changes speed and memory, not the result.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub micro_batch_tokens: Option<usize>,
    /// How texts lie in a forward pass. Changes speed and memory, not the result.
    pub layout: BatchLayout,
    /// Gradient checkpointing: of every so many blocks only the input is kept for the backward pass, which computes the rest
    /// again; 0 keeps everything. Less memory for more time; changes neither the loss nor the gradients.
    pub checkpoint_every: usize,
    /// The number type of activations in training and scoring; weights, optimiser and generation stay in 32 bits.
    pub precision: Precision,
    /// Train low-rank changes to the linear layers (LoRA) and, where there is one, the head, and no other weights; by default
    /// the weights are trained.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora: Option<LoraConfig>,
    /// Weights that stay as they are; not together with `lora`.
    #[serde(skip_serializing_if = "FreezeConfig::is_empty")]
    pub freeze: FreezeConfig,
}

impl PassOptions {
    /// Loads a policy with its tokenizer and prompt format, not yet ready to train.
    ///
    /// # Errors
    /// When a file is missing or broken, or the device is not there.
    pub fn load(&self, init: &Checkpoint, ctx: &RunContext<'_>) -> Result<(TextCodec, LanguageModel)> {
        let codec = TextCodec::load(init, self.prompt)?;
        let policy = LanguageModel::load(init.path(), tch_device(ctx.device)?)?;
        policy.set_precision(self.precision);
        Ok((codec, policy))
    }

    /// How the records of an optimiser step are split over forward passes.
    pub fn micro_batching(&self, device: tch::Device) -> MicroBatching {
        MicroBatching::new(self.layout, self.micro_batch_tokens, self.micro_batch_size, device)
    }
}

/// The order in which a learner takes its records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RecordOrder {
    /// Another shuffle in every pass, by the seed.
    #[default]
    Shuffled,
    /// As they are given: easy ones first, say.
    Given,
}

/// How a learner goes over its records.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct TrainOptions {
    /// Passes over the records, ≥ 1.
    pub epochs: u32,
    /// Records per optimiser step, ≥ 1.
    pub batch_size: usize,
    /// Tokens per optimiser step instead of `batch_size` records, ≥ 1: a step takes records until the next one would exceed it.
    /// Prompts count, a prompt that several texts of a record share counts once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch_tokens: Option<usize>,
    /// The order in which records are taken.
    pub order: RecordOrder,
    /// Longest prompt and answer together, in tokens; records with a longer text are left out and counted. Never more than the
    /// model's context.
    pub max_tokens: usize,
    /// Steps between saved states, ≥ 1.
    pub save_every: u64,
    /// Steps between evaluations on held-out records, where there are any, ≥ 1; the last step always evaluates.
    pub validate_every: u64,
    /// Passes through the model.
    #[serde(flatten)]
    pub passes: PassOptions,
    /// The optimiser.
    pub optim: OptimConfig,
}

impl Default for TrainOptions {
    fn default() -> Self {
        Self {
            epochs: 1,
            batch_size: 32,
            batch_tokens: None,
            order: RecordOrder::Shuffled,
            max_tokens: 512,
            save_every: 50,
            validate_every: 50,
            passes: PassOptions::default(),
            optim: OptimConfig { lr: 1e-5, ..OptimConfig::default() },
        }
    }
}

impl TrainOptions {
    /// The longest text a learner with these options takes, for a model with a context of `context` tokens.
    pub fn token_limit(&self, context: usize) -> TokenLimit {
        TokenLimit { option: "max_tokens", max_tokens: self.max_tokens, context }
    }
}

impl Ranges {
    /// The options of [`PassOptions`].
    #[must_use]
    pub fn passes(self, options: &PassOptions) -> Self {
        self.at_least_one("micro_batch_size", options.micro_batch_size.unwrap_or(1))
            .at_least_one("micro_batch_tokens", options.micro_batch_tokens.unwrap_or(1))
            .trained_part(options.lora.as_ref(), &options.freeze)
    }

    /// The options of [`TrainOptions`]; `default_batch` is the learner's default `batch_size`.
    #[must_use]
    pub fn train(self, options: &TrainOptions, default_batch: usize) -> Self {
        self.at_least_one("epochs", options.epochs as usize)
            .batch(options.batch_size, default_batch, options.batch_tokens)
            .at_least_one("max_tokens", options.max_tokens)
            .at_least_one("save_every", options.save_every as usize)
            .at_least_one("validate_every", options.validate_every as usize)
            .passes(&options.passes)
            .nested("optim", options.optim.problems())
    }
}
