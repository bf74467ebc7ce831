//! Typed reading of a Hugging Face `config.json`, with errors that name the file and the key.

use farmhand_core::{Error, Result};
use serde_json::{Map, Value};

/// A JSON object and where it came from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ConfigJson<'a> {
    fields: &'a Map<String, Value>,
    source: &'a str,
    /// The keys it stands under in its file, outermost first; at most two are kept.
    parents: [Option<&'a str>; 2],
}

impl<'a> ConfigJson<'a> {
    pub(crate) fn new(fields: &'a Map<String, Value>, source: &'a str) -> Self {
        Self { fields, source, parents: [None; 2] }
    }

    /// Where it came from, for messages.
    pub(crate) fn source(&self) -> &'a str {
        self.source
    }

    /// Whether the key is there and not null.
    pub(crate) fn is_set(&self, key: &str) -> bool {
        self.find(key).is_some()
    }

    /// Whether the key is there and null.
    pub(crate) fn is_null(&self, key: &str) -> bool {
        self.fields.get(key).is_some_and(Value::is_null)
    }

    /// The value of a key; null counts as absent, as transformers treats it.
    pub(crate) fn find(&self, key: &str) -> Option<&'a Value> {
        self.fields.get(key).filter(|value| !value.is_null())
    }

    /// The object under a key, if there is one.
    pub(crate) fn object(&self, key: &'a str) -> Result<Option<ConfigJson<'a>>> {
        match self.find(key) {
            None => Ok(None),
            Some(Value::Object(fields)) => {
                let [outer, _] = self.parents;
                let parents = if outer.is_none() { [Some(key), None] } else { [outer, Some(key)] };
                Ok(Some(ConfigJson { fields, source: self.source, parents }))
            }
            Some(_) => Err(self.wrong(key, "an object")),
        }
    }

    /// The first key whose value is an object.
    pub(crate) fn nested_key(&self) -> Option<&'a str> {
        self.fields.iter().find(|(_, value)| value.is_object()).map(|(key, _)| key.as_str())
    }

    pub(crate) fn text(&self, key: &str) -> Result<&'a str> {
        self.require(key, "a text")?.as_str().ok_or_else(|| self.wrong(key, "a text"))
    }

    pub(crate) fn text_or(&self, key: &str, default: &'a str) -> Result<&'a str> {
        if self.is_set(key) { self.text(key) } else { Ok(default) }
    }

    /// A size: a positive integer below 2^31.
    pub(crate) fn size(&self, key: &str) -> Result<usize> {
        let value = self.require(key, "a positive integer")?;
        let size = value.as_u64().and_then(|size| usize::try_from(size).ok()).filter(|size| (1..1 << 31).contains(size));
        size.ok_or_else(|| self.wrong(key, "a positive integer"))
    }

    pub(crate) fn size_or(&self, key: &str, default: usize) -> Result<usize> {
        if self.is_set(key) { self.size(key) } else { Ok(default) }
    }

    /// A count: an integer from 0 on, below 2^31.
    pub(crate) fn count_or(&self, key: &str, default: usize) -> Result<usize> {
        let Some(value) = self.find(key) else { return Ok(default) };
        let count = value.as_u64().and_then(|count| usize::try_from(count).ok()).filter(|count| *count < 1 << 31);
        count.ok_or_else(|| self.wrong(key, "an integer from 0 on"))
    }

    /// A finite number.
    pub(crate) fn number(&self, key: &str) -> Result<f64> {
        let value = self.require(key, "a number")?;
        value.as_f64().filter(|number| number.is_finite()).ok_or_else(|| self.wrong(key, "a number"))
    }

    pub(crate) fn number_or(&self, key: &str, default: f64) -> Result<f64> {
        if self.is_set(key) { self.number(key) } else { Ok(default) }
    }

    /// A finite number above zero.
    pub(crate) fn positive(&self, key: &str) -> Result<f64> {
        let number = self.number(key)?;
        if number > 0.0 { Ok(number) } else { Err(self.wrong(key, "a number above 0")) }
    }

    pub(crate) fn positive_or(&self, key: &str, default: f64) -> Result<f64> {
        if self.is_set(key) { self.positive(key) } else { Ok(default) }
    }

    /// A list of `n` numbers above zero.
    pub(crate) fn positives(&self, key: &str, n: usize) -> Result<Vec<f64>> {
        let expected = format!("a list of {n} numbers above 0");
        let values = self.require(key, &expected)?.as_array();
        let number = |value: &Value| value.as_f64().filter(|number| number.is_finite() && *number > 0.0);
        let numbers: Option<Vec<f64>> = values.and_then(|values| values.iter().map(number).collect());
        numbers.filter(|numbers| numbers.len() == n).ok_or_else(|| self.wrong(key, &expected))
    }

    pub(crate) fn flag_or(&self, key: &str, default: bool) -> Result<bool> {
        match self.find(key) {
            None => Ok(default),
            Some(value) => value.as_bool().ok_or_else(|| self.wrong(key, "true or false")),
        }
    }

    /// Refuses any value but the expected one: features that would change the maths are never ignored.
    pub(crate) fn expect_flag(&self, key: &str, expected: bool) -> Result<()> {
        if self.flag_or(key, expected)? == expected { Ok(()) } else { Err(self.unsupported(key, &format!("`{expected}`"))) }
    }

    /// A token id or a list of them; empty when absent.
    pub(crate) fn token_ids(&self, key: &str) -> Result<Vec<u32>> {
        let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        let ids = match self.find(key) {
            None => Some(Vec::new()),
            Some(Value::Array(values)) => values.iter().map(id).collect(),
            Some(value) => id(value).map(|id| vec![id]),
        };
        ids.ok_or_else(|| self.wrong(key, "a token id or a list of them"))
    }

    /// "this feature is not supported here": a value that is valid for transformers and would change the maths.
    pub(crate) fn unsupported(&self, key: &str, supported: &str) -> Error {
        let got = self.find(key).map_or_else(|| "nothing".to_owned(), abbreviate);
        Error::invalid_config(format!("{}: `{}` is {got}, which is not supported", self.source, self.path(key)))
            .with_hint(format!("supported is {supported}"))
    }

    fn require(&self, key: &str, expected: &str) -> Result<&'a Value> {
        self.find(key).ok_or_else(|| {
            Error::invalid_config(format!("{}: `{}` is missing, expected {expected}", self.source, self.path(key)))
        })
    }

    /// A key with those it stands under, such as `rope_scaling.factor`.
    fn path(&self, key: &str) -> String {
        let parents = self.parents.into_iter().flatten();
        parents.chain([key]).collect::<Vec<_>>().join(".")
    }

    /// "expected this, got that".
    pub(crate) fn wrong(&self, key: &str, expected: &str) -> Error {
        let got = self.find(key).map_or_else(|| "nothing".to_owned(), abbreviate);
        Error::invalid_config(format!("{}: `{}`: expected {expected}, got {got}", self.source, self.path(key)))
    }
}

