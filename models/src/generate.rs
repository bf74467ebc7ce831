//! Generation: prompts in, tokens out, for a whole list of requests.
//!
//! Each different prompt is computed once, then every answer takes one token a step; answers that are finished leave and
//! waiting ones enter ([`ContinuousBatch`]). An answer draws from its own seed only and never sees another one. With the CPU
//! kernels no number depends on what is computed beside it, so an answer is the same to the bit alone and in any company.

use farmhand_core::types::{FinishReason, SamplingParams};
use farmhand_core::{Error, Result, Seed};
use tch::{Tensor, no_grad};

use crate::cached_pass::CachedPass;
use crate::continuous_batch::{ContinuousBatch, Step, Text};
use crate::forward_pass::indices;
use crate::language_model::LanguageModel;
use crate::native::cpu;
use crate::paged_cache::{CacheOptions, CacheShape, PagedCache};
use crate::sampling::draw_rows;
use crate::tokenizer::Tokenizer;
use crate::work::{count_head, count_pass, count_step, tensor_work};

/// One answer to be generated.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerationRequest {
    /// The prompt's tokens, at least one.
    pub prompt: Vec<u32>,
    /// The seed of this answer; two samples of one prompt differ in it.
    pub seed: Seed,
}

/// One generated answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Generated {
    /// The tokens sampled: with the end-of-sequence token if it ended with one, and with those that spell the stop string
    /// if one ended it (see [`text_before_stop`]).
    pub tokens: Vec<u32>,
    /// Why it ended.
    pub finish: FinishReason,
    /// In nats, one a token: its log-probability under exactly the distribution it was drawn from, after temperature,
    /// penalty and truncation (0 for greedy decoding). Empty unless asked for.
    pub log_probs: Vec<f32>,
}

/// How to generate.
///
/// Only `sampling` and `eos` change what is generated; the other fields are about speed and memory. (A cache that keeps less
/// than `f32` changes the numbers a little, and so may tokens, but still in no dependence of other requests.)
#[derive(Debug, Clone, PartialEq)]
pub struct GenerateOptions {
    /// How tokens are chosen; `n` is not read, as each request is one answer.
    pub sampling: SamplingParams,
    /// Tokens that end an answer.
    pub eos: Vec<u32>,
    /// Answers generated together at most, ≥ 1.
    pub max_batch: usize,
    /// Tokens of prompts computed in one pass at most, beside one token of each answer in the making, ≥ 1.
    pub prompt_tokens: usize,
    /// The cache of keys and values.
    pub cache: CacheOptions,
    /// Whether `f32` models on the CPU use this crate's kernels, whose results do not depend on what is computed together,
    /// bit for bit. Otherwise, and on other devices, libtorch's operators are used, and results are independent up to the
    /// rounding of sums.
    pub kernels: bool,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        Self {
            sampling: SamplingParams::default(),
            eos: Vec::new(),
            max_batch: 64,
            prompt_tokens: 512,
            cache: CacheOptions::default(),
            kernels: true,
        }
    }
}

/// Generates an answer to each request, in the order of the requests.
///
/// `tokenizer` is needed for stop strings, and tells which rows of the vocabulary no token has: these, which published models
/// have so that their sizes are round, spell nothing and are never drawn. Without it they can be. `on_done` hears after every step how many requests are finished so far;
/// an error from it ends the generation, which is how it is cancelled.
///
/// # Errors
/// When a prompt is empty, leaves no room for a token, or holds an id beyond the vocabulary; when the options are out of
/// range or ask for stop strings without a tokenizer; when the cache cannot hold one text; when a logit is not finite; and
/// what `on_done` returns.
pub fn generate(
    model: &LanguageModel,
    tokenizer: Option<&Tokenizer>,
    requests: &[GenerationRequest],
    options: &GenerateOptions,
    on_done: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<Vec<Generated>> {
    generate_from(model, None, tokenizer, requests, options, on_done)
}

/// Another model whose distribution of each token is mixed in.
#[derive(Debug, Clone, Copy)]
pub struct Mixture<'a> {
    /// The other model; its vocabulary, and the sizes of its keys and values, are those of the first.
    pub other: &'a LanguageModel,
    /// Its weight m, in [0, 1].
    pub weight: f64,
}

