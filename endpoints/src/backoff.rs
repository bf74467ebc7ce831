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
    /// `first · 2^(attempt − 1)`, at most `longest`; never shorter than what the server asked for.
    pub(crate) fn wait(&self, request: u64, attempt: u32, asked: Option<Duration>) -> Duration {
        let whole = self.first.saturating_mul(1_u32.checked_shl(attempt - 1).unwrap_or(u32::MAX)).min(self.longest);
        let uniform = Seed::root(request).child("retry", u64::from(attempt)).rng().uniform();
        whole.mul_f64(0.5 + 0.5 * uniform).max(asked.unwrap_or_default())
    }

    /// Whether a server asks to wait so long that the request fails instead.
    pub(crate) fn is_too_long(&self, asked: Duration) -> bool {
        asked > self.longest.saturating_mul(10)
    }
}

/// What `retry-after-ms` or `retry-after` ask for; a date instead of seconds is not read.
pub(crate) fn asked_wait(headers: &reqwest::header::HeaderMap) -> Option<Duration> {
    let number = |name: &str| headers.get(name)?.to_str().ok()?.trim().parse::<f64>().ok();
    let seconds = number("retry-after-ms").map(|ms| ms / 1000.0).or_else(|| number("retry-after"))?;
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_differ_between_requests() {
        let backoff = Backoff { first: Duration::from_secs(1), longest: Duration::from_secs(10) };
        for (attempt, whole) in [(1, 1.0), (2, 2.0), (4, 8.0), (5, 10.0), (200, 10.0)] {
            for request in 0..50 {
                let wait = backoff.wait(request, attempt, None).as_secs_f64();
                assert!((whole / 2.0..=whole).contains(&wait), "{attempt}: {wait}");
            }
        }
        assert_ne!(backoff.wait(0, 1, None), backoff.wait(1, 1, None));
        assert_eq!(backoff.wait(3, 1, Some(Duration::from_secs(60))), Duration::from_secs(60));
        assert!(!backoff.is_too_long(Duration::from_secs(100)) && backoff.is_too_long(Duration::from_secs(101)));
    }

    #[test]
    fn a_servers_wish_is_read_in_both_units() {
        let wish = |name: &'static str, value: &'static str| {
            asked_wait(
                &[(reqwest::header::HeaderName::from_static(name), reqwest::header::HeaderValue::from_static(value))]
                    .into_iter()
                    .collect(),
            )
        };
        assert_eq!(wish("retry-after", "2"), Some(Duration::from_secs(2)));
        assert_eq!(wish("retry-after-ms", "250"), Some(Duration::from_millis(250)));
        for nonsense in ["-1", "soon", "nan", "Wed, 21 Oct 2026 07:28:00 GMT"] {
            assert_eq!(wish("retry-after", nonsense), None);
        }
    }
}
