//! Questions that go in batches, which a server answers within a day and for less.
//!
//! What the store knows is not sent. The rest is cut the same way every time, by the place among all questions and not by what is
//! still open, so that a run that was stopped, or lost some answers, waits for the same batches and sends none twice.

use std::ops::Range;
use std::path::Path;

use farmhand_core::{Error, Result, RunContext};
use farmhand_endpoints::{BatchOptions, BatchProgress, ChatRequest};
use futures_util::StreamExt as _;
use futures_util::stream;

use super::{Asker, Question, Said, is_paid};
use crate::chat::ask_options::Batching;
use crate::failures;
use crate::store::QuestionKey;

/// Bytes of prompts in one batch at most; its file, which quotes them, then stays below what OpenAI takes.
const MAX_BYTES: usize = 60 << 20;

/// Batches that are waited for at a time.
const AT_A_TIME: usize = 64;

/// Batches are noted beside the store.
pub(super) fn options(batch: &Batching, store: &Path) -> BatchOptions {
    let notes = store.with_extension("batches.jsonl");
    BatchOptions { poll_secs: batch.poll_secs, max_requests: batch.max_requests, ..BatchOptions::new(notes) }
}

impl Asker {
    /// Asks questions in batches; `write` makes the n-th, whose key is `keys[n]`. One result each.
    pub(super) async fn ask_in_batches(
        &self,
        keys: &[QuestionKey],
        write: impl Fn(usize) -> Result<Question> + Sync,
        options: &BatchOptions,
        ctx: &RunContext<'_>,
    ) -> Vec<Result<Said>> {
        let sizes = (0..keys.len()).map(|nth| write(nth).map_or(0, |question| question.size().0));
        let write = &write;
        let ask = |range: Range<usize>| async move {
            let asked = self.ask_batch(&keys[range.clone()], |nth| write(range.start + nth), options, ctx).await;
            asked.unwrap_or_else(|error| failures::repeat(&error, range.len()))
        };
        let done: Vec<Vec<Result<Said>>> =
            stream::iter(cut(sizes, options.max_requests)).map(ask).buffered(AT_A_TIME).collect().await;
        done.into_iter().flatten().collect()
    }

    /// Asks what is not known of one batch's questions.
    async fn ask_batch(
        &self,
        keys: &[QuestionKey],
        write: impl Fn(usize) -> Result<Question>,
        options: &BatchOptions,
        ctx: &RunContext<'_>,
    ) -> Result<Vec<Result<Said>>> {
        let mut said: Vec<Option<Result<Said>>> = Vec::with_capacity(keys.len());
        let (mut open, mut requests, mut most_usd): (Vec<usize>, Vec<ChatRequest>, f64) = (Vec::new(), Vec::new(), 0.0);
        for (nth, key) in keys.iter().enumerate() {
            let known = self.kept(*key)?;
            if known.is_none() {
                let question = write(nth)?;
                if self.budget.is_some() {
                    most_usd += self.most(&question, question.model())?;
                }
                let Question::Chat(request) = question else {
                    return Err(Error::invalid_config("batches hold conversations, and this judge sends a text to go on from")
                        .with_hint("leave `batch` out"));
                };
                open.push(nth);
                requests.push(request);
            }
            said.push(known);
        }
        if requests.is_empty() {
            return Ok(said.into_iter().flatten().collect());
        }
        ctx.cancel.check()?;
        // All of it goes at once, so all of it has to fit.
        let reserved = match &self.budget {
            Some(budget) => Some(budget.reserve(most_usd).await?),
            None => None,
        };
        let mut progress = ctx.progress("asking in batches", Some(requests.len() as u64), "questions");
        let mut n_told = 0;
        let tell = |now: &BatchProgress| {
            progress.advance(now.n_done.saturating_sub(n_told) as u64);
            n_told = n_told.max(now.n_done);
        };
        let answers = self.client.in_batches(&requests, options, ctx.cancel, tell).await?;
        let mut paid_usd = 0.0;
        for ((nth, request), answer) in open.into_iter().zip(requests).zip(answers) {
            let Some(result) = answer else {
                said[nth] = Some(Err(Error::cancelled()));
                continue;
            };
            let cost_usd = result.as_ref().ok().and_then(|answer| self.cost(&request.model, answer));
            paid_usd += match &result {
                Ok(_) => cost_usd.unwrap_or(0.0),
                // A broken answer is paid for as well, at an unknown price.
                Err(failure) if self.budget.is_some() && is_paid(failure.kind) => {
                    self.most(&Question::Chat(request.clone()), &request.model)?
                }
                Err(_) => 0.0,
            };
            said[nth] = Some(self.take(keys[nth], request.model, result, cost_usd, None).await);
        }
        reserved.into_iter().for_each(|reserved| reserved.settle(paid_usd));
        Ok(said.into_iter().flatten().collect())
    }
}

/// Ranges of questions of these sizes in bytes that make a batch each.
fn cut(sizes: impl Iterator<Item = usize>, max_requests: usize) -> Vec<Range<usize>> {
    let mut ranges: Vec<Range<usize>> = Vec::new();
    let mut n_bytes = 0;
    for (nth, size) in sizes.enumerate() {
        match ranges.last_mut().filter(|range| range.len() < max_requests && n_bytes + size <= MAX_BYTES) {
            Some(range) => range.end = nth + 1,
            None => {
                ranges.push(nth..nth + 1);
                n_bytes = 0;
            }
        }
        n_bytes += size;
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_cut_by_number_and_by_bytes() {
        assert_eq!(cut([1; 5].into_iter(), 2), [0..2, 2..4, 4..5]);
        assert_eq!(cut([MAX_BYTES / 2 + 1; 3].into_iter(), 9), [0..1, 1..2, 2..3]);
        assert!(cut(std::iter::empty(), 2).is_empty());
    }
}
