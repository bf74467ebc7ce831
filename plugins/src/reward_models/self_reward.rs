//! A language model as its own judge: the expected points it gives an answer under a rubric.
//!
//! Self-rewarding language models (Yuan et al. 2024, <https://arxiv.org/abs/2401.10020>, section 2.2) ask the model to write an
//! argument and a number from 0 to 5, several times, and average the numbers. Here it is asked for the number alone, and the score is
//! the mean under its own distribution over the six numbers, `Σ_k k · P(k)`: what the average tends to, without sampling noise,
//! from one pass. The model sees the answer before it judges, not the other answers.

use std::path::PathBuf;

use farmhand_core::types::{Instruction, Message, Response};
use farmhand_core::{BuildContext, Error, Problem, Result, RewardModel, RewardModelConfig, RunContext, register};
use farmhand_models::{
    BatchLayout, EncodedText, Ending, LanguageModel, PromptFormat, TextCodec, TokenBatch, selected_log_probs_no_grad,
    sequence_sums, tch_device,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Kind;

use crate::training::{MicroBatching, Ranges};

register! {
    kind: RewardModel, name: "self_reward", config: SelfRewardConfig,
    summary: "the points a language model gives an answer under a rubric", paper: "https://arxiv.org/abs/2401.10020",
}

/// What may be asked for; each is one token in common tokenizers.
const POINTS: [&str; 6] = ["0", "1", "2", "3", "4", "5"];

const RUBRIC: &str = "Review the response to the user's question below with an additive scale of 5 points.
Add 1 point if the response is relevant to the question, even if it is incomplete.
Add 1 point if it answers a substantial part of the question.
Add 1 point if it answers the basic elements of the question in a useful way.
Add 1 point if it is clearly written from an assistant's point of view, complete, and well organised.
Add 1 point if it is outstanding: tailored to the question, without anything superfluous, and of expert quality.
Reply with the number of points alone.";

/// Options of `[reward_model.self_reward]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SelfRewardConfig {
    /// The judging model's folder or hub id; by default the policy of the stage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<PathBuf>,
    /// How the question becomes text; by default as the checkpoint says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt: Option<PromptFormat>,
    /// What the model is told before question and answer. It must ask for a number from 0 to 5.
    pub rubric: String,
    /// Tokens per forward pass at most, ≥ 1. By default 1024 on the CPU and 8192 on a GPU. Changes speed and memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_batch_tokens: Option<usize>,
}

impl Default for SelfRewardConfig {
    fn default() -> Self {
        Self { model: None, prompt: None, rubric: RUBRIC.to_owned(), max_batch_tokens: None }
    }
}

#[typetag::serde(name = "self_reward")]
impl RewardModelConfig for SelfRewardConfig {
    fn build(&self, ctx: &BuildContext<'_>) -> Result<Box<dyn RewardModel>> {
        let checkpoint = ctx.policy_checkpoint(self.model.as_deref())?;
        let codec = TextCodec::load(&checkpoint, self.prompt)?;
        let model = LanguageModel::load(checkpoint.path(), tch_device(ctx.device)?)?;
        Ok(Box::new(SelfReward { codec, model, config: self.clone() }))
    }

    fn problems(&self) -> Vec<Problem> {
        Ranges::new()
            .require("rubric", !self.rubric.trim().is_empty(), "a text", "an empty one")
            .at_least_one("max_batch_tokens", self.max_batch_tokens.unwrap_or(1))
            .problems()
    }
}

struct SelfReward {
    codec: TextCodec,
    model: LanguageModel,
    config: SelfRewardConfig,
}

impl SelfReward {
    /// The question with each of the six replies, which share their prompt.
    fn encode(&self, item: &Response<'_>) -> Result<Vec<EncodedText>> {
        let Instruction { id, history, .. } = item.instruction;
        let turn = |message: &Message| format!("{}: {}\n", message.role.name(), message.content);
        let before: String = history.iter().map(turn).collect();
        let (rubric, asked, output) = (&self.config.rubric, item.instruction.text(), item.output);
        let text = format!("{rubric}\n\nQuestion: {before}{asked}\n\nResponse: {output}\n\nPoints:");
        let question = Instruction::new(text, None);
        let texts = POINTS.iter().map(|points| self.codec.encode(&question, points, Ending::Open)).collect::<Result<Vec<_>>>()?;
        let (length, context) = (texts[0].ids.len(), self.model.config().max_positions());
        if length > context {
            let message = format!(
                "the rubric with instruction `{id}` and its answer has {length} tokens, the model's context is {context}"
            );
            return Err(Error::invalid_data(message).with_hint("shorten `rubric`, or use a model with a longer context"));
        }
        if texts.iter().any(|text| text.response().len() != 1 || text.prompt() != texts[0].prompt()) {
            return Err(Error::invalid_config("the numbers 0 to 5 are not one token each for this model")
                .with_hint("judge with a model whose tokenizer keeps digits apart"));
        }
        Ok(texts)
    }
}

