//! Which texts are computed when: texts enter as others leave, prompts are filled in beside the steps of the others, and
//! samples of one prompt share what was computed for it.
//!
//! A text feeds the tokens that the cache does not hold yet: its prompt at first, in pieces if it is long, then one token a
//! step. When the cache is full, the text that entered last gives its blocks back and starts over later, with its prompt and
//! what it has generated; as no number depends on how tokens are grouped into passes, its answer is the same.

use std::collections::{HashMap, VecDeque};

use farmhand_core::Rng;
use tch::Tensor;

use crate::cached_pass::{Plan, Span};
use crate::generate::GenerationRequest;
use crate::paged_cache::{PagedCache, Table};

/// One answer in the making.
pub(crate) struct Text {
    /// Its place among the requests.
    pub(crate) request: usize,
    pub(crate) rng: Rng,
    /// Tokens it may have at most.
    pub(crate) room: usize,
    /// Generated so far.
    pub(crate) tokens: Vec<u32>,
    pub(crate) log_probs: Vec<f32>,
    /// The different tokens of prompt and answer; kept only for a repetition penalty.
    pub(crate) seen: Vec<u32>,
    /// Its prompt's place among the different prompts.
    prompt: usize,
    /// Tokens the cache holds.
    cached: usize,
    table: Table,
    /// Whether another text is filling in their common prompt.
    is_waiting: bool,
}

/// A prompt and what is known of it.
struct Prompt<'a> {
    tokens: &'a [u32],
    /// Texts that have no token of their own yet.
    n_fresh: usize,
    /// The request that is filling the prompt in for all.
    filler: Option<usize>,
    /// What fresh texts share: the prompt's blocks and the logits `[1, v]` after it.
    held: Option<(Table, Tensor)>,
}

/// The texts being generated and those that wait.
pub(crate) struct ContinuousBatch<'a> {
    prompts: Vec<Prompt<'a>>,
    /// In the order in which they enter.
    queue: VecDeque<Text>,
    /// In the order in which they entered.
    running: Vec<Text>,
    max_texts: usize,
    max_prompt_tokens: usize,
}

/// What one pass computes.
#[derive(Default)]
pub(crate) struct Step {
    /// Where the tokens are; empty when there are only texts that draw from held logits.
    pub(crate) plan: Plan,
    /// The tokens, flat.
    pub(crate) ids: Vec<i64>,
    /// The rows of the pass that logits are needed for, ascending.
    pub(crate) rows: Vec<i64>,
    /// The running texts that feed tokens, and how many.
    fed: Vec<(usize, usize)>,
    /// The running texts that draw a token, and where their logits are.
    draws: Vec<(usize, Source)>,
    /// Prompts whose logits others wait for: the place of the filler, and that of the logits among `rows`.
    filled: Vec<(usize, usize)>,
}

/// Where the logits of a text are.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Source {
    /// At this place among the step's rows.
    Row(usize),
    /// Held with this prompt.
    Held(usize),
}

impl<'a> ContinuousBatch<'a> {
    /// All requests wait. At most `max_texts` run together, and a pass takes `max_prompt_tokens` tokens of prompts at most.
    /// `room` says how many tokens the answer to a prompt of some length may have; `notes_tokens`, whether different tokens
    /// are taken down.
    pub(crate) fn new(
        requests: &'a [GenerationRequest],
        max_texts: usize,
        max_prompt_tokens: usize,
        room: impl Fn(usize) -> usize,
        notes_tokens: bool,
    ) -> Self {
        let mut prompts: Vec<Prompt<'a>> = Vec::new();
        let mut place_of: HashMap<&[u32], usize> = HashMap::new();
        let mut texts = Vec::with_capacity(requests.len());
        for (request, GenerationRequest { prompt: tokens, seed }) in requests.iter().enumerate() {
            let prompt = *place_of.entry(tokens).or_insert_with(|| {
                prompts.push(Prompt { tokens, n_fresh: 0, filler: None, held: None });
                prompts.len() - 1
            });
            prompts[prompt].n_fresh += 1;
            let mut text = Text {
                request,
                rng: seed.rng(),
                room: room(tokens.len()),
                tokens: Vec::new(),
                log_probs: Vec::new(),
                seen: Vec::new(),
                prompt,
                cached: 0,
                table: Table::new(),
                is_waiting: false,
            };
            if notes_tokens {
                tokens.iter().for_each(|token| text.note(*token));
            }
            texts.push(text);
        }
        // Samples of one prompt enter one after the other, so that what they share is held for a short time.
        texts.sort_by_key(|text| (text.prompt, text.request));
        Self { prompts, queue: texts.into(), running: Vec::new(), max_texts, max_prompt_tokens }
    }

