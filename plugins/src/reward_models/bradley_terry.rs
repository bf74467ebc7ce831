//! A trained reward model: a scalar head on a language model's body, read at the last token.
//!
//! `reward_modeling` makes it. The reward is read by recorded length, so padding and the rest of the batch do not matter.

use std::path::PathBuf;

use farmhand_core::types::Response;
use farmhand_core::{BuildContext, Checkpoint, Problem, Result, RewardModel, RewardModelConfig, RunContext, register};
use farmhand_models::{BatchLayout, PromptFormat, ScalarModel, TextCodec, tch_device};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::reading_rule::ReadingRule;
use super::scoring::score_in_batches;
use crate::training::{MicroBatching, Ranges};

register! {
    kind: RewardModel, name: "bradley_terry", config: BradleyTerryConfig,
    summary: "a reward model trained on preference pairs", paper: "https://arxiv.org/abs/2203.02155",
}

/// Options of `[reward_model.bradley_terry]`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BradleyTerryConfig {
    /// The model's folder or hub id; by default the reward model of the stage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<PathBuf>,
    /// How instructions become text; by default as the checkpoint says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt: Option<PromptFormat>,
    /// Answers scored together at most, ≥ 1; by default as many as `max_batch_tokens` allows. Changes speed and memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_batch: Option<usize>,
    /// Tokens per forward pass at most, ≥ 1; a prompt with several answers counts once. By default 1024 on the CPU and 8192 on
    /// a GPU. Changes speed and memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_batch_tokens: Option<usize>,
}

#[typetag::serde(name = "bradley_terry")]
impl RewardModelConfig for BradleyTerryConfig {
    fn build(&self, ctx: &BuildContext<'_>) -> Result<Box<dyn RewardModel>> {
        let checkpoint = ctx.reward_checkpoint(self.model.as_deref())?;
        let codec = TextCodec::load(&checkpoint, self.prompt)?;
        let model = ScalarModel::load(checkpoint.path(), tch_device(ctx.device)?)?;
        let rule = ReadingRule::load(checkpoint.path())?;
        Ok(Box::new(BradleyTerry { checkpoint, codec, model, rule, config: self.clone() }))
    }

    fn problems(&self) -> Vec<Problem> {
        Ranges::new()
            .at_least_one("max_batch", self.max_batch.unwrap_or(1))
            .at_least_one("max_batch_tokens", self.max_batch_tokens.unwrap_or(1))
            .problems()
    }
}

struct BradleyTerry {
    checkpoint: Checkpoint,
    codec: TextCodec,
    model: ScalarModel,
    rule: ReadingRule,
    config: BradleyTerryConfig,
}

impl RewardModel for BradleyTerry {
    fn score(&mut self, items: &[Response<'_>], ctx: &RunContext<'_>) -> Result<Vec<f64>> {
        let encode = |item: &Response<'_>| self.codec.encode(item.instruction, item.output, self.rule.ending());
        let texts = items.iter().map(encode).collect::<Result<Vec<_>>>()?;
        let BradleyTerryConfig { max_batch, max_batch_tokens, .. } = self.config;
        let micro = MicroBatching::new(BatchLayout::Packed, max_batch_tokens, max_batch, self.model.body.device());
        score_in_batches(items, &texts, &self.model.body, micro, ctx, |batch| self.model.last_token_scores(batch))
    }

    fn checkpoint(&self) -> Option<&Checkpoint> {
        Some(&self.checkpoint)
    }
}
