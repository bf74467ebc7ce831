//! A cap on what paid requests may cost: money is reserved before a request is sent and settled when its price is known.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::error::{Error, ErrorKind, Result};
use crate::run::Ledger;

/// A cap in US dollars, shared by everyone who pays from it; clones are the same budget.
///
/// A request is sent only while what was spent, what requests under way have reserved and its own estimate stay within the cap
/// together. So the cap is passed only where estimates are too low, and by no more than the requests then under way cost beyond
/// them. A request that does not fit waits for those under way, for they may cost less than they reserved; when nothing is under
/// way and it still does not fit, the budget is spent, for this request and all that follow.
#[derive(Clone)]
pub struct Budget(Arc<Shared>);

struct Shared {
    limit_usd: f64,
    state: Mutex<State>,
}

struct State {
    spent_usd: f64,
    reserved_usd: f64,
    n_reserved: usize,
    /// What the first request that did not fit would have cost.
    refused: Option<f64>,
    /// Where spending is written down, so that a resumed run goes on counting.
    ledger: Option<Ledger>,
    /// Why it could not be written down.
    broken: Option<String>,
    waiting: Vec<Waker>,
}

impl Budget {
    /// A cap in US dollars, nothing spent so far.
    pub fn new(limit_usd: f64) -> Self {
        Self::from_state(limit_usd, None)
    }

    /// A cap over all runs that share a ledger: what they spent before counts.
    pub fn with_ledger(limit_usd: f64, ledger: Ledger) -> Self {
        Self::from_state(limit_usd, Some(ledger))
    }

    fn from_state(limit_usd: f64, ledger: Option<Ledger>) -> Self {
        let spent_usd = ledger.as_ref().map_or(0.0, Ledger::sum);
        let state =
            State { spent_usd, reserved_usd: 0.0, n_reserved: 0, refused: None, ledger, broken: None, waiting: Vec::new() };
        Self(Arc::new(Shared { limit_usd, state: Mutex::new(state) }))
    }

    /// The cap, in US dollars.
    pub fn limit_usd(&self) -> f64 {
        self.0.limit_usd
    }

    /// What was spent so far, in US dollars.
    pub fn spent_usd(&self) -> f64 {
        self.lock().spent_usd
    }

    /// Reserves the most that a request may cost, in US dollars, and waits until it fits.
    ///
    /// # Errors
    /// `BudgetSpent` when it does not fit and nothing is under way, and ever after; `Io` when spending cannot be written down.
    pub fn reserve(&self, estimate_usd: f64) -> impl Future<Output = Result<Reservation>> + Send + 'static {
        Reserve { budget: self.clone(), usd: estimate_usd.max(0.0) }
    }

    fn try_reserve(&self, usd: f64, waker: &Waker) -> Poll<Result<Reservation>> {
        let mut state = self.lock();
        if let Some(broken) = &state.broken {
            return Poll::Ready(Err(Error::new(ErrorKind::Io, broken.clone())));
        }
        if let Some(refused) = state.refused {
            return Poll::Ready(Err(self.spent(&state, refused)));
        }
        // A billionth of a dollar of tolerance: sums of decimal prices are not exact.
        if state.spent_usd + state.reserved_usd + usd <= self.0.limit_usd + 1e-9 {
            state.reserved_usd += usd;
            state.n_reserved += 1;
            return Poll::Ready(Ok(Reservation { budget: self.clone(), usd, cost_usd: 0.0 }));
        }
        if state.n_reserved == 0 {
            state.refused = Some(usd);
            let error = self.spent(&state, usd);
            state.waiting.drain(..).for_each(Waker::wake);
            return Poll::Ready(Err(error));
        }
        state.waiting.push(waker.clone());
        Poll::Pending
    }

    fn spent(&self, state: &State, next: f64) -> Error {
        let message = format!(
            "the budget of {} dollars is spent: {:.4} so far, and the next request may cost {next:.4}",
            self.0.limit_usd, state.spent_usd
        );
        Error::new(ErrorKind::BudgetSpent, message)
            .with_hint("what was bought is kept; raise the budget and run the same command again to go on")
    }

    fn settle(&self, reserved_usd: f64, cost_usd: f64) {
        let mut state = self.lock();
        state.n_reserved -= 1;
        // Nothing reserved is exactly nothing, whatever rounding left.
        state.reserved_usd = if state.n_reserved == 0 { 0.0 } else { state.reserved_usd - reserved_usd };
        if cost_usd > 0.0 {
            state.spent_usd += cost_usd;
            if let Some(Err(error)) = state.ledger.as_mut().map(|ledger| ledger.add(cost_usd)) {
                state.broken = Some(error.to_string());
            }
        }
        state.waiting.drain(..).for_each(Waker::wake);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Budget({} of {} dollars spent)", self.spent_usd(), self.limit_usd())
    }
}

