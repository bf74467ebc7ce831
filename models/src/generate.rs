//! Generation: prompts in, tokens out, for a whole list of requests.
//!
//! Requests are batched by prompt length. A batch computes each different prompt once, then one token a row and step;
//! finished rows leave it. A row draws from its own seed only and never sees another row, so what is generated for a
//! request does not depend on the others, up to the rounding of sums, which libtorch orders by the size of the batch.

use farmhand_core::types::{FinishReason, SamplingParams};
use farmhand_core::{Error, Result, Rng, Seed};
use tch::{Kind, Tensor, no_grad};

use crate::forward_pass::indices;
use crate::kv_cache::{CachedPass, KvCache};
use crate::language_model::LanguageModel;
use crate::sampling::draw;
use crate::tokenizer::Tokenizer;

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
#[derive(Debug, Clone, PartialEq)]
pub struct GenerateOptions {
    /// How tokens are chosen; `n` is not read, as each request is one answer.
    pub sampling: SamplingParams,
    /// Tokens that end an answer.
    pub eos: Vec<u32>,
    /// Rows in a batch at most, ≥ 1.
    pub max_batch: usize,
}

/// Generates an answer to each request, in the order of the requests.
///
/// `tokenizer` is needed for stop strings only. `on_done` hears after every step how many requests are finished so far;
/// an error from it ends the generation, which is how it is cancelled.
///
/// # Errors
/// When a prompt is empty, leaves no room for a token, or holds an id beyond the vocabulary; when the options are out of
/// range or ask for stop strings without a tokenizer; when a logit is not finite; and what `on_done` returns.
pub fn generate(
    model: &LanguageModel,
    tokenizer: Option<&Tokenizer>,
    requests: &[GenerationRequest],
    options: &GenerateOptions,
    on_done: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<Vec<Generated>> {
    check(model, tokenizer, requests, options)?;
    // Equal prompts stand together, so that their samples share a prefill.
    let mut order: Vec<usize> = (0..requests.len()).collect();
    order.sort_by(|a, b| {
        let (left, right) = (&requests[*a].prompt, &requests[*b].prompt);
        left.len().cmp(&right.len()).then_with(|| left.cmp(right)).then(a.cmp(b))
    });
    let mut done: Vec<Option<Generated>> = requests.iter().map(|_| None).collect();
    let mut n_done = 0;
    no_grad(|| {
        for group in order.chunks(options.max_batch) {
            let mut batch = Batch::start(model, requests, group, options);
            loop {
                for (request, generated) in batch.draw_tokens(tokenizer, options)? {
                    done[request] = Some(generated);
                    n_done += 1;
                }
                on_done(n_done)?;
                if batch.is_done() {
                    break;
                }
                batch.step(model);
            }
        }
        Ok(())
    })?;
    Ok(done.into_iter().map(|generated| generated.expect("a batch runs until every row is done")).collect())
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
    if options.max_batch == 0 {
        return Err(Error::invalid_config("the batch size of generation is 0, expected at least 1"));
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

/// One row of a batch.
struct Row {
    request: usize,
    rng: Rng,
    /// Tokens it may still take.
    room: usize,
    tokens: Vec<u32>,
    log_probs: Vec<f32>,
    is_done: bool,
}

/// The rows being generated together.
struct Batch {
    rows: Vec<Row>,
    cache: KvCache,
    /// `[b, v]`: of each row's next token.
    logits: Tensor,
    /// `[b]`: each row's newest token.
    newest: Tensor,
    /// `[b, v]`: tokens that already occurred; only with a repetition penalty.
    seen: Option<Tensor>,
}

impl Batch {
    /// Computes the prompts of a group of requests.
    fn start(model: &LanguageModel, requests: &[GenerationRequest], group: &[usize], options: &GenerateOptions) -> Self {
        let device = model.device();
        let mut prompts: Vec<&[u32]> = Vec::new();
        let mut prompt_of = Vec::new();
        for request in group {
            let prompt = requests[*request].prompt.as_slice();
            if prompts.last() != Some(&prompt) {
                prompts.push(prompt);
            }
            prompt_of.push(prompts.len() as i64 - 1);
        }
        let lengths: Vec<usize> = prompts.iter().map(|prompt| prompt.len()).collect();
        let longest = lengths.iter().copied().max().unwrap_or(0);
        // What pads a prompt is never seen: attention is causal, and the cache masks those slots.
        let padded =
            prompts.iter().flat_map(|prompt| prompt.iter().map(|id| i64::from(*id)).chain(std::iter::repeat(0)).take(longest));
        let ids = indices(&padded.collect::<Vec<_>>(), device);

        let max_new = options.sampling.max_new_tokens as usize;
        let shape = model.config().shape();
        let mut cache = KvCache::new(shape.n_layers, &lengths, max_new, device);
        let hidden = model.run(&ids, &mut CachedPass { cache: &mut cache, rows: prompts.len() as i64 });
        cache.finish_prefill();
        let last: Vec<i64> = lengths.iter().enumerate().map(|(row, length)| (row * longest + length - 1) as i64).collect();
        let mut logits = model.logits(&hidden.index_select(0, &indices(&last, device)));
        let penalised = options.sampling.repetition_penalty != 1.0;
        let mut seen = penalised.then(|| occurring(&prompts, shape.vocab_size, device));
        if prompts.len() < group.len() {
            let prompt_of = indices(&prompt_of, device);
            cache.select(&prompt_of);
            logits = logits.index_select(0, &prompt_of);
            seen = seen.map(|seen| seen.index_select(0, &prompt_of));
        }
        let rows = group.iter().map(|request| Row {
            request: *request,
            rng: requests[*request].seed.rng(),
            room: max_new.min(shape.max_positions - requests[*request].prompt.len()),
            tokens: Vec::new(),
            log_probs: Vec::new(),
            is_done: false,
        });
        Self { rows: rows.collect(), cache, logits, newest: Tensor::new(), seen }
    }

    /// Draws each row's next token; returns the requests that are finished with it.
    fn draw_tokens(&mut self, tokenizer: Option<&Tokenizer>, options: &GenerateOptions) -> Result<Vec<(usize, Generated)>> {
        self.check_finite()?;
        let params = &options.sampling;
        let uniforms: Vec<f64> =
            if params.is_greedy() { Vec::new() } else { self.rows.iter_mut().map(|row| row.rng.uniform()).collect() };
        let drawn = draw(&self.logits, self.seen.as_ref(), params, &uniforms);
        let tokens = Vec::<i64>::try_from(&drawn.tokens).expect("token ids are a vector of integers");
        let log_probs =
            drawn.log_probs.map(|log_probs| Vec::<f32>::try_from(log_probs).expect("log-probs are a vector of floats"));
        let mut finished = Vec::new();
        for (place, row) in self.rows.iter_mut().enumerate().filter(|(_, row)| !row.is_done) {
            row.tokens.push(tokens[place] as u32);
            row.log_probs.extend(log_probs.as_ref().map(|log_probs| log_probs[place]));
            if let Some(finish) = row.finish(tokenizer, options) {
                row.is_done = true;
                let (tokens, log_probs) = (std::mem::take(&mut row.tokens), std::mem::take(&mut row.log_probs));
                finished.push((row.request, Generated { tokens, finish, log_probs }));
            }
        }
        if let Some(seen) = &mut self.seen {
            let _ = seen.scatter_value_(1, &drawn.tokens.unsqueeze(1), 1);
        }
        self.newest = drawn.tokens;
        Ok(finished)
    }

    /// From logits that are not numbers a token would be drawn all the same.
    fn check_finite(&self) -> Result<()> {
        if !self.logits.sum(Kind::Double).double_value(&[]).is_finite() {
            return Err(Error::non_finite("the model's logits are not finite while it generates")
                .with_hint("its weights are damaged or its training diverged"));
        }
        Ok(())
    }

    fn is_done(&self) -> bool {
        self.rows.iter().all(|row| row.is_done)
    }

    /// Feeds the newest tokens; before that, lets finished rows go when they are a quarter of the batch.
    fn step(&mut self, model: &LanguageModel) {
        let alive: Vec<i64> = (0..self.rows.len()).filter(|place| !self.rows[*place].is_done).map(|place| place as i64).collect();
        if alive.len() * 4 <= self.rows.len() * 3 {
            let places = indices(&alive, model.device());
            self.cache.select(&places);
            self.newest = self.newest.index_select(0, &places);
            self.seen = self.seen.as_ref().map(|seen| seen.index_select(0, &places));
            self.rows.retain(|row| !row.is_done);
        }
        let rows = self.rows.len() as i64;
        let hidden = model.run(&self.newest, &mut CachedPass { cache: &mut self.cache, rows });
        self.cache.finish_step();
        self.logits = model.logits(&hidden);
    }
}

impl Row {
    /// Why the row ends with its newest token, if it does.
    fn finish(&self, tokenizer: Option<&Tokenizer>, options: &GenerateOptions) -> Option<FinishReason> {
        let newest = self.tokens.last().expect("a token was just drawn");
        if options.eos.contains(newest) {
            return Some(FinishReason::Stop);
        }
        if let (Some(tokenizer), false) = (tokenizer, options.sampling.stop.is_empty()) {
            let text = tokenizer.decode(&self.tokens);
            if options.sampling.stop.iter().any(|stop| text.contains(stop.as_str())) {
                return Some(FinishReason::StopString);
            }
        }
        (self.tokens.len() >= self.room).then_some(FinishReason::Length)
    }
}

/// Which tokens occur in each text, `[b, v]`.
fn occurring(texts: &[&[u32]], vocab_size: usize, device: tch::Device) -> Tensor {
    let mut seen = vec![false; texts.len() * vocab_size];
    for (row, text) in texts.iter().enumerate() {
        for id in *text {
            seen[row * vocab_size + *id as usize] = true;
        }
    }
    Tensor::from_slice(&seen).view([texts.len() as i64, vocab_size as i64]).to_device(device)
}
