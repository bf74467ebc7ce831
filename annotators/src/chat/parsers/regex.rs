//! `regex_parser`: each match of a pattern is a verdict.

use fancy_regex::Regex;
use serde_json::Value;

use super::Unreadable;
use super::python_regex::compile;

/// Patterns, each with the verdict that a match stands for.
#[derive(Debug, Clone)]
pub struct RegexParser(Vec<(Value, Regex)>);

impl RegexParser {
    /// Verdicts and their patterns, in Python's language; where two match at the same place, the first counts.
    ///
    /// # Errors
    /// When a pattern cannot be used.
    pub fn new(patterns: impl IntoIterator<Item = (Value, String)>) -> Result<Self, String> {
        let compiled = patterns.into_iter().map(|(key, pattern)| Ok((key, compile(&pattern)?)));
        Ok(Self(compiled.collect::<Result<_, String>>()?))
    }

    /// The verdicts in a text: again and again the earliest match of any pattern, looking on behind its end. What is behind it is
    /// a text of its own, so that `^` matches at its start.
    pub(super) fn values(&self, text: &str) -> Result<Vec<Value>, Unreadable> {
        let mut found = Vec::new();
        let mut rest = text;
        while let Some((key, start, end)) = self.earliest(rest)? {
            if start == end {
                return Err(Unreadable::unparsable("a pattern matches the empty text"));
            }
            found.push(key.clone());
            rest = &rest[end..];
        }
        Ok(found)
    }

    fn earliest(&self, text: &str) -> Result<Option<(&Value, usize, usize)>, Unreadable> {
        let mut earliest: Option<(&Value, usize, usize)> = None;
        for (key, regex) in &self.0 {
            let found = regex.find(text).map_err(|error| Unreadable::unparsable(format!("a pattern gave up: {error}")))?;
            if let Some(found) = found
                && earliest.is_none_or(|(_, start, _)| found.start() < start)
            {
                earliest = Some((key, found.start(), found.end()));
            }
        }
        Ok(earliest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn verdicts(first: &str, second: &str, text: &str) -> Vec<Value> {
        let parser = RegexParser::new([(json!(1), first.to_owned()), (json!(2), second.to_owned())]).expect("patterns");
        parser.values(text).expect("read")
    }

    /// The expectations of AlpacaEval's own documentation.
    #[test]
    fn every_match_is_a_verdict_in_the_order_of_the_text() {
        let text = "\n(b)\n\n### Best output for example 8:\n(a)\n\n### Best:\n(b)\n\n### Best:\n(a)\n\n### Best:\n(a)";
        assert_eq!(verdicts(r"\n\(a\)", r"\n\(b\)", text), [2, 1, 2, 1, 1].map(|code| json!(code)));
        assert_eq!(verdicts(r" \(a\)", r" \(b\)", " (a)"), [json!(1)]);
        let block = |better: bool| format!("{{\"short_explanation\": \"x\", \"is_output_1_better\": {better}}}\n");
        let text: String = [true, false, true, false].into_iter().map(block).collect();
        assert_eq!(verdicts(" true", " false", &text), [1, 2, 1, 2].map(|code| json!(code)));
        assert_eq!(verdicts("a", "b", "neither"), Vec::<Value>::new());
    }

    #[test]
    fn the_start_of_what_is_left_is_a_start() {
        assert_eq!(verdicts("^a", "^b", "abxa"), [json!(1), json!(2)]);
        assert_eq!(verdicts("ab", "a", "ab"), [json!(1)]); // the first wins a tie
        let empty = RegexParser::new([(json!(1), "a*".to_owned())]).expect("a pattern");
        assert!(empty.values("b").is_err());
    }
}
