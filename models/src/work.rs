//! What the models of this thread have done so far: operations, tokens, time inside tensor work.
//!
//! Forward passes, backward passes, optimiser steps and generation count themselves here, so that the figures of a phase
//! (tokens/s, utilisation, overhead) are differences of two readings, and no method keeps a book of its own. Nothing that
//! is computed depends on it.

use std::cell::Cell;
use std::ops::Sub;
use std::time::Instant;

use tch::Tensor;

use crate::flops::PassFlops;

/// Totals since the thread began.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Work {
    /// Seconds inside forward and backward passes, optimiser steps and generation.
    pub tensor_secs: f64,
    /// Tokens of the texts passed through a model, a shared prompt once a text, padding left out; generated ones included.
    pub tokens: f64,
    /// Tokens that were computed: padding counts, a shared prompt once.
    pub computed_tokens: f64,
    /// Tokens that were computed and are padding.
    pub padding: f64,
    /// Operations as the field counts them (see `flops.rs`), backward passes included.
    pub conventional_flops: f64,
    /// Operations that the results needed, backward passes included.
    pub needed_flops: f64,
    /// Tokens that were generated.
    pub generated_tokens: f64,
    /// Tokens that the same steps of generation had room for.
    pub generation_rows: f64,
}

impl Sub for Work {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            tensor_secs: self.tensor_secs - earlier.tensor_secs,
            tokens: self.tokens - earlier.tokens,
            computed_tokens: self.computed_tokens - earlier.computed_tokens,
            padding: self.padding - earlier.padding,
            conventional_flops: self.conventional_flops - earlier.conventional_flops,
            needed_flops: self.needed_flops - earlier.needed_flops,
            generated_tokens: self.generated_tokens - earlier.generated_tokens,
            generation_rows: self.generation_rows - earlier.generation_rows,
        }
    }
}

thread_local! {
    static TOTAL: Cell<Work> = Cell::new(Work::default());
    static IS_TIMED: Cell<bool> = const { Cell::new(false) };
}

/// What this thread has done so far.
pub fn work_so_far() -> Work {
    TOTAL.get()
}

/// Runs tensor work and counts its time; inside other tensor work it only runs.
///
/// On a GPU the time is that of handing the work over, unless the work waits for its result.
pub fn tensor_work<R>(work: impl FnOnce() -> R) -> R {
    if IS_TIMED.replace(true) {
        return work();
    }
    let _reset = Reset(Instant::now());
    work()
}

/// `loss.backward()`, counted as tensor work.
pub fn backward(loss: &Tensor) {
    tensor_work(|| loss.backward());
}

/// Ends the timing also when the work panics.
struct Reset(Instant);

impl Drop for Reset {
    fn drop(&mut self) {
        let secs = self.0.elapsed().as_secs_f64();
        change(|total| total.tensor_secs += secs);
        IS_TIMED.set(false);
    }
}

fn change(edit: impl FnOnce(&mut Work)) {
    let mut total = TOTAL.get();
    edit(&mut total);
    TOTAL.set(total);
}

/// Counts a forward pass of `tokens` tokens of text, `computed` of them in fact, that costs `factor` with its backward pass:
/// 1 without one.
pub(crate) fn count_pass(tokens: usize, computed: usize, flops: PassFlops, factor: f64) {
    change(|total| {
        total.tokens += tokens as f64;
        total.computed_tokens += computed as f64;
        total.padding += computed.saturating_sub(tokens) as f64;
        total.conventional_flops += factor * flops.conventional;
        total.needed_flops += factor * flops.needed_by_body;
    });
}

/// Counts the output head's part of what is needed.
pub(crate) fn count_head(flops: f64) {
    change(|total| total.needed_flops += flops);
}

/// Counts a step of generation that gave `generated` tokens where there was room for `rows`.
pub(crate) fn count_step(generated: usize, rows: usize) {
    change(|total| {
        total.generated_tokens += generated as f64;
        total.generation_rows += rows as f64;
    });
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn work_inside_work_is_timed_once_and_a_panic_does_not_stop_the_clock() {
        let before = work_so_far();
        let pause = || std::thread::sleep(Duration::from_millis(5));
        tensor_work(|| tensor_work(pause));
        let once = (work_so_far() - before).tensor_secs;
        assert!((0.005..1.0).contains(&once), "{once}");
        let panicked = std::panic::catch_unwind(|| tensor_work(|| panic!("a shape does not fit")));
        assert!(panicked.is_err());
        tensor_work(pause);
        assert!((work_so_far() - before).tensor_secs >= once + 0.005);
    }

    #[test]
    fn passes_add_up() {
        let before = work_so_far();
        count_pass(10, 12, PassFlops { conventional: 100.0, needed_by_body: 60.0 }, 3.0);
        count_head(5.0);
        let done = work_so_far() - before;
        assert_eq!((done.tokens, done.computed_tokens, done.padding), (10.0, 12.0, 2.0));
        assert_eq!((done.conventional_flops, done.needed_flops), (300.0, 185.0));
        count_step(3, 4);
        let done = work_so_far() - before;
        assert_eq!((done.generated_tokens, done.generation_rows), (3.0, 4.0));
    }
}
