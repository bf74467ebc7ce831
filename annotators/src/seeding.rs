//! How draws for an example are seeded: farmhand's own way, or the way of the Python programs, draw for draw.
//!
//! AlpacaFarm and AlpacaEval seed each draw with a text: the draw's name, what was asked, and a number. What they take for
//! "what was asked" differs between them and from draw to draw; [`Seeding`] has the three variants there were. They are
//! one and the same for instructions without an input.

use farmhand_core::types::Instruction;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::python_random::PythonRandom;

/// How a draw that follows the instruction is seeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Seeding {
    /// By the run's seed and the instruction, as everything else in farmhand.
    #[default]
    Farmhand,
    /// As AlpacaFarm from 0.2.0 on: by the input and then instruction and input as one text; the order by the latter alone.
    AlpacaFarm,
    /// As AlpacaFarm before 0.2.0: by the instruction and then the input; the order by the instruction alone.
    #[serde(rename = "alpaca_farm_0_1")]
    AlpacaFarm01,
    /// As AlpacaEval: by instruction and input as one text.
    AlpacaEval,
}

/// What is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Draw {
    /// Which member of a pool judges.
    Member,
    /// Whether noise replaces the verdict, and with which.
    Noise,
    /// Whether the second answer is shown first.
    Order,
}

impl Seeding {
    /// The Python generator of one draw on one instruction; `None` leaves the draw to farmhand's own streams.
    ///
    /// Earlier turns of a conversation take no part, for the Python programs know none.
    pub(crate) fn python(self, draw: Draw, instruction: &Instruction, seed: u64) -> Option<PythonRandom> {
        let (asked, input) = (instruction.instruction.as_str(), instruction.input.as_deref().unwrap_or_default());
        let text = match (self, draw) {
            (Self::Farmhand, _) => return None,
            (Self::AlpacaFarm, Draw::Member | Draw::Noise) => format!("{input}{}", instruction.text()),
            (Self::AlpacaFarm, Draw::Order) | (Self::AlpacaEval, _) => instruction.text(),
            (Self::AlpacaFarm01, Draw::Member | Draw::Noise) => format!("{asked}{input}"),
            (Self::AlpacaFarm01, Draw::Order) => asked.to_owned(),
        };
        let name = match draw {
            Draw::Member => "annotator",
            Draw::Noise => "noisy_preference",
            Draw::Order => "is_switched_outputs",
        };
        Some(PythonRandom::from_text(&format!("{name}{text}{seed}")))
    }
}

/// Whether AlpacaEval shows the second answer first on what was asked (`text`, the columns that seed the order in the
/// alphabetical order of their names, joined).
pub fn is_switched_in_alpaca_eval(text: &str, seed: u64) -> bool {
    PythonRandom::from_text(&format!("is_switched_outputs{text}{seed}")).choices(2) == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_an_input_all_variants_draw_the_same() {
        let plain = Instruction::new("How did US states get their names?", None);
        for (draw, expected) in [
            (Draw::Order, 0.893_855_141_742_415_9),
            (Draw::Noise, 0.473_647_302_148_176_63),
            (Draw::Member, 0.501_980_965_999_961_3),
        ] {
            for seeding in [Seeding::AlpacaFarm, Seeding::AlpacaFarm01, Seeding::AlpacaEval] {
                assert_eq!(seeding.python(draw, &plain, 0).map(|mut random| random.uniform()), Some(expected));
            }
            assert!(Seeding::Farmhand.python(draw, &plain, 0).is_none());
        }
        assert!(is_switched_in_alpaca_eval("How did US states get their names?", 0));
    }

    #[test]
    fn names_in_files_are_pinned() {
        let all = [Seeding::Farmhand, Seeding::AlpacaFarm, Seeding::AlpacaFarm01, Seeding::AlpacaEval];
        let names = serde_json::to_string(&all).expect("serialises");
        assert_eq!(names, r#"["farmhand","alpaca_farm","alpaca_farm_0_1","alpaca_eval"]"#);
    }
}
