//! The page's one script, which makes tables sortable, and the policy that lets it alone run.
//!
//! The content security policy names the script's hash; a script that came in with a model's text would not run even if it got past
//! the escaping. Without scripts the page shows the same, in the order in which it was written.

use sha2::{Digest, Sha256};

/// The script, as it stands in the page.
pub(super) const SCRIPT: &str = include_str!("sort.js");

/// The content security policy of the page: its own style, this script, nothing else.
pub(super) fn policy() -> String {
    format!("default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{}'", base64(&Sha256::digest(SCRIPT)))
}

/// Standard base 64 with padding (RFC 4648).
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let bits = (0..3).fold(0_u32, |bits, i| bits << 8 | u32::from(group.get(i).copied().unwrap_or(0)));
        for i in 0..4 {
            let digit = char::from(DIGITS[(bits >> (18 - 6 * i) & 63) as usize]);
            text.push(if i <= group.len() { digit } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_64_as_in_its_standard() {
        for (text, expected) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(base64(text.as_bytes()), expected);
        }
    }

    #[test]
    fn the_script_cannot_end_itself_and_makes_no_markup() {
        for part in ["</script", "<!--", "innerHTML", "eval(", "document.write", "insertAdjacentHTML"] {
            assert!(!SCRIPT.contains(part), "{part}");
        }
        // The hash of nothing, as everyone knows it.
        assert_eq!(base64(&Sha256::digest("")), "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=");
    }
}
