//! Two answers to one instruction, not yet judged.

use serde::{Deserialize, Serialize};

use super::{Instruction, ModelId, content_id};

/// An instruction and an answer to it, borrowed: what a reward model scores.
#[derive(Debug, Clone, Copy)]
pub struct Response<'a> {
    /// What was asked.
    pub instruction: &'a Instruction,
    /// The answer.
    pub output: &'a str,
}

/// Two answers to one instruction, before anyone has judged them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// Stable hash of the instruction and both answers, in this order.
    pub id: String,
    /// What was asked.
    pub instruction: Instruction,
    /// The first answer; in an evaluation, the reference's.
    pub output_1: String,
    /// The second answer; in an evaluation, the evaluated model's.
    pub output_2: String,
    /// Who gave the first answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generator_1: Option<ModelId>,
    /// Who gave the second answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generator_2: Option<ModelId>,
}

impl Comparison {
    /// Two answers to compare.
    pub fn new(instruction: Instruction, output_1: impl Into<String>, output_2: impl Into<String>) -> Self {
        let (output_1, output_2) = (output_1.into(), output_2.into());
        let id = content_id([instruction.id.as_str(), &output_1, &output_2]);
        Self { id, instruction, output_1, output_2, generator_1: None, generator_2: None }
    }

    /// The same comparison with the two generators named. The id does not change.
    #[must_use]
    pub fn between(mut self, generator_1: impl Into<ModelId>, generator_2: impl Into<ModelId>) -> Self {
        (self.generator_1, self.generator_2) = (Some(generator_1.into()), Some(generator_2.into()));
        self
    }

    /// The same two answers in the other order (and so with another id).
    #[must_use]
    pub fn swapped(&self) -> Self {
        let mut other = Self::new(self.instruction.clone(), self.output_2.clone(), self.output_1.clone());
        (other.generator_1, other.generator_2) = (self.generator_2.clone(), self.generator_1.clone());
        other
    }

    /// The two answers as a reward model takes them.
    pub fn responses(&self) -> [Response<'_>; 2] {
        [
            Response { instruction: &self.instruction, output: &self.output_1 },
            Response { instruction: &self.instruction, output: &self.output_2 },
        ]
    }
}
