//! When something was asked: seconds since 1970, written as `2024-01-31T12:00:00Z`.

use std::fmt;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A moment, to the second, in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Date(i64);

const SECONDS_A_DAY: i64 = 86_400;

impl Date {
    /// The moment that is now.
    pub fn now() -> Self {
        Self(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs() as i64))
    }

    /// So many seconds after the beginning of 1970, UTC.
    pub fn from_unix(seconds: i64) -> Self {
        Self(seconds)
    }

    /// Seconds since the beginning of 1970, UTC.
    pub fn unix(self) -> i64 {
        self.0
    }

    /// The beginning of a day, by its number since 1970-01-01.
    fn from_civil(year: i64, month: i64, day: i64) -> Self {
        // Counted from 1 March of year 0, so that the leap day ends a year; 400 years have 146,097 days.
        let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
        let era = year.div_euclid(400);
        let year_of_era = year.rem_euclid(400);
        let day_of_year = (153 * month + 2) / 5 + day - 1;
        let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
        Self((era * 146_097 + day_of_era - 719_468) * SECONDS_A_DAY)
    }

    /// Year, month and day.
    fn civil(self) -> (i64, i64, i64) {
        let days = self.0.div_euclid(SECONDS_A_DAY) + 719_468;
        let era = days.div_euclid(146_097);
        let day_of_era = days.rem_euclid(146_097);
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month + 2) / 5 + 1;
        let (year, month) = if month < 10 { (year_of_era, month + 3) } else { (year_of_era + 1, month - 9) };
        (era * 400 + year, month, day)
    }
}

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = self.civil();
        let second = self.0.rem_euclid(SECONDS_A_DAY);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
    }
}

impl FromStr for Date {
    type Err = String;

    /// Reads `2024-01-31`, with `T12:00` or `T12:00:00.5` after it or not; what names no zone is taken for UTC, and no other
    /// zone is read.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("expected a date such as `2024-01-31` or `2024-01-31T12:00:00Z`, got `{text}`");
        let number = |text: &str, range: std::ops::RangeInclusive<i64>| {
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse::<i64>().ok().filter(|number| digits && range.contains(number)).ok_or_else(wrong)
        };
        let (day, time) = text.split_once(['T', ' ']).unwrap_or((text, "00:00"));
        let [year, month, day] = day.split('-').collect::<Vec<_>>()[..] else { return Err(wrong()) };
        let (year, month, day) = (number(year, 1..=9999)?, number(month, 1..=12)?, number(day, 1..=31)?);
        let midnight = Self::from_civil(year, month, day);
        if midnight.civil() != (year, month, day) {
            return Err(wrong());
        }
        let time = time.strip_suffix('Z').or_else(|| time.strip_suffix("+00:00")).unwrap_or(time);
        let (hour, minute, second) = match time.split(':').collect::<Vec<_>>()[..] {
            [hour, minute] => (hour, minute, "0"),
            [hour, minute, second] => (hour, minute, second),
            _ => return Err(wrong()),
        };
        let (second, fraction) = second.split_once('.').unwrap_or((second, "0"));
        number(fraction, 0..=i64::MAX)?;
        let (hour, minute, second) = (number(hour, 0..=23)?, number(minute, 0..=59)?, number(second, 0..=59)?);
        Ok(Self(midnight.0 + hour * 3600 + minute * 60 + second))
    }
}

impl Serialize for Date {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Date {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_moments() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_700_000_000, "2023-11-14T22:13:20Z"),
            (4_107_542_399, "2100-02-28T23:59:59Z"),
        ] {
            assert_eq!(Date(seconds).to_string(), text);
            assert_eq!(text.parse(), Ok(Date(seconds)));
        }
        assert_eq!("2023-11-14".parse::<Date>().map(Date::unix), Ok(1_699_920_000));
        assert_eq!("2023-11-14T22:13:20.123456".parse(), Ok(Date(1_700_000_000)));
        assert_eq!("2023-11-14 22:13".parse(), Ok(Date(1_699_999_980)));
        for wrong in [
            "",
            "2023",
            "2023-02-29",
            "2023-13-01",
            "2023-01-01T25:00",
            "2023-01-01T10:00+02:00",
            "+2023-01-01",
            "x",
            "2023-01-01T1:2:3:4",
        ] {
            assert!(wrong.parse::<Date>().is_err(), "{wrong}");
        }
        assert!(Date::now() > Date(1_700_000_000));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(seconds in -62_000_000_000_i64..250_000_000_000) {
            prop_assert_eq!(Date(seconds).to_string().parse(), Ok(Date(seconds)));
        }
    }
}
