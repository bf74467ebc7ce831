//! Judged answers in the forms learners take.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Completion, Instruction, Judgement, Preference};

/// A better and a worse answer to one instruction.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PreferencePair {
    /// What was asked.
    pub instruction: Instruction,
    /// The better answer.
    pub chosen: String,
    /// The worse answer.
    pub rejected: String,
    /// How sure the judge was that `chosen` is better, in (½, 1]; `None` when it only said which.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p_chosen: Option<f64>,
    /// How much better, on the judge's scale, ≥ 0; used by losses with a margin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub margin: Option<f64>,
}

impl PreferencePair {
    /// The pair a judgement stands for; `None` for a tie, a failure or two identical answers.
    pub fn from_judgement(judgement: &Judgement) -> Option<Self> {
        let comparison = &judgement.comparison;
        let annotation = judgement.annotation()?;
        let p_second = annotation.preference.p_second();
        if annotation.preference == Preference::Tie || comparison.output_1 == comparison.output_2 {
            return None;
        }
        let second_wins = p_second > 0.5;
        let (chosen, rejected) =
            if second_wins { (&comparison.output_2, &comparison.output_1) } else { (&comparison.output_1, &comparison.output_2) };
        let p_chosen = matches!(annotation.preference, Preference::Graded(_)).then(|| p_second.max(1.0 - p_second));
        Some(Self {
            instruction: comparison.instruction.clone(),
            chosen: chosen.clone(),
            rejected: rejected.clone(),
            p_chosen,
            margin: annotation.margin,
        })
    }
}

/// Several answers to one instruction with their scores, best first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RankedList {
    /// What was asked.
    pub instruction: Instruction,
    /// The answers, best first.
    pub outputs: Vec<String>,
    /// Their scores, descending, one per answer.
    pub scores: Vec<f64>,
}

/// An answer that was called good or bad on its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LabelledCompletion {
    /// The answer.
    #[serde(flatten)]
    pub completion: Completion,
    /// Whether it is a good one.
    pub desirable: bool,
}

/// An answer rated on several attributes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RatedCompletion {
    /// The answer.
    #[serde(flatten)]
    pub completion: Completion,
    /// A number for each attribute, by its name; an attribute that is missing was not rated.
    pub ratings: BTreeMap<String, f64>,
}

/// An answer with a reward model's score.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScoredCompletion {
    /// The answer.
    #[serde(flatten)]
    pub completion: Completion,
    /// Its score; higher is better, no fixed scale.
    pub score: f64,
}
