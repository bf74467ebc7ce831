//! Work in chunks with a journal: what an interrupted stage has finished is not done again.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::context::RunContext;
use crate::error::Result;

/// Works on `items` in chunks of `size` and keeps each finished chunk as one line of the stage's journal. Chunks are cut the
/// same way every time, so a resumed stage sees the same batches and gives the same results.
///
/// # Errors
/// What `work` reports, or cancellation; finished chunks are kept.
pub fn chunked<T, R: Serialize + DeserializeOwned>(
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::testing::with_stage;

    #[test]
    fn finished_chunks_are_not_worked_on_again() {
        let items: Vec<u32> = (0..7).collect();
        let double = |chunk: &[u32]| Ok(chunk.iter().map(|n| n * 2).collect::<Vec<_>>());
        let mut seen = Vec::new();
        with_stage(|ctx| {
            let stopped = chunked(&items, 3, "numbers.jsonl", ctx, |chunk| {
                if chunk[0] == 3 {
                    return Err(crate::Error::cancelled());
                }
                double(chunk)
            });
            assert!(stopped.expect_err("stopped").is_cancelled());
            let all = chunked(&items, 3, "numbers.jsonl", ctx, |chunk| {
                seen.push(chunk.to_vec());
                double(chunk)
            });
            assert_eq!(all.expect("done"), [0, 2, 4, 6, 8, 10, 12]);
        });
        assert_eq!(seen, [vec![3, 4, 5], vec![6]]);
    }
}