fn abbreviate(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() > 60 {
        return format!("`{}…`", text.chars().take(60).collect::<String>());
    }
    format!("`{text}`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_the_file_the_key_and_both_values() {
        let value = serde_json::json!({ "a": 0, "b": "x", "c": null, "e": [1, 2], "f": { "g": { "h": -1 } } });
        let Value::Object(fields) = value else { panic!("an object") };
        let json = ConfigJson::new(&fields, "`m/config.json`");
        let message = |error: Error| error.message().to_owned();
        assert_eq!(message(json.size("a").expect_err("zero")), "`m/config.json`: `a`: expected a positive integer, got `0`");
        assert_eq!(message(json.number("b").expect_err("text")), "`m/config.json`: `b`: expected a number, got `\"x\"`");
        assert_eq!(message(json.size("d").expect_err("absent")), "`m/config.json`: `d` is missing, expected a positive integer");
        assert_eq!(json.size_or("c", 3).expect("null is absent"), 3);
        assert_eq!(json.token_ids("e").expect("ids"), [1, 2]);
        assert!(json.token_ids("b").is_err());
        assert_eq!(json.positives("e", 2).expect("numbers"), [1.0, 2.0]);
        assert!(message(json.positives("e", 3).expect_err("too few")).contains("`e`: expected a list of 3 numbers above 0"));
        let inner = json.object("f").expect("an object").and_then(|f| f.object("g").expect("an object")).expect("there");
        assert!(message(inner.size("h").expect_err("negative")).contains("`f.g.h`: expected a positive integer, got `-1`"));
    }
}
