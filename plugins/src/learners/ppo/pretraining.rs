//! The pre-training mix of InstructGPT (PPO-ptx): beside its reward the policy goes on learning texts, so that it forgets less.
//!
//! Ouyang et al. 2022, <https://arxiv.org/abs/2203.02155>, equation 2: `γ E[log π(x)]` is added to the objective, with γ = 27.8 and eight
//! texts for each response. Each optimiser step takes the next texts of an order that the seed gives, in which all have their turn
//! before one comes again, and adds the gradient of their weighted negative log-likelihood to the one of the responses.

use std::path::{Path, PathBuf};

use farmhand_core::data::{ReadOptions, read_demonstrations};
use farmhand_core::types::Demonstration;
use farmhand_core::{Problem, Result, RunContext, Seed};
use farmhand_models::{EncodedText, Ending, LanguageModel, TextCodec, epoch_order};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::rl::reduction::Reduction;
use crate::training::{PassOptions, Ranges, Record, TokenLimit, TrainOptions, admit, imitation_step};

/// Texts that the policy goes on learning.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PretrainingMix {
    /// Their file, in any form of demonstrations that farmhand reads. Of a record with a prompt the answer is learnt behind it; one
    /// with an empty prompt, `{"prompt": "", "completion": "…"}`, is a text without any format, learnt from its second token on.
    pub file: PathBuf,
    /// Weight γ of their negative log-likelihood, > 0.
    #[serde(default = "instruct_gpt_weight")]
    pub weight: f64,
    /// Texts for each response of an optimiser step, ≥ 1.
    #[serde(default = "instruct_gpt_ratio")]
    pub per_response: usize,
    /// Longest text in tokens, ≥ 2; longer ones are left out and counted.
    #[serde(default = "default_max_tokens")]
    pub max_tokens: usize,
    /// How token losses become one number per step.
    #[serde(default)]
    pub reduction: Reduction,
}

fn instruct_gpt_weight() -> f64 {
    27.8
}

fn instruct_gpt_ratio() -> usize {
    8
}

fn default_max_tokens() -> usize {
    512
}

impl PretrainingMix {
    /// Everything out of range, paths relative to this table.
    pub(super) fn problems(&self) -> Vec<Problem> {
        Ranges::new()
            .positive("weight", self.weight)
            .at_least_one("per_response", self.per_response)
            .require("max_tokens", self.max_tokens >= 2, "at least 2", self.max_tokens)
            .problems()
    }
}

/// The texts, encoded.
pub(super) struct PretrainingTexts {
    mix: PretrainingMix,
    records: Vec<Record>,
    /// Passes as those of the responses.
    options: TrainOptions,
    seed: Seed,
}

impl PretrainingTexts {
    /// Reads and encodes them. `context` is the model's.
    ///
    /// # Errors
    /// When the file cannot be read, or no text fits.
    pub(super) fn load(
        mix: &PretrainingMix,
        (codec, context): (&TextCodec, usize),
        passes: &PassOptions,
        base_dir: &Path,
        ctx: &RunContext<'_>,
    ) -> Result<Self> {
        let (texts, _) = read_demonstrations(&base_dir.join(&mix.file), &ReadOptions::default())?;
        let limit = TokenLimit { option: "pretraining.max_tokens", max_tokens: mix.max_tokens, context };
        let records = admit(&texts, "pre-training texts", limit, true, ctx, |text| {
            Ok(Record::new(&text.instruction.id, [encoded(text, codec)?]))
        })?;
        let options = TrainOptions { passes: passes.clone(), max_tokens: mix.max_tokens, ..TrainOptions::default() };
        Ok(Self { mix: mix.clone(), records, options, seed: ctx.seed.child("pretraining", 0) })
    }

    /// The texts of the optimiser step before which `n_before` responses have been trained on, with `n` of its own.
    fn picked(&self, n_before: u64, n: usize) -> Vec<usize> {
        let per_pass = self.records.len() as u64;
        let (from, n) = (n_before * self.mix.per_response as u64, (n * self.mix.per_response) as u64);
        let mut picked = Vec::with_capacity(n as usize);
        for pass in from / per_pass..=(from + n - 1) / per_pass {
            let order = epoch_order(self.records.len(), self.seed, pass);
            let [first, last] = [from, from + n].map(|place| place.clamp(pass * per_pass, (pass + 1) * per_pass));
            picked.extend(&order[(first - pass * per_pass) as usize..(last - pass * per_pass) as usize]);
        }
        picked
    }

    /// Adds the gradient of an optimiser step's texts to the policy, and gives their negative log-likelihood without its weight.
    ///
    /// # Errors
    /// When a batch cannot be made.
    pub(super) fn step(&self, policy: &LanguageModel, n_before: u64, n: usize) -> Result<f64> {
        let weights = vec![self.mix.weight; self.records.len()];
        let (picked, seed) = (self.picked(n_before, n), self.seed.child("step", n_before));
        let loss = imitation_step(policy, &self.records, Some(&weights), &picked, self.mix.reduction, &self.options, seed)?;
        Ok(loss / self.mix.weight)
    }

    /// A pass over the longest texts; what gradient it leaves is the caller's to forget.
    ///
    /// # Errors
    /// When a batch cannot be made.
    pub(super) fn dry_run(&self, policy: &LanguageModel, n: usize) -> Result<()> {
        let mut longest: Vec<usize> = (0..self.records.len()).collect();
        longest.sort_by_key(|&i| std::cmp::Reverse(self.records[i].n_tokens()));
        longest.truncate(n * self.mix.per_response);
        imitation_step(policy, &self.records, None, &longest, self.mix.reduction, &self.options, self.seed).map(drop)
    }
}

