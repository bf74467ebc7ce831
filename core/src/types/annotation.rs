//! One judge's verdict on a comparison, or the typed failure to reach one.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::Value;

use super::Comparison;
use crate::error::{Error, ErrorKind};

/// The name of a judge, as results show it.
pub type AnnotatorId = String;

/// Which answer is better.
///
/// Files hold AlpacaEval's code: 1 the first answer, 2 the second, 1.5 a tie, and in between
/// 1 + the probability that the second is better. 0, AlpacaEval's older code for a tie, is read as one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Preference {
    /// The first answer is better.
    First,
    /// The second answer is better.
    Second,
    /// Neither is better.
    Tie,
    /// The second answer is better with this probability, strictly between 0 and 1 and not ½.
    /// Built by [`Preference::from_p_second`].
    Graded(f64),
}

impl Preference {
    /// The preference of a judge that gives the probability, in [0, 1], that the second answer is better.
    ///
    /// # Errors
    /// When `p` is not in [0, 1].
    pub fn from_p_second(p: f64) -> Result<Self, Error> {
        match p {
            0.0 => Ok(Self::First),
            1.0 => Ok(Self::Second),
            0.5 => Ok(Self::Tie),
            p if p > 0.0 && p < 1.0 => Ok(Self::Graded(p)),
            p => Err(Error::invalid_data(format!("a preference's probability must lie in [0, 1], got {p}"))),
        }
    }

    /// The probability that the second answer is better: 0, 1, ½ or the judge's own.
    pub fn p_second(self) -> f64 {
        match self {
            Self::First => 0.0,
            Self::Second => 1.0,
            Self::Tie => 0.5,
            Self::Graded(p) => p,
        }
    }

    /// AlpacaEval's code: 1 + [`Preference::p_second`].
    pub fn code(self) -> f64 {
        1.0 + self.p_second()
    }

    /// Reads AlpacaEval's code.
    ///
    /// # Errors
    /// When the code is neither 0 nor in [1, 2].
    pub fn from_code(code: f64) -> Result<Self, Error> {
        if code == 0.0 {
            return Ok(Self::Tie);
        }
        if !(1.0..=2.0).contains(&code) {
            return Err(Error::invalid_data(format!("expected a preference of 0 (tie) or between 1 and 2, got {code}")));
        }
        Self::from_p_second(code - 1.0)
    }

    /// The verdict on the same two answers in the other order.
    #[must_use]
    pub fn swapped(self) -> Self {
        match self {
            Self::First => Self::Second,
            Self::Second => Self::First,
            Self::Tie => Self::Tie,
            Self::Graded(p) => Self::Graded(1.0 - p),
        }
    }
}

impl Serialize for Preference {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::First => serializer.serialize_u8(1),
            Self::Second => serializer.serialize_u8(2),
            _ => serializer.serialize_f64(self.code()),
        }
    }
}

impl<'de> Deserialize<'de> for Preference {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::from_code(f64::deserialize(deserializer)?).map_err(|error| de::Error::custom(error.message()))
    }
}

/// In which order the judge saw the two answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShownOrder {
    /// First answer first.
    #[default]
    AsGiven,
    /// Second answer first. The stored preference is already turned back.
    Swapped,
}

impl ShownOrder {
    /// The other order.
    #[must_use]
    pub fn swapped(self) -> Self {
        match self {
            Self::AsGiven => Self::Swapped,
            Self::Swapped => Self::AsGiven,
        }
    }
}

/// One judge's verdict, and how it came about.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Annotation {
    /// The verdict, about the answers in the comparison's order.
    pub preference: Preference,
    /// Who judged.
    pub annotator: AnnotatorId,
    /// The order in which the judge saw the answers.
    #[serde(default)]
    pub shown: ShownOrder,
    /// What the judge said, word for word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub raw: Option<String>,
    /// Scores the judge gave the two answers, in the comparison's order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scores: Option<[f64; 2]>,
    /// How much better the preferred answer is, on the judge's own scale, ≥ 0: grades of an ordinal scale, for example.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub margin: Option<f64>,
    /// What the judge said beside its verdict, by name: its reasons, scores by attribute. In the judge's own words and in the
    /// order in which it saw the answers.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub notes: BTreeMap<String, Value>,
    /// What it cost, in US dollars.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost_usd: Option<f64>,
    /// How long it took, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_secs: Option<f64>,
    /// Whether it came from a cache: free, and not counted twice.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cached: bool,
    /// Whether label noise replaced the verdict.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub noised: bool,
}

