//! Scores an answer by how likely a language model finds it: log π(answer | instruction), per token or in all.
//!
//! The judging language model of the simulated annotator pool; with a strong model it prefers fluent answers to the point.

use std::path::PathBuf;

use farmhand_core::types::Response;
use farmhand_core::{BuildContext, Problem, Result, RewardModel, RewardModelConfig, RunContext, register};
use farmhand_models::{
    BatchLayout, Ending, LanguageModel, PromptFormat, TextCodec, TokenBatch, selected_log_probs_no_grad, sequence_sums,
    tch_device,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::scoring::score_in_batches;
use crate::rl::pairwise::LengthScale;
use crate::training::{MicroBatching, Ranges};

register! {
    kind: RewardModel, name: "likelihood", config: LikelihoodConfig,
    summary: "a language model's log-probability of the answer given the instruction",
}

/// Options of `[reward_model.likelihood]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LikelihoodConfig {
    /// The judging model's folder or hub id; by default the policy of the stage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<PathBuf>,
    /// How instructions become text; by default as the checkpoint says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt: Option<PromptFormat>,
    /// The mean per token, or the sum, which prefers short answers. In nats.
    pub per: LengthScale,
    /// Whether the end-of-sequence token after the answer counts. An empty answer is always scored by that token alone.
    pub with_eos: bool,
    /// Answers scored together at most, ≥ 1; by default as many as `max_batch_tokens` allows. Changes speed and memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_batch: Option<usize>,
    /// Tokens per forward pass at most, ≥ 1; a prompt with several answers counts once. By default 1024 on the CPU and 8192 on
    /// a GPU. Changes speed and memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_batch_tokens: Option<usize>,
}

impl Default for LikelihoodConfig {
    fn default() -> Self {
        Self { model: None, prompt: None, per: LengthScale::Mean, with_eos: true, max_batch: None, max_batch_tokens: None }
    }
}

#[typetag::serde(name = "likelihood")]
impl RewardModelConfig for LikelihoodConfig {
    fn build(&self, ctx: &BuildContext<'_>) -> Result<Box<dyn RewardModel>> {
        let checkpoint = ctx.policy_checkpoint(self.model.as_deref())?;
        let codec = TextCodec::load(&checkpoint, self.prompt)?;
        let model = LanguageModel::load(checkpoint.path(), tch_device(ctx.device)?)?;
        Ok(Box::new(Likelihood { codec, model, config: self.clone() }))
    }

    fn problems(&self) -> Vec<Problem> {
        Ranges::new()
            .at_least_one("max_batch", self.max_batch.unwrap_or(1))
            .at_least_one("max_batch_tokens", self.max_batch_tokens.unwrap_or(1))
            .problems()
    }
}

struct Likelihood {
    codec: TextCodec,
    model: LanguageModel,
    config: LikelihoodConfig,
}

impl RewardModel for Likelihood {
    fn score(&mut self, items: &[Response<'_>], ctx: &RunContext<'_>) -> Result<Vec<f64>> {
        let encode = |item: &Response<'_>| {
            let ending = if self.config.with_eos || item.output.is_empty() { Ending::WithEos } else { Ending::Open };
            self.codec.encode(item.instruction, item.output, ending)
        };
        let texts = items.iter().map(encode).collect::<Result<Vec<_>>>()?;
        let score = |batch: &TokenBatch| {
            let sums = sequence_sums(&selected_log_probs_no_grad(&self.model, batch).0, batch);
            match self.config.per {
                LengthScale::Sum => sums,
                LengthScale::Mean => {
                    let lengths: Vec<f32> = batch.response_lengths().into_iter().map(|length| length.max(1) as f32).collect();
                    &sums / Tensor::from_slice(&lengths).to_device(sums.device())
                }
            }
        };
        let LikelihoodConfig { max_batch, max_batch_tokens, .. } = self.config;
        let micro = MicroBatching::new(BatchLayout::Packed, max_batch_tokens, max_batch, self.model.device());
        score_in_batches(items, &texts, &self.model, micro, ctx, score)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use farmhand_core::types::Instruction;
    use farmhand_core::{Device, ErrorKind, NoEvents};
    use tch::Kind;

    use super::*;
    use crate::testing::{Stage, instructions, tiny_checkpoint};

    fn scores(config: &LikelihoodConfig, stage: &Stage, items: &[(Instruction, &str)]) -> Result<Vec<f64>> {
        let checkpoint = tiny_checkpoint(stage);
        let mut build = BuildContext::new(Device::Cpu, Path::new("."));
        build.policy = Some(&checkpoint);
        let items: Vec<_> = items.iter().map(|(instruction, output)| Response { instruction, output }).collect();
        config.build(&build)?.score(&items, &stage.context(&NoEvents))
    }

    #[test]
    fn the_score_is_the_log_probability_of_the_answer_by_hand() {
        let stage = Stage::new();
        let instruction = instructions(1).remove(0);
        let checkpoint = tiny_checkpoint(&stage);
        let codec = TextCodec::load(&checkpoint, None).expect("a codec");
        let model = LanguageModel::load(checkpoint.path(), tch::Device::Cpu).expect("loaded");
        // All logits of the whole text at once, the response's picked one by one.
        let text = codec.encode(&instruction, "no, the cat", Ending::WithEos).expect("encoded");
        let log_probs = model.logits(&model.hidden_of(&text.ids)).log_softmax(-1, Kind::Double);
        let token = |t: usize| log_probs.double_value(&[t as i64 - 1, i64::from(text.ids[t])]);
        let expected: f64 = (text.response_start..text.ids.len()).map(token).sum();
        let n = text.response().len() as f64;

        let item = [(instruction, "no, the cat")];
        let sum = LikelihoodConfig { per: LengthScale::Sum, ..LikelihoodConfig::default() };
        assert!((scores(&sum, &stage, &item).expect("scored")[0] - expected).abs() < 1e-4);
        assert!((scores(&LikelihoodConfig::default(), &stage, &item).expect("scored")[0] - expected / n).abs() < 1e-5);
    }

    #[test]
    fn a_score_does_not_depend_on_the_batch_and_an_empty_answer_has_one() {
        let stage = Stage::new();
        let outputs = ["yes", "", "one two three four five six", "no"];
        let items: Vec<_> = instructions(4).into_iter().zip(outputs).collect();
        let open = LikelihoodConfig { with_eos: false, ..LikelihoodConfig::default() };
        let together = scores(&open, &stage, &items).expect("scored");
        let apart = scores(&LikelihoodConfig { max_batch: Some(1), ..open }, &stage, &items).expect("scored");
        assert!(together.iter().zip(&apart).all(|(a, b)| (a - b).abs() < 1e-5), "{together:?} {apart:?}");
        assert!(together.iter().all(|score| *score < 0.0));
    }

    #[test]
    fn a_text_beyond_the_context_is_an_error_with_both_numbers() {
        let stage = Stage::new();
        let long = "one two three four five six ".repeat(40);
        let items = [(instructions(1).remove(0), long.as_str())];
        let error = scores(&LikelihoodConfig::default(), &stage, &items).expect_err("too long");
        assert_eq!(error.kind(), ErrorKind::InvalidData);
        assert!(error.message().contains(&items[0].0.id) && error.message().contains("context is 96"), "{error}");
    }
}
