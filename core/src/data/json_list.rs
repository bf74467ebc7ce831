//! Takes the items of a JSON list one at a time out of its text.

use std::path::Path;

use serde_json::Value;

use super::records::{Record, RecordError, object, without_position};
use super::report::Location;
use crate::error::Error;

/// The item at byte `at` of the list's text, where `index` items came before it (`at` begins just after the `[`).
/// Broken JSON is fatal, for what follows cannot be told apart any more.
pub(super) fn next_item(path: &Path, text: &str, at: &mut usize, index: &mut u64) -> Option<Result<Record, RecordError>> {
    let blanks = |at: usize| text[at..].len() - text[at..].trim_ascii_start().len();
    let fatal = |at: usize, what: &str| {
        let line = text[..at].matches('\n').count() + 1;
        let column = at - text[..at].rfind('\n').map_or(0, |newline| newline + 1) + 1;
        Some(Err(RecordError::Fatal(Error::invalid_data(format!(
            "`{}`, line {line}, column {column}: not a valid JSON list: {what}",
            path.display()
        )))))
    };
    *at += blanks(*at);
    if *index > 0 {
        match text.as_bytes().get(*at) {
            Some(b',') => *at += 1,
            Some(b']') => {}
            Some(_) => return fatal(*at, "expected `,` or `]`"),
            None => return fatal(*at, "it ends before its `]`"),
        }
        *at += blanks(*at);
    }
    if text.as_bytes().get(*at) == Some(&b']') {
        *at += 1;
        *at += blanks(*at);
        return if *at < text.len() { fatal(*at, "something follows its `]`") } else { None };
    }
    let mut stream = serde_json::Deserializer::from_str(&text[*at..]).into_iter::<Value>();
    let location = Location::Index(*index);
    match stream.next() {
        Some(Ok(value)) => {
            *at += stream.byte_offset();
            *index += 1;
            Some(object(value, location))
        }
        Some(Err(error)) => {
            let line_start = if error.line() > 1 { nth_line(&text[*at..], error.line()) } else { 0 };
            let place = (*at + line_start + error.column().saturating_sub(1)).min(text.len());
            fatal(floor_boundary(text, place), &format!("{} ({location})", without_position(&error)))
        }
        None => fatal(text.len(), "it ends before its `]`"),
    }
}

/// Byte offset of the n-th line (from 1).
fn nth_line(text: &str, n: usize) -> usize {
    text.match_indices('\n').nth(n - 2).map_or(text.len(), |(at, _)| at + 1)
}

fn floor_boundary(text: &str, at: usize) -> usize {
    (0..=at).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
}
