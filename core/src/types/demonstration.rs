//! An answer to learn by imitation.

use serde::{Deserialize, Serialize};

use super::Instruction;

/// An instruction with an answer to imitate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Demonstration {
    /// What is asked.
    pub instruction: Instruction,
    /// The answer.
    pub output: String,
}
