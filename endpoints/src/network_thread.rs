//! The thread on which the network runs, so that callers need no runtime of their own and none of theirs matters.

use std::future::Future;
use std::pin::Pin;
use std::sync::OnceLock;
use std::task::{Context, Poll};

use farmhand_core::{Error, Executor as _, PollingExecutor, Result};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::JoinHandle;

/// The handle of the network's thread, which starts with the first client and stays.
pub(crate) fn network() -> Result<Handle> {
    static RUNTIME: OnceLock<Option<Runtime>> = OnceLock::new();
    let start = || Builder::new_multi_thread().worker_threads(1).thread_name("farmhand-network").enable_all().build().ok();
    let runtime = RUNTIME.get_or_init(start).as_ref();
    runtime.map(|runtime| runtime.handle().clone()).ok_or_else(|| Error::other("cannot start the thread for the network"))
}

/// Runs a future to its end on the calling thread, which sleeps meanwhile. The network runs on a thread of its own, so this
/// is safe anywhere, also inside another runtime (whose worker it then blocks).
pub fn wait<T: Send>(future: impl Future<Output = T> + Send) -> T {
    let mut output = None;
    PollingExecutor.block_on(Box::pin(async { output = Some(future.await) }));
    output.expect("the executor runs the future to its end")
}

/// Work on the network's thread; it ends when this is dropped.
pub(crate) struct NetworkTask<T>(JoinHandle<T>);

impl<T: Send + 'static> NetworkTask<T> {
    pub(crate) fn spawn(network: &Handle, work: impl Future<Output = T> + Send + 'static) -> Self {
        Self(network.spawn(work))
    }
}

impl<T> Future for NetworkTask<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        Pin::new(&mut self.0).poll(cx).map(|result| match result {
            Ok(output) => output,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        })
    }
}

impl<T> Drop for NetworkTask<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use super::*;

    #[test]
    fn work_runs_without_a_runtime_and_inside_one() {
        let network = network().expect("started");
        let sleepy = |network: &Handle| {
            NetworkTask::spawn(network, async {
                tokio::time::sleep(Duration::from_millis(5)).await;
                7
            })
        };
        assert_eq!(wait(sleepy(&network)), 7);
        let other = Builder::new_current_thread().build().expect("a runtime");
        assert_eq!(other.block_on(async { wait(sleepy(&network)) }), 7);
        assert_eq!(other.block_on(sleepy(&network)), 7);
    }

    #[test]
    fn dropping_a_task_ends_its_work() {
        struct SetOnDrop(Arc<AtomicBool>);
        impl Drop for SetOnDrop {
            fn drop(&mut self) {
                self.0.store(true, Ordering::SeqCst);
            }
        }
        let ended = Arc::new(AtomicBool::new(false));
        let guard = SetOnDrop(ended.clone());
        let network = network().expect("started");
        drop(NetworkTask::spawn(&network, async move {
            let _guard = guard;
            tokio::time::sleep(Duration::from_secs(600)).await;
        }));
        let started = std::time::Instant::now();
        while !ended.load(Ordering::SeqCst) {
            assert!(started.elapsed() < Duration::from_secs(10), "the work goes on");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}