impl RewardModel for SelfReward {
    fn score(&mut self, items: &[Response<'_>], ctx: &RunContext<'_>) -> Result<Vec<f64>> {
        let questions = items.iter().map(|item| self.encode(item)).collect::<Result<Vec<_>>>()?;
        let micro = MicroBatching::new(BatchLayout::Packed, self.config.max_batch_tokens, None, self.model.device());
        let all: Vec<usize> = (0..questions.len()).collect();
        let mut scores = vec![0.0; items.len()];
        let mut progress = ctx.progress("judging", Some(items.len() as u64), "answers");
        for rows in micro.groups_of(&all, |i| &questions[i]) {
            ctx.cancel.check()?;
            let texts: Vec<&EncodedText> = rows.iter().flat_map(|&row| &questions[row]).collect();
            let batch = TokenBatch::new(&texts, micro.layout, self.model.device())?;
            let sums = sequence_sums(&selected_log_probs_no_grad(&self.model, &batch).0, &batch);
            let values = Vec::<f64>::try_from(sums.to_kind(Kind::Double).to_device(tch::Device::Cpu))
                .map_err(|error| Error::other(error.to_string()))?;
            for (&row, log_probs) in rows.iter().zip(values.chunks(POINTS.len())) {
                scores[row] = expected_points(log_probs);
            }
            progress.advance(rows.len() as u64);
        }
        Ok(scores)
    }
}

/// `Σ_k k · P(k)` from the log-probabilities of the numbers from 0 on, which need not sum to 1 in probability.
fn expected_points(log_probs: &[f64]) -> f64 {
    let highest = log_probs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = log_probs.iter().map(|log_prob| (log_prob - highest).exp()).collect();
    let points: f64 = weights.iter().zip(0..).map(|(weight, k)| weight * f64::from(k)).sum();
    points / weights.iter().sum::<f64>()
}

#[cfg(test)]
mod tests {
    use farmhand_core::{Device, NoEvents};

    use super::*;
    use crate::testing::{Stage, instructions, tiny_checkpoint};

    #[test]
    fn points_are_the_mean_over_the_models_own_distribution() {
        let certain = [-800.0, -800.0, -800.0, -800.0, -1.0, -800.0];
        assert!((expected_points(&certain) - 4.0).abs() < 1e-12);
        assert!((expected_points(&[-3.0; 6]) - 2.5).abs() < 1e-12);
        // A quarter on 1, the rest on 5.
        let mixed = [-900.0, 0.25_f64.ln(), -900.0, -900.0, -900.0, 0.75_f64.ln()];
        assert!((expected_points(&mixed) - 4.0).abs() < 1e-12);
    }

    #[test]
    fn a_score_lies_on_the_scale_and_does_not_depend_on_the_batch() {
        let stage = Stage::new();
        let ctx = stage.context(&NoEvents);
        let checkpoint = tiny_checkpoint(&stage);
        let build = BuildContext { policy: Some(&checkpoint), ..BuildContext::new(Device::Cpu, stage.path()) };
        let config =
            SelfRewardConfig { rubric: "0 to 5?".to_owned(), max_batch_tokens: Some(200), ..SelfRewardConfig::default() };
        let asked = instructions(4);
        let items: Vec<Response<'_>> = asked
            .iter()
            .zip(["yes", "", "one two three", "no"])
            .map(|(instruction, output)| Response { instruction, output })
            .collect();
        let mut model = config.build(&build).expect("built");
        let scores = model.score(&items, &ctx).expect("scored");
        assert!(scores.iter().all(|score| (0.0..=5.0).contains(score)), "{scores:?}");
        assert!((model.score(&items[2..3], &ctx).expect("scored")[0] - scores[2]).abs() < 1e-5);
        let mut long = SelfRewardConfig::default().build(&build).expect("built");
        assert!(long.score(&items[..1], &ctx).expect_err("no room").message().contains("the model's context is 96"));
    }
}
