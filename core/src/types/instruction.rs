//! What a model is asked.

use serde::{Deserialize, Serialize};

use super::content_id;

/// Who speaks in a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Sets the scene.
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
}

impl Role {
    /// The name chat templates use.
    pub fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said.
    pub content: String,
}

/// An instruction: what the model is asked, with an optional input and earlier turns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instruction {
    /// Stable hash of the content (history, instruction and input); see [`Instruction::new`].
    pub id: String,
    /// The instruction, or the last user turn of a conversation.
    pub instruction: String,
    /// Material the instruction is about; `None` when there is none (an empty input counts as none).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<String>,
    /// Earlier turns, oldest first; empty for a single-turn instruction.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<Message>,
    /// The data set it came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataset: Option<String>,
}

impl Instruction {
    /// A single-turn instruction. An empty input is the same as none.
    pub fn new(instruction: impl Into<String>, input: Option<&str>) -> Self {
        Self::with_history(instruction, input, Vec::new())
    }

    /// An instruction that follows earlier turns.
    pub fn with_history(instruction: impl Into<String>, input: Option<&str>, history: Vec<Message>) -> Self {
        let instruction = instruction.into();
        let input = input.filter(|text| !text.is_empty()).map(str::to_owned);
        let mut parts: Vec<&str> = Vec::new();
        for message in &history {
            parts.extend([message.role.name(), &message.content]);
        }
        parts.extend([instruction.as_str(), input.as_deref().unwrap_or_default()]);
        let id = content_id(parts);
        Self { id, instruction, input, history, dataset: None }
    }

    /// The same instruction, marked with its data set. The id does not change.
    #[must_use]
    pub fn from_dataset(mut self, dataset: impl Into<String>) -> Self {
        self.dataset = Some(dataset.into());
        self
    }

    /// Instruction and input as one text, the way AlpacaEval joins them: a blank line between.
    pub fn text(&self) -> String {
        match &self.input {
            Some(input) => format!("{}\n\n{input}", self.instruction),
            None => self.instruction.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_follows_the_content_and_nothing_else() {
        let plain = Instruction::new("Add.", None);
        assert_eq!(plain.id, Instruction::new("Add.", Some("")).id);
        assert_eq!(plain.id, Instruction::new("Add.", None).from_dataset("x").id);
        assert_ne!(plain.id, Instruction::new("Add.", Some("1 2")).id);
        let turns = vec![Message { role: Role::User, content: "hi".into() }];
        assert_ne!(plain.id, Instruction::with_history("Add.", None, turns).id);
    }
}
