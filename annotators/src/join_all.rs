//! Several futures at once, each result in its place.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;

/// Runs all futures concurrently on the caller's task; a judge that waits does not hold up the others. Whenever one
/// wakes, those that are not done yet are polled: fine for the handful of members a pool has.
pub(crate) async fn join_all<'a, T>(futures: Vec<Pin<Box<dyn Future<Output = T> + Send + 'a>>>) -> Vec<T> {
    let mut running: Vec<_> = futures.into_iter().map(Some).collect();
    let mut results: Vec<Option<T>> = running.iter().map(|_| None).collect();
    poll_fn(|cx| {
        for (slot, result) in running.iter_mut().zip(&mut results) {
            if let Some(future) = slot
                && let Poll::Ready(value) = future.as_mut().poll(cx)
            {
                (*slot, *result) = (None, Some(value));
            }
        }
        if running.iter().all(Option::is_none) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    results.into_iter().map(|result| result.expect("every future is done")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use farmhand_core::{Executor, PollingExecutor};
    use std::sync::Mutex;

    /// Is ready at the n-th poll.
    async fn after_polls(n: usize, value: u32, log: &Mutex<Vec<u32>>) -> u32 {
        let mut polls = 0;
        poll_fn(|cx| {
            polls += 1;
            if polls >= n {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
        log.lock().expect("not poisoned").push(value);
        value
    }

    #[test]
    fn results_keep_their_places_whoever_is_first() {
        let log = Mutex::new(Vec::new());
        let mut results = Vec::new();
        PollingExecutor.block_on(Box::pin(async {
            results = join_all(vec![Box::pin(after_polls(3, 1, &log)) as _, Box::pin(after_polls(1, 2, &log)) as _]).await;
        }));
        assert_eq!(results, [1_u32, 2]);
        assert_eq!(*log.lock().expect("not poisoned"), [2, 1]);
    }
}
