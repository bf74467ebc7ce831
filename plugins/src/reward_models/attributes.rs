//! A weighted sum of predicted attributes: helpfulness, correctness, verbosity and what else answers were rated on.
//!
//! `Σ_a w_a · prediction_a`, from the heads that `attribute_regression` trains (SteerLM, Dong et al. 2023; HelpSteer2, Wang et
//! al. 2024, <https://arxiv.org/abs/2406.08673>, whose reward models are read with such sums).

use std::collections::BTreeMap;
use std::path::PathBuf;

use farmhand_core::types::Response;
use farmhand_core::{BuildContext, Checkpoint, Error, Problem, Result, RewardModel, RewardModelConfig, RunContext, register};
use farmhand_models::{BatchLayout, LanguageModel, PromptFormat, ScalarModel, TextCodec, tch_device};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::attribute_heads::AttributeHeads;
use super::reading_rule::ReadingRule;
use super::scoring::score_in_batches;
use crate::training::{MicroBatching, Ranges};

register! {
    kind: RewardModel, name: "attributes", config: AttributesConfig,
    summary: "a weighted sum of attributes that a model predicts for an answer", paper: "https://arxiv.org/abs/2310.05344",
}

/// Options of `[reward_model.attributes]`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AttributesConfig {
    /// The model's folder; by default the reward model of the stage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<PathBuf>,
    /// How instructions become text; by default as the checkpoint says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt: Option<PromptFormat>,
    /// What each attribute weighs, by its name; a negative weight counts against the answer. Attributes that are not named weigh
    /// nothing. When it is empty, the score is the mean of all attributes.
    pub weights: BTreeMap<String, f64>,
    /// Answers scored together at most, ≥ 1; by default as many as `max_batch_tokens` allows. Changes speed and memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_batch: Option<usize>,
    /// Tokens per forward pass at most, ≥ 1; a prompt with several answers counts once. By default 1024 on the CPU and 8192 on
    /// a GPU. Changes speed and memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_batch_tokens: Option<usize>,
}

#[typetag::serde(name = "attributes")]
impl RewardModelConfig for AttributesConfig {
    fn build(&self, ctx: &BuildContext<'_>) -> Result<Box<dyn RewardModel>> {
        let checkpoint = ctx.reward_checkpoint(self.model.as_deref())?;
        let codec = TextCodec::load(&checkpoint, self.prompt)?;
        let device = tch_device(ctx.device)?;
        let ScalarModel { body, .. } = ScalarModel::load(checkpoint.path(), device)?;
        let heads = AttributeHeads::load(checkpoint.path(), body.config().hidden_size(), device)?;
        let weights = weights_of(&self.weights, heads.names())?;
        let rule = ReadingRule::load(checkpoint.path())?;
        Ok(Box::new(Attributes { checkpoint, codec, body, heads, weights, rule, config: self.clone() }))
    }

    fn problems(&self) -> Vec<Problem> {
        let mut ranges = Ranges::new()
            .at_least_one("max_batch", self.max_batch.unwrap_or(1))
            .at_least_one("max_batch_tokens", self.max_batch_tokens.unwrap_or(1));
        for (name, weight) in &self.weights {
            ranges = ranges.require(&format!("weights.{name}"), weight.is_finite(), "a number", weight);
        }
        let some = self.weights.is_empty() || self.weights.values().any(|weight| *weight != 0.0);
        ranges.require("weights", some, "a weight other than 0", "none").problems()
    }
}

/// The weights in the order of the heads.
fn weights_of(by_name: &BTreeMap<String, f64>, names: &[String]) -> Result<Vec<f64>> {
    if by_name.is_empty() {
        return Ok(vec![1.0 / names.len() as f64; names.len()]);
    }
    if let Some(unknown) = by_name.keys().find(|name| !names.contains(name)) {
        let known = names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        return Err(Error::invalid_config(format!("`weights.{unknown}`: the model does not predict `{unknown}`"))
            .with_hint(format!("it predicts {known}")));
    }
    Ok(names.iter().map(|name| by_name.get(name).copied().unwrap_or(0.0)).collect())
}

struct Attributes {
    checkpoint: Checkpoint,
    codec: TextCodec,
    body: LanguageModel,
    heads: AttributeHeads,
    /// One a head.
    weights: Vec<f64>,
    rule: ReadingRule,
    config: AttributesConfig,
}

impl RewardModel for Attributes {
    fn score(&mut self, items: &[Response<'_>], ctx: &RunContext<'_>) -> Result<Vec<f64>> {
        let encode = |item: &Response<'_>| self.codec.encode(item.instruction, item.output, self.rule.ending());
        let texts = items.iter().map(encode).collect::<Result<Vec<_>>>()?;
        let AttributesConfig { max_batch, max_batch_tokens, .. } = self.config;
        let micro = MicroBatching::new(BatchLayout::Packed, max_batch_tokens, max_batch, self.body.device());
        score_in_batches(items, &texts, &self.body, micro, ctx, |batch| {
            let predictions = self.heads.predict(&self.body, batch);
            predictions.matmul(&Tensor::from_slice(&self.weights).to_kind(predictions.kind()).to_device(predictions.device()))
        })
    }

    fn checkpoint(&self) -> Option<&Checkpoint> {
        Some(&self.checkpoint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_follow_the_heads_and_unknown_ones_are_named() {
        let names = ["helpfulness", "verbosity"].map(str::to_owned);
        assert_eq!(weights_of(&BTreeMap::new(), &names).expect("the mean"), [0.5, 0.5]);
        let one = BTreeMap::from([("verbosity".to_owned(), -2.0)]);
        assert_eq!(weights_of(&one, &names).expect("known"), [0.0, -2.0]);
        let error = weights_of(&BTreeMap::from([("humour".to_owned(), 1.0)]), &names).expect_err("unknown");
        assert!(error.message().contains("weights.humour") && error.hint().is_some_and(|hint| hint.contains("`helpfulness`")));
        let zeros = AttributesConfig { weights: BTreeMap::from([("verbosity".to_owned(), 0.0)]), ..AttributesConfig::default() };
        assert_eq!(zeros.problems()[0].path, "weights");
    }
}
