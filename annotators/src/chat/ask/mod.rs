//! The one loop that asks: a question, its key, the store, the server, the store again, and only then the parser.
//!
//! What was answered before is not asked again, and the same question twice in one call is asked once. A reply is committed to
//! the store before anyone reads it, so that a parser can be changed, or a run killed, without paying twice. Questions go through
//! a window that is as wide as the server's limit of requests; when the user asks to stop, no further one is sent, and replies
//! under way, which are paid for, are waited for and kept.
//!
//! An answer that cannot be read stays in the store. Where the user wants failures retried, its question is asked once more, and the new
//! answer is kept beside it: the first that can be read stands from then on, else the last.

mod batches;
mod reading;

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Instant;

use farmhand_core::types::Judging;
use farmhand_core::{Budget, BuildContext, Error, ErrorKind, Forecast, Reservation, Result, RunContext};
use farmhand_endpoints::{
    Answer, BatchOptions, ChatRequest, Client, CompletionRequest, Date, EndpointOptions, Failure, FailureKind, Finish, Pricing,
    Prompt, RequestEstimate, Usage,
};
use futures_util::StreamExt as _;
use futures_util::stream;
use serde_json::Value;

use crate::store::{QuestionKey, ReplyFailure, ReplyOutcome, Store, StoredReply};

use super::ask_options::KeepOptions;

pub(crate) use reading::Reading;

/// The store's file in the folder that runs share.
const SHARED_STORE: &str = "judgements.db";

/// What a server is asked.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Question {
    /// The next turn of a conversation.
    Chat(ChatRequest),
    /// How a text goes on.
    Completion(CompletionRequest),
}

/// What came of a question.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Said {
    pub(crate) answer: Answer,
    /// What it cost, in US dollars, if the prices are known; 0 when it was kept from an earlier time.
    pub(crate) cost_usd: Option<f64>,
    /// Seconds from asking to the answer.
    pub(crate) time_secs: Option<f64>,
    /// Whether it was kept from an earlier time, or is the answer to an equal question of the same call.
    pub(crate) cached: bool,
}

impl Said {
    /// What it cost, in US dollars, as far as that is known.
    pub(crate) fn spent(&self) -> f64 {
        self.cost_usd.unwrap_or(0.0)
    }
}

/// Asks a server, and keeps what it said.
pub(crate) struct Asker {
    client: Client,
    store: Store,
    /// What the user has to be told about the store's place, until that was done.
    notice: Mutex<Option<String>>,
    pricing: Pricing,
    budget: Option<Budget>,
    retry_failures: bool,
    n_at_a_time: usize,
    batches: Option<BatchOptions>,
    /// The failure after which asking on makes no sense: a key that is refused, a model that is not there.
    hopeless: OnceLock<Failure>,
}

impl Asker {
    /// Asks this server, and keeps what it says.
    pub(crate) fn new(server: &EndpointOptions, keep: &KeepOptions, ctx: &BuildContext<'_>) -> Result<Self> {
        let KeepOptions { price, store, batch, retry_failures } = keep;
        let client = Client::from_options(server, ctx)?;
        let mut pricing = price.pricing(ctx)?;
        let path = store.as_ref().map(|path| ctx.resolve(path));
        let path = path.or_else(|| ctx.cache_dir.map(|folder| folder.join(SHARED_STORE)));
        // What is paid for is kept, also where nobody said where.
        let (path, notice) = path.map_or_else(
            || {
                let path = ctx.resolve(Path::new(SHARED_STORE));
                let hint = "`store` or a cache folder (`FARMHAND_CACHE`) says otherwise";
                let notice = format!("  what the judge answers is kept in `{}`; {hint}", path.display());
                (path, Some(notice))
            },
            |path| (path, None),
        );
        let batches = batch.as_ref().map(|batch| batches::options(batch, &path));
        if batches.is_some() {
            pricing = pricing.in_batches();
        }
        let (store, notice) = (Store::open(path)?, Mutex::new(notice));
        let retry_failures = *retry_failures;
        let n_at_a_time = server.max_concurrent.max(1);
        let budget = ctx.budget.cloned();
        Ok(Self { client, store, notice, pricing, budget, retry_failures, n_at_a_time, batches, hopeless: OnceLock::new() })
    }

    /// All, when it asks in batches.
    pub(crate) fn comparisons_at_once(&self) -> Option<usize> {
        self.batches.as_ref().map(|_| usize::MAX)
    }

