//! Answers sampled from a causal language model on this machine.
//!
//! Every answer has its own random stream, derived from the run's seed, the instruction's id and the sample's index; it
//! depends on nothing else that is generated.

use std::path::PathBuf;

use farmhand_core::types::{Completion, Instruction, SamplingParams};
use farmhand_core::{BuildContext, Error, Policy, PolicyConfig, Problem, Result, RunContext, register};
use farmhand_models::{
    CacheFormat, CacheOptions, GenerateOptions, Generated, GenerationRequest, LanguageModel, PromptFormat, TextCodec, generate,
    tch_device, text_before_stop,
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
    /// The model's folder or hub id; by default the policy of the stage.
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
    /// Memory for the keys and values of the answers in the making, in GiB, > 0. It is taken as it is needed; when it is full,
    /// answers wait. Changes speed and memory.
    pub cache_gib: f64,
    /// How keys and values are kept; less than `f32` changes answers a little.
    pub cache: CacheFormat,
}

impl Default for CausalLmConfig {
    fn default() -> Self {
        Self { model: None, prompt: None, max_batch: 64, max_prompt_tokens: None, cache_gib: 4.0, cache: CacheFormat::F32 }
    }
}

#[typetag::serde(name = "causal_lm")]
impl PolicyConfig for CausalLmConfig {
    fn build(&self, ctx: &BuildContext<'_>) -> Result<Box<dyn Policy>> {
        let checkpoint = ctx.policy_checkpoint(self.model.as_deref())?;
        let codec = TextCodec::load(&checkpoint, self.prompt)?;
        let model = LanguageModel::load(checkpoint.path(), tch_device(ctx.device)?)?;
        Ok(Box::new(CausalLm { name: checkpoint.name(), model, codec, config: self.clone() }))
    }

