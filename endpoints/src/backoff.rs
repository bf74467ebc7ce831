//! How long to wait before another try.

use std::time::Duration;

use farmhand_core::Seed;

/// Waits between tries: each up to twice as long as the one before, with a random part, so that many clients of one server
/// do not come back all at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The longest first wait.
    pub first: Duration,
    /// The longest wait of all. A server that asks for more than ten times this is given up on.
    pub longest: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { first: Duration::from_millis(500), longest: Duration::from_secs(30) }
    }
}

impl Backoff {
    /// The wait after try number `attempt` (from 1) of request number `request`: between a half and the whole of
    /// `first · 2^(attempt − 1)`, at most `longest`.
    pub(crate) fn wait(&self, request: u64, attempt: u32) -> Duration {
        let uniform = Seed::root(request).child("retry", u64::from(attempt)).rng().uniform();
        self.whole(attempt).mul_f64(0.5 + 0.5 * uniform)
    }

    /// `first · 2^(n − 1)`, at most `longest`.
    pub(crate) fn whole(&self, n: u32) -> Duration {
        let factor = 1_u32.checked_shl(n.saturating_sub(1)).unwrap_or(u32::MAX);
        self.first.saturating_mul(factor).min(self.longest)
    }

    /// Whether a server asks to wait so long that the request fails instead.
    pub(crate) fn is_too_long(&self, asked: Duration) -> bool {
        asked > self.longest.saturating_mul(10)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_differ_between_requests() {
        let backoff = Backoff { first: Duration::from_secs(1), longest: Duration::from_secs(10) };
        for (attempt, whole) in [(1, 1.0), (2, 2.0), (4, 8.0), (5, 10.0), (200, 10.0)] {
            for request in 0..50 {
                let wait = backoff.wait(request, attempt).as_secs_f64();
                assert!((whole / 2.0..=whole).contains(&wait), "{attempt}: {wait}");
            }
        }
        assert_ne!(backoff.wait(0, 1), backoff.wait(1, 1));
        assert!(!backoff.is_too_long(Duration::from_secs(100)) && backoff.is_too_long(Duration::from_secs(101)));
    }
}
