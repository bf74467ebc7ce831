//! The JSON in a reply to one of our own prompts.

use serde_json::Value;

use super::parsers::{Unreadable, read_literal};

/// The document that a reply is asked for: the whole text, a fenced block, or what stands between the first opening bracket of
/// this kind and the last closing one. Quotes as in Python are read, too.
pub(super) fn document(text: &str, opens: char) -> Result<Value, Unreadable> {
    let closes = if opens == '[' { ']' } else { '}' };
    if text.trim().is_empty() {
        return Err(Unreadable::Empty);
    }
    let inside = match (text.find(opens), text.rfind(closes)) {
        (Some(start), Some(end)) if start < end => &text[start..=end],
        _ => return Err(Unreadable::Unparsable(format!("expected JSON between `{opens}` and `{closes}`"))),
    };
    serde_json::from_str(inside)
        .or_else(|error| read_literal(inside).map_err(|_| Unreadable::Unparsable(format!("the reply is not JSON: {error}"))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_document_is_found_among_words() {
        for text in [r#"{"a": 1}"#, "Sure!\n```json\n{\"a\": 1}\n```\nDone.", "{'a': 1,}"] {
            assert_eq!(document(text, '{'), Ok(json!({ "a": 1 })), "{text}");
        }
        assert_eq!(document("so: [1, 2].", '['), Ok(json!([1, 2])));
    }

    #[test]
    fn what_is_no_document_is_told() {
        assert_eq!(document(" \n", '{'), Err(Unreadable::Empty));
        for text in ["A", "{a}", "} {", "[1"] {
            assert!(document(text, '{').is_err(), "{text}");
        }
    }
}
