//! Many requests at once, each result in its place.

use std::future::Future;
use std::ops::ControlFlow;
use std::pin::pin;
use std::time::Duration;

use farmhand_core::CancelFlag;
use tokio::sync::mpsc::unbounded_channel;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::client::Client;
use crate::failure::{Failure, FailureKind};
use crate::network_thread::NetworkTask;
use crate::stop::Stop;

impl Client {
    /// Runs one request. When the user asks to stop before it was sent, it is dropped; when it is under way, its answer, which
    /// is paid for, is waited for as long as `grace_secs` allow. The request may be polled by any executor and borrow.
    ///
    /// # Errors
    /// As the request, and a failure of kind `Cancelled`.
    pub async fn unless_cancelled<R, F>(&self, request: F, cancel: &CancelFlag) -> Result<R, Failure>
    where
        F: Future<Output = Result<R, Failure>>,
    {
        let cancelled = || Failure::new(FailureKind::Cancelled, &self.address(), "stopped on request");
        if cancel.is_cancelled() {
            return Err(cancelled());
        }
        let (wish, heard) = watch::channel(false);
        let mut request = pin!(Stop::heard_in(heard, request));
        tokio::select! {
            biased;
            result = &mut request => return result,
            () = cancel.cancelled() => {}
        }
        // Nobody hears of it once the request is done, and that is as good.
        let _ = wish.send(true);
        tokio::select! {
            biased;
            result = request => result,
            () = self.pause(self.shared.grace) => Err(cancelled()),
        }
    }

    /// Runs all requests, as many at a time as the client's options allow, and gives their results back in the order of the
    /// requests, whichever came first. `on_done` sees each as it comes and may break off; then requests under way are dropped.
    /// When the user asks to stop, nothing more is sent, and answers under way are waited for as long as `grace_secs` allow,
    /// for they are paid for. What has no result yet in the end is `None`.
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
        let ((sender, mut done), (wish, heard)) = (unbounded_channel(), watch::channel(false));
        // Dropped at the end of this function, and with it every request that is still under way.
        let mut tasks = JoinSet::new();
        for (index, request) in requests.into_iter().enumerate() {
            let (sender, request) = (sender.clone(), Stop::heard_in(heard.clone(), request));
            let work = async move {
                let result = request.await;
                // Nobody listens any more when the caller broke off.
                let _ = sender.send((index, result));
            };
            tasks.spawn_on(work, self.network());
        }
        let mut out_of_time = pin!(async {
            cancel.cancelled().await;
            let _ = wish.send(true);
            self.pause(self.shared.grace).await;
        });
        while left > 0 {
            let (index, result) = tokio::select! {
                biased;
                Some(news) = done.recv() => news,
                () = &mut out_of_time => break,
            };
            left -= 1;
            if matches!(&result, Err(failure) if failure.kind == FailureKind::Cancelled) {
                continue;
            }
            let go_on = on_done(index, &result);
            results[index] = Some(result);
            if go_on.is_break() {
                break;
            }
        }
        results
    }

    /// Waits, on the network's clock, so that any executor may poll it.
    pub(crate) async fn pause(&self, time: Duration) {
        NetworkTask::spawn(self.network(), async move { tokio::time::sleep(time).await }).await;
    }
}
