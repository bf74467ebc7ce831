//! OpenAI's batch interface: many chats in one file, answered within a day, for less money.
//!
//! Everything that could be paid for twice is written down first. A part of the requests gets a name that follows from its
//! content; before anything is sent, the name is noted in a file, and once the server has given the batch an id, the id as
//! well. A process that was killed finds the batch again by its id, or, if it died in between, by the name, which the batch
//! carries at the server.

mod notes;
mod part;

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Duration;

use farmhand_core::{CancelFlag, Error, Result};
use serde_json::{Value, json};

use crate::answer::Answer;
use crate::chat::{ChatRequest, asks_for_the_other_name};
use crate::client::{Body, Client, Request, Route};
use crate::failure::{Failure, FailureKind};
use crate::options::Api;
use notes::Notes;
use part::{Part, parts};

/// Under which name a batch carries the name of its requests.
const NAME_KEY: &str = "farmhand";

/// Pages of the server's list of batches that are searched for one whose id was not noted.
const SEARCHED_PAGES: usize = 10;

/// How requests go as batches.
#[derive(Debug, Clone, PartialEq)]
pub struct BatchOptions {
    /// Where it is noted which batch holds which requests; made when it is not there, shared by processes.
    pub notes: PathBuf,
    /// Seconds between two looks at a batch, > 0.
    pub poll_secs: f64,
    /// Requests of one batch at most, ≥ 1; OpenAI takes 50,000.
    pub max_requests: usize,
    /// Bytes of one batch's file at most; OpenAI takes 200 MB.
    pub max_bytes: usize,
}

impl BatchOptions {
    /// The limits of OpenAI, a look every half minute.
    pub fn new(notes: impl Into<PathBuf>) -> Self {
        Self { notes: notes.into(), poll_secs: 30.0, max_requests: 50_000, max_bytes: 190 << 20 }
    }
}

/// How far the batches are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BatchProgress {
    /// Requests in all batches.
    pub n_requests: usize,
    /// Of these, answered or failed at the server.
    pub n_done: usize,
}

/// A batch as the server describes it.
#[derive(Debug, Clone)]
struct Batch {
    status: String,
    n_done: usize,
    output_file: Option<String>,
    error_file: Option<String>,
    /// Why the server refused the whole.
    refusal: Option<String>,
}

impl Batch {
    fn read(json: &Value) -> Result<Self, String> {
        let text = |key: &str| json[key].as_str().map(str::to_owned);
        let count = |key: &str| json["request_counts"][key].as_u64().unwrap_or(0) as usize;
        let refusal = json["errors"]["data"].as_array().into_iter().flatten().find_map(|error| error["message"].as_str());
        Ok(Self {
            status: text("status").ok_or("no `status`")?,
            n_done: count("completed") + count("failed"),
            output_file: text("output_file_id"),
            error_file: text("error_file_id"),
            refusal: refusal.map(str::to_owned),
        })
    }

    fn is_over(&self) -> bool {
        matches!(self.status.as_str(), "completed" | "failed" | "expired" | "cancelled")
    }
}

impl Client {
    /// Asks for the next turn of many conversations through batches, and waits for them, which may take a day. The results stand
    /// in the order of the requests; what has none because the user asked to stop is `None`, and the same call goes on waiting
    /// for the same batches later. A request whose batch expired or was cancelled before its turn fails in a way that may pass.
    ///
    /// Batches go through the first key, for a file that one account uploads another cannot use.
    ///
    /// # Errors
    /// When the interface has no batches, the notes cannot be kept, or the server refuses or fails; what was sent is noted, and
    /// the same call goes on from there.
    pub async fn in_batches(
        &self,
        requests: &[ChatRequest],
        options: &BatchOptions,
        cancel: &CancelFlag,
        mut on_progress: impl FnMut(&BatchProgress) + Send,
    ) -> Result<Vec<Option<Result<Answer, Failure>>>> {
        if self.shared.api == Api::Anthropic {
            return Err(Error::invalid_config("Anthropic's interface is asked one request at a time")
                .with_hint("leave the batches out, or use `api = \"openai\"`"));
        }
        let mut results = self.batch_round(requests, options, cancel, &mut on_progress).await?;
        let renamed: Vec<usize> = (0..requests.len()).filter(|i| wants_the_other_name(results[*i].as_ref())).collect();
        if !renamed.is_empty() && !self.shared.counts_completion_tokens.swap(true, Ordering::Relaxed) {
            let again: Vec<ChatRequest> = renamed.iter().map(|i| requests[*i].clone()).collect();
            let answers = self.batch_round(&again, options, cancel, &mut on_progress).await?;
            for (i, answer) in renamed.into_iter().zip(answers) {
                results[i] = answer;
            }
        }
        Ok(results)
    }

