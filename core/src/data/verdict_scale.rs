//! Verdicts as people give them: places on an ordinal scale, and words such as "the second is slightly better".
//!
//! Both say which answer is better and how much. How much becomes a verdict's margin, counted in grades: the first grade off the
//! middle is 1, the next 2. A scale with an even number of places has no tie.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::types::Preference;

/// An ordinal scale from "the first answer is much better" to "the second is much better", such as `1..4`, `1..7` or `-3..3`.
///
/// Written as a text, both ends belong to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct VerdictScale {
    low: i32,
    high: i32,
}

impl VerdictScale {
    /// AlpacaFarm's: 1 the first is better, 2 slightly, 3 the second slightly, 4 better.
    pub const ALPACA_FARM: Self = Self { low: 1, high: 4 };
    /// HelpSteer2's and many others': −3 the first is much better, 0 neither, 3 the second is much better.
    pub const SEVEN_AROUND_ZERO: Self = Self { low: -3, high: 3 };

    /// A scale with these ends.
    ///
    /// # Errors
    /// When it has fewer than two places or more than 101.
    pub fn new(low: i32, high: i32) -> Result<Self> {
        if (1..=100).contains(&(i64::from(high) - i64::from(low))) {
            return Ok(Self { low, high });
        }
        Err(Error::invalid_config(format!("expected a scale of 2 to 101 places, got `{low}..{high}`")))
    }

    /// What a place on the scale says: which answer is better, and by how many grades. Places between two whole numbers are
    /// allowed, for means over raters.
    ///
    /// # Errors
    /// When the place is not on the scale.
    pub fn verdict(self, place: f64) -> Result<(Preference, f64)> {
        if !(f64::from(self.low)..=f64::from(self.high)).contains(&place) {
            return Err(Error::invalid_data(format!("expected a place on the scale `{self}`, got {place}")));
        }
        let off = place - (f64::from(self.low) + f64::from(self.high)) / 2.0;
        let has_middle = (self.high - self.low) % 2 == 0;
        let grades = if has_middle || off == 0.0 { off.abs() } else { off.abs() + 0.5 };
        let preference = match off {
            0.0 => Preference::Tie,
            off if off < 0.0 => Preference::First,
            _ => Preference::Second,
        };
        Ok((preference, grades))
    }
}

impl fmt::Display for VerdictScale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.low, self.high)
    }
}

impl FromStr for VerdictScale {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let ends = text.split_once("..").and_then(|(low, high)| {
            Some((low.trim().parse().ok()?, high.trim_start_matches([' ', '=']).trim_end().parse().ok()?))
        });
        let (low, high) =
            ends.ok_or_else(|| Error::invalid_config(format!("expected a scale such as `1..4` or `-3..3`, got `{text}`")))?;
        Self::new(low, high)
    }
}

impl TryFrom<String> for VerdictScale {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse().map_err(|error: Error| error.message().to_owned())
    }
}

impl From<VerdictScale> for String {
    fn from(scale: VerdictScale) -> Self {
        scale.to_string()
    }
}

/// Words for the first answer, for the second, and for neither.
const FIRST: [&str; 6] = ["1", "a", "first", "left", "model_a", "output_1"];
const SECOND: [&str; 6] = ["2", "b", "second", "right", "model_b", "output_2"];
const NEITHER: [&str; 11] = ["tie", "tied", "equal", "equally", "same", "both", "neither", "draw", "none", "bothbad", "similar"];

/// Words for how much better, with their grades. Plain "better" is two, as in Llama 2's four grades.
const GRADES: [(&str, f64); 13] = [
    ("negligibly", 0.0),
    ("unsure", 0.0),
    ("slightly", 1.0),
    ("somewhat", 1.0),
    ("marginally", 1.0),
    ("moderately", 2.0),
    ("clearly", 3.0),
    ("much", 3.0),
    ("far", 3.0),
    ("significantly", 3.0),
    ("strongly", 3.0),
    ("greatly", 3.0),
    ("substantially", 3.0),
];

