//! YAML as AlpacaEval's settings use it: a tree that keeps the order of keys, for order matters there.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

/// A YAML document or a part of one.
#[derive(Debug, Clone, PartialEq)]
pub enum Yaml {
    /// `null`, `~`, or nothing.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number.
    Number(serde_json::Number),
    /// A text.
    Text(String),
    /// A list.
    List(Vec<Yaml>),
    /// Keys and their values, in the order of the file.
    Table(Vec<(Yaml, Yaml)>),
}

impl Yaml {
    /// Reads a document.
    ///
    /// # Errors
    /// When it is not YAML, gives a key twice, or is so nested or so full of aliases that reading it would take too much.
    pub fn parse(text: &str) -> Result<Self, String> {
        serde_saphyr::from_str(text).map_err(|error| {
            let full = error.to_string();
            // The first line says what and where; a picture of the place follows.
            full.lines().next().unwrap_or_default().to_owned()
        })
    }

    /// What kind of value it is, for messages.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Bool(_) => "a truth value",
            Self::Number(_) => "a number",
            Self::Text(_) => "a text",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
        }
    }

    /// The same value as JSON. Keys that are no texts are written as they stand.
    pub(super) fn to_json(&self) -> Value {
        match self {
            Self::Null => Value::Null,
            Self::Bool(flag) => Value::Bool(*flag),
            Self::Number(number) => Value::Number(number.clone()),
            Self::Text(text) => Value::String(text.clone()),
            Self::List(items) => items.iter().map(Self::to_json).collect(),
            Self::Table(entries) => entries.iter().map(|(key, value)| (key.key_text(), value.to_json())).collect(),
        }
    }

    /// A key as a text.
    pub(super) fn key_text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            other => other.to_json().to_string(),
        }
    }
}

impl<'de> Deserialize<'de> for Yaml {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyYaml)
    }
}

struct AnyYaml;

impl<'de> Visitor<'de> for AnyYaml {
    type Value = Yaml;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Yaml, E> {
        Ok(Yaml::Null)
    }

    fn visit_none<E>(self) -> Result<Yaml, E> {
        Ok(Yaml::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Yaml, D::Error> {
        Yaml::deserialize(deserializer)
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Yaml, E> {
        Ok(Yaml::Bool(flag))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Yaml, E> {
        Ok(Yaml::Number(number.into()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Yaml, E> {
        Ok(Yaml::Number(number.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<Yaml, E> {
        serde_json::Number::from_f64(number).map(Yaml::Number).ok_or_else(|| E::custom("a number that is not finite"))
    }

    fn visit_str<E>(self, text: &str) -> Result<Yaml, E> {
        Ok(Yaml::Text(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Yaml, E> {
        Ok(Yaml::Text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Yaml, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(Yaml::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Yaml, A::Error> {
        let mut entries: Vec<(Yaml, Yaml)> = Vec::new();
        while let Some((key, value)) = access.next_entry::<Yaml, Yaml>()? {
            if entries.iter().any(|(known, _)| *known == key) {
                return Err(A::Error::custom(format!("the key `{}` stands twice", key.key_text())));
            }
            entries.push((key, value));
        }
        Ok(Yaml::Table(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn order_kinds_and_keys_that_are_numbers_are_kept() {
        let text = "b: 1\na: # why\n  2: '\\n\\(b\\)'\n  1: \"x\\n\"\nc: [true, 1.5, ~, 9e-7, 'Yes', m]\nd: {}\n";
        let yaml = Yaml::parse(text).expect("YAML");
        let Yaml::Table(entries) = &yaml else { panic!("a table") };
        let keys: Vec<String> = entries.iter().map(|(key, _)| key.key_text()).collect();
        assert_eq!(keys, ["b", "a", "c", "d"]);
        let two_one = Yaml::Table(vec![
            (Yaml::Number(2.into()), Yaml::Text("\\n\\(b\\)".to_owned())),
            (Yaml::Number(1.into()), Yaml::Text("x\n".to_owned())),
        ]);
        assert_eq!(entries[1].1, two_one);
        assert_eq!(entries[2].1.to_json(), json!([true, 1.5, null, 9e-7, "Yes", "m"]));
        assert_eq!(entries[3].1, Yaml::Table(Vec::new()));
    }

    #[test]
    fn hostile_documents_end_in_an_error() {
        let deep = "[".repeat(100_000);
        let bomb: String = (1..40).map(|i| format!("a{i}: &a{i} [*a{p}, *a{p}, *a{p}]\n", p = i - 1)).collect();
        let bomb = format!("a0: &a0 x\n{bomb}");
        for text in ["a: 1\na: 2\n", "a: [", "\t- a: b: c", &deep, &bomb, "a: .inf"] {
            assert!(Yaml::parse(text).is_err(), "{text:.30}");
        }
    }
}