/// As [`generate`], from the geometric mixture of two models, token by token: with probability proportional to
/// `p^(1−m) · p_other^m`.
///
/// # Errors
/// As [`generate`], and when the two models do not fit together.
pub fn generate_from_mixture(
    model: &LanguageModel,
    mixture: Mixture<'_>,
    tokenizer: Option<&Tokenizer>,
    requests: &[GenerationRequest],
    options: &GenerateOptions,
    on_done: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<Vec<Generated>> {
    let sizes = |model: &LanguageModel| {
        let shape = model.config().shape();
        (shape.vocab_size, shape.n_kv_heads, shape.head_dim, model.device(), model.head().kind())
    };
    if sizes(model) != sizes(mixture.other) || mixture.other.config().max_positions() < model.config().max_positions() {
        return Err(Error::invalid_config("a mixture of two models whose sizes, types or devices differ")
            .with_hint("mix a policy with the model that it was trained from"));
    }
    if !(0.0..=1.0).contains(&mixture.weight) {
        return Err(Error::invalid_config(format!("the weight of a mixture is {}, expected one in [0, 1]", mixture.weight)));
    }
    check(mixture.other, tokenizer, requests, options)?;
    generate_from(model, Some(mixture), tokenizer, requests, options, on_done)
}

fn generate_from(
    model: &LanguageModel,
    mixture: Option<Mixture<'_>>,
    tokenizer: Option<&Tokenizer>,
    requests: &[GenerationRequest],
    options: &GenerateOptions,
    on_done: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<Vec<Generated>> {
    check(model, tokenizer, requests, options)?;
    let mut cache = empty_cache(model, mixture, requests, options)?;
    let room = |n_prompt| room(model, options, n_prompt);
    let mut batch = ContinuousBatch::new(requests, options.max_batch, options.prompt_tokens, room, is_penalised(options));
    let nameless = nameless_rows(model, tokenizer);
    let mut done: Vec<Option<Generated>> = requests.iter().map(|_| None).collect();
    let mut n_done = 0;
    no_grad(|| {
        while !batch.is_done() {
            let step = batch.next_step(&mut cache);
            let logits = (!step.ids.is_empty()).then(|| tensor_work(|| compute(model, mixture, &step, &mut cache)));
            if let Some(mut logits) = batch.logits(&step, logits, &mut cache) {
                if let Some(rows) = &nameless {
                    let _ = logits.index_fill_(1, rows, NEVER);
                }
                let finished = tensor_work(|| draw_tokens(&mut batch, &step, logits, tokenizer, options))?;
                count_step(finished.len(), options.max_batch.min(requests.len()));
                let is_finished: Vec<bool> = finished.iter().map(Option::is_some).collect();
                let reasons = finished.into_iter().flatten();
                for (text, finish) in batch.finish_step(&step, &is_finished, &mut cache).into_iter().zip(reasons) {
                    done[text.request] = Some(Generated { tokens: text.tokens, finish, log_probs: text.log_probs });
                    n_done += 1;
                }
            }
            on_done(n_done)?;
        }
        Ok(())
    })?;
    Ok(done.into_iter().map(|generated| generated.expect("the batch ran until every text was done")).collect())
}

/// The part of a text before the first of the stop strings, or all of it when none occurs.
pub fn text_before_stop<'a>(text: &'a str, stop: &[String]) -> &'a str {
    let first = stop.iter().filter_map(|stop| text.find(stop.as_str())).min();
    first.map_or(text, |end| &text[..end])
}