    async fn batch_round(
        &self,
        requests: &[ChatRequest],
        options: &BatchOptions,
        cancel: &CancelFlag,
        on_progress: &mut (impl FnMut(&BatchProgress) + Send),
    ) -> Result<Vec<Option<Result<Answer, Failure>>>> {
        let mut results: Vec<Option<Result<Answer, Failure>>> = requests.iter().map(|_| None).collect();
        let mut notes = Notes::open(&options.notes);
        let mut waiting: Vec<(Part, String)> = Vec::new();
        let other_name = self.shared.counts_completion_tokens.load(Ordering::Relaxed);
        let limit = if other_name { "max_completion_tokens" } else { "max_tokens" };
        for part in parts(requests, limit, options.max_requests, options.max_bytes)? {
            cancel.check()?;
            let id = self.submitted(&part, &mut notes).await?;
            waiting.push((part, id));
        }
        let mut progress = BatchProgress { n_requests: requests.len(), n_done: 0 };
        let mut n_over = 0;
        while !waiting.is_empty() {
            let (mut still, mut n_done) = (Vec::new(), n_over);
            for (part, id) in waiting {
                let batch = self.batch(&id).await?;
                if batch.is_over() {
                    n_over += part.len();
                    n_done += part.len();
                    self.collect(&part, &batch, &mut results).await?;
                } else {
                    n_done += batch.n_done;
                    still.push((part, id));
                }
            }
            waiting = still;
            if n_done != progress.n_done {
                progress.n_done = n_done;
                on_progress(&progress);
            }
            let pause = self.pause(Duration::from_secs_f64(options.poll_secs));
            if waiting.is_empty() {
                break;
            }
            tokio::select! {
                biased;
                () = cancel.cancelled() => break,
                () = pause => {}
            }
        }
        Ok(results)
    }

    /// The id of the batch that holds a part: found in the notes or at the server, or else made.
    async fn submitted(&self, part: &Part, notes: &mut Notes) -> Result<String> {
        let note = notes.of(&part.name)?;
        let known = match note {
            Some(Some(id)) => Some(id),
            // It was about to be sent when the process ended: the server knows whether it was.
            Some(None) => self.batch_named(&part.name).await?,
            None => None,
        };
        if let Some(id) = known {
            match self.batch(&id).await {
                // A batch that ended without a single answer is of no use to anybody who asks again.
                Ok(batch) if !batch.is_over() || self.has_answers(&batch).await? => {
                    notes.keep(&part.name, Some(&id))?;
                    return Ok(id);
                }
                Ok(_) => {}
                Err(failure) if failure.kind == FailureKind::NotFound => {}
                Err(failure) => return Err(failure.into()),
            }
        }
        notes.keep(&part.name, None)?;
        let id = self.submit(part).await?;
        notes.keep(&part.name, Some(&id))?;
        Ok(id)
    }

    async fn submit(&self, part: &Part) -> Result<String> {
        let file = self.send_to_first(Request::upload(part), id_of).await?;
        let body = json!({
            "input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h",
            "metadata": { NAME_KEY: part.name },
        });
        let mut n_failures = 0;
        loop {
            let body = body.clone();
            let create = Request::post(Route::api("batches"), 0, move || body.clone()).once();
            let failure = match self.send_to_first(create, id_of).await {
                Ok(id) => return Ok(id),
                Err(failure) => failure,
            };
            n_failures += 1;
            if !failure.may_pass() || n_failures > self.shared.retries {
                return Err(failure.into());
            }
            self.pause(self.shared.backoff.wait(0, n_failures)).await;
            // The server may have made it before the answer was lost.
            if let Some(id) = self.batch_named(&part.name).await? {
                return Ok(id);
            }
        }
    }

