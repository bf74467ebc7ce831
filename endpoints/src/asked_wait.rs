//! How long a server asks to be left alone, in any of the headers in which servers say so.

use std::time::Duration;

use reqwest::header::HeaderMap;

/// What `retry-after-ms` or `retry-after` (seconds, or a date after the server's own) ask for; of a server that says
/// neither, when the limit that is used up is filled again (`x-ratelimit-reset-requests`, `x-ratelimit-reset-tokens`).
pub(crate) fn asked_wait(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: &str| Some(headers.get(name)?.to_str().ok()?.trim());
    let seconds = |seconds: f64| Duration::try_from_secs_f64(seconds).ok();
    let number = |name: &str| text(name)?.parse::<f64>().ok();
    if let Some(wait) = number("retry-after-ms").and_then(|ms| seconds(ms / 1000.0)) {
        return Some(wait);
    }
    if let Some(wait) = number("retry-after").and_then(seconds) {
        return Some(wait);
    }
    if let (Some(then), Some(now)) = (text("retry-after").and_then(http_date), text("date").and_then(http_date)) {
        return seconds((then - now).max(0) as f64);
    }
    let used_up = |what: &&str| number(&format!("x-ratelimit-remaining-{what}")) == Some(0.0);
    let resets = ["requests", "tokens"].into_iter().filter(used_up);
    resets.filter_map(|what| span(text(&format!("x-ratelimit-reset-{what}"))?)).max()
}

/// A span as OpenAI writes it: `20ms`, `1.5s`, `6m0s`, `1h2m3s`; a plain number is seconds.
fn span(text: &str) -> Option<Duration> {
    if let Ok(seconds) = text.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let (mut rest, mut seconds) = (text, 0.0);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !(c.is_ascii_digit() || c == '.'))?;
        let number: f64 = rest[..digits].parse().ok()?;
        let tail = &rest[digits..];
        let letters = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        seconds += number
            * match &tail[..letters] {
                "ms" => 1e-3,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                "d" => 86_400.0,
                _ => return None,
            };
        rest = &tail[letters..];
    }
    Duration::try_from_secs_f64(seconds).ok()
}

/// Seconds since 1970 of a date such as `Wed, 21 Oct 2026 07:28:00 GMT` (RFC 9110, IMF-fixdate).
fn http_date(text: &str) -> Option<i64> {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let words: Vec<&str> = text.split([' ', ':']).collect();
    let [_, day, month, year, hour, minute, second, "GMT"] = words.as_slice() else { return None };
    let number = |text: &str, range: std::ops::RangeInclusive<i64>| text.parse().ok().filter(|n| range.contains(n));
    let (year, day) = (number(year, 1970..=9999)?, number(day, 1..=31)?);
    let month = MONTHS.iter().position(|name| name == month)? as i64 + 1;
    let time = number(hour, 0..=23)? * 3600 + number(minute, 0..=59)? * 60 + number(second, 0..=60)?;
    // Days from the civil calendar, years beginning in March so that the leap day comes last.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1 - 719_468;
    Some(days * 86_400 + time)
}

#[cfg(test)]
mod tests {
    use reqwest::header::{HeaderName, HeaderValue};

    use super::*;

    fn wish(headers: &[(&'static str, &'static str)]) -> Option<Duration> {
        let header =
            |(name, value): &(&'static str, &'static str)| (HeaderName::from_static(name), HeaderValue::from_static(value));
        asked_wait(&headers.iter().map(header).collect())
    }

    #[test]
    fn a_servers_wish_is_read_in_every_unit() {
        assert_eq!(wish(&[("retry-after", "2")]), Some(Duration::from_secs(2)));
        assert_eq!(wish(&[("retry-after-ms", "250"), ("retry-after", "1")]), Some(Duration::from_millis(250)));
        let date = ("date", "Wed, 21 Oct 2026 07:27:15 GMT");
        assert_eq!(wish(&[("retry-after", "Wed, 21 Oct 2026 07:28:00 GMT"), date]), Some(Duration::from_secs(45)));
        assert_eq!(wish(&[("retry-after", "Wed, 21 Oct 2026 07:27:00 GMT"), date]), Some(Duration::ZERO));
        for nonsense in ["-1", "soon", "nan", "Wed, 21 Oct 2026 07:28:00 GMT", "Wed, 41 Xyz 2026 07:28:00 GMT"] {
            assert_eq!(wish(&[("retry-after", nonsense)]), None, "{nonsense}");
        }
    }

    #[test]
    fn without_a_wish_the_limit_that_is_used_up_says_when_it_is_filled() {
        let requests = ("x-ratelimit-reset-requests", "6m0.5s");
        assert_eq!(wish(&[requests]), None);
        assert_eq!(wish(&[requests, ("x-ratelimit-remaining-requests", "1")]), None);
        assert_eq!(wish(&[requests, ("x-ratelimit-remaining-requests", "0")]), Some(Duration::from_secs_f64(360.5)));
        let tokens = [("x-ratelimit-remaining-tokens", "0"), ("x-ratelimit-reset-tokens", "20ms")];
        assert_eq!(wish(&tokens), Some(Duration::from_millis(20)));
        for (text, expected) in [("1h2m3s", Some(3723.0)), ("7", Some(7.0)), ("2 s", None), ("s", None), ("5x", None)] {
            assert_eq!(span(text), expected.map(Duration::from_secs_f64), "{text}");
        }
    }

    #[test]
    fn dates_are_counted_from_1970() {
        for (text, seconds) in [
            ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
            ("Sun, 06 Nov 1994 08:49:37 GMT", 784_111_777),
            ("Thu, 29 Feb 2024 00:00:00 GMT", 1_709_164_800),
        ] {
            assert_eq!(http_date(text), Some(seconds));
        }
    }
}