fn check(
    model: &LanguageModel,
    tokenizer: Option<&Tokenizer>,
    requests: &[GenerationRequest],
    options: &GenerateOptions,
) -> Result<()> {
    if let Some(problem) = options.sampling.problems().into_iter().next() {
        return Err(Error::invalid_config(format!("`{}`: {}", problem.path, problem.message)));
    }
    for (what, size) in
        [("batch size of generation", options.max_batch), ("number of prompt tokens a pass", options.prompt_tokens)]
    {
        if size == 0 {
            return Err(Error::invalid_config(format!("the {what} is 0, expected at least 1")));
        }
    }
    if !options.sampling.stop.is_empty() && tokenizer.is_none() {
        return Err(Error::missing_input("stop strings need the model's tokenizer"));
    }
    let limit = model.config().max_positions();
    for request in requests {
        let n = request.prompt.len();
        if n == 0 {
            return Err(
                Error::invalid_data("a prompt has no tokens").with_hint("give every instruction a text that is not empty")
            );
        }
        if n + 1 > limit {
            return Err(Error::invalid_data(format!(
                "a prompt of {n} tokens leaves no room for an answer in the model's context of {limit} tokens"
            ))
            .with_hint("shorten or drop the instruction, or use a model with a longer context"));
        }
        model.check_ids(&request.prompt)?;
    }
    Ok(())
}

fn is_penalised(options: &GenerateOptions) -> bool {
    options.sampling.repetition_penalty != 1.0
}

/// A logit whose probability is 0 beside any other, and which is finite, as all logits must be.
const NEVER: f64 = -1e30;

/// The rows `[k]` of the vocabulary that the tokenizer has no token for, if there are any.
fn nameless_rows(model: &LanguageModel, tokenizer: Option<&Tokenizer>) -> Option<Tensor> {
    let ids = tokenizer?.ids_without_token(model.config().vocab_size());
    let ids: Vec<i64> = ids.into_iter().map(i64::from).collect();
    (!ids.is_empty()).then(|| indices(&ids, model.device()))
}

/// Tokens the answer to a prompt of this length may have.
fn room(model: &LanguageModel, options: &GenerateOptions, n_prompt: usize) -> usize {
    (options.sampling.max_new_tokens as usize).min(model.config().max_positions() - n_prompt)
}

/// A cache that can hold the longest text there may be; the layers of a second model follow those of the first.
fn empty_cache(
    model: &LanguageModel,
    mixture: Option<Mixture<'_>>,
    requests: &[GenerationRequest],
    options: &GenerateOptions,
) -> Result<PagedCache> {
    let shape = model.config().shape();
    let shape = CacheShape {
        n_layers: shape.n_layers + mixture.map_or(0, |mixture| mixture.other.config().n_layers()),
        n_kv_heads: shape.n_kv_heads,
        head_dim: shape.head_dim,
        block: options.cache.block,
        format: options.cache.format,
    };
    let like = model.head();
    let cache = PagedCache::new(shape, options.cache.memory, options.kernels && cpu::is_known(like), like)?;
    // The last token of an answer is not fed.
    let longest = requests.iter().map(|request| request.prompt.len() + room(model, options, request.prompt.len()) - 1).max();
    cache.check_fits(longest.unwrap_or(0), options.cache.memory)?;
    Ok(cache)
}

/// The logits `[rows, v]` of a step's rows, of the model or of the mixture.
fn compute(model: &LanguageModel, mixture: Option<Mixture<'_>>, step: &Step, cache: &mut PagedCache) -> Tensor {
    let logits = run_step(model, 0, step, cache);
    match mixture {
        Some(Mixture { other, weight }) => mixed(&logits, &run_step(other, model.config().n_layers(), step, cache), weight),
        None => logits,
    }
}

/// Logits of the geometric mixture of two distributions at any temperature: normalisers are the same for all tokens of a row.
fn mixed(logits: &Tensor, others: &Tensor, weight: f64) -> Tensor {
    logits * (1.0 - weight) + others * weight
}