/// What words say of two answers: `B`, `output_2`, `tie`, `A is slightly better`, `the second is much worse`. The grades are
/// there where the words say how much: "negligibly" or "unsure" is 0, "slightly" 1, plain "better" 2, "much" 3. `None` when no side
/// is named, or both are.
pub(super) fn worded_verdict(text: &str) -> Option<(Preference, Option<f64>)> {
    let words: Vec<String> = text
        .split(|c: char| !(c.is_alphanumeric() || c == '_'))
        .map(str::to_lowercase)
        .flat_map(|word| match word.as_str() {
            _ if FIRST.contains(&word.as_str()) || SECOND.contains(&word.as_str()) => vec![word],
            // `a_much_better`
            _ => word.split('_').filter(|part| !part.is_empty()).map(str::to_owned).collect(),
        })
        // "A is better than B" speaks of A.
        .take_while(|word| word != "than")
        .collect();
    let any = |list: &[&str]| words.iter().any(|word| list.contains(&word.as_str()));
    // An article is no side: "a tie".
    if any(&NEITHER) {
        return Some((Preference::Tie, None));
    }
    let side = match (any(&FIRST), any(&SECOND)) {
        (true, false) => Preference::First,
        (false, true) => Preference::Second,
        _ => return None,
    };
    let worse = any(&["worse"]);
    let grade = words.iter().find_map(|word| GRADES.iter().find(|(name, _)| name == word).map(|(_, grade)| *grade));
    let grade = grade.or_else(|| (worse || any(&["better"])).then_some(2.0));
    Some((if worse { side.swapped() } else { side }, grade))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scale(text: &str) -> VerdictScale {
        text.parse().expect(text)
    }

    #[test]
    fn scales_of_the_field_by_hand() {
        let (first, second, tie) = (Preference::First, Preference::Second, Preference::Tie);
        let verdicts = |text: &str, places: &[f64]| -> Vec<(Preference, f64)> {
            places.iter().map(|place| scale(text).verdict(*place).expect("on the scale")).collect()
        };
        assert_eq!(verdicts("1..4", &[1.0, 2.0, 3.0, 4.0]), [(first, 2.0), (first, 1.0), (second, 1.0), (second, 2.0)]);
        assert_eq!(verdicts("1..5", &[1.0, 2.0, 3.0, 5.0]), [(first, 2.0), (first, 1.0), (tie, 0.0), (second, 2.0)]);
        assert_eq!(verdicts("1..7", &[1.0, 4.0, 6.0]), [(first, 3.0), (tie, 0.0), (second, 2.0)]);
        assert_eq!(verdicts("-3..3", &[-3.0, -1.0, 0.0, 2.0]), [(first, 3.0), (first, 1.0), (tie, 0.0), (second, 2.0)]);
        assert_eq!(verdicts("1..2", &[1.0, 2.0]), [(first, 1.0), (second, 1.0)]);
        assert_eq!(verdicts("1..4", &[2.5, 2.75]), [(tie, 0.0), (second, 0.75)]);
        for place in [0.0, 4.5, f64::NAN] {
            assert!(scale("1..4").verdict(place).expect_err("off the scale").message().contains("`1..4`"));
        }
    }

    #[test]
    fn a_scale_is_written_as_it_is_read() {
        for text in ["1..4", "-3..3"] {
            assert_eq!(scale(text).to_string(), text);
            let json = serde_json::to_string(&scale(text)).expect("JSON");
            assert_eq!(serde_json::from_str::<VerdictScale>(&json).expect("read"), scale(text));
        }
        assert_eq!((scale("1..4"), scale("-3 ..= 3")), (VerdictScale::ALPACA_FARM, VerdictScale::SEVEN_AROUND_ZERO));
        for text in ["", "4", "1..1", "4..1", "1..900", "a..b"] {
            assert!(text.parse::<VerdictScale>().is_err(), "{text}");
        }
    }

    #[test]
    fn words_say_which_and_how_much() {
        let (first, second, tie) = (Preference::First, Preference::Second, Preference::Tie);
        for (text, expected) in [
            ("A", (first, None)),
            ("model_b", (second, None)),
            ("Output (a)", (first, None)),
            ("output 2", (second, None)),
            ("tie (bothbad)", (tie, None)),
            ("it is a tie", (tie, None)),
            ("A is slightly better", (first, Some(1.0))),
            ("b_much_better", (second, Some(3.0))),
            ("The second response is significantly better.", (second, Some(3.0))),
            ("B is better", (second, Some(2.0))),
            ("response 1: negligibly better / unsure", (first, Some(0.0))),
            ("Response 2 is much worse", (first, Some(3.0))),
            ("B is better than A", (second, Some(2.0))),
        ] {
            assert_eq!(worded_verdict(text), Some(expected), "{text}");
        }
        for text in ["", "better", "A or B", "I do not know"] {
            assert_eq!(worded_verdict(text), None, "{text}");
        }
    }
}
