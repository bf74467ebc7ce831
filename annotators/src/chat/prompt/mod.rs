//! What a judge is asked: prompt templates and their filling.
//!
//! Two languages of templates, one promise: a template is taken apart before any text of an example goes in, and what goes in is
//! never looked at again. So an answer that contains `{output_1}`, `{{ output_2 }}` or `<|im_start|>` is shown to the judge as it
//! is and moves nothing. AlpacaEval fills its placeholders one after the other in the growing text and reads the ChatML markers
//! last, so there an answer can take another one's place or speak as the system; prompts of such answers differ here on purpose,
//! all others are the same.

mod chatml;
mod placeholders;
mod toml_prompt;

use farmhand_core::types::{Comparison, Instruction, Message};

pub use placeholders::PlaceholderTemplate;
pub use toml_prompt::{PromptFile, Variables};

/// A prompt, ready to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prompt {
    /// A conversation.
    Chat(Vec<Message>),
    /// A text that the model goes on from.
    Plain(String),
}

/// The texts of one example, as a prompt shows them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    /// What was asked; with the input behind it where the prompt has no place of its own for that.
    pub instruction: String,
    /// The instruction's input, empty without one or when it is part of `instruction`.
    pub input: String,
    /// The answer shown first.
    pub output_1: String,
    /// The answer shown second.
    pub output_2: String,
}

impl Example {
    /// A comparison as AlpacaEval shows it: instruction and input as one text.
    pub fn merged(comparison: &Comparison) -> Self {
        let (output_1, output_2) = (comparison.output_1.clone(), comparison.output_2.clone());
        Self { instruction: asked(&comparison.instruction), input: String::new(), output_1, output_2 }
    }

    /// A comparison as AlpacaFarm's first version shows it: the input on its own.
    pub fn with_input(comparison: &Comparison) -> Self {
        let alone = Instruction { input: None, ..comparison.instruction.clone() };
        let input = comparison.instruction.input.clone().unwrap_or_default();
        Self { instruction: asked(&alone), input, ..Self::merged(comparison) }
    }

    /// What fills the places of a batch that has too few examples; its verdict is thrown away.
    pub fn padding() -> Self {
        let text = str::to_owned;
        Self { instruction: text("1+1="), input: String::new(), output_1: text("2"), output_2: text("3") }
    }

    fn field(&self, name: &str) -> Option<&str> {
        match name {
            "instruction" => Some(&self.instruction),
            "input" => Some(&self.input),
            "output_1" => Some(&self.output_1),
            "output_2" => Some(&self.output_2),
            _ => None,
        }
    }
}

/// What was asked as one text: instruction and input with a blank line between, below the turns before it, if there were any.
pub fn asked(instruction: &Instruction) -> String {
    if instruction.history.is_empty() {
        return instruction.text();
    }
    let turn = |role: &str, content: &str| format!("[{role}]\n{content}");
    let earlier = instruction.history.iter().map(|message| turn(message.role.name(), &message.content));
    earlier.chain([turn("user", &instruction.text())]).collect::<Vec<_>>().join("\n\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use farmhand_core::types::Role;

    #[test]
    fn the_input_is_shown_with_the_instruction_or_alone() {
        let comparison = Comparison::new(Instruction::new("Add.", Some("1 2")), "3", "4");
        assert_eq!(Example::merged(&comparison).instruction, "Add.\n\n1 2");
        assert_eq!(Example::merged(&comparison).input, "");
        let apart = Example::with_input(&comparison);
        assert_eq!((apart.instruction.as_str(), apart.input.as_str(), apart.output_2.as_str()), ("Add.", "1 2", "4"));
    }

    #[test]
    fn a_conversation_is_shown_with_its_turns() {
        let history = vec![
            Message { role: Role::User, content: "Hi".to_owned() },
            Message { role: Role::Assistant, content: "Hello".to_owned() },
        ];
        let instruction = Instruction::with_history("And now?", None, history);
        assert_eq!(asked(&instruction), "[user]\nHi\n\n[assistant]\nHello\n\n[user]\nAnd now?");
    }
}