/// A text to learn: an answer behind its prompt, or a text alone, whose first token has nothing before it.
fn encoded(text: &Demonstration, codec: &TextCodec) -> Result<EncodedText> {
    if !text.instruction.text().is_empty() {
        return codec.encode(&text.instruction, &text.output, Ending::WithEos);
    }
    let mut ids = codec.tokenizer.encode(&text.output)?;
    ids.push(codec.tokenizer.eos_id());
    let bos = codec.tokenizer.bos_id().filter(|_| codec.tokenizer.adds_bos());
    Ok(EncodedText { ids: bos.into_iter().chain(ids).collect(), response_start: 1 })
}

#[cfg(test)]
mod tests {
    use farmhand_core::{NoEvents, RecordedEvents};

    use super::super::PpoConfig;
    use super::*;
    use crate::testing::{
        Stage, assert_resumes_exactly, assert_same_gradients, fast_optim, learn_to_like_e, take_gradients, tiny_checkpoint,
    };
    use crate::training::imitation_loss;

    const TEXTS: &str = "{\"prompt\": \"\", \"completion\": \"the cat sat on the mat\"}\n\
                         {\"prompt\": \"count one\", \"completion\": \"two three\"}\n\
                         {\"prompt\": \"\", \"completion\": \"no, the cat sat\"}\n";

    fn mix(stage: &Stage, weight: f64) -> PretrainingMix {
        let file = stage.path().join("texts.jsonl");
        std::fs::write(&file, TEXTS).expect("written");
        PretrainingMix { file, weight, per_response: 2, max_tokens: 64, reduction: Reduction::TokenMean }
    }

    #[test]
    fn texts_alone_are_learnt_from_their_second_token_and_all_have_their_turn() {
        let stage = Stage::new();
        let init = tiny_checkpoint(&stage);
        let codec = TextCodec::load(&init, None).expect("a codec");
        let (mix, ctx) = (mix(&stage, 3.0), stage.context(&NoEvents));
        let texts = PretrainingTexts::load(&mix, (&codec, 96), &PassOptions::default(), Path::new("."), &ctx).expect("they fit");
        let starts: Vec<usize> = texts.records.iter().map(|record| record.texts[0].response_start).collect();
        assert_eq!((starts[0], starts[2]), (1, 1));
        assert!(starts[1] > 1 && texts.records.iter().all(|r| r.texts[0].ids.last() == Some(&codec.tokenizer.eos_id())));
        // Two texts a response: three responses pass over all three texts twice.
        let mut all: Vec<usize> = [texts.picked(0, 1), texts.picked(1, 2)].concat();
        assert_eq!(all, texts.picked(0, 3), "however they are divided over steps");
        all.sort_unstable();
        assert_eq!(all, [0, 0, 1, 1, 2, 2]);
        // The gradient is γ times that of imitation.
        let policy = LanguageModel::load(init.path(), tch::Device::Cpu).expect("loaded");
        policy.set_trainable(true);
        let nll = texts.step(&policy, 0, 3).expect("run");
        let got = take_gradients(policy.parameters());
        let picked = texts.picked(0, 3);
        let plain = imitation_step(&policy, &texts.records, None, &picked, mix.reduction, &texts.options, Seed::root(0));
        assert!((nll - plain.expect("run")).abs() < 1e-5);
        let expected: Vec<tch::Tensor> = take_gradients(policy.parameters()).iter().map(|gradient| gradient * 3.0).collect();
        assert_same_gradients(&got, &expected, 1e-5);
    }

    #[test]
    fn the_policy_learns_the_texts_beside_its_reward_and_a_stopped_run_continues_to_the_same_bytes() {
        let base = Stage::new();
        let init = tiny_checkpoint(&base);
        let config = PpoConfig {
            steps: 6,
            rollout_size: 8,
            batch_size: 4,
            max_new_tokens: 8,
            kl_weight: 0.01,
            save_every: 2,
            optim: fast_optim(1e-2),
            value_optim: fast_optim(3e-3),
            pretraining: Some(mix(&base, 1.0)),
            ..PpoConfig::default()
        };
        assert_eq!(config.problems(), []);
        let (stage, events) = (Stage::new(), RecordedEvents::default());
        let learned = learn_to_like_e(&config, &init, &stage.context(&events)).expect("learned");
        let nll = events.scalars("ppo/pretraining_nll");
        assert!(nll.len() == 6 && nll[5].1 < 0.9 * nll[0].1, "{nll:?}");
        let codec = TextCodec::load(&init, None).expect("a codec");
        let ctx = stage.context(&NoEvents);
        let texts = PretrainingTexts::load(&mix(&base, 1.0), (&codec, 96), &PassOptions::default(), Path::new("."), &ctx);
        let texts = texts.expect("they fit");
        let [before, after] = [&init, &learned].map(|checkpoint| {
            let model = LanguageModel::load(checkpoint.path(), tch::Device::Cpu).expect("loaded");
            imitation_loss(&model, &texts.records, &texts.options).expect("run")
        });
        assert!(after < 0.9 * before, "from {before} to {after}");
        assert_resumes_exactly("ppo/reward", 3, |ctx| learn_to_like_e(&config, &init, ctx));
        let wrong = PpoConfig { pretraining: Some(PretrainingMix { weight: 0.0, ..mix(&base, 1.0) }), ..config };
        assert_eq!(wrong.problems()[0].path, "pretraining.weight");
    }
}
