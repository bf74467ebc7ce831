//! Reading a ranking: each answer with its rank.

use serde_json::Value;

use crate::chat::json_reply::document;
use crate::chat::parsers::Unreadable;

/// The ranks of `n` answers named `model_1` to `model_n`, in that order: 1 is the best, and equal ranks are a tie.
///
/// # Errors
/// When the reply holds no list of models and ranks, names an answer twice, not at all, or one that was not shown, or gives
/// something that is no rank.
pub fn read_ranks(text: &str, n: usize) -> Result<Vec<f64>, Unreadable> {
    let list = document(text, '[')?;
    let entries = list.as_array().map(Vec::as_slice).unwrap_or_default();
    if entries.len() != n {
        return Err(Unreadable::WrongCount { expected: n, got: entries.len() });
    }
    let mut ranks: Vec<Option<f64>> = vec![None; n];
    for entry in entries {
        let (index, rank) = place(entry, n)?;
        if ranks[index].replace(rank).is_some() {
            return Err(Unreadable::Unparsable(format!("the ranking names `model_{}` twice", index + 1)));
        }
    }
    Ok(ranks.into_iter().flatten().collect())
}

fn place(entry: &Value, n: usize) -> Result<(usize, f64), Unreadable> {
    let unparsable = |why: &str| Unreadable::Unparsable(why.to_owned());
    let model = entry.get("model").and_then(Value::as_str).ok_or_else(|| unparsable("an entry of the ranking has no `model`"))?;
    let number = model.strip_prefix("model_").and_then(|number| number.parse::<usize>().ok());
    let index = number
        .filter(|number| (1..=n).contains(number))
        .ok_or_else(|| unparsable("the ranking names a model that was not shown"))?;
    let rank = entry.get("rank").and_then(Value::as_f64).filter(|rank| (1.0..=n as f64).contains(rank));
    Ok((index - 1, rank.ok_or_else(|| unparsable("a rank is not a number from 1 to the number of answers"))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_has_its_rank_in_whatever_order_they_are_named() {
        let text = "[{\"model\": \"model_3\", \"rank\": 1}, {\"model\": \"model_1\", \"rank\": 3}, {\"model\": \"model_2\", \"rank\": 1}]";
        assert_eq!(read_ranks(text, 3), Ok(vec![3.0, 1.0, 1.0]));
        assert_eq!(read_ranks("{\"ranking\": [{'model': 'model_1', 'rank': 1}]}", 1), Ok(vec![1.0]));
    }

    #[test]
    fn a_ranking_that_leaves_one_out_or_invents_one_is_none() {
        let entry = |model: &str, rank: &str| format!("{{\"model\": \"{model}\", \"rank\": {rank}}}");
        let list = |entries: &[String]| read_ranks(&format!("[{}]", entries.join(",")), 2);
        assert_eq!(list(&[entry("model_1", "1")]), Err(Unreadable::WrongCount { expected: 2, got: 1 }));
        for second in [
            entry("model_1", "2"),
            entry("model_3", "2"),
            entry("model_2", "0"),
            entry("model_2", "3"),
            entry("model_2", "\"2\""),
        ] {
            assert!(list(&[entry("model_1", "1"), second.clone()]).is_err(), "{second}");
        }
        assert!(read_ranks("model_1", 2).is_err() && read_ranks("", 2).is_err());
    }
}