    fn problems(&self) -> Vec<Problem> {
        Ranges::new()
            .at_least_one("max_batch", self.max_batch)
            .at_least_one("max_prompt_tokens", self.max_prompt_tokens.unwrap_or(1))
            .positive("cache_gib", self.cache_gib)
            .problems()
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
        let options = GenerateOptions {
            sampling: sampling.clone(),
            eos: self.codec.stop_ids(),
            max_batch: self.config.max_batch,
            cache: CacheOptions {
                memory: (self.config.cache_gib * f64::from(1 << 30)) as usize,
                format: self.config.cache,
                ..CacheOptions::default()
            },
            ..GenerateOptions::default()
        };
        let mut progress = ctx.progress("sampling", Some((instructions.len() * n) as u64), "completions");
        let requests: Vec<GenerationRequest> = instructions
            .iter()
            .zip(&prompts)
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
        let completion =
            |(i, answer): (usize, &Generated)| self.completion(&instructions[i / n], (i % n) as u32, answer, sampling);
        Ok(generated.iter().enumerate().map(completion).collect())
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use farmhand_core::types::FinishReason;
    use farmhand_core::{Checkpoint, Device, ErrorKind, NoEvents, RecordedEvents, checked};

    use super::*;
    use crate::testing::{Stage, instructions, tiny_checkpoint, tiny_checkpoint_with};

    fn policy(config: &CausalLmConfig, checkpoint: &Checkpoint) -> Box<dyn Policy> {
        let mut build = BuildContext::new(Device::Cpu, Path::new("."));
        build.policy = Some(checkpoint);
        config.build(&build).expect("built")
    }

    fn sampling(n: u32) -> SamplingParams {
        SamplingParams { n, max_new_tokens: 10, log_probs: true, ..SamplingParams::default() }
    }

    #[test]
    fn an_answer_depends_on_its_instruction_sample_and_seed_and_not_on_its_company() {
        let stage = Stage::new();
        let ctx = stage.context(&NoEvents);
        let checkpoint = tiny_checkpoint(&stage);
        let instructions = instructions(5);
        let mut model = policy(&CausalLmConfig::default(), &checkpoint);
        let all = checked::generate(model.as_mut(), &instructions, &sampling(3), &ctx).expect("generated");
        assert_eq!(all[0].model, "base");
        assert!(all.iter().all(|answer| answer.log_prob.is_some_and(|log_prob| log_prob < 0.0) && answer.n_tokens <= 10));
        assert_ne!(all[0].output, all[1].output);

        let mut alone = policy(&CausalLmConfig { max_batch: 1, ..CausalLmConfig::default() }, &checkpoint);
        let fewer = checked::generate(alone.as_mut(), &instructions[2..3], &sampling(2), &ctx).expect("generated");
        assert_eq!([&fewer[0].output, &fewer[1].output], [&all[6].output, &all[7].output]);
        let other = ctx.with_seed(ctx.seed.child("other", 0));
        let again = checked::generate(alone.as_mut(), &instructions[2..3], &sampling(1), &other).expect("generated");
        assert_ne!(again[0].output, all[6].output);
    }

    #[test]
    fn an_answer_ends_before_a_stop_string() {
        let stage = Stage::new();
        let ctx = stage.context(&NoEvents);
        let mut model = policy(&CausalLmConfig::default(), &tiny_checkpoint(&stage));
        let free = model.generate(&instructions(1), &sampling(1), &ctx).expect("generated").remove(0);
        let stop = free.output.chars().nth(3).expect("a long answer").to_string();
        let params = SamplingParams { stop: vec![stop.clone()], ..sampling(1) };
        let stopped = model.generate(&instructions(1), &params, &ctx).expect("generated").remove(0);
        assert_eq!(stopped.finish, FinishReason::StopString);
        assert!(free.output.starts_with(&stopped.output) && !stopped.output.contains(&stop));
    }

    #[test]
    fn a_prompt_that_is_too_long_names_its_instruction_and_both_numbers() {
        let stage = Stage::new();
        let ctx = stage.context(&NoEvents);
        let mut items = instructions(2);
        items.push(Instruction::new("count one two three four five six ".repeat(8), None));
        let short = tiny_checkpoint_with(&stage, "short", 24);
        let n = TextCodec::load(&short, None).expect("a codec").prompt(&items[2]).expect("encoded").len();
        let error = policy(&CausalLmConfig::default(), &short).generate(&items, &sampling(1), &ctx).expect_err("too long");
        assert_eq!(error.kind(), ErrorKind::InvalidData);
        for part in [items[2].id.as_str(), &format!("{n} tokens"), "is 23"] {
            assert!(error.message().contains(part), "{error}");
        }
        let limited = CausalLmConfig { max_prompt_tokens: Some(1), ..CausalLmConfig::default() };
        let error = policy(&limited, &short).generate(&items, &sampling(1), &ctx).expect_err("too long");
        assert!(error.message().contains("`max_prompt_tokens` is 1"), "{error}");
    }

    #[test]
    fn cancellation_stops_sampling_and_progress_counts_completions() {
        let stage = Stage::new();
        let events = RecordedEvents::default();
        let mut model = policy(&CausalLmConfig::default(), &tiny_checkpoint(&stage));
        model.generate(&instructions(4), &sampling(2), &stage.context(&events)).expect("generated");
        let text = format!("{:?}", events.take());
        assert!(text.contains("PhaseFinished { phase: \"sampling\", done: 8"), "{text}");
        stage.cancel.cancel();
        let error = model.generate(&instructions(4), &sampling(2), &stage.context(&events)).expect_err("stopped");
        assert!(error.is_cancelled());
    }

    #[test]
    fn a_small_cache_delays_answers_and_one_too_small_says_what_it_needs() {
        let stage = Stage::new();
        let ctx = stage.context(&NoEvents);
        let checkpoint = tiny_checkpoint(&stage);
        let mut plenty = policy(&CausalLmConfig::default(), &checkpoint);
        let expected = plenty.generate(&instructions(6), &sampling(2), &ctx).expect("generated");
        let mut small = policy(&CausalLmConfig { cache_gib: 1.0 / 1024.0, ..CausalLmConfig::default() }, &checkpoint);
        assert_eq!(small.generate(&instructions(6), &sampling(2), &ctx).expect("generated"), expected);
        let mut none = policy(&CausalLmConfig { cache_gib: 1e-9, ..CausalLmConfig::default() }, &checkpoint);
        let error = none.generate(&instructions(6), &sampling(2), &ctx).expect_err("no room");
        assert!(error.message().contains("of cache"), "{error}");
        assert_eq!(CausalLmConfig { cache_gib: 0.0, ..CausalLmConfig::default() }.problems()[0].path, "cache_gib");
    }

    #[test]
    fn without_a_model_the_error_says_what_to_set() {
        let error = CausalLmConfig::default().build(&BuildContext::new(Device::Cpu, Path::new("."))).err().expect("no model");
        assert_eq!(error.kind(), ErrorKind::MissingInput);
        assert!(error.hint().is_some_and(|hint| hint.contains("`model`")));
    }
}
