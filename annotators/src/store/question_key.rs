//! What a question is known by: a hash of what was asked, the same wherever and whenever it is asked.

use std::fmt;

use serde_json::Value;
use sha2::{Digest, Sha256};

/// The address of a reply: SHA-256 of the question and of the seed of its sample.
///
/// A question is what a server is asked, as JSON: route, model, messages, decoding. It names neither a key nor an address, so
/// that the same model behind another gateway gives the same key. Where outputs are shown in another order, the messages
/// differ, and so does the key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QuestionKey([u8; 32]);

impl QuestionKey {
    /// The key of a question. `sample_seed` tells several samples of one question apart; it is 0 where one is enough.
    pub fn of(question: &Value, sample_seed: u64) -> Self {
        let text = canonical_json(question);
        let hash = Sha256::new()
            .chain_update(b"farmhand question v1")
            .chain_update((text.len() as u64).to_le_bytes())
            .chain_update(text.as_bytes())
            .chain_update(sample_seed.to_le_bytes());
        Self(hash.finalize().into())
    }

    /// The key of the same question asked once more, because the answers so far could not be read; 0 is the question itself. An
    /// answer stands for good, so a further try has an address of its own.
    #[must_use]
    pub fn attempt(self, n: u32) -> Self {
        if n == 0 {
            return self;
        }
        let hash = Sha256::new().chain_update(b"farmhand attempt v1").chain_update(self.0).chain_update(n.to_le_bytes());
        Self(hash.finalize().into())
    }

    /// The 32 bytes.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The key that these bytes are.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for QuestionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for QuestionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "QuestionKey({self})")
    }
}

/// JSON in one spelling: keys sorted by their bytes, no blanks, whole numbers without a fraction.
pub fn canonical_json(value: &Value) -> String {
    let mut text = String::new();
    write_canonical(value, &mut text);
    text
}

fn write_canonical(value: &Value, text: &mut String) {
    match value {
        Value::Array(items) => {
            text.push('[');
            for (i, item) in items.iter().enumerate() {
                text.push_str(if i > 0 { "," } else { "" });
                write_canonical(item, text);
            }
            text.push(']');
        }
        Value::Object(fields) => {
            let mut fields: Vec<(&String, &Value)> = fields.iter().collect();
            fields.sort_by_key(|(key, _)| *key);
            text.push('{');
            for (i, (key, value)) in fields.into_iter().enumerate() {
                text.push_str(if i > 0 { "," } else { "" });
                text.push_str(&Value::String(key.clone()).to_string());
                text.push(':');
                write_canonical(value, text);
            }
            text.push('}');
        }
        Value::Number(number) => match number.as_f64().filter(|float| number.is_f64() && is_exact_integer(*float)) {
            Some(whole) => text.push_str(&(whole as i64).to_string()),
            None => text.push_str(&number.to_string()),
        },
        _ => text.push_str(&value.to_string()),
    }
}

/// Whether a float is a whole number that it holds exactly.
fn is_exact_integer(float: f64) -> bool {
    float.fract() == 0.0 && float.abs() <= 9_007_199_254_740_992.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn every_attempt_has_an_address_of_its_own_and_the_first_is_the_questions() {
        let key = QuestionKey::of(&Value::Null, 0);
        assert_eq!(key.attempt(0), key);
        let all: std::collections::BTreeSet<QuestionKey> = (0..5).map(|n| key.attempt(n)).collect();
        assert_eq!(all.len(), 5);
        assert_ne!(key.attempt(1), QuestionKey::of(&Value::Null, 1).attempt(1));
    }

    #[test]
    fn spelling_does_not_matter_and_content_does() {
        let parse = |text: &str| serde_json::from_str::<Value>(text).expect("JSON");
        let question = parse(r#"{"model": "m", "temperature": 1.0, "messages": [{"role": "user", "content": "ü\n"}]}"#);
        let again = parse(r#"{"messages":[{"content":"\u00fc\n","role":"user"}],"temperature":1,"model":"m"}"#);
        assert_eq!(QuestionKey::of(&question, 0), QuestionKey::of(&again, 0));
        let others =
            [json!({ "model": "m" }), json!({ "model": "M" }), json!({ "model": ["m"] }), json!({ "model": null }), json!({})];
        let mut keys: Vec<QuestionKey> = others.iter().map(|other| QuestionKey::of(other, 0)).collect();
        keys.extend([QuestionKey::of(&question, 0), QuestionKey::of(&question, 1)]);
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), 7);
    }

    #[test]
    fn the_key_of_a_question_never_changes() {
        let key = QuestionKey::of(&json!({ "route": "chat", "n": -0.0, "x": [0.1, 1e300, true] }), 7);
        let text = r#"{"n":0,"route":"chat","x":[0.1,1e+300,true]}"#;
        assert_eq!(canonical_json(&json!({ "route": "chat", "n": -0.0, "x": [0.1, 1e300, true] })), text);
        assert_eq!(key.to_string(), EXPECTED);
        assert_eq!(QuestionKey::from_bytes(*key.bytes()), key);
    }

    /// From Python: sha256(b"farmhand question v1" + struct.pack("<Q", len(text)) + text + struct.pack("<Q", 7)).
    const EXPECTED: &str = "8864c69350f1d93115be25842f2296c7c7a69a6afc491a5c643026045dfe304d";

    proptest! {
        #[test]
        fn canonical_json_is_json_and_reads_back_the_same(numbers: Vec<f64>, key in ".{0,8}", text in "\\PC{0,20}") {
            let value = json!({ key: numbers, "text": text });
            let once = canonical_json(&value);
            let back: Value = serde_json::from_str(&once).expect("JSON");
            prop_assert_eq!(canonical_json(&back), once);
        }
    }
}