/// Runs a step's tokens through a model whose layers begin at `first_layer` of the cache; the logits `[rows, v]` of its rows.
fn run_step(model: &LanguageModel, first_layer: usize, step: &Step, cache: &mut PagedCache) -> Tensor {
    let device = model.device();
    let cost = model.flops().cached_pass(step.plan.positions(), step.rows.len());
    count_pass(step.ids.len(), step.ids.len(), cost, 1.0);
    count_head(model.flops().head(step.rows.len()));
    let mut pass = CachedPass::new(cache, &step.plan, first_layer, device);
    let hidden = model.run(&indices(&step.ids, device), &mut pass);
    let hidden = if step.rows.len() == step.ids.len() { hidden } else { hidden.index_select(0, &indices(&step.rows, device)) };
    model.logits_in(&hidden, &pass)
}

/// Draws the next token of each text of a step from its logits `[draws, v]`, which are changed; says which are finished with
/// it, and why.
fn draw_tokens(
    batch: &mut ContinuousBatch<'_>,
    step: &Step,
    logits: Tensor,
    tokenizer: Option<&Tokenizer>,
    options: &GenerateOptions,
) -> Result<Vec<Option<FinishReason>>> {
    let params = &options.sampling;
    let mut texts = batch.drawing(step);
    let uniforms: Vec<f64> =
        if params.is_greedy() { Vec::new() } else { texts.iter_mut().map(|text| text.rng.uniform()).collect() };
    let seen: Vec<&[u32]> = texts.iter().map(|text| text.seen.as_slice()).collect();
    let drawn = draw_rows(&logits, &seen, params, &uniforms, options.kernels)?;
    let mut finished = Vec::with_capacity(texts.len());
    for (text, (token, log_prob)) in texts.iter_mut().zip(drawn) {
        text.tokens.push(token);
        if params.log_probs {
            text.log_probs.push(log_prob);
        }
        if is_penalised(options) {
            text.note(token);
        }
        finished.push(finish(text, tokenizer, options));
    }
    Ok(finished)
}

/// Tokens decoded in front of those that a stop string may take.
const TOKENS_IN_FRONT: usize = 8;

