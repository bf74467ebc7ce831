//! Chunks of work that waits, such as judging by a server: several at a time, each kept as soon as it is finished.

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::context::RunContext;
use crate::error::Result;

/// One line of the journal.
#[derive(Debug, Serialize, Deserialize)]
struct Finished<R> {
    /// Which chunk, from 0.
    chunk: usize,
    results: Vec<R>,
}

/// What runs, with the number of its chunk.
type Running<'w, R> = Vec<(usize, Pin<Box<dyn Future<Output = Result<Vec<R>>> + Send + 'w>>)>;

/// Works on `items` in chunks of `size`, up to `n_at_a_time` of them side by side, so that a slow item holds up its own chunk
/// and nobody else, and keeps each as one line of the stage's journal as soon as it is finished, in whatever order. Chunks are
/// cut the same way every time; results come back in the order of the items. Work that does not wait runs chunk after chunk.
///
/// # Errors
/// What `work` reports first, or cancellation. Then no further chunk is begun, those under way end in their own way, for they
/// may have paid for something, and finished ones are kept.
pub async fn chunked_side_by_side<'i, T, R, W>(
    items: &'i [T],
    (size, n_at_a_time): (usize, usize),
    journal: &str,
    ctx: &RunContext<'_>,
    work: impl Fn(&'i [T]) -> W,
) -> Result<Vec<R>>
where
    R: Serialize + DeserializeOwned,
    W: Future<Output = Result<Vec<R>>> + Send,
{
    let (mut journal, finished) = ctx.stage.journal::<Finished<R>>(journal)?;
    let mut results: BTreeMap<usize, Vec<R>> = finished.into_iter().map(|finished| (finished.chunk, finished.results)).collect();
    if !results.is_empty() {
        let n_done: usize = results.values().map(Vec::len).sum();
        ctx.events.info(&format!("  going on after {n_done} of {}", items.len()));
    }
    let open: Vec<(usize, &[T])> = items.chunks(size).enumerate().filter(|(chunk, _)| !results.contains_key(chunk)).collect();
    let mut open = open.into_iter();
    let (mut running, mut failed): (Running<'_, R>, _) = (Vec::new(), None);
    loop {
        while failed.is_none() && running.len() < n_at_a_time.max(1) {
            if let Err(cancelled) = ctx.cancel.check() {
                // Nothing is left to begin when everything is begun.
                failed = (open.len() > 0).then_some(cancelled);
                break;
            }
            let Some((chunk, items)) = open.next() else { break };
            running.push((chunk, Box::pin(work(items))));
        }
        if running.is_empty() {
            break;
        }
        let (chunk, done) = first_of(&mut running).await;
        match done {
            Ok(done) => {
                let finished = Finished { chunk, results: done };
                journal.append(std::slice::from_ref(&finished))?;
                results.insert(chunk, finished.results);
            }
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    match failed {
        Some(error) => Err(error),
        None => Ok(results.into_values().flatten().collect()),
    }
}

/// Waits for whichever is done first, and takes it out. Those at the front are looked at first.
async fn first_of<R>(running: &mut Running<'_, R>) -> (usize, Result<Vec<R>>) {
    poll_fn(|cx| {
        for at in 0..running.len() {
            if let Poll::Ready(done) = running[at].1.as_mut().poll(cx) {
                let (chunk, _) = running.remove(at);
                return Poll::Ready((chunk, done));
            }
        }
        Poll::Pending
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::Error;
    use crate::run::testing::with_stage;

    /// Gives way so many times.
    async fn give_way(n: u32) {
        let mut left = n;
        poll_fn(|cx| {
            if left == 0 {
                return Poll::Ready(());
            }
            left -= 1;
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }

    #[test]
    fn a_slow_chunk_holds_up_nobody_and_results_keep_their_order() {
        with_stage(|ctx| {
            let items: Vec<u32> = (0..40).collect();
            let (log, now, most) = (Mutex::new(Vec::new()), AtomicUsize::new(0), AtomicUsize::new(0));
            let work = |chunk: &'_ [u32]| {
                let chunk = chunk.to_vec();
                let (log, now, most) = (&log, &now, &most);
                async move {
                    most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    give_way(if chunk[0] == 0 { 1000 } else { 2 }).await;
                    now.fetch_sub(1, Ordering::SeqCst);
                    log.lock().expect("not poisoned").push(chunk[0]);
                    Ok(chunk.iter().map(|n| n * 2).collect::<Vec<u32>>())
                }
            };
            let doubled = ctx.block_on(chunked_side_by_side(&items, (4, 3), "numbers.jsonl", ctx, work)).expect("done");
            assert_eq!(doubled, (0..40).map(|n| n * 2).collect::<Vec<u32>>());
            assert_eq!((log.lock().expect("not poisoned").last(), most.load(Ordering::SeqCst)), (Some(&0), 3));
        });
    }

    #[test]
    fn what_is_finished_is_kept_in_any_order_and_work_under_way_ends_after_a_failure() {
        with_stage(|ctx| {
            let items: Vec<u32> = (0..10).collect();
            let failing = |chunk: &'_ [u32]| {
                let chunk = chunk.to_vec();
                async move {
                    give_way(if chunk[0] == 4 { 50 } else { 1 }).await;
                    if chunk[0] == 2 { Err(Error::other("broken")) } else { Ok(chunk) }
                }
            };
            let stopped = ctx.block_on(chunked_side_by_side(&items, (2, 3), "numbers.jsonl", ctx, failing));
            assert_eq!(stopped.expect_err("broken").message(), "broken");
            let seen = Mutex::new(Vec::new());
            let again = |chunk: &'_ [u32]| {
                seen.lock().expect("not poisoned").push(chunk[0]);
                let chunk = chunk.to_vec();
                async move { Ok(chunk) }
            };
            let all = ctx.block_on(chunked_side_by_side(&items, (2, 3), "numbers.jsonl", ctx, again)).expect("done");
            assert_eq!((all, seen.into_inner().expect("not poisoned")), (items, vec![2, 8]));
        });
    }

    #[test]
    fn nothing_is_begun_after_the_wish_to_stop() {
        with_stage(|ctx| {
            let items: Vec<u32> = (0..8).collect();
            let work = |chunk: &'_ [u32]| {
                let chunk = chunk.to_vec();
                async move {
                    ctx.cancel.cancel();
                    Ok(chunk)
                }
            };
            let stopped = ctx.block_on(chunked_side_by_side(&items, (2, 2), "numbers.jsonl", ctx, work));
            assert!(stopped.expect_err("stopped").is_cancelled());
            let (_, kept) = ctx.stage.journal::<Finished<u32>>("numbers.jsonl").expect("readable");
            assert_eq!(kept.iter().map(|finished| finished.chunk).collect::<Vec<_>>(), [0, 1]);
        });
    }
}
