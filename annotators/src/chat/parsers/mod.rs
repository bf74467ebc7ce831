//! From a judge's reply to verdicts: AlpacaEval's parsers, as pure functions.
//!
//! A reply is asked for a fixed number of verdicts (one for each example in the prompt) and must hold exactly so many; otherwise
//! none of them can be trusted to belong to its example, and all fail. What a parser gives is a preference's code: 1 when the
//! answer shown first is better, 2 when the second is, 0 or 1.5 for a tie, between 1 and 2 a probability.

mod json;
mod lmsys;
mod logprob;
mod python_literal;
mod python_regex;
mod ranking;
mod regex;
mod replace;

use std::fmt;

use farmhand_core::types::Preference;
use farmhand_core::{Error, ErrorKind};
use farmhand_endpoints::{Answer, TokenLogProb};
use serde_json::Value;

pub use logprob::{LogProbParser, Place};
pub use python_literal::read_literal;
pub use python_regex::compile as compile_python_regex;
pub use regex::RegexParser;
pub use replace::Replacements;

/// What a judge said.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reply<'a> {
    /// Its text; where it called a function, the function's arguments.
    pub text: &'a str,
    /// The tokens of the text with their alternatives, if they were asked for.
    pub log_probs: Option<&'a [TokenLogProb]>,
}

impl<'a> Reply<'a> {
    /// The part of an answer that parsers read: the arguments of the first function it calls, otherwise its text.
    pub fn of(answer: &'a Answer) -> Self {
        let text = answer.tool_calls.first().map_or(answer.text.as_str(), |call| &call.arguments);
        Self { text, log_probs: answer.log_probs.as_deref() }
    }
}

/// How verdicts are read from a reply.
#[derive(Debug, Clone)]
pub enum Parser {
    /// Matches of patterns.
    Regex(RegexParser),
    /// Two scores on the first line.
    Lmsys,
    /// A list of models with their ranks.
    Ranking {
        /// The name under which the judge sees the answer shown first.
        model_1_name: String,
    },
    /// A JSON document, or what stands in it under a key.
    Json {
        /// The key; `None`: the whole document.
        annotation_key: Option<String>,
    },
    /// A Python literal: a list of verdicts, or one.
    Eval,
    /// A dictionary of whole replies.
    Replace(Replacements),
    /// The likelihood of the verdict's tokens.
    LogProb(LogProbParser),
    /// Parsers one behind the other, each reading what the one before it gave.
    Pipeline(Vec<Parser>),
}

/// Why a reply holds no verdict.
#[derive(Debug, Clone, PartialEq)]
pub enum Unreadable {
    /// It says nothing.
    Empty,
    /// It says something else.
    Unparsable(String),
    /// It holds more or fewer verdicts than were asked for, so that none can be trusted to belong to its example.
    WrongCount {
        /// Verdicts that were asked for.
        expected: usize,
        /// Verdicts that were found.
        got: usize,
    },
}

impl Unreadable {
    pub(super) fn unparsable(why: impl Into<String>) -> Self {
        Self::Unparsable(why.into())
    }
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("the judge said nothing"),
            Self::Unparsable(why) => write!(f, "no verdict can be read: {why}"),
            Self::WrongCount { expected, got } => write!(f, "expected {expected} verdicts, the judge gave {got}"),
        }
    }
}

impl std::error::Error for Unreadable {}

impl From<Unreadable> for Error {
    fn from(unreadable: Unreadable) -> Self {
        Error::new(ErrorKind::UnparsableAnswer, unreadable.to_string())
    }
}

impl Parser {
    /// The `n` verdicts of a reply, in the order of the prompt's examples. One of them may be missing alone where the reply has a
    /// place for it and says nothing there.
    ///
    /// # Errors
    /// When the reply does not hold exactly `n` verdicts.
    pub fn verdicts(&self, reply: Reply<'_>, n: usize) -> Result<Vec<Result<Preference, Unreadable>>, Unreadable> {
        let values = self.values_of(reply)?;
        if values.len() != n {
            return Err(Unreadable::WrongCount { expected: n, got: values.len() });
        }
        Ok(values.iter().map(preference).collect())
    }