/// Why a text ends with its newest token, if it does.
fn finish(text: &Text, tokenizer: Option<&Tokenizer>, options: &GenerateOptions) -> Option<FinishReason> {
    let newest = text.tokens.last().expect("a token was just drawn");
    if options.eos.contains(newest) {
        return Some(FinishReason::Stop);
    }
    if let (Some(tokenizer), false) = (tokenizer, options.sampling.stop.is_empty()) {
        // A text that ends now ends with its newest token, and a token is a byte or more; a few tokens in front of it keep what a
        // tokenizer does to the first one of a text away from the place that counts.
        let longest = options.sampling.stop.iter().map(String::len).max().unwrap_or_default();
        let tail = &text.tokens[text.tokens.len().saturating_sub(longest + TOKENS_IN_FRONT)..];
        let answer = tokenizer.decode(tail);
        if options.sampling.stop.iter().any(|stop| answer.contains(stop.as_str())) {
            return Some(FinishReason::StopString);
        }
    }
    (text.tokens.len() >= text.room).then_some(FinishReason::Length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{LlamaOptions, ModelConfig};

    fn model(seed: u64) -> LanguageModel {
        let options = LlamaOptions { vocab_size: 40, max_positions: 64, ..LlamaOptions::default() };
        let model = LanguageModel::random(ModelConfig::tiny_llama(options), Seed::root(seed), tch::Device::Cpu).expect("made");
        // What a random model says hardly depends on its text.
        for (_, tensor) in model.parameters().iter().filter(|(_, tensor)| tensor.dim() == 2) {
            no_grad(|| drop(tensor.shallow_clone().g_mul_scalar_(12.0)));
        }
        model
    }

    /// Two answers to each of three prompts.
    fn requests() -> Vec<GenerationRequest> {
        let request = |i: u64| GenerationRequest { prompt: vec![1 + i as u32 / 2; 5 + i as usize / 2], seed: Seed::root(i) };
        (0..6).map(request).collect()
    }

    fn tokens(generated: Result<Vec<Generated>>) -> Vec<Vec<u32>> {
        generated.expect("generated").into_iter().map(|generated| generated.tokens).collect()
    }

    fn options(temperature: f64) -> GenerateOptions {
        let sampling = SamplingParams { temperature, max_new_tokens: 20, ..SamplingParams::default() };
        GenerateOptions { sampling, max_batch: 4, ..GenerateOptions::default() }
    }

    #[test]
    fn a_mixtures_distribution_matches_the_golden() {
        let logits = |probabilities: [f64; 3]| Tensor::from_slice(&probabilities).log().unsqueeze(0);
        let mixed = mixed(&(logits([0.7, 0.2, 0.1]) + 3.0), &logits([0.4, 0.4, 0.2]), 0.125);
        let probabilities = Vec::<f64>::try_from(mixed.softmax(-1, tch::Kind::Double).view(-1)).expect("numbers");
        let golden = [0.666_123, 0.222_585, 0.111_292];
        assert!(probabilities.iter().zip(golden).all(|(a, b)| (a - b).abs() < 1e-6), "{probabilities:?}");
    }

    #[test]
    fn a_mixture_with_all_weight_on_one_model_is_that_model_and_else_neither() {
        let (one, other) = (model(1), model(2));
        let requests = requests();
        for temperature in [0.0, 1.0] {
            let options = options(temperature);
            let alone = |model: &LanguageModel| tokens(generate(model, None, &requests, &options, &mut |_| Ok(())));
            let mixture = |weight: f64| {
                let mixture = Mixture { other: &other, weight };
                tokens(generate_from_mixture(&one, mixture, None, &requests, &options, &mut |_| Ok(())))
            };
            assert_eq!(mixture(0.0), alone(&one));
            assert_eq!(mixture(1.0), alone(&other));
            let half = mixture(0.5);
            assert!(half != alone(&one) && half != alone(&other));
        }
    }

    #[test]
    fn a_mixtures_greedy_answer_is_the_one_that_whole_passes_give() {
        let (one, other) = (model(1), model(2));
        let mixture = Mixture { other: &other, weight: 0.3 };
        let answers = tokens(generate_from_mixture(&one, mixture, None, &requests(), &options(0.0), &mut |_| Ok(())));
        for (request, answer) in requests().iter().zip(answers) {
            let mut ids = request.prompt.clone();
            for token in answer {
                let logits = |model: &LanguageModel| no_grad(|| model.logits(&model.hidden_of(&ids)));
                let last = mixed(&logits(&one), &logits(&other), 0.3).get(ids.len() as i64 - 1);
                assert_eq!(last.argmax(-1, false).int64_value(&[]), i64::from(token));
                ids.push(token);
            }
        }
    }

    #[test]
    fn models_that_do_not_fit_together_and_weights_out_of_range_are_refused() {
        let one = model(1);
        let wide = LlamaOptions { vocab_size: 48, max_positions: 64, ..LlamaOptions::default() };
        let other = LanguageModel::random(ModelConfig::tiny_llama(wide), Seed::root(0), tch::Device::Cpu).expect("made");
        let ask = |other: &LanguageModel, weight: f64| {
            let mixture = Mixture { other, weight };
            generate_from_mixture(&one, mixture, None, &requests(), &options(1.0), &mut |_| Ok(())).expect_err("refused")
        };
        assert!(ask(&other, 0.5).message().contains("differ"));
        assert!(ask(&one, 1.5).message().contains("in [0, 1]"));
    }
}
