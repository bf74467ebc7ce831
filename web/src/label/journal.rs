//! What a label folder records: one line a click, in the order in which they were accepted.

use std::collections::BTreeMap;

use farmhand_core::types::{Preference, ShownOrder};
use serde::{Deserialize, Serialize};

/// The version of the journal's format that this farmhand writes.
pub(crate) const JOURNAL_FORMAT: u32 = 1;

/// One line of `journal.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum Entry {
    /// The first line.
    Begun {
        /// Version of this format.
        format: u32,
        /// Root of the random orders.
        seed: u64,
    },
    /// A rater answered.
    Label(Label),
    /// A rater took an answer back.
    Undone {
        /// The click that asked for it.
        click: String,
        /// Who.
        rater: String,
        /// The click that is taken back.
        undoes: String,
        /// When, in seconds since 1970.
        time: f64,
    },
}

/// What a rater answered about an item.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Label {
    /// The click's own id, made by the browser: the same click sent twice counts once.
    pub(crate) click: String,
    /// Who.
    pub(crate) rater: String,
    /// The comparison's id.
    pub(crate) item: String,
    /// Whether the first answer stood left (`as_given`) or right (`swapped`).
    pub(crate) shown: ShownOrder,
    /// Which is better, about the answers in the comparison's order.
    pub(crate) verdict: Verdict,
    /// Values of the rubric's attributes for the two answers, in the comparison's order.
    #[serde(default, skip_serializing_if = "no_ratings")]
    pub(crate) ratings: [BTreeMap<String, f64>; 2],
    /// What the rater wrote beside it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) comment: Option<String>,
    /// How long the item was in front of the rater, in seconds.
    pub(crate) time_secs: f64,
    /// When, in seconds since 1970.
    pub(crate) time: f64,
}

fn no_ratings(ratings: &[BTreeMap<String, f64>; 2]) -> bool {
    ratings.iter().all(BTreeMap::is_empty)
}

/// Which answer is better, or that the rater leaves the item to others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    /// The comparison's first answer.
    First,
    /// The comparison's second answer.
    Second,
    /// Neither.
    Tie,
    /// No verdict.
    Skipped,
}

impl Verdict {
    /// The preference, unless skipped.
    pub(crate) fn preference(self) -> Option<Preference> {
        match self {
            Self::First => Some(Preference::First),
            Self::Second => Some(Preference::Second),
            Self::Tie => Some(Preference::Tie),
            Self::Skipped => None,
        }
    }
}

/// What a rater clicked, as the page shows the two answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Choice {
    /// The answer on the left.
    Left,
    /// The answer on the right.
    Right,
    /// Neither is better.
    Tie,
    /// Leave it to others.
    Skip,
}

impl Choice {
    /// The verdict about the answers in the comparison's order.
    pub(crate) fn verdict(self, shown: ShownOrder) -> Verdict {
        match (self, shown) {
            (Self::Left, ShownOrder::AsGiven) | (Self::Right, ShownOrder::Swapped) => Verdict::First,
            (Self::Right, ShownOrder::AsGiven) | (Self::Left, ShownOrder::Swapped) => Verdict::Second,
            (Self::Tie, _) => Verdict::Tie,
            (Self::Skip, _) => Verdict::Skipped,
        }
    }

    /// What was clicked, from the verdict and the order.
    pub(crate) fn of(verdict: Verdict, shown: ShownOrder) -> Self {
        match (verdict, shown) {
            (Verdict::First, ShownOrder::AsGiven) | (Verdict::Second, ShownOrder::Swapped) => Self::Left,
            (Verdict::Second, ShownOrder::AsGiven) | (Verdict::First, ShownOrder::Swapped) => Self::Right,
            (Verdict::Tie, _) => Self::Tie,
            (Verdict::Skipped, _) => Self::Skip,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_is_about_what_was_shown_and_a_verdict_about_the_comparison() {
        assert_eq!(Choice::Left.verdict(ShownOrder::Swapped), Verdict::Second);
        for shown in [ShownOrder::AsGiven, ShownOrder::Swapped] {
            for choice in [Choice::Left, Choice::Right, Choice::Tie, Choice::Skip] {
                assert_eq!(Choice::of(choice.verdict(shown), shown), choice);
            }
        }
    }

    #[test]
    fn entries_are_read_back() {
        let label = Label {
            click: "c".into(),
            rater: "Ana".into(),
            item: "i".into(),
            shown: ShownOrder::Swapped,
            verdict: Verdict::Tie,
            ratings: [BTreeMap::from([("clear".to_owned(), 3.0)]), BTreeMap::new()],
            comment: None,
            time_secs: 1.5,
            time: 2.0,
        };
        for entry in [
            Entry::Begun { format: 1, seed: 7 },
            Entry::Label(label),
            Entry::Undone { click: "d".into(), rater: "Ana".into(), undoes: "c".into(), time: 3.0 },
        ] {
            let text = serde_json::to_string(&entry).expect("JSON");
            assert_eq!(serde_json::from_str::<Entry>(&text).expect(&text), entry);
        }
    }
}