    /// The newest batch that carries this name and is not lost.
    async fn batch_named(&self, name: &str) -> Result<Option<String>> {
        let mut after = String::new();
        for _ in 0..SEARCHED_PAGES {
            let route = Route::api(format!("batches?limit=100{after}"));
            let page = self.send_to_first(Request::get(route), |json| {
                json["data"].as_array().ok_or_else(|| "no `data`".to_owned()).map(|_| json.clone())
            });
            let page = page.await?;
            let batches = page["data"].as_array().into_iter().flatten();
            let mut ours = batches.clone().filter(|batch| batch["metadata"][NAME_KEY] == name);
            if let Some(id) = ours.find_map(|batch| batch["id"].as_str()) {
                return Ok(Some(id.to_owned()));
            }
            match batches.last().and_then(|batch| batch["id"].as_str()).filter(|_| page["has_more"] == true) {
                Some(last) => after = format!("&after={last}"),
                None => break,
            }
        }
        Ok(None)
    }

    async fn batch(&self, id: &str) -> Result<Batch, Failure> {
        self.send_to_first(Request::get(Route::api(format!("batches/{id}"))), Batch::read).await
    }

    /// Whether any request of a batch that is over was answered.
    async fn has_answers(&self, batch: &Batch) -> Result<bool> {
        let Some(file) = &batch.output_file else { return Ok(false) };
        match self.lines_of(file).await {
            Ok(lines) => Ok(lines.iter().any(|line| line["response"]["status_code"] == 200)),
            Err(failure) if failure.kind == FailureKind::NotFound => Ok(false),
            Err(failure) => Err(failure.into()),
        }
    }

    /// Puts the results of a batch that is over into their places.
    async fn collect(&self, part: &Part, batch: &Batch, results: &mut [Option<Result<Answer, Failure>>]) -> Result<()> {
        for file in [&batch.output_file, &batch.error_file].into_iter().flatten() {
            for line in self.lines_of(file).await? {
                let Some(index) = line["custom_id"].as_str().and_then(|id| part.index_of(id)) else { continue };
                if results[index].is_none() {
                    results[index] = Some(part.result(index, &line).inspect(|answer| self.count_answer(answer)));
                }
            }
        }
        for index in part.indices() {
            results[index].get_or_insert_with(|| Err(part.unanswered(&batch.status, batch.refusal.as_deref())));
        }
        Ok(())
    }

    fn count_answer(&self, answer: &Answer) {
        self.shared.count(|usage| *usage += answer.usage);
    }

    async fn lines_of(&self, file: &str) -> Result<Vec<Value>, Failure> {
        let request =
            Request { largest_answer: 1 << 30, ..Request::get(Route::api(format!("files/{file}/content"))) }.for_first();
        let read = |received: &crate::attempt::Received<'_>| {
            let text = received.text();
            let lines = text.lines().filter(|line| !line.trim().is_empty());
            lines.map(|line| serde_json::from_str(line).map_err(|error| received.garbage(&error.to_string()))).collect()
        };
        self.send_for(request, read).await
    }

    async fn send_to_first<T: Send + 'static>(
        &self,
        request: Request,
        read: impl Fn(&Value) -> Result<T, String> + Send + Sync + 'static,
    ) -> Result<T, Failure> {
        self.send(request.for_first(), read).await
    }
}

impl Request {
    fn upload(part: &Part) -> Self {
        let (content_type, bytes) = part.form();
        Self { body: Body::Bytes(content_type, bytes), ..Self::get(Route::api("files")) }
    }
}

/// Whether a request failed because this server calls the limit of tokens `max_completion_tokens`.
fn wants_the_other_name(result: Option<&Result<Answer, Failure>>) -> bool {
    result.is_some_and(|result| result.as_ref().is_err_and(asks_for_the_other_name))
}

fn id_of(json: &Value) -> Result<String, String> {
    json["id"].as_str().map(str::to_owned).ok_or_else(|| "no `id`".to_owned())
}

#[cfg(test)]
mod tests;
