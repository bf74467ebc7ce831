//! Takes typed values out of a record's fields, with the field and what was expected in every complaint.

use std::fmt;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// The fields of a record.
pub(super) type Fields = Map<String, Value>;

/// What is wrong with a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FieldProblem {
    /// Path of the field, for example `messages[2].role`; empty for the whole record.
    field: String,
    message: String,
}

impl FieldProblem {
    pub(super) fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: field.into(), message: message.into() }
    }

    fn expected(field: &str, expected: &str, got: Option<&Value>) -> Self {
        Self::new(field, format!("expected {expected}, got {}", got.map_or_else(|| "none".to_owned(), kind)))
    }

    /// The same problem seen from one level up.
    pub(super) fn under(mut self, parent: &str) -> Self {
        let dot = if self.field.is_empty() || self.field.starts_with('[') { "" } else { "." };
        self.field = format!("{parent}{dot}{}", self.field);
        self
    }
}

impl fmt::Display for FieldProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.field.is_empty() { f.write_str(&self.message) } else { write!(f, "field `{}`: {}", self.field, self.message) }
    }
}

/// What a value is, in words, short enough for a message.
pub(super) fn kind(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => format!("`{value}`"),
        Value::Number(value) => format!("the number {value}"),
        Value::String(_) => "a text".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    }
}

/// The value of a field that is there and not null.
pub(super) fn present<'a>(fields: &'a Fields, key: &str) -> Option<&'a Value> {
    fields.get(key).filter(|value| !value.is_null())
}

/// Whether a field holds a text.
pub(super) fn is_text(fields: &Fields, key: &str) -> bool {
    fields.get(key).is_some_and(Value::is_string)
}

/// Whether a field holds a list.
pub(super) fn is_list(fields: &Fields, key: &str) -> bool {
    fields.get(key).is_some_and(Value::is_array)
}

/// Whether a field holds an object.
pub(super) fn is_object(fields: &Fields, key: &str) -> bool {
    fields.get(key).is_some_and(Value::is_object)
}

/// A text that must be there.
pub(super) fn text<'a>(fields: &'a Fields, key: &str) -> Result<&'a str, FieldProblem> {
    let value = fields.get(key);
    value.and_then(Value::as_str).ok_or_else(|| FieldProblem::expected(key, "a text", value))
}

/// A text that may be absent or null.
pub(super) fn optional_text<'a>(fields: &'a Fields, key: &str) -> Result<Option<&'a str>, FieldProblem> {
    present(fields, key).map(|_| text(fields, key)).transpose()
}

/// A finite number that may be absent or null.
pub(super) fn optional_number(fields: &Fields, key: &str) -> Result<Option<f64>, FieldProblem> {
    present(fields, key).map(|_| number(fields, key)).transpose()
}

/// A number that must be there. JSON numbers are finite, save those too large for 64 bits.
pub(super) fn number(fields: &Fields, key: &str) -> Result<f64, FieldProblem> {
    let value = fields.get(key);
    let number = value.and_then(Value::as_f64).filter(|number| number.is_finite());
    number.ok_or_else(|| FieldProblem::expected(key, "a number", value))
}

/// A list that must be there.
pub(super) fn list<'a>(fields: &'a Fields, key: &str) -> Result<&'a [Value], FieldProblem> {
    let value = fields.get(key);
    value.and_then(Value::as_array).map(Vec::as_slice).ok_or_else(|| FieldProblem::expected(key, "a list", value))
}

/// A list of texts that must be there.
pub(super) fn texts(fields: &Fields, key: &str) -> Result<Vec<String>, FieldProblem> {
    let item = |(i, value): (usize, &Value)| {
        value.as_str().map(str::to_owned).ok_or_else(|| FieldProblem::expected(&format!("{key}[{i}]"), "a text", Some(value)))
    };
    list(fields, key)?.iter().enumerate().map(item).collect()
}

/// A list of finite numbers that must be there.
pub(super) fn numbers(fields: &Fields, key: &str) -> Result<Vec<f64>, FieldProblem> {
    let item = |(i, value): (usize, &Value)| {
        let number = value.as_f64().filter(|number| number.is_finite());
        number.ok_or_else(|| FieldProblem::expected(&format!("{key}[{i}]"), "a number", Some(value)))
    };
    list(fields, key)?.iter().enumerate().map(item).collect()
}

/// An object inside a list or field.
pub(super) fn object<'a>(value: &'a Value, path: &str) -> Result<&'a Fields, FieldProblem> {
    value.as_object().ok_or_else(|| FieldProblem::expected(path, "an object", Some(value)))
}

/// A whole record (or part of one) as one of our own types.
pub(super) fn typed<T: DeserializeOwned>(value: Value) -> Result<T, FieldProblem> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        FieldProblem::new(if path == "." { String::new() } else { path }, error.into_inner().to_string())
    })
}
