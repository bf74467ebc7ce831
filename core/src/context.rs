//! What a component may use while it works: the stage's folder, randomness, the device, events, cancellation.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::events::{EventSink, Progress};
use crate::run::StageDir;
use crate::seed::Seed;

/// Where tensors live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Device {
    /// A CUDA GPU when there is one, otherwise the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The first CUDA GPU.
    Cuda,
}

/// Set when the user asks to stop. Components look at it between steps, or wait for it beside their work.
#[derive(Debug, Default)]
pub struct CancelFlag {
    is_set: AtomicBool,
    /// Who waits, by a number of its own.
    waiting: Mutex<BTreeMap<u64, Waker>>,
}

impl CancelFlag {
    /// A flag nobody has set; usable in a `static`.
    pub const fn new() -> Self {
        Self { is_set: AtomicBool::new(false), waiting: Mutex::new(BTreeMap::new()) }
    }

    /// Asks everyone to stop at the next step.
    pub fn cancel(&self) {
        self.is_set.store(true, Ordering::SeqCst);
        let waiting = std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        waiting.into_values().for_each(Waker::wake);
    }

    /// Whether someone asked to stop.
    pub fn is_cancelled(&self) -> bool {
        self.is_set.load(Ordering::SeqCst)
    }

    /// An error of kind `Cancelled` when someone asked to stop.
    ///
    /// # Errors
    /// When someone asked to stop.
    pub fn check(&self) -> Result<()> {
        if self.is_cancelled() { Err(Error::cancelled()) } else { Ok(()) }
    }

    /// Comes back once someone asks to stop; any executor may poll it.
    pub fn cancelled(&self) -> Cancelled<'_> {
        Cancelled { flag: self, number: None }
    }
}

/// The future of [`CancelFlag::cancelled`].
#[derive(Debug)]
pub struct Cancelled<'a> {
    flag: &'a CancelFlag,
    /// Under which number it waits.
    number: Option<u64>,
}

impl Future for Cancelled<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = self.number.unwrap_or_else(|| NEXT.fetch_add(1, Ordering::Relaxed));
        self.number = Some(number);
        self.flag.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(number, cx.waker().clone());
        // Looked at after joining those who wait, so that a wish in between is not missed.
        if self.flag.is_cancelled() { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Drop for Cancelled<'_> {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.flag.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
        }
    }
}

/// Runs a future to its end from blocking code; the root package implements it over its one runtime.
pub trait Executor: Send + Sync {
    /// Blocks until `future` is done.
    fn block_on<'a>(&self, future: Pin<Box<dyn Future<Output = ()> + Send + 'a>>);
}

/// An executor for futures that wait on nothing: polls on the calling thread. Enough for local annotators and tests.
#[derive(Debug, Default, Clone, Copy)]
pub struct PollingExecutor;

impl Executor for PollingExecutor {
    fn block_on<'a>(&self, mut future: Pin<Box<dyn Future<Output = ()> + Send + 'a>>) {
        struct Unpark(std::thread::Thread);
        impl std::task::Wake for Unpark {
            fn wake(self: std::sync::Arc<Self>) {
                self.0.unpark();
            }
        }
        let waker = std::sync::Arc::new(Unpark(std::thread::current())).into();
        let mut cx = std::task::Context::from_waker(&waker);
        while future.as_mut().poll(&mut cx).is_pending() {
            std::thread::park();
        }
    }
}

/// Lent to a component for the time of one stage.
#[derive(Clone, Copy)]
pub struct RunContext<'a> {
    /// The stage's folder: the only place where the component may write.
    pub stage: &'a StageDir,
    /// The stage's node of the seed tree.
    pub seed: Seed,
    /// Where tensors live.
    pub device: Device,
    /// Progress and scalars.
    pub events: &'a dyn EventSink,
    /// Whether the user asked to stop.
    pub cancel: &'a CancelFlag,
    /// Runs an annotator's futures from blocking code.
    pub executor: &'a dyn Executor,
}

impl<'a> RunContext<'a> {
    /// The same context with another seed, for a component inside a component.
    #[must_use]
    pub fn with_seed(&self, seed: Seed) -> Self {
        Self { seed, ..*self }
    }

    /// Records one number of one step, for example `("dpo/loss", 12, 0.69)`.
    pub fn scalar(&self, name: &str, step: u64, value: f64) {
        self.events.scalar(name, step, value);
    }

    /// Starts a progress bar: `ctx.progress("sampling", Some(800), "completions")`. It ends when dropped.
    pub fn progress(&self, phase: &str, total: Option<u64>, unit: &str) -> Progress<'a> {
        Progress::start(self.events, phase, total, unit)
    }

    /// Runs a future to its end and gives back its output.
    pub fn block_on<T: Send>(&self, future: impl Future<Output = T> + Send) -> T {
        let mut output = None;
        self.executor.block_on(Box::pin(async { output = Some(future.await) }));
        output.expect("the executor runs the future to its end")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_for_the_wish_to_stop_is_woken_and_who_went_away_is_forgotten() {
        static FLAG: CancelFlag = CancelFlag::new();
        let waiting = || FLAG.waiting.lock().expect("not poisoned").len();
        let mut cx = Context::from_waker(Waker::noop());
        {
            let mut cancelled = std::pin::pin!(FLAG.cancelled());
            assert!(cancelled.as_mut().poll(&mut cx).is_pending() && cancelled.as_mut().poll(&mut cx).is_pending());
            assert_eq!(waiting(), 1);
        }
        assert_eq!(waiting(), 0);
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| PollingExecutor.block_on(Box::pin(FLAG.cancelled())));
            while waiting() == 0 {
                std::thread::yield_now();
            }
            FLAG.cancel();
            waits.join().expect("woken");
        });
        PollingExecutor.block_on(Box::pin(FLAG.cancelled()));
        assert_eq!(waiting(), 0);
    }
}