    /// Whether every text has left.
    pub(crate) fn is_done(&self) -> bool {
        self.running.is_empty() && self.queue.is_empty()
    }

    /// The texts that draw a token after a step, in the order of [`ContinuousBatch::logits`].
    pub(crate) fn drawing(&mut self, step: &Step) -> Vec<&mut Text> {
        let mut texts: Vec<Option<&mut Text>> = self.running.iter_mut().map(Some).collect();
        step.draws.iter().map(|(place, _)| texts[*place].take().expect("a text draws once a step")).collect()
    }

    /// Lets texts enter and chooses the tokens of the next pass, for which it makes room in the cache.
    pub(crate) fn next_step(&mut self, cache: &mut PagedCache) -> Step {
        self.enter(cache);
        let mut step = Step::default();
        let mut left = self.max_prompt_tokens;
        let mut place = 0;
        while place < self.running.len() {
            let text = &self.running[place];
            let missing = self.n_known(text) - text.cached;
            let n = if missing > 1 { missing.min(left) } else { missing };
            if text.is_waiting || (missing > 0 && n == 0) {
                place += 1;
                continue;
            }
            if missing == 0 {
                step.draws.push((place, Source::Held(text.prompt)));
                place += 1;
                continue;
            }
            if !self.make_room(place, n, cache) {
                // It was itself the last to enter, and is gone.
                break;
            }
            if missing > 1 {
                left -= n;
            }
            self.feed(place, n, &mut step);
            place += 1;
        }
        step
    }

    /// Adds the next `n` tokens of a text to a step.
    fn feed(&self, place: usize, n: usize, step: &mut Step) {
        let text = &self.running[place];
        let prompt = &self.prompts[text.prompt];
        let (from, to, end_of_prompt) = (text.cached, text.cached + n, prompt.tokens.len());
        let row = |position: usize| (step.ids.len() + position - from) as i64;
        let is_filler = prompt.filler == Some(text.request) && (from..to).contains(&(end_of_prompt - 1));
        if is_filler && prompt.n_fresh > usize::from(text.tokens.is_empty()) {
            step.filled.push((place, step.rows.len()));
            step.rows.push(row(end_of_prompt - 1));
        }
        if to == self.n_known(text) {
            let row = row(to - 1);
            if step.rows.last() != Some(&row) {
                step.rows.push(row);
            }
            step.draws.push((place, Source::Row(step.rows.len() - 1)));
        }
        let token = |position: usize| match position.checked_sub(end_of_prompt) {
            None => prompt.tokens[position],
            Some(generated) => text.tokens[generated],
        };
        step.ids.extend((from..to).map(|position| i64::from(token(position))));
        step.plan.push(Span { first_position: from, n_tokens: n, table: text.table.clone() });
        step.fed.push((place, n));
    }

    /// Tokens of a text that are known: its prompt and what it has generated.
    fn n_known(&self, text: &Text) -> usize {
        self.prompts[text.prompt].tokens.len() + text.tokens.len()
    }

    /// Lets texts enter while there are places and memory for what they know and a little more.
    fn enter(&mut self, cache: &mut PagedCache) {
        while self.running.len() < self.max_texts
            && let Some(text) = self.queue.front()
        {
            let prompt = &self.prompts[text.prompt];
            let n_prompt = prompt.tokens.len();
            let is_waiting = text.tokens.is_empty() && prompt.held.is_none() && prompt.filler.is_some();
            let cached = if prompt.held.is_some() { n_prompt } else { 0 };
            let blocks = if is_waiting { 0 } else { (self.n_known(text) - cached).div_ceil(cache.block()) };
            // A block for each running text keeps those that just entered from being sent out again at once.
            if !self.running.is_empty() && cache.n_free() < blocks + self.running.len() + 1 {
                break;
            }
            let mut text = self.queue.pop_front().expect("there is a first one");
            let prompt = &mut self.prompts[text.prompt];
            match &prompt.held {
                Some((table, _)) => (text.table, text.cached) = (cache.share(table, n_prompt), n_prompt),
                None if prompt.filler.is_none() => prompt.filler = Some(text.request),
                None => text.is_waiting = is_waiting,
            }
            self.running.push(text);
        }
    }

    /// Makes room for the next `n` tokens of a text. When memory is short, prompts that nobody draws from at once are given
    /// up first, then the texts that entered last. False when that was the text itself.
    fn make_room(&mut self, place: usize, n: usize, cache: &mut PagedCache) -> bool {
        loop {
            let text = &mut self.running[place];
            let (from, to) = (text.cached, text.cached + n);
            if cache.n_needed(&text.table, from, to) <= cache.n_free() {
                cache.reserve(&mut text.table, from, to);
                return true;
            }
            if self.give_up_prompt(cache) {
                continue;
            }
            self.send_out_last(cache);
            if place == self.running.len() {
                return false;
            }
        }
    }

