//! `json_parser`: a JSON document, whole or the part under one key.

use serde_json::Value;

use super::Unreadable;

/// The values under `key`: of the object, or of every object of a list; without a key, the document itself. A reply that holds a
/// block fenced as JSON is that block.
pub(super) fn values(text: &str, key: Option<&str>) -> Result<Vec<Value>, Unreadable> {
    let document: Value =
        serde_json::from_str(fenced(text)?).map_err(|error| Unreadable::unparsable(format!("the reply is not JSON: {error}")))?;
    let Some(key) = key else { return Ok(vec![document]) };
    let under =
        |value: &Value| value.get(key).cloned().ok_or_else(|| Unreadable::unparsable(format!("the reply's JSON has no `{key}`")));
    match &document {
        Value::Array(entries) => entries.iter().map(under).collect(),
        other => Ok(vec![under(other)?]),
    }
}

/// What stands in the first block fenced as JSON, or the whole text.
fn fenced(text: &str) -> Result<&str, Unreadable> {
    const FENCE: &str = "```json";
    let Some(at) = text.find(FENCE) else { return Ok(text) };
    let inside = &text[at + FENCE.len()..];
    let end = inside.find("```").ok_or_else(|| Unreadable::unparsable("the reply's JSON block has no end"))?;
    Ok(&inside[..end])
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn objects_lists_and_fenced_blocks_are_read() {
        assert_eq!(values(r#"{"a": 1}"#, Some("a")), Ok(vec![json!(1)]));
        assert_eq!(values(r#"[{"a": 1}, {"a": 2}]"#, Some("a")), Ok(vec![json!(1), json!(2)]));
        assert_eq!(values("Here:\n```json\n{\"a\": \"True\"}\n```\nDone.", Some("a")), Ok(vec![json!("True")]));
        assert_eq!(values(r#"[{"a": 1}]"#, None), Ok(vec![json!([{ "a": 1 }])]));
        assert_eq!(values("[]", Some("a")), Ok(vec![]));
    }

    #[test]
    fn what_is_missing_is_named() {
        for (text, part) in
            [("{", "not JSON"), (r#"{"b": 1}"#, "no `a`"), ("```json {}", "no end"), ("[1]", "no `a`"), ("", "JSON")]
        {
            let error = values(text, Some("a")).expect_err(text).to_string();
            assert!(error.contains(part), "{error}");
        }
        assert!(values(&"[".repeat(100_000), None).is_err());
    }
}
