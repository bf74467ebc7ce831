//! Two answers whatever their order, so that a comparison and its swap count as the same question.

use super::{Comparison, content_id};

/// What a comparison and its swap have in common, and in which order this one has the answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnorderedPair {
    /// Stable id of what was asked and the two answers, sorted.
    pub id: String,
    /// Whether the comparison's first answer is the second of the sorted two.
    pub is_turned: bool,
}

impl UnorderedPair {
    /// The comparison's instruction and answers.
    pub fn of(comparison: &Comparison) -> Self {
        Self::with_text(&comparison.instruction.id, &comparison.output_1, &comparison.output_2)
    }

    /// The same, whatever holds the input: earlier turns, and instruction and input as one text, as AlpacaEval's files have them.
    pub fn as_asked(comparison: &Comparison) -> Self {
        let text = comparison.instruction.text();
        let turns = comparison.instruction.history.iter().flat_map(|message| [message.role.name(), &message.content]);
        Self::with_text(&content_id(turns.chain([text.as_str()])), &comparison.output_1, &comparison.output_2)
    }

    /// Two answers to what `text` stands for.
    pub fn with_text(text: &str, output_1: &str, output_2: &str) -> Self {
        let is_turned = output_1 > output_2;
        let (low, high) = if is_turned { (output_2, output_1) } else { (output_1, output_2) };
        Self { id: content_id([text, low, high]), is_turned }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Instruction;

    #[test]
    fn a_comparison_and_its_swap_share_the_id_and_differ_in_the_order() {
        let given = Comparison::new(Instruction::new("i", None), "b", "a");
        let (pair, swapped) = (UnorderedPair::of(&given), UnorderedPair::of(&given.swapped()));
        assert_eq!(pair.id, swapped.id);
        assert_eq!((pair.is_turned, swapped.is_turned), (true, false));
        assert_ne!(pair.id, UnorderedPair::of(&Comparison::new(Instruction::new("j", None), "b", "a")).id);
    }

    #[test]
    fn what_was_asked_is_the_same_with_the_input_apart_and_joined() {
        let apart = Comparison::new(Instruction::new("Add.", Some("1 2")), "a", "b");
        let joined = Comparison::new(Instruction::new("Add.\n\n1 2", None), "a", "b");
        assert_eq!(UnorderedPair::as_asked(&apart), UnorderedPair::as_asked(&joined));
        assert_ne!(UnorderedPair::of(&apart).id, UnorderedPair::of(&joined).id);
    }
}