impl Annotation {
    /// A verdict with nothing else known.
    pub fn new(annotator: impl Into<AnnotatorId>, preference: Preference) -> Self {
        Self {
            preference,
            annotator: annotator.into(),
            shown: ShownOrder::AsGiven,
            raw: None,
            scores: None,
            margin: None,
            notes: BTreeMap::new(),
            cost_usd: None,
            time_secs: None,
            cached: false,
            noised: false,
        }
    }
}

/// What is known of a judging that came to no verdict. An answer that cannot be read was asked for, in an order, and paid.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Judging {
    /// Who was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotator: Option<AnnotatorId>,
    /// The order in which the judge saw the answers, if it came to see them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shown: Option<ShownOrder>,
    /// What the judge said, word for word, if it said anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub raw: Option<String>,
    /// What it cost, in US dollars.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost_usd: Option<f64>,
    /// How long it took, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_secs: Option<f64>,
    /// Whether the failed answer is one that was kept from an earlier time: free, and not counted twice.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cached: bool,
}

/// Why a comparison has no verdict, and what it took to get none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    /// What kind of failure it was.
    pub kind: ErrorKind,
    /// What went wrong.
    pub message: String,
    /// Who was asked what, and what came of it.
    #[serde(flatten)]
    pub judging: Judging,
}

impl Failure {
    /// A failure of which nothing else is known.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), judging: Judging::default() }
    }
}

impl From<&Error> for Failure {
    fn from(error: &Error) -> Self {
        Self { kind: error.kind(), message: error.to_string(), judging: error.judging().cloned().unwrap_or_default() }
    }
}

/// What came of a comparison: a verdict or a failure. A tie is a verdict, a failure is not.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// A verdict.
    Annotation(Annotation),
    /// No verdict, and why.
    Failure(Failure),
}

/// A comparison with what came of it: one line of an annotations file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Judgement {
    /// What was judged.
    pub comparison: Comparison,
    /// What came of it.
    #[serde(flatten)]
    pub outcome: Outcome,
}

impl Judgement {
    /// Joins a comparison with an annotator's answer to it.
    pub fn new(comparison: Comparison, result: Result<Annotation, Error>) -> Self {
        let outcome = match result {
            Ok(annotation) => Outcome::Annotation(annotation),
            Err(error) => Outcome::Failure(Failure::from(&error)),
        };
        Self { comparison, outcome }
    }

    /// The verdict, if there is one.
    pub fn annotation(&self) -> Option<&Annotation> {
        match &self.outcome {
            Outcome::Annotation(annotation) => Some(annotation),
            Outcome::Failure(_) => None,
        }
    }

    /// The preference, if there is a verdict.
    pub fn preference(&self) -> Option<Preference> {
        self.annotation().map(|annotation| annotation.preference)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_alpaca_evals() {
        for (json, preference) in [
            ("1", Preference::First),
            ("2", Preference::Second),
            ("1.0", Preference::First),
            ("1.5", Preference::Tie),
            ("0", Preference::Tie),
            ("1.25", Preference::Graded(0.25)),
        ] {
            assert_eq!(serde_json::from_str::<Preference>(json).expect(json), preference);
        }
        assert_eq!(serde_json::to_string(&Preference::First).expect("serialises"), "1");
        assert_eq!(serde_json::to_string(&Preference::Tie).expect("serialises"), "1.5");
        assert!(serde_json::from_str::<Preference>("3").is_err());
        assert!(serde_json::from_str::<Preference>("0.5").is_err());
    }

    #[test]
    fn a_failure_keeps_what_was_paid_for_and_older_files_are_read() {
        let judging = Judging {
            annotator: Some("judge".to_owned()),
            shown: Some(ShownOrder::Swapped),
            raw: Some("I cannot say.".to_owned()),
            cost_usd: Some(0.25),
            ..Judging::default()
        };
        let error = Error::new(ErrorKind::UnparsableAnswer, "no verdict").with_judging(judging.clone());
        let failure = Failure::from(&error);
        assert_eq!(failure.judging, judging);
        let json = serde_json::to_string(&failure).expect("serialises");
        assert_eq!(serde_json::from_str::<Failure>(&json).expect("read"), failure);
        let older = r#"{"kind": "remote_service", "message": "gone"}"#;
        assert_eq!(serde_json::from_str::<Failure>(older).expect("read"), Failure::new(ErrorKind::RemoteService, "gone"));
        assert_eq!(
            serde_json::to_string(&Failure::new(ErrorKind::Io, "x")).expect("serialises"),
            r#"{"kind":"io","message":"x"}"#
        );
    }

    #[test]
    fn swapping_twice_changes_nothing() {
        for preference in [Preference::First, Preference::Second, Preference::Tie, Preference::Graded(0.25)] {
            assert_eq!(preference.swapped().swapped(), preference);
            assert_eq!(preference.swapped().p_second(), 1.0 - preference.p_second());
        }
    }
}
