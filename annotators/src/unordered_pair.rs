//! Two answers whatever their order, so that a comparison and its swap draw the same random numbers.

use farmhand_core::types::{Comparison, content_id};

/// What a comparison and its swap have in common, and in which order this one has the answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UnorderedPair {
    /// Stable id of `text` and the two answers, sorted.
    pub(crate) id: String,
    /// Whether the comparison's first answer is the second of the sorted two.
    pub(crate) is_turned: bool,
}

impl UnorderedPair {
    /// The comparison's instruction and answers.
    pub(crate) fn of(comparison: &Comparison) -> Self {
        Self::with_text(&comparison.instruction.id, &comparison.output_1, &comparison.output_2)
    }

    /// Two answers to what `text` stands for.
    pub(crate) fn with_text(text: &str, output_1: &str, output_2: &str) -> Self {
        let is_turned = output_1 > output_2;
        let (low, high) = if is_turned { (output_2, output_1) } else { (output_1, output_2) };
        Self { id: content_id([text, low, high]), is_turned }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::comparison;

    #[test]
    fn a_comparison_and_its_swap_share_the_id_and_differ_in_the_order() {
        let given = comparison(0, "b", "a");
        let (pair, swapped) = (UnorderedPair::of(&given), UnorderedPair::of(&given.swapped()));
        assert_eq!(pair.id, swapped.id);
        assert_eq!((pair.is_turned, swapped.is_turned), (true, false));
        assert_ne!(pair.id, UnorderedPair::of(&comparison(1, "b", "a")).id);
    }
}
