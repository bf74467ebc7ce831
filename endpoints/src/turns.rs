//! Whose turn it is: which place the next request goes to, and when.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::circuit::{Admission, Circuit};
use crate::failure::{Failure, FailureKind};
use crate::options::EndpointOptions;
use crate::token_bucket::TokenBucket;
use crate::upstream::Upstream;

/// How each place is doing, and who may go there.
pub(crate) struct Turns {
    states: Mutex<Vec<State>>,
    /// Requests that cannot be sent yet wait here one behind the other, so that nobody overtakes.
    queue: tokio::sync::Mutex<()>,
    /// Something may be possible that was not.
    changed: Notify,
    patience: u32,
    circuit_failures: u32,
    backoff: Backoff,
    /// What the user should know, until somebody takes it.
    notices: Mutex<Vec<String>>,
}

/// How one place is doing.
struct State {
    name: String,
    weight: f64,
    n_in_flight: usize,
    n_sent: u64,
    /// A server asked to wait until then.
    not_before: Option<Instant>,
    circuit: Circuit,
    /// Whether it ever answered. Until then nobody waits for a server that does not.
    was_reached: bool,
    /// Why it is not asked any more: its key is refused, its money spent.
    set_aside: Option<Failure>,
    requests: Option<TokenBucket>,
    tokens: Option<TokenBucket>,
}

/// A request's permission to go to one place; dropped without an outcome, it never was there.
pub(crate) struct Turn<'a> {
    turns: &'a Turns,
    /// The place's index.
    pub(crate) upstream: usize,
    is_probe: bool,
    /// Tokens it is taken to need.
    tokens: f64,
    is_settled: bool,
}

/// What is to be done for a request.
enum Choice<'a> {
    Go(Turn<'a>),
    /// Nothing is possible before this moment, unless something changes.
    Wait(Option<Instant>),
    Fail(Failure),
}

impl Turns {
    pub(crate) fn new(upstreams: &[Upstream], options: &EndpointOptions) -> Self {
        let now = Instant::now();
        let bucket = |limit: Option<u32>| limit.map(|limit| TokenBucket::new(limit, now));
        let state = |upstream: &Upstream| State {
            name: upstream.name.clone(),
            weight: upstream.weight,
            n_in_flight: 0,
            n_sent: 0,
            not_before: None,
            circuit: Circuit::Closed(0),
            was_reached: false,
            set_aside: None,
            requests: bucket(options.requests_per_minute),
            tokens: bucket(options.tokens_per_minute),
        };
        Self {
            states: Mutex::new(upstreams.iter().map(state).collect()),
            queue: tokio::sync::Mutex::new(()),
            changed: Notify::new(),
            patience: options.retries,
            circuit_failures: options.circuit_failures,
            backoff: Backoff::default(),
            notices: Mutex::new(Vec::new()),
        }
    }

    pub(crate) fn set_backoff(&mut self, backoff: Backoff) {
        self.backoff = backoff;
    }

