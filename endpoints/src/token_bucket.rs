//! So much a minute: a bucket that fills steadily and that requests take from.

use std::time::Duration;

use tokio::time::Instant;

/// A bucket that lets at most `per_minute` through in any 60 seconds, a part of it at once.
///
/// It holds a tenth of a minute's amount. With capacity c and a limit of n it fills at (n − c + 1)/60 a second, so that what
/// a full bucket holds and what flows in within a minute stay below n + 1 together.
#[derive(Debug)]
pub(crate) struct TokenBucket {
    capacity: f64,
    per_second: f64,
    /// What is in it; below zero when a request took more than was foreseen.
    level: f64,
    at: Instant,
}

impl TokenBucket {
    pub(crate) fn new(per_minute: u32, now: Instant) -> Self {
        let per_minute = f64::from(per_minute);
        let capacity = (per_minute / 10.0).floor().max(1.0);
        Self { capacity, per_second: (per_minute - capacity + 1.0) / 60.0, level: capacity, at: now }
    }

    /// When there is enough for a request of this size. One that is larger than the bucket waits until it is full.
    pub(crate) fn ready_at(&mut self, amount: f64, now: Instant) -> Instant {
        self.fill(now);
        let missing = amount.min(self.capacity) - self.level;
        // A sum of many small flows may end a hair below what was due.
        if missing <= 1e-9 { now } else { now + Duration::from_secs_f64(missing / self.per_second) }
    }

    /// Takes what a request needs; a negative amount gives back.
    pub(crate) fn take(&mut self, amount: f64, now: Instant) {
        self.fill(now);
        self.level = (self.level - amount).min(self.capacity);
    }

    fn fill(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.at).as_secs_f64();
        self.level = (self.level + elapsed * self.per_second).min(self.capacity);
        self.at = self.at.max(now);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    /// The amounts that go through with their moments, for requests that come as fast as they may.
    fn run(per_minute: u32, amounts: impl Iterator<Item = f64>) -> Vec<(Duration, f64)> {
        let start = Instant::now();
        let (mut bucket, mut now) = (TokenBucket::new(per_minute, start), start);
        amounts
            .map(|amount| {
                now = bucket.ready_at(amount, now);
                bucket.take(amount, now);
                (now - start, amount)
            })
            .collect()
    }

    #[test]
    fn no_minute_sees_more_than_the_limit_and_a_long_run_gets_nearly_all_of_it() {
        for per_minute in [1, 2, 7, 60, 500, 10_000] {
            let sent = run(per_minute, std::iter::repeat_n(1.0, 3 * per_minute as usize + 1));
            let (mut window, mut most) = (VecDeque::new(), 0);
            for (at, _) in &sent {
                window.push_back(*at);
                while *at >= window[0] + Duration::from_secs(60) {
                    window.pop_front();
                }
                most = most.max(window.len());
            }
            assert!(most <= per_minute as usize, "{most} in a minute, {per_minute} allowed");
            let secs = sent.last().expect("sent").0.as_secs_f64();
            assert!(secs < 3.0 * 60.0 * 1.12, "{per_minute}: three minutes' worth took {secs} s");
        }
    }

    #[test]
    fn a_request_larger_than_the_bucket_passes_and_is_paid_off() {
        let sent = run(600, [50.0, 300.0, 10.0].into_iter());
        let at: Vec<f64> = sent.iter().map(|(at, _)| at.as_secs_f64()).collect();
        // 60 at the start, 9.0167 a second: full again after 5.5 s; then 240 behind, and 10 more are due.
        assert!((at[1] - 50.0 / 9.0167).abs() < 0.01 && (at[2] - at[1] - 250.0 / 9.0167).abs() < 0.05, "{at:?}");
    }

    #[test]
    fn what_was_taken_too_much_is_given_back() {
        let now = Instant::now();
        let mut bucket = TokenBucket::new(600, now);
        bucket.take(500.0, now);
        assert!(bucket.ready_at(1.0, now) > now + Duration::from_secs(45));
        bucket.take(-495.0, now);
        assert_eq!(bucket.ready_at(55.0, now), now);
        bucket.take(-1e6, now);
        assert!(bucket.ready_at(60.0, now) == now && bucket.level <= 60.0);
    }
}
