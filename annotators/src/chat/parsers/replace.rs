//! `replace_parser`: the whole completion is looked up in a dictionary.

use serde_json::Value;

/// What stands for which completion.
#[derive(Debug, Clone, PartialEq)]
pub struct Replacements {
    /// Completions and what they stand for.
    pub replacer: Vec<(Value, Value)>,
    /// What any other completion stands for; `None`: itself.
    pub default: Option<Value>,
}

impl Replacements {
    pub(super) fn value(&self, completion: &Value) -> Value {
        let found = self.replacer.iter().find(|(key, _)| is_same_key(key, completion)).map(|(_, value)| value);
        found.or(self.default.as_ref()).unwrap_or(completion).clone()
    }
}

/// Python's dictionaries take 1, 1.0 and True for one key.
fn is_same_key(a: &Value, b: &Value) -> bool {
    let number = |value: &Value| value.as_f64().or_else(|| value.as_bool().map(|flag| f64::from(u8::from(flag))));
    match (number(a), number(b)) {
        (Some(a), Some(b)) => a == b,
        _ => a == b,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_completion_is_looked_up_and_others_stay() {
        let mut parser = Replacements { replacer: vec![(json!("True"), json!(1)), (json!(2), json!(1.5))], default: None };
        assert_eq!(parser.value(&json!("True")), json!(1));
        assert_eq!(parser.value(&json!("true")), json!("true"));
        assert_eq!(parser.value(&json!(2.0)), json!(1.5));
        parser.default = Some(json!(2));
        assert_eq!(parser.value(&json!("true")), json!(2));
        assert_eq!(Replacements { replacer: vec![(json!(true), json!(2))], default: None }.value(&json!(true)), json!(2));
    }
}
