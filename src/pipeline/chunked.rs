//! Work in chunks with a journal: what an interrupted stage has finished is not done again.

use farmhand_core::{Result, RunContext};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Works on `items` in chunks of `size` and keeps each finished chunk as one line of the stage's journal. Chunks are cut the
/// same way every time, so a resumed stage sees the same batches and gives the same results.
///
/// # Errors
/// What `work` reports, or cancellation; finished chunks are kept.
pub(super) fn chunked<T, R: Serialize + DeserializeOwned>(
    items: &[T],
    size: usize,
    journal: &str,
    ctx: &RunContext<'_>,
    mut work: impl FnMut(&[T]) -> Result<Vec<R>>,
) -> Result<Vec<R>> {
    let (mut journal, finished) = ctx.stage.journal::<Vec<R>>(journal)?;
    let n_finished = finished.len();
    let mut results: Vec<R> = finished.into_iter().flatten().collect();
    if n_finished > 0 {
        ctx.events.info(&format!("  going on after {} of {}", (n_finished * size).min(items.len()), items.len()));
    }
    for chunk in items.chunks(size).skip(n_finished) {
        ctx.cancel.check()?;
        let done = work(chunk)?;
        journal.append(std::slice::from_ref(&done))?;
        results.extend(done);
    }
    Ok(results)
}
