//! `lmsys_parser`: two scores on the first line; the higher one wins.

use super::Unreadable;

/// 1 when the first score is higher, 2 when the second is, 0 when they are equal.
pub(super) fn value(text: &str) -> Result<u8, Unreadable> {
    let line = text.split('\n').next().unwrap_or_default().replace(',', " ");
    let parts: Vec<&str> = line.split(' ').collect();
    let unparsable = || Unreadable::unparsable("expected two scores on the first line, such as `7 8`");
    let [first, second] = parts[..] else { return Err(unparsable()) };
    let number = |text: &str| text.trim().parse::<f64>().ok().filter(|score| !score.is_nan()).ok_or_else(unparsable);
    let (first, second) = (number(first)?, number(second)?);
    Ok(match first.partial_cmp(&second) {
        Some(std::cmp::Ordering::Greater) => 1,
        Some(std::cmp::Ordering::Less) => 2,
        _ => 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_higher_score_wins() {
        for (text, code) in [("1 7", 2), ("7 1", 1), ("1 1", 0), ("7.5 8\nBecause", 2), ("8,7", 1), ("-1 -2", 1)] {
            assert_eq!(value(text), Ok(code), "{text}");
        }
    }

    #[test]
    fn anything_else_is_no_verdict() {
        for text in ["", "7", "7 8 9", "7, 8", "seven eight", "nan 1", "\n7 8", " 7 8"] {
            assert!(value(text).is_err(), "{text}");
        }
    }
}
