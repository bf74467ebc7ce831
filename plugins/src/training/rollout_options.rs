//! Options of learners that sample responses of their own, and the prompts that fit them.

use farmhand_core::types::{Instruction, SamplingParams};
use farmhand_core::{Error, Result, RunContext};
use farmhand_models::{EncodedText, TextCodec};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::learner_options::PassOptions;
use super::options::Ranges;
use super::records::{Record, TokenLimit, admit};
use crate::rl::reward_shaping::MissingEnd;

/// How a learner samples responses of its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct RolloutOptions {
    /// Rounds of sampling and updating, ≥ 1.
    pub steps: u64,
    /// Prompts a round, ≥ 1; they come in shuffled passes over all instructions.
    pub prompts_per_step: usize,
    /// Responses to each prompt, ≥ 1: a group.
    pub samples_per_prompt: usize,
    /// Longest prompt, in tokens; instructions with a longer one are left out and counted.
    pub max_prompt_tokens: usize,
    /// Longest response, in tokens, ≥ 1.
    pub max_new_tokens: u32,
    /// Softmax temperature of sampling and of every log-probability, > 0.
    pub temperature: f64,
    /// Sample only from the smallest set of tokens whose probability reaches this value, in (0, 1]; 1 keeps all.
    /// Log-probabilities are those of the whole distribution, so that below 1 the samples are not quite the policy's own.
    pub top_p: f64,
    /// Sample only from the k most likely tokens; 0 keeps all. What is said of `top_p` holds here too.
    pub top_k: u32,
    /// What happens to the score of a response cut off before its end-of-sequence token.
    pub missing_end: MissingEnd,
    /// Responses generated together at most, ≥ 1. Changes speed and memory.
    pub generation_batch: usize,
    /// Rounds between saved states, ≥ 1.
    pub save_every: u64,
}

impl Default for RolloutOptions {
    fn default() -> Self {
        Self {
            steps: 100,
            prompts_per_step: 16,
            samples_per_prompt: 4,
            max_prompt_tokens: 192,
            max_new_tokens: 300,
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
            missing_end: MissingEnd::Keep,
            generation_batch: 64,
            save_every: 5,
        }
    }
}

impl RolloutOptions {
    /// Responses of a round.
    pub fn n_responses(&self) -> usize {
        self.prompts_per_step * self.samples_per_prompt
    }

    /// Optimiser steps of all rounds, where each takes `batch_size` of a round's responses and a round is passed over
    /// `inner_epochs` times.
    pub fn n_optimiser_steps(&self, batch_size: usize, inner_epochs: u32) -> u64 {
        self.steps * u64::from(inner_epochs) * self.n_responses().div_ceil(batch_size.max(1)) as u64
    }

    /// How a response is drawn.
    pub(super) fn sampling(&self) -> SamplingParams {
        SamplingParams {
            temperature: self.temperature,
            top_p: self.top_p,
            top_k: self.top_k,
            max_new_tokens: self.max_new_tokens,
            ..SamplingParams::default()
        }
    }
}

impl Ranges {
    /// The options of [`RolloutOptions`], and those of [`PassOptions`] of a learner that samples its own responses.
    #[must_use]
    pub fn rollouts(self, options: &RolloutOptions, passes: &PassOptions) -> Self {
        self.at_least_one("steps", options.steps as usize)
            .at_least_one("prompts_per_step", options.prompts_per_step)
            .at_least_one("samples_per_prompt", options.samples_per_prompt)
            .at_least_one("max_prompt_tokens", options.max_prompt_tokens)
            .at_least_one("max_new_tokens", options.max_new_tokens as usize)
            .positive("temperature", options.temperature)
            .require("top_p", options.top_p > 0.0 && options.top_p <= 1.0, "a number in (0, 1]", options.top_p)
            .at_least_one("generation_batch", options.generation_batch)
            .at_least_one("save_every", options.save_every as usize)
            .sampled_passes(passes)
    }

    /// The options of [`PassOptions`] of a learner that samples its own responses.
    #[must_use]
    pub fn sampled_passes(self, passes: &PassOptions) -> Self {
        let dropout = passes.lora.as_ref().map_or(0.0, |lora| lora.dropout);
        self.passes(passes).require("lora.dropout", dropout == 0.0, "0, for responses are sampled without dropout", dropout)
    }
}

/// The prompts of the instructions that leave room for a whole response in a context of `context` tokens.
///
/// # Errors
/// When a response leaves no room for a prompt, no instruction fits, or one cannot be encoded.
pub fn fitting_prompts(
    instructions: &[Instruction],
    context: usize,
    codec: &TextCodec,
    options: &RolloutOptions,
    ctx: &RunContext<'_>,
) -> Result<Vec<Record>> {
    let response = options.max_new_tokens as usize;
    if response >= context {
        return Err(Error::invalid_config(format!(
            "`max_new_tokens` = {response} leaves no room for a prompt in the model's context of {context} tokens"
        )));
    }
    let limit = TokenLimit { option: "max_prompt_tokens", max_tokens: options.max_prompt_tokens, context: context - response };
    admit(instructions, "instructions", limit, false, ctx, |instruction| {
        let ids = codec.prompt(instruction)?;
        Ok(Record::new(&instruction.id, [EncodedText { response_start: ids.len(), ids }]))
    })
}

#[cfg(test)]
mod tests {
    use farmhand_core::RecordedEvents;
    use farmhand_models::LoraConfig;

    use super::*;
    use crate::testing::{Stage, instructions, tiny_checkpoint};

    #[test]
    fn options_out_of_range_are_located() {
        let options = RolloutOptions { steps: 0, top_p: 0.0, temperature: f64::NAN, ..RolloutOptions::default() };
        let lora = Some(LoraConfig { dropout: 0.1, ..LoraConfig::default() });
        let passes = PassOptions { lora, ..PassOptions::default() };
        let problems = Ranges::new().rollouts(&options, &passes).problems();
        let paths: Vec<&str> = problems.iter().map(|problem| problem.path.as_str()).collect();
        assert_eq!(paths, ["steps", "temperature", "top_p", "lora.dropout"]);
        assert_eq!(RolloutOptions { steps: 3, ..RolloutOptions::default() }.n_optimiser_steps(50, 2), 3 * 2 * 2);
    }

    #[test]
    fn prompts_that_leave_no_room_for_a_response_are_left_out() {
        let (stage, events) = (Stage::new(), RecordedEvents::default());
        let codec = TextCodec::load(&tiny_checkpoint(&stage), None).expect("a codec");
        let mut all = instructions(3);
        all.push(Instruction::new("count one two three four five six ".repeat(6), None));
        let fitting = |context, max_new_tokens| {
            let options = RolloutOptions { max_new_tokens, ..RolloutOptions::default() };
            fitting_prompts(&all, context, &codec, &options, &stage.context(&events))
        };
        let kept = fitting(40, 20).expect("some fit");
        assert_eq!(kept.iter().map(|record| record.index).collect::<Vec<_>>(), [0, 1, 2]);
        assert!(kept.iter().all(|record| record.texts[0].response().is_empty()));
        assert!(format!("{:?}", events.take()).contains("1 of 4 instructions are longer"));
        assert!(fitting(20, 20).expect_err("no room").message().contains("`max_new_tokens` = 20"));
    }
}