    /// The server's client.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// Asks `n` questions. `write` makes the i-th with the seed that tells its sample apart, `read` sees what came of it, as soon
    /// as that is there; what `read` makes of them comes back in the order of the questions.
    pub(crate) async fn ask<T: Reading + Send>(
        &self,
        n: usize,
        write: impl Fn(usize) -> Result<(Question, u64)> + Sync,
        read: impl Fn(usize, Result<Said>) -> T + Sync,
        ctx: &RunContext<'_>,
    ) -> Vec<T> {
        let notice = self.notice.lock().unwrap_or_else(PoisonError::into_inner).take();
        notice.into_iter().for_each(|notice| ctx.events.info(&notice));
        let mut results: Vec<Option<T>> = (0..n).map(|_| None).collect();
        // Who asks the same. Keys are kept, questions are not: they are written again when their turn comes.
        let mut groups: Vec<(QuestionKey, Vec<usize>)> = Vec::new();
        let mut group_of: HashMap<QuestionKey, usize> = HashMap::new();
        for (i, result) in results.iter_mut().enumerate() {
            match write(i) {
                Ok((question, sample_seed)) => {
                    let key = QuestionKey::of(&question.canonical(), sample_seed);
                    let group = *group_of.entry(key).or_insert_with(|| {
                        groups.push((key, Vec::new()));
                        groups.len() - 1
                    });
                    groups[group].1.push(i);
                }
                Err(error) => *result = Some(read(i, Err(error))),
            }
        }
        drop(group_of);
        let (write, read) = (&write, &read);
        // Which attempt at a question counts. What cannot be looked up is told when it is asked.
        let standing =
            |key: QuestionKey, first: usize| self.standing(key, |said| read(first, said).n_unreadable() > 0).unwrap_or(key);
        for (key, members) in &mut groups {
            *key = standing(*key, members[0]);
        }
        let read_group = |members: Vec<usize>, said: Result<Said>| {
            let of = |(nth, i): (usize, usize)| (i, read(i, if nth == 0 { share(&said) } else { again(&said) }));
            members.into_iter().enumerate().map(of).collect::<Vec<_>>()
        };
        let read_group = &read_group;
        let mut take = |read: Vec<(usize, T)>| read.into_iter().for_each(|(i, result)| results[i] = Some(result));
        if let Some(options) = &self.batches {
            let (keys, members): (Vec<QuestionKey>, Vec<Vec<usize>>) = groups.into_iter().unzip();
            let said = self.ask_in_batches(&keys, |nth| write(members[nth][0]).map(|(question, _)| question), options, ctx).await;
            members.into_iter().zip(said).for_each(|(members, said)| take(read_group(members, said)));
        } else {
            let one = |(key, members): (QuestionKey, Vec<usize>)| async move {
                let said = match write(members[0]) {
                    Ok((question, _)) => self.ask_one(question, key, ctx).await,
                    Err(error) => Err(error),
                };
                read_group(members, said)
            };
            let mut done = stream::iter(groups).map(one).buffer_unordered(self.n_at_a_time);
            while let Some(read) = done.next().await {
                take(read);
            }
        }
        let warnings = [self.store.warning(), self.pricing.warning()];
        warnings.into_iter().flatten().chain(self.client.take_warnings()).for_each(|warning| ctx.events.warn(&warning));
        results.into_iter().map(|result| result.expect("every question is in one group")).collect()
    }

    /// Adds to a forecast what a question about so many comparisons would take. `seen` are the questions of the same call so far: the
    /// same one is asked once.
    pub(crate) fn foretell(
        &self,
        (question, sample_seed): &(Question, u64),
        n_comparisons: usize,
        is_unreadable: impl Fn(Result<Said>) -> bool,
        seen: &mut HashSet<QuestionKey>,
        forecast: &mut Forecast,
    ) -> Result<()> {
        let key = QuestionKey::of(&question.canonical(), *sample_seed);
        if !seen.insert(key) || self.kept(self.standing(key, is_unreadable)?)?.is_some() {
            forecast.n_cached += n_comparisons;
            return Ok(());
        }
        forecast.n_asked += n_comparisons;
        let (n_bytes, max_tokens) = question.size();
        RequestEstimate::of(n_bytes, max_tokens).add_to(forecast, self.pricing.prices(question.model()).as_ref());
        Ok(())
    }