    /// Waits until a request of so many tokens may be sent and says where to: to `only` one place, or to another than `avoid` if
    /// there is one.
    pub(crate) async fn next(&self, only: Option<usize>, avoid: Option<usize>, tokens: f64) -> Result<Turn<'_>, Failure> {
        let _place_in_queue = self.queue.lock().await;
        loop {
            // Registered before looking, so that no change is missed in between.
            let changed = self.changed.notified();
            match self.choose(only, avoid, tokens) {
                Choice::Go(turn) => return Ok(turn),
                Choice::Fail(failure) => return Err(failure),
                Choice::Wait(Some(moment)) => drop(tokio::time::timeout_at(moment, changed).await),
                Choice::Wait(None) => changed.await,
            }
        }
    }

    fn choose(&self, only: Option<usize>, avoid: Option<usize>, tokens: f64) -> Choice<'_> {
        let now = Instant::now();
        let mut states = self.lock();
        let (mut best, mut soonest, mut refusal, mut may_change) = (None::<(bool, f64, u64, usize, bool)>, None, None, false);
        for (i, state) in states.iter_mut().enumerate().filter(|(i, _)| only.is_none_or(|only| only == *i)) {
            if let Some(failure) = &state.set_aside {
                refusal = refusal.or_else(|| Some(Failure { attempts: 0, ..failure.clone() }));
                continue;
            }
            // A server that never answered is not waited for.
            let is_probe = match state.circuit.admission(now, if state.was_reached { self.patience } else { 0 }) {
                Admission::Yes { is_probe } => is_probe,
                Admission::From(moment) => {
                    soonest = Some(soonest.map_or(moment, |other: Instant| other.min(moment)));
                    continue;
                }
                Admission::AfterProbe => {
                    may_change = true;
                    continue;
                }
                Admission::Refused(failure) => {
                    refusal = Some(failure);
                    continue;
                }
            };
            let ready = state.ready_at(tokens, now);
            if ready > now {
                soonest = Some(soonest.map_or(ready, |other: Instant| other.min(ready)));
                continue;
            }
            let load = (state.n_in_flight + 1) as f64 / state.weight;
            let sent = (state.n_sent as f64 / state.weight * 1024.0) as u64;
            let candidate = (avoid == Some(i), load, sent, i, is_probe);
            if best.is_none_or(|best| candidate.partial_cmp(&best) == Some(std::cmp::Ordering::Less)) {
                best = Some(candidate);
            }
        }
        let Some((.., i, is_probe)) = best else {
            return match refusal {
                Some(failure) if soonest.is_none() && !may_change => Choice::Fail(failure),
                _ => Choice::Wait(soonest),
            };
        };
        let state = &mut states[i];
        state.n_in_flight += 1;
        state.n_sent += 1;
        if is_probe {
            state.circuit.probe();
        }
        for (bucket, amount) in [(&mut state.requests, 1.0), (&mut state.tokens, tokens)] {
            if let Some(bucket) = bucket {
                bucket.take(amount, now);
            }
        }
        Choice::Go(Turn { turns: self, upstream: i, is_probe, tokens, is_settled: false })
    }

    /// How many places are still asked.
    pub(crate) fn n_open(&self) -> usize {
        self.lock().iter().filter(|state| state.set_aside.is_none()).count()
    }

    /// What the user should know and was not told yet.
    pub(crate) fn take_notices(&self) -> Vec<String> {
        std::mem::take(&mut self.notices.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<State>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// When a request of so many tokens may be sent, as far as limits and the server's wishes go.
    fn ready_at(&mut self, tokens: f64, now: Instant) -> Instant {
        let mut ready = self.not_before.unwrap_or(now);
        for (bucket, amount) in [(&mut self.requests, 1.0), (&mut self.tokens, tokens)] {
            if let Some(bucket) = bucket {
                ready = ready.max(bucket.ready_at(amount, now));
            }
        }
        ready
    }
}

impl Turn<'_> {
    /// The server answered and used so many tokens, if it says how many.
    pub(crate) fn answered(mut self, tokens_used: Option<f64>) {
        let (now, estimate) = (Instant::now(), self.tokens);
        self.settle(|state, _| {
            state.was_reached = true;
            state.circuit.succeeded();
            if let (Some(bucket), Some(used)) = (&mut state.tokens, tokens_used) {
                bucket.take(used - estimate, now);
            }
        });
    }

    /// The request failed. Gives back whether the server was ever reached.
    pub(crate) fn failed(mut self, failure: &Failure) -> bool {
        let (now, is_probe) = (Instant::now(), self.is_probe);
        let (limit, backoff) = (self.turns.circuit_failures, self.turns.backoff);
        let mut was_reached = true;
        self.settle(|state, notices| {
            let is_down = matches!(failure.kind, FailureKind::Unreachable | FailureKind::TimedOut | FailureKind::ServerError);
            let is_silence = matches!(failure.kind, FailureKind::Unreachable | FailureKind::TimedOut);
            state.was_reached |= failure.status.is_some() || !is_silence;
            was_reached = state.was_reached;
            if is_down {
                let was_closed = matches!(state.circuit, Circuit::Closed(_));
                state.circuit.failed(failure, is_probe, limit, &backoff, now);
                if was_closed && matches!(state.circuit, Circuit::Open { .. }) {
                    notices
                        .push(format!("`{}` is left alone for a while after {limit} failures in a row: {failure}", state.name));
                }
            } else {
                state.circuit.succeeded();
            }
            if let Some(asked) = failure.retry_after.filter(|asked| !backoff.is_too_long(*asked)) {
                let moment = now + asked.max(Duration::from_millis(1));
                state.not_before = Some(state.not_before.map_or(moment, |earlier| earlier.max(moment)));
            }
            let is_keys_fault = failure.kind == FailureKind::QuotaSpent || failure.status == Some(401);
            if is_keys_fault && state.set_aside.is_none() {
                state.set_aside = Some(failure.clone());
                notices.push(format!("`{}` is not asked any more: {failure}", state.name));
            }
        });
        was_reached
    }

    fn settle(&mut self, change: impl FnOnce(&mut State, &mut Vec<String>)) {
        self.is_settled = true;
        let mut states = self.turns.lock();
        let state = &mut states[self.upstream];
        state.n_in_flight -= 1;
        change(state, &mut self.turns.notices.lock().unwrap_or_else(PoisonError::into_inner));
        drop(states);
        self.turns.changed.notify_waiters();
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if !self.is_settled {
            let is_probe = self.is_probe;
            self.settle(|state, _| {
                if is_probe {
                    state.circuit.probe_dropped();
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::FurtherEndpoint;
    use crate::upstream::{Keys, upstreams};

    /// Turns at places of these weights.
    fn turns(weights: &[f64], change: impl FnOnce(&mut EndpointOptions)) -> Turns {
        let further = |weight: &f64| FurtherEndpoint {
            base_url: Some("http://127.0.0.1:1/v1".to_owned()),
            weight: *weight,
            ..FurtherEndpoint::default()
        };
        let mut options = EndpointOptions { endpoints: weights[1..].iter().map(further).collect(), ..EndpointOptions::default() };
        change(&mut options);
        let upstreams = upstreams(&options, &Keys::Given(None)).expect("made");
        Turns::new(&upstreams, &options)
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().expect("a runtime")
    }

    fn failure(status: u16) -> Failure {
        Failure::from_answer(status, "http://h/v1", "no")
    }

    #[test]
    fn requests_go_where_least_is_under_way_by_weight_and_elsewhere_after_a_failure() {
        let turns = turns(&[1.0, 3.0], |_| {});
        runtime().block_on(async {
            let mut held = Vec::new();
            for _ in 0..40 {
                held.push(turns.next(None, None, 1.0).await.expect("a turn"));
            }
            assert_eq!(held.iter().filter(|turn| turn.upstream == 1).count(), 30);
            held.drain(..).for_each(|turn| turn.answered(None));
            let mut counts = [0, 0];
            for _ in 0..40 {
                let turn = turns.next(None, None, 1.0).await.expect("a turn");
                counts[turn.upstream] += 1;
                turn.answered(None);
            }
            assert!(counts[1] >= 28, "one at a time keeps to the weights, too: {counts:?}");
            assert_eq!(turns.next(None, Some(1), 1.0).await.expect("a turn").upstream, 0);
        });
    }

    #[test]
    fn a_refused_key_is_set_aside_with_a_notice_and_the_last_one_fails_everything_at_once() {
        let turns = turns(&[1.0, 1.0], |_| {});
        runtime().block_on(async {
            let turn = turns.next(None, None, 1.0).await.expect("a turn");
            assert_eq!(turn.upstream, 0);
            turn.failed(&failure(401));
            for _ in 0..3 {
                assert_eq!(turns.next(None, Some(1), 1.0).await.expect("a turn").upstream, 1);
            }
            assert_eq!(turns.n_open(), 1);
            turns.next(None, None, 1.0).await.expect("a turn").failed(&failure(402));
            let failure = turns.next(None, None, 1.0).await.err().expect("nobody is left");
            assert_eq!((failure.kind, failure.attempts), (FailureKind::Unauthorised, 0));
            let notices = turns.take_notices();
            assert!(notices.len() == 2 && notices[0].contains("key 1 of 2") && notices[1].contains("402"), "{notices:?}");
            assert!(turns.take_notices().is_empty());
        });
    }

    #[test]
    fn limits_per_minute_hold_and_estimates_are_corrected() {
        let turns = turns(&[1.0], |options| {
            options.requests_per_minute = Some(120);
            options.tokens_per_minute = Some(6000);
        });
        runtime().block_on(async {
            let started = Instant::now();
            for _ in 0..120 {
                turns.next(None, None, 10.0).await.expect("a turn").answered(Some(10.0));
            }
            let secs = started.elapsed().as_secs_f64();
            assert!((55.0..62.0).contains(&secs), "120 requests at 120 a minute took {secs} s");
            tokio::time::sleep(Duration::from_secs(60)).await;
            let started = Instant::now();
            // 500 tokens each, as foreseen, would take a minute in all; the server says 50.
            for _ in 0..12 {
                turns.next(None, None, 500.0).await.expect("a turn").answered(Some(50.0));
            }
            assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
        });
    }

    #[test]
    fn a_server_that_is_down_is_probed_by_one_and_others_wait_for_what_it_finds() {
        let turns = turns(&[1.0], |options| {
            options.circuit_failures = 2;
            options.retries = 3;
        });
        runtime().block_on(async {
            turns.next(None, None, 1.0).await.expect("a turn").answered(None);
            for _ in 0..2 {
                turns.next(None, None, 1.0).await.expect("a turn").failed(&failure(500));
            }
            let started = Instant::now();
            let probe = turns.next(None, None, 1.0).await.expect("the probe");
            assert_eq!(started.elapsed().as_millis(), 1000);
            // The probe is dropped: the next one takes its place at once.
            drop(probe);
            let probe = turns.next(None, None, 1.0).await.expect("another probe");
            let waiting = turns.next(None, None, 1.0);
            tokio::pin!(waiting);
            assert!(tokio::time::timeout(Duration::from_secs(5), &mut waiting).await.is_err(), "waits for the probe");
            probe.answered(None);
            waiting.await.expect("the server is back").answered(None);
            assert!(turns.take_notices()[0].contains("left alone"));

            for _ in 0..2 {
                turns.next(None, None, 1.0).await.expect("a turn").failed(&failure(500));
            }
            for _ in 0..3 {
                turns.next(None, None, 1.0).await.expect("a probe").failed(&failure(500));
            }
            let started = Instant::now();
            let failure = turns.next(None, None, 1.0).await.err().expect("patience is over");
            assert!(failure.kind == FailureKind::CircuitOpen && started.elapsed().is_zero(), "{failure}");
        });
    }
}
