//! Many requests at once, each result in its place.

use std::future::Future;
use std::ops::ControlFlow;
use std::time::Duration;

use farmhand_core::CancelFlag;
use tokio::sync::mpsc::unbounded_channel;
use tokio::task::JoinSet;

use crate::client::Client;
use crate::failure::{Failure, FailureKind};

/// How often the user's wish to stop is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A request's result, or that it is time to look at the flag.
enum News<R> {
    Done(usize, Result<R, Failure>),
    Look,
}

impl Client {
    /// Runs one request, or drops it when the user asks to stop.
    ///
    /// # Errors
    /// As the request, and a failure of kind `Cancelled`.
    pub async fn unless_cancelled<R, F>(&self, request: F, cancel: &CancelFlag) -> Result<R, Failure>
    where
        R: Send + 'static,
        F: Future<Output = Result<R, Failure>> + Send + 'static,
    {
        let mut results = self.in_parallel(vec![request], cancel, |_, _| ControlFlow::Continue(())).await;
        let cancelled = || Err(Failure::new(FailureKind::Cancelled, &self.url().root(""), "stopped on request"));
        results.pop().flatten().unwrap_or_else(cancelled)
    }

    /// Runs all requests, as many at a time as the client's options allow, and gives their results back in the order of the
    /// requests, whichever came first. `on_done` sees each as it comes and may break off; then, and when the user asks to
    /// stop, requests under way are dropped, and what has no result yet is `None`.
    pub async fn in_parallel<R, F>(
        &self,
        requests: Vec<F>,
        cancel: &CancelFlag,
        mut on_done: impl FnMut(usize, &Result<R, Failure>) -> ControlFlow<()>,
    ) -> Vec<Option<Result<R, Failure>>>
    where
        R: Send + 'static,
        F: Future<Output = Result<R, Failure>> + Send + 'static,
    {
        let mut results: Vec<Option<Result<R, Failure>>> = requests.iter().map(|_| None).collect();
        let mut left = results.len();
        if left == 0 || cancel.is_cancelled() {
            return results;
        }
        let (sender, mut news) = unbounded_channel();
        // Dropped at the end of this function, and with it every request that is still under way.
        let mut tasks = JoinSet::new();
        for (index, request) in requests.into_iter().enumerate() {
            let sender = sender.clone();
            let work = async move {
                let result = request.await;
                // Nobody listens any more when the caller broke off.
                let _ = sender.send(News::Done(index, result));
            };
            tasks.spawn_on(work, self.network());
        }
        let ticks = async move {
            while sender.send(News::Look).is_ok() {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        tasks.spawn_on(ticks, self.network());
        while left > 0 && !cancel.is_cancelled() {
            match news.recv().await {
                Some(News::Done(index, result)) => {
                    let go_on = on_done(index, &result);
                    results[index] = Some(result);
                    left -= 1;
                    if go_on.is_break() {
                        break;
                    }
                }
                Some(News::Look) => {}
                None => break,
            }
        }
        results
    }
}