    async fn ask_one(&self, question: Question, key: QuestionKey, ctx: &RunContext<'_>) -> Result<Said> {
        if let Some(kept) = self.kept(key)? {
            return kept;
        }
        ctx.cancel.check()?;
        if let Some(failure) = self.hopeless.get() {
            return Err(error_of(failure));
        }
        let model = question.model().to_owned();
        let reserved = self.reserve(&question, &model).await?;
        // Waiting for money may have taken a while.
        ctx.cancel.check()?;
        let started = Instant::now();
        // An answer under way is paid for, so a wish to stop waits for it; what was not sent yet is not.
        let result = match question {
            Question::Chat(request) => self.client.unless_cancelled(self.client.chat(request), ctx.cancel).await,
            Question::Completion(request) => self.client.unless_cancelled(self.client.complete(request), ctx.cancel).await,
        };
        let time_secs = Some(started.elapsed().as_secs_f64());
        let cost_usd = result.as_ref().ok().and_then(|answer| self.cost(&model, answer));
        if let Some(reserved) = reserved {
            match (&result, cost_usd) {
                (Ok(_), Some(cost_usd)) => reserved.settle(cost_usd),
                (Ok(_), None) => reserved.settle_in_full(),
                // An answer that came too late or broken is paid for as well.
                (Err(failure), _) if is_paid(failure.kind) => reserved.settle_in_full(),
                (Err(_), _) => {}
            }
        }
        self.take(key, model, result, cost_usd, time_secs).await
    }

    fn cost(&self, model: &str, answer: &Answer) -> Option<f64> {
        self.pricing.cost(model, answer.model.as_deref(), &answer.usage)
    }

    /// Keeps what came of a question, and says what that is.
    async fn take(
        &self,
        key: QuestionKey,
        model: String,
        result: Result<Answer, Failure>,
        cost_usd: Option<f64>,
        time_secs: Option<f64>,
    ) -> Result<Said> {
        match result {
            Ok(answer) => {
                let kept = json(&answer).map(|json| StoredReply {
                    outcome: ReplyOutcome::Answer(json),
                    model: answer.model.clone().unwrap_or(model),
                    usage: answer.usage,
                    cost_usd,
                    time_secs,
                    date: Date::now(),
                })?;
                let said = Said { answer, cost_usd, time_secs, cached: false };
                // When it cannot be written it is held in memory, and the user hears of it once; the answer is good.
                let stands = self.store.keep_or_take(key, kept).await.ok();
                // Another process may have been faster: then its answer counts, so that this run and the next agree.
                match stands.and_then(|reply| answer_of(&reply)) {
                    Some(answer) => unless_refused(Said { answer, ..said }),
                    None => unless_refused(said),
                }
            }
            Err(failure) => {
                let error = error_of(&failure);
                if failure.kind != FailureKind::Cancelled {
                    self.keep_failure(key, &failure, &error, model, time_secs).await;
                }
                let known = Judging { time_secs, ..Judging::default() };
                Err(if error.is_cancelled() { error } else { error.with_judging(known) })
            }
        }
    }

    /// Sets aside the most that a question may cost, as far as its price is known: four bytes are about a token, and an answer may
    /// be as long as it is let.
    async fn reserve(&self, question: &Question, model: &str) -> Result<Option<Reservation>> {
        let Some(budget) = &self.budget else { return Ok(None) };
        budget.reserve(self.most(question, model)?).await.map(Some)
    }

    /// The most that a question may cost.
    fn most(&self, question: &Question, model: &str) -> Result<f64> {
        let (n_bytes, max_tokens) = question.size();
        let usage = Usage { prompt_tokens: n_bytes.div_ceil(4) as u64, completion_tokens: max_tokens.into(), ..Usage::default() };
        let prices = self.pricing.prices(model).ok_or_else(|| {
            Error::invalid_config(format!("the price of `{model}` is not known, so that no budget can be kept"))
                .with_hint("set `prices`, name a table in `price_file`, or run without a budget")
        })?;
        Ok(prices.cost(&usage))
    }

    /// The key of the attempt at a question that counts: the first whose answer can be read, else the last; where failures are
    /// retried, a new one after an answer that cannot be read.
    fn standing(&self, key: QuestionKey, is_unreadable: impl Fn(Result<Said>) -> bool) -> Result<QuestionKey> {
        let mut current = key;
        for n in 1.. {
            if !self.kept(current)?.is_some_and(&is_unreadable) {
                break;
            }
            let next = key.attempt(n);
            if !self.retry_failures && self.kept(next)?.is_none() {
                break;
            }
            current = next;
        }
        Ok(current)
    }

    /// What the store knows, unless that has to be asked again.
    fn kept(&self, key: QuestionKey) -> Result<Option<Result<Said>>> {
        let Some(reply) = self.store.replies(&[key])?.pop().flatten().filter(|reply| reply.settles(self.retry_failures)) else {
            return Ok(None);
        };
        if let ReplyOutcome::Failure(failure) = &reply.outcome {
            let known = Judging { cached: true, cost_usd: Some(0.0), time_secs: Some(0.0), ..Judging::default() };
            return Ok(Some(Err(failure.to_error().with_judging(known))));
        }
        let free = |answer| Said { answer, cost_usd: Some(0.0), time_secs: Some(0.0), cached: true };
        Ok(answer_of(&reply).map(|answer| unless_refused(free(answer))))
    }