struct Reserve {
    budget: Budget,
    usd: f64,
}

impl Future for Reserve {
    type Output = Result<Reservation>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.budget.try_reserve(self.usd, cx.waker())
    }
}

/// Money set aside for one request. Dropped without [`Reservation::settle`], it is given back: the request cost nothing.
#[derive(Debug)]
pub struct Reservation {
    budget: Budget,
    usd: f64,
    cost_usd: f64,
}

impl Reservation {
    /// The request was answered and cost this much, in US dollars.
    pub fn settle(mut self, cost_usd: f64) {
        self.cost_usd = cost_usd;
    }

    /// The request was sent and perhaps paid for, but nobody knows how much: all that was reserved counts.
    pub fn settle_in_full(mut self) {
        self.cost_usd = self.usd;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.settle(self.usd, self.cost_usd);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::{Executor as _, PollingExecutor};

    fn now<T: Send>(future: impl Future<Output = T> + Send) -> Option<T> {
        let mut future = std::pin::pin!(future);
        match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        }
    }

    #[test]
    fn what_is_reserved_counts_until_it_is_settled() {
        let budget = Budget::new(1.0);
        let first = now(budget.reserve(0.6)).expect("at once").expect("fits");
        assert!(now(budget.reserve(0.6)).is_none(), "waits for the first");
        first.settle(0.1);
        let second = now(budget.reserve(0.6)).expect("at once").expect("fits");
        drop(second);
        assert!((budget.spent_usd() - 0.1).abs() < 1e-12);
        let error = now(budget.reserve(0.95)).expect("at once").expect_err("does not fit");
        assert_eq!(error.kind(), ErrorKind::BudgetSpent);
        assert!(error.hint().is_some_and(|hint| hint.contains("is kept")), "{error:?}");
        assert!(now(budget.reserve(0.01)).expect("at once").is_err(), "spent stays spent");
    }

    #[test]
    fn a_budget_is_passed_by_no_more_than_the_requests_under_way() {
        const UNDER_WAY: usize = 8;
        // Estimates are 1 cent, the true cost is 3.
        let budget = Budget::new(1.0);
        let n_sent = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..UNDER_WAY {
                scope.spawn(|| {
                    loop {
                        let mut reserved = None;
                        PollingExecutor.block_on(Box::pin(async { reserved = Some(budget.reserve(0.01).await) }));
                        let Some(Ok(reservation)) = reserved else { return };
                        n_sent.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                        std::thread::yield_now();
                        reservation.settle(0.03);
                    }
                });
            }
        });
        let spent = budget.spent_usd();
        assert!((spent - 0.03 * n_sent.into_inner() as f64).abs() < 1e-9);
        assert!(spent > 1.0 - 0.03 && spent <= 1.0 + 0.02 * UNDER_WAY as f64 + 1e-9, "{spent}");
    }

    #[test]
    fn a_resumed_run_goes_on_counting() {
        let dir = tempfile::tempdir().expect("a folder");
        let open = || Budget::with_ledger(1.0, Ledger::open(dir.path().join("spending.txt")).expect("opened"));
        for _ in 0..3 {
            now(open().reserve(0.25)).expect("at once").expect("fits").settle(0.25);
        }
        let budget = open();
        assert_eq!(budget.spent_usd(), 0.75);
        now(budget.reserve(0.25)).expect("at once").expect("fits").settle_in_full();
        assert!(now(open().reserve(0.01)).expect("at once").is_err());
    }
}
