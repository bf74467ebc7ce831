//! Answers sampled from a causal language model on this machine.
//!
//! Every answer has its own random stream, derived from the run's seed, the instruction's id and the sample's index; it
//! depends on nothing else that is generated.

use std::path::PathBuf;

use farmhand_core::types::{Completion, Instruction, SamplingParams};
use farmhand_core::{BuildContext, Checkpoint, Error, Policy, PolicyConfig, Problem, Result, RunContext, register};
use farmhand_models::{
    GenerateOptions, Generated, GenerationRequest, LanguageModel, PromptFormat, TextCodec, generate, tch_device, text_before_stop,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::training::Ranges;

register! {
    kind: Policy, name: "causal_lm", config: CausalLmConfig,
    summary: "a causal language model in a Hugging Face folder",
}

/// Options of `[policy.causal_lm]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CausalLmConfig {
    /// The model's folder; by default the policy of the stage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<PathBuf>,
    /// How instructions become text; by default as the checkpoint says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt: Option<PromptFormat>,
    /// Answers generated together at most, ≥ 1. Changes speed and memory.
    pub max_batch: usize,
    /// Longest prompt, in tokens; a longer one is an error. By default what the model's context allows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_prompt_tokens: Option<usize>,
}

impl Default for CausalLmConfig {
    fn default() -> Self {
        Self { model: None, prompt: None, max_batch: 64, max_prompt_tokens: None }
    }
}

#[typetag::serde(name = "causal_lm")]
impl PolicyConfig for CausalLmConfig {
    fn build(&self, ctx: &BuildContext<'_>) -> Result<Box<dyn Policy>> {
        let checkpoint = ctx.policy_checkpoint(self.model.as_deref())?;
        let codec = TextCodec::load(&checkpoint, self.prompt)?;
        let model = LanguageModel::load(checkpoint.path(), tch_device(ctx.device)?)?;
        Ok(Box::new(CausalLm { name: name_of(&checkpoint), model, codec, config: self.clone() }))
    }

    fn problems(&self) -> Vec<Problem> {
        Ranges::new()
            .at_least_one("max_batch", self.max_batch)
            .at_least_one("max_prompt_tokens", self.max_prompt_tokens.unwrap_or(1))
            .problems()
    }
}

/// The name answers carry: the model's folder, or the stage's when that is just called `checkpoint`.
fn name_of(checkpoint: &Checkpoint) -> String {
    let path = checkpoint.path();
    let name = |path: &std::path::Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    match name(path) {
        Some(own) if own == "checkpoint" => path.parent().and_then(name).unwrap_or(own),
        Some(own) => own,
        None => path.display().to_string(),
    }
}

struct CausalLm {
    name: String,
    model: LanguageModel,
    codec: TextCodec,
    config: CausalLmConfig,
}

impl Policy for CausalLm {
    fn model(&self) -> &str {
        &self.name
    }

    fn generate(
        &mut self,
        instructions: &[Instruction],
        sampling: &SamplingParams,
        ctx: &RunContext<'_>,
    ) -> Result<Vec<Completion>> {
        // All prompts first: one that is too long should fail before anything is sampled.
        let prompts = instructions.iter().map(|instruction| self.prompt(instruction)).collect::<Result<Vec<_>>>()?;
        let n = sampling.n as usize;
        let options =
            GenerateOptions { sampling: sampling.clone(), eos: self.codec.stop_ids(), max_batch: self.config.max_batch };
        let mut progress = ctx.progress("sampling", Some((instructions.len() * n) as u64), "completions");
        let mut completions = Vec::with_capacity(instructions.len() * n);
        // Chunks bound what a round of sorting by length holds; they follow from the instructions alone.
        let per_chunk = (4 * self.config.max_batch).div_ceil(n.max(1));
        for (instructions, prompts) in instructions.chunks(per_chunk).zip(prompts.chunks(per_chunk)) {
            let requests: Vec<GenerationRequest> = instructions
                .iter()
                .zip(prompts)
                .flat_map(|(instruction, prompt)| {
                    let seed = ctx.seed.child_text("completion", &instruction.id);
                    (0..sampling.n)
                        .map(move |i| GenerationRequest { prompt: prompt.clone(), seed: seed.child("sample", u64::from(i)) })
                })
                .collect();
            let mut reported = 0;
            let generated = generate(&self.model, Some(&self.codec.tokenizer), &requests, &options, &mut |done| {
                if done > reported {
                    progress.advance((done - reported) as u64);
                    reported = done;
                }
                ctx.cancel.check()
            })?;
            for (i, answer) in generated.into_iter().enumerate() {
                completions.push(self.completion(&instructions[i / n], (i % n) as u32, &answer, sampling));
            }
        }
        Ok(completions)
    }
}

impl CausalLm {
    fn prompt(&self, instruction: &Instruction) -> Result<Vec<u32>> {
        let prompt = self.codec.prompt(instruction)?;
        // At least one token of the answer must fit.
        let context = self.model.config().max_positions().saturating_sub(1);
        let (limit, name) = match self.config.max_prompt_tokens {
            Some(limit) if limit < context => (limit, "`max_prompt_tokens`"),
            _ => (context, "what the model's context allows"),
        };
        if prompt.len() > limit {
            let message =
                format!("the prompt of instruction `{}` has {} tokens, {name} is {limit}", instruction.id, prompt.len());
            return Err(
                Error::invalid_data(message).with_hint("shorten or remove the instruction, or use a model with a longer context")
            );
        }
        Ok(prompt)
    }

    fn completion(&self, instruction: &Instruction, sample: u32, answer: &Generated, sampling: &SamplingParams) -> Completion {
        Completion {
            instruction: instruction.clone(),
            output: text_before_stop(&self.codec.decode(&answer.tokens), &sampling.stop).to_owned(),
            model: self.name.clone(),
            sample,
            finish: answer.finish,
            n_tokens: answer.tokens.len() as u32,
            log_prob: sampling.log_probs.then(|| answer.log_probs.iter().map(|&log_prob| f64::from(log_prob)).sum()),
        }
    }
}