    async fn keep_failure(&self, key: QuestionKey, failure: &Failure, error: &Error, model: String, time_secs: Option<f64>) {
        if matches!(failure.kind, FailureKind::Unauthorised | FailureKind::QuotaSpent | FailureKind::NotFound) {
            let _ = self.hopeless.set(failure.clone());
        }
        // Only what the text itself is to blame for will fail again.
        let may_pass = !matches!(failure.kind, FailureKind::Filtered | FailureKind::ContextTooLong);
        let reply = StoredReply {
            outcome: ReplyOutcome::Failure(ReplyFailure { may_pass, ..ReplyFailure::of(error) }),
            model,
            usage: Usage { n_failed: 1, ..Usage::default() },
            cost_usd: None,
            time_secs,
            date: Date::now(),
        };
        // A failure that cannot be kept is asked again, which is as good.
        let _ = self.store.keep(key, reply).await;
    }
}

impl Question {
    /// What is asked, in the form that the store goes by.
    pub(crate) fn canonical(&self) -> Value {
        match self {
            Self::Chat(request) => request.question(),
            Self::Completion(request) => request.question(),
        }
    }

    /// Bytes of the prompt, and tokens of the answer at most.
    fn size(&self) -> (usize, u32) {
        match self {
            Self::Chat(request) => {
                let text: usize = request.messages.iter().map(|message| message.content.len() + 16).sum();
                (
                    text + request.tools.iter().map(|tool| tool.parameters.to_string().len()).sum::<usize>(),
                    request.decoding.max_tokens,
                )
            }
            Self::Completion(request) => {
                let text = match &request.prompt {
                    Prompt::Text(text) => text.len(),
                    Prompt::Tokens(ids) => 4 * ids.len(),
                };
                (text, request.decoding.max_tokens)
            }
        }
    }

    fn model(&self) -> &str {
        match self {
            Self::Chat(request) => &request.model,
            Self::Completion(request) => &request.model,
        }
    }
}

/// Whether a request that failed so may be paid for all the same.
fn is_paid(kind: FailureKind) -> bool {
    matches!(kind, FailureKind::TimedOut | FailureKind::Garbage | FailureKind::Cancelled)
}

/// The failure of a request as an error. What the provider's filter stops is refused, wherever it says so.
fn error_of(failure: &Failure) -> Error {
    let error = Error::from(failure.clone());
    if failure.kind != FailureKind::Filtered {
        return error;
    }
    let refused = Error::new(ErrorKind::RefusedAnswer, error.to_string());
    error.hint().map(str::to_owned).into_iter().fold(refused, Error::with_hint)
}

/// A reply in so many words that there will be none is a failure of its own kind.
fn unless_refused(said: Said) -> Result<Said> {
    let has_text = !said.answer.text.is_empty() || !said.answer.tool_calls.is_empty();
    if said.answer.finish != Finish::Filtered {
        return Ok(said);
    }
    let known = Judging {
        raw: has_text.then(|| said.answer.text.clone()),
        cost_usd: said.cost_usd,
        time_secs: said.time_secs,
        cached: said.cached,
        ..Judging::default()
    };
    Err(Error::new(ErrorKind::RefusedAnswer, "the judge refuses to answer").with_judging(known))
}

fn answer_of(reply: &StoredReply) -> Option<Answer> {
    serde_json::from_value(reply.answer()?.clone()).ok()
}

fn json(answer: &Answer) -> Result<Value> {
    serde_json::to_value(answer).map_err(|error| Error::other("an answer cannot be kept").with_source(error))
}

/// What was said, for the one who asked.
fn share(said: &Result<Said>) -> Result<Said> {
    match said {
        Ok(said) => Ok(said.clone()),
        Err(error) => Err(error.copy()),
    }
}

/// What was said, for another who asked the same: free.
fn again(said: &Result<Said>) -> Result<Said> {
    let free = |said: &Said| Said { cost_usd: said.cost_usd.map(|_| 0.0), time_secs: Some(0.0), cached: true, ..said.clone() };
    let same = |error: &Error| {
        let copy = error.copy();
        if copy.judging().is_none() {
            return copy;
        }
        copy.map_judging(|known| Judging { cost_usd: known.cost_usd.map(|_| 0.0), time_secs: Some(0.0), cached: true, ..known })
    };
    said.as_ref().map(free).map_err(same)
}
