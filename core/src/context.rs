//! What a component may use while it works: the stage's folder, randomness, the device, events, cancellation.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};

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

/// Set when the user asks to stop. Components look at it between steps.
#[derive(Debug, Default)]
pub struct CancelFlag(AtomicBool);

impl CancelFlag {
    /// A flag nobody has set; usable in a `static`.
    pub const fn new() -> Self {
        Self(AtomicBool::new(false))
    }

    /// Asks everyone to stop at the next step.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Whether someone asked to stop.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    /// An error of kind `Cancelled` when someone asked to stop.
    ///
    /// # Errors
    /// When someone asked to stop.
    pub fn check(&self) -> Result<()> {
        if self.is_cancelled() { Err(Error::cancelled()) } else { Ok(()) }
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
