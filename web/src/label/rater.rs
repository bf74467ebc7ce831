//! The names of raters.

use crate::refusal::Refusal;

/// Characters of a name at most.
pub(crate) const MAX_NAME: usize = 64;

/// A name as it is recorded: without blanks at the ends and with single ones inside.
///
/// # Errors
/// When nothing is left, it is too long, or it holds characters that do not show or that turn the text around.
pub(crate) fn rater_name(given: &str) -> Result<String, Refusal> {
    let name = given.split_whitespace().collect::<Vec<_>>().join(" ");
    let n = name.chars().count();
    if n == 0 || n > MAX_NAME {
        return Err(Refusal::bad(format!("a name has 1 to {MAX_NAME} characters, got {n}")));
    }
    if name.chars().any(is_invisible) {
        return Err(Refusal::bad("a name is made of characters that show"));
    }
    Ok(name)
}

/// Control characters, and those that hide or reorder what stands beside them.
fn is_invisible(c: char) -> bool {
    let hides = matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{ad}');
    // Joiners belong to words and faces in many scripts.
    c.is_control() || (hides && !matches!(c, '\u{200c}' | '\u{200d}'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_any_script_are_kept_and_blanks_are_evened() {
        for (given, kept) in [("  Ana  María ", "Ana María"), ("张伟", "张伟"), ("می‌خواهم", "می‌خواهم"), ("👩‍🌾", "👩‍🌾")]
        {
            assert_eq!(rater_name(given).expect("a name"), kept);
        }
    }

    #[test]
    fn empty_long_and_invisible_names_are_refused() {
        for given in ["", "  ", "a\u{202e}b", "a\0b", "\u{200b}", &"x".repeat(65)] {
            assert!(rater_name(given).is_err(), "{given:?}");
        }
        assert!(rater_name(&"é".repeat(64)).is_ok());
    }
}
