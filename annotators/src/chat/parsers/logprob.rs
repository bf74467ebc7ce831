//! `logprob_parser`: how likely the tokens are that stand for the two answers.
//!
//! AlpacaEval 2's judge: instead of the one token that was sampled, the whole distribution over the verdict's tokens counts, and
//! the verdict is the probability that the second answer is better.

use farmhand_endpoints::TokenLogProb;
use serde_json::Value;

use super::Unreadable;

/// Options of the parser.
#[derive(Debug, Clone, PartialEq)]
pub struct LogProbParser {
    /// The token that stands for the answer shown first.
    pub numerator_token: String,
    /// The tokens that stand for any answer, the numerator among them.
    pub denominator_tokens: Vec<String>,
    /// Give 1 when the numerator is likelier than every other listed token and 2 otherwise, in place of a probability.
    pub is_binarize: bool,
    /// Which token of the reply counts.
    pub place: Place,
}

/// Which token of a reply counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The token of this index; −1 is the last one, as when reasons come first.
    Index(i64),
    /// Every token is a verdict of its own: one for each example of a batch.
    Each,
}

impl LogProbParser {
    /// 2 − p for each token that counts, where p is the probability of the numerator among the denominators; a listed token
    /// that is not among the alternatives has probability 0. A token without any listed alternative is no verdict.
    pub(super) fn values(&self, tokens: &[TokenLogProb]) -> Result<Vec<Value>, Unreadable> {
        let chosen = match self.place {
            Place::Each => tokens,
            Place::Index(index) => {
                let at = if index < 0 { tokens.len() as i64 + index } else { index };
                let token = usize::try_from(at).ok().and_then(|at| tokens.get(at..=at));
                token.ok_or_else(|| Unreadable::unparsable(format!("the reply has no token at place {index}")))?
            }
        };
        Ok(chosen.iter().map(|token| self.value(token)).collect())
    }

    /// The verdict of one token; null when none of the listed tokens is among its alternatives.
    fn value(&self, token: &TokenLogProb) -> Value {
        let log_prob = |wanted: &str| {
            // The last one, where a server lists a token twice.
            token.alternatives.iter().rev().find(|(name, _)| name == wanted).map_or(f64::NEG_INFINITY, |(_, value)| *value)
        };
        let numerator = log_prob(&self.numerator_token);
        let listed: Vec<f64> = self.denominator_tokens.iter().map(|name| log_prob(name)).collect();
        let highest = listed.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        if highest == f64::NEG_INFINITY || highest.is_nan() {
            return Value::Null;
        }
        if self.is_binarize {
            let others = self.denominator_tokens.iter().zip(&listed).filter(|(name, _)| **name != self.numerator_token);
            let beats_all = others.into_iter().all(|(_, other)| numerator > *other);
            return Value::from(if beats_all { 1 } else { 2 });
        }
        let total = highest + listed.iter().map(|value| (value - highest).exp()).sum::<f64>().ln();
        // A probability: rounding, or a numerator that is not among the denominators, must not lead out of [1, 2].
        Value::from(2.0 - (numerator - total).exp().min(1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(alternatives: &[(&str, f64)]) -> TokenLogProb {
        let alternatives = alternatives.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
        TokenLogProb { token: "x".to_owned(), log_prob: -0.1, alternatives }
    }

    fn parser(is_binarize: bool, place: Place) -> LogProbParser {
        let denominator_tokens = ["m", "M"].map(str::to_owned).to_vec();
        LogProbParser { numerator_token: "m".to_owned(), denominator_tokens, is_binarize, place }
    }

    #[test]
    fn the_verdict_is_the_probability_of_the_second_answer() {
        let tokens = [token(&[("m", 0.75_f64.ln()), ("M", 0.25_f64.ln()), ("The", -1.0)])];
        let value = parser(false, Place::Index(0)).values(&tokens).expect("read")[0].as_f64().expect("a number");
        assert!((value - 1.25).abs() < 1e-12);
        let only = |name| parser(false, Place::Index(0)).values(&[token(&[(name, -3.0)])]).expect("read")[0].clone();
        assert_eq!((only("m"), only("M"), only("The")), (Value::from(1.0), Value::from(2.0), Value::Null));
    }

    #[test]
    fn binarised_the_numerator_must_be_strictly_likelier() {
        let verdict = |m: f64, other: f64| parser(true, Place::Index(-1)).values(&[token(&[]), token(&[("m", m), ("M", other)])]);
        assert_eq!(verdict(-0.1, -2.0), Ok(vec![Value::from(1)]));
        assert_eq!(verdict(-2.0, -2.0), Ok(vec![Value::from(2)]));
        assert_eq!(verdict(-3.0, -2.0), Ok(vec![Value::from(2)]));
    }

    #[test]
    fn one_token_or_each_counts() {
        let tokens = [token(&[("m", -0.1)]), token(&[("M", -0.1)])];
        assert_eq!(parser(true, Place::Each).values(&tokens), Ok(vec![Value::from(1), Value::from(2)]));
        assert_eq!(parser(true, Place::Index(-1)).values(&tokens), Ok(vec![Value::from(2)]));
        for index in [2, -3, i64::MIN, i64::MAX] {
            assert!(parser(true, Place::Index(index)).values(&tokens).is_err());
        }
        assert!(parser(true, Place::Index(0)).values(&[]).is_err());
    }
}
