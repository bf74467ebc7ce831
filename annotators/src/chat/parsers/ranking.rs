//! `ranking_parser`: a list of models with their ranks, as a Python literal.

use serde_json::Value;

use super::Unreadable;
use super::python_literal::read_literal;

/// The rank of the model called `model_1_name`, which is 1 or 2 and the verdict: rank 2 says that the other one is better.
pub(super) fn value(completion: &Value, model_1_name: &str) -> Result<Value, Unreadable> {
    let read;
    let list = match completion {
        Value::String(text) => {
            read = read_literal(text).map_err(Unreadable::unparsable)?;
            &read
        }
        other => other,
    };
    let entries = list.as_array().ok_or_else(|| Unreadable::unparsable("expected a list of models and ranks"))?;
    // Python reads the entries up to the first that matches, and fails on one without `model` before it.
    for entry in entries {
        let model = entry.get("model").ok_or_else(|| Unreadable::unparsable("an entry of the ranking has no `model`"))?;
        if model.as_str() == Some(model_1_name) {
            let rank = entry.get("rank").and_then(Value::as_f64);
            return match rank {
                Some(1.0) => Ok(Value::from(1)),
                Some(2.0) => Ok(Value::from(2)),
                _ => Err(Unreadable::unparsable(format!("the rank of `{model_1_name}` is not 1 or 2"))),
            };
        }
    }
    Err(Unreadable::unparsable(format!("the ranking does not mention `{model_1_name}`")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_rank_of_the_first_model_is_the_verdict() {
        let ranked = |first: &str| format!("[{{'model': 'model_1', 'rank': {first}}}, {{'model': 'model_2', 'rank': 1}}]");
        assert_eq!(value(&json!(ranked("1")), "model_1"), Ok(json!(1)));
        assert_eq!(value(&json!(ranked("2")), "model_1"), Ok(json!(2)));
        assert_eq!(value(&json!(ranked("2.0")), "model_1"), Ok(json!(2)));
        assert!(value(&json!(ranked("3")), "model_1").is_err());
        assert_eq!(value(&json!(ranked("2")), "model_2"), Ok(json!(1)));
        assert_eq!(value(&json!([{ "model": "m", "rank": 2 }, { "model": "m", "rank": 1 }]), "m"), Ok(json!(2)));
    }

    #[test]
    fn what_is_no_ranking_is_no_verdict() {
        for completion in [
            json!("model_1"),
            json!("{'model': 'model_1'}"),
            json!([]),
            json!([{ "rank": 1 }]),
            json!([{ "model": "M", "rank": 1 }]),
            json!([1]),
            json!(1),
        ] {
            assert!(value(&completion, "model_1").is_err(), "{completion}");
        }
    }
}
