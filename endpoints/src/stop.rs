//! The user's wish to stop, as requests hear of it: what waits for its turn is dropped, what is under way comes back.

use std::future::Future;

use tokio::sync::watch;

tokio::task_local! {
    static STOP: watch::Receiver<bool>;
}

/// Hears whether the requests of one call should stop; outside of any call, never.
#[derive(Clone)]
pub(crate) struct Stop(Option<watch::Receiver<bool>>);

impl Stop {
    /// The wish that reaches the task that runs now.
    pub(crate) fn current() -> Self {
        Self(STOP.try_with(Clone::clone).ok())
    }

    /// Runs a future so that requests inside it hear of the wish.
    pub(crate) fn heard_in<F: Future>(wish: watch::Receiver<bool>, future: F) -> impl Future<Output = F::Output> {
        STOP.scope(wish, future)
    }

    pub(crate) fn is_asked(&self) -> bool {
        self.0.as_ref().is_some_and(|wish| *wish.borrow())
    }

    /// Comes back once stopping is asked for.
    pub(crate) async fn asked(&mut self) {
        if let Some(wish) = &mut self.0
            && wish.wait_for(|asked| *asked).await.is_ok()
        {
            return;
        }
        std::future::pending().await
    }

    /// Waits for something, unless stopping is asked for before: then `None`.
    pub(crate) async fn or<T>(&mut self, waiting: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self.asked() => None,
            output = waiting => Some(output),
        }
    }
}