    /// What the parser finds in a reply, however many values that are.
    ///
    /// # Errors
    /// When the reply cannot be read.
    pub fn values_of(&self, reply: Reply<'_>) -> Result<Vec<Value>, Unreadable> {
        match self {
            Self::LogProb(parser) => match reply.log_probs {
                Some([]) => Err(Unreadable::Empty),
                Some(tokens) => parser.values(tokens),
                None => Err(Unreadable::unparsable("the server gave no log-probabilities")),
            },
            Self::Pipeline(parsers) => match &parsers[..] {
                [Self::LogProb(first), rest @ ..] => match reply.log_probs {
                    Some(tokens) => pipe_on(first.values(tokens)?, rest, 0),
                    None => Err(Unreadable::unparsable("the server gave no log-probabilities")),
                },
                _ if reply.text.is_empty() => Err(Unreadable::Empty),
                parsers => pipe(&Value::from(reply.text), parsers, 0),
            },
            _ if reply.text.is_empty() => Err(Unreadable::Empty),
            _ => self.values(&Value::from(reply.text)),
        }
    }

    fn values(&self, completion: &Value) -> Result<Vec<Value>, Unreadable> {
        let text = || completion.as_str().ok_or_else(|| Unreadable::unparsable("expected a text, got another JSON value"));
        match self {
            Self::Regex(parser) => parser.values(text()?),
            Self::Lmsys => lmsys::value(text()?).map(|code| vec![Value::from(code)]),
            Self::Ranking { model_1_name } => ranking::value(completion, model_1_name).map(|rank| vec![rank]),
            Self::Json { annotation_key } => json::values(text()?, annotation_key.as_deref()),
            Self::Eval => Ok(match read_literal(text()?).map_err(Unreadable::unparsable)? {
                Value::Array(items) => items,
                other => vec![other],
            }),
            Self::Replace(replacements) => Ok(vec![replacements.value(completion)]),
            Self::LogProb(_) => Err(Unreadable::unparsable("`logprob_parser` reads a reply's tokens, so it comes first")),
            Self::Pipeline(parsers) => pipe(completion, parsers, 0),
        }
    }
}

/// Runs the parsers one behind the other. Below the first, a list of one value is that value.
fn pipe(completion: &Value, parsers: &[Parser], depth: usize) -> Result<Vec<Value>, Unreadable> {
    let [first, rest @ ..] = parsers else { return Ok(vec![completion.clone()]) };
    pipe_on(first.values(completion)?, rest, depth)
}

fn pipe_on(values: Vec<Value>, rest: &[Parser], depth: usize) -> Result<Vec<Value>, Unreadable> {
    if rest.is_empty() {
        return Ok(values);
    }
    let further = |value: &Value| {
        let mut values = pipe(value, rest, depth + 1)?;
        Ok(if values.len() == 1 { values.remove(0) } else { Value::Array(values) })
    };
    values.iter().map(further).collect()
}

/// The verdict a code stands for.
fn preference(value: &Value) -> Result<Preference, Unreadable> {
    let code = value.as_f64().ok_or_else(|| match value {
        Value::Null => Unreadable::unparsable("the place of the verdict holds nothing that stands for an answer"),
        other => Unreadable::unparsable(format!("expected a number, got `{}`", shortened(&other.to_string()))),
    })?;
    Preference::from_code(code).map_err(|error| Unreadable::unparsable(error.message()))
}