    /// Gives a held prompt up that no running text is about to draw from.
    fn give_up_prompt(&mut self, cache: &mut PagedCache) -> bool {
        let running = &self.running;
        let is_in_use = |place: usize, n: usize| {
            running.iter().any(|text| text.prompt == place && text.tokens.is_empty() && text.cached == n)
        };
        for (place, prompt) in self.prompts.iter_mut().enumerate().rev() {
            if prompt.held.is_some() && !is_in_use(place, prompt.tokens.len()) {
                prompt.give_up(cache);
                return true;
            }
        }
        false
    }

    /// The text that entered last waits again, in front of all others.
    fn send_out_last(&mut self, cache: &mut PagedCache) {
        let mut text = self.running.pop().expect("a text needed room");
        cache.release(&mut text.table);
        (text.cached, text.is_waiting) = (0, false);
        let prompt = &mut self.prompts[text.prompt];
        if prompt.filler == Some(text.request) {
            prompt.filler = None;
        }
        self.queue.push_front(text);
    }

    /// After the pass: takes down what is in the cache now, and gathers the logits `[draws, v]` of the texts that draw from
    /// those of the step's rows `[rows, v]`. `None` when no text draws.
    pub(crate) fn logits(&mut self, step: &Step, logits: Option<Tensor>, cache: &mut PagedCache) -> Option<Tensor> {
        for (place, n) in &step.fed {
            self.running[*place].cached += n;
        }
        for (filler, row) in &step.filled {
            let logits = logits.as_ref().expect("a pass ran").narrow(0, *row as i64, 1).copy();
            self.hold_prompt(*filler, logits, cache);
        }
        for text in &self.running {
            let prompt = &mut self.prompts[text.prompt];
            if prompt.filler == Some(text.request) && text.cached >= prompt.tokens.len() {
                prompt.filler = None;
            }
        }
        let is_plain = step.draws.len() == step.rows.len()
            && step.draws.iter().enumerate().all(|(place, (_, source))| *source == Source::Row(place));
        if is_plain {
            return logits.filter(|_| !step.draws.is_empty());
        }
        let of = |source: &Source| match source {
            Source::Row(row) => logits.as_ref().expect("a pass ran").narrow(0, *row as i64, 1),
            Source::Held(prompt) => self.prompts[*prompt].held.as_ref().expect("held until its texts drew").1.shallow_clone(),
        };
        let rows: Vec<Tensor> = step.draws.iter().map(|(_, source)| of(source)).collect();
        (!rows.is_empty()).then(|| Tensor::cat(&rows, 0))
    }

    /// Keeps the prompt that a text has filled in for the others, and lets those that wait for it have it.
    fn hold_prompt(&mut self, filler: usize, logits: Tensor, cache: &mut PagedCache) {
        let place = self.running[filler].prompt;
        let prompt = &mut self.prompts[place];
        let n = prompt.tokens.len();
        let table = cache.share(&self.running[filler].table, n);
        for text in self.running.iter_mut().filter(|text| text.prompt == place && text.is_waiting) {
            (text.table, text.cached, text.is_waiting) = (cache.share(&table, n), n, false);
        }
        prompt.held = Some((table, logits));
    }

    /// Takes down the tokens drawn by the texts of a step, and lets those leave that `is_finished` names, in order of entry.
    pub(crate) fn finish_step(&mut self, step: &Step, is_finished: &[bool], cache: &mut PagedCache) -> Vec<Text> {
        let mut leaving = vec![false; self.running.len()];
        for ((place, _), is_finished) in step.draws.iter().zip(is_finished) {
            leaving[*place] = *is_finished;
            let text = &self.running[*place];
            if text.tokens.len() == 1 {
                let prompt = &mut self.prompts[text.prompt];
                prompt.n_fresh -= 1;
                if prompt.n_fresh == 0 {
                    prompt.give_up(cache);
                }
            }
        }
        let mut left = Vec::new();
        for (mut text, leaves) in std::mem::take(&mut self.running).into_iter().zip(leaving) {
            if leaves {
                cache.release(&mut text.table);
                left.push(text);
            } else {
                self.running.push(text);
            }
        }
        left
    }
}

impl Prompt<'_> {
    fn give_up(&mut self, cache: &mut PagedCache) {
        if let Some((mut table, _)) = self.held.take() {
            cache.release(&mut table);
        }
    }
}

impl Text {
    /// Takes down that a token occurs.
    pub(crate) fn note(&mut self, token: u32) {
        if !self.seen.contains(&token) {
            self.seen.push(token);
        }
    }
}