/// A text of bounded length.
fn shortened(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn said(text: &str) -> Reply<'_> {
        Reply { text, log_probs: None }
    }

    fn output_a_or_b() -> Parser {
        let patterns = [(json!(1), r"(?:^|\n) ?Output \(a\)"), (json!(2), r"(?:^|\n) ?Output \(b\)")];
        Parser::Regex(RegexParser::new(patterns.map(|(key, pattern)| (key, pattern.to_owned()))).expect("patterns"))
    }

    #[test]
    fn exactly_as_many_verdicts_as_examples_or_none() {
        let parser = output_a_or_b();
        let codes = |text: &str, n| {
            let verdicts = parser.verdicts(said(text), n)?;
            verdicts.into_iter().map(|verdict| verdict.map(Preference::code)).collect::<Result<Vec<_>, _>>()
        };
        assert_eq!(codes("Output (a)", 1), Ok(vec![1.0]));
        assert_eq!(codes("Output (b)\nOutput (a)", 2), Ok(vec![2.0, 1.0]));
        assert_eq!(codes("Output (b)", 2), Err(Unreadable::WrongCount { expected: 2, got: 1 }));
        assert_eq!(codes("Output (a)\nOutput (a)", 1), Err(Unreadable::WrongCount { expected: 1, got: 2 }));
        assert_eq!(codes("not parsable", 1), Err(Unreadable::WrongCount { expected: 1, got: 0 }));
        assert_eq!(codes("", 1), Err(Unreadable::Empty));
    }

    /// AlpacaEval's own expectation: JSON with a ranking inside.
    #[test]
    fn a_pipeline_reads_what_the_parser_before_gave() {
        let parser = Parser::Pipeline(vec![
            Parser::Json { annotation_key: Some("ordered_models".to_owned()) },
            Parser::Ranking { model_1_name: "m".to_owned() },
        ]);
        let reply = r#"{"concise_explanation": "x", "ordered_models": [{"model": "M", "rank": 2}, {"model": "m", "rank": 1}]}"#;
        assert_eq!(parser.values_of(said(reply)), Ok(vec![json!(1)]));
        let list = Parser::Pipeline(vec![
            Parser::Eval,
            Parser::Replace(Replacements { replacer: vec![(json!("x"), json!(1))], default: Some(json!(2)) }),
        ]);
        assert_eq!(list.values_of(said("['x', 'y', 'x']")), Ok(vec![json!(1), json!(2), json!(1)]));
        assert_eq!(Parser::Pipeline(vec![]).values_of(said("x")), Ok(vec![json!("x")]));
    }

    #[test]
    fn one_missing_verdict_of_several_fails_alone() {
        let verdicts = Parser::Eval.verdicts(said("[1, None, 1.5, 0, 1.25]"), 5).expect("five places");
        assert!(verdicts[1].is_err());
        let codes: Vec<f64> = verdicts.into_iter().flatten().map(Preference::code).collect();
        assert_eq!(codes, [1.0, 1.5, 1.5, 1.25]);
    }

    #[test]
    fn codes_out_of_range_and_texts_are_no_verdicts() {
        for text in ["3", "'a'", "-1", "0.5", "True", "[[1]]"] {
            let verdict = Parser::Eval.verdicts(said(text), 1).expect("one place").remove(0);
            assert!(verdict.is_err(), "{text}");
        }
        assert!(Parser::LogProb(parser()).verdicts(said("m"), 1).is_err());
        let empty = Reply { text: "", log_probs: Some(&[]) };
        assert_eq!(Parser::LogProb(parser()).verdicts(empty, 1), Err(Unreadable::Empty));
    }

    fn parser() -> LogProbParser {
        let denominator_tokens = vec!["m".to_owned(), "M".to_owned()];
        LogProbParser { numerator_token: "m".to_owned(), denominator_tokens, is_binarize: false, place: Place::Index(0) }
    }

    #[test]
    fn a_function_that_was_called_is_the_reply() {
        let json = json!({
            "text": "I call a function.", "finish": "stop", "usage": {}, "tool_calls": [{ "name": "f", "arguments": "{\"a\": 1}" }],
        });
        let answer: Answer = serde_json::from_value(json).expect("an answer");
        assert_eq!(Reply::of(&answer).text, "{\"a\": 1}");
    }
}
