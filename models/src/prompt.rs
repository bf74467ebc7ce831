//! How an instruction becomes the text a model continues.

use farmhand_core::types::{Instruction, Message, Role};
use farmhand_core::{Error, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How instructions become text for a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PromptFormat {
    /// The instruction and, after a blank line, its input; nothing else, no beginning-of-sequence token. Earlier turns are refused.
    None,
    /// The Alpaca prompt, which ends exactly at `### Response:`; the answer follows the colon directly. Earlier turns become
    /// instruction and response blocks in front, and a system turn replaces the opening sentence.
    #[default]
    Alpaca,
    /// The chat template of the tokenizer, up to where the model's turn begins. The input follows the instruction after a blank line.
    Chat,
}

impl PromptFormat {
    /// The name in configurations and manifests.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Alpaca => "alpaca",
            Self::Chat => "chat",
        }
    }

    /// The format with this name.
    ///
    /// # Errors
    /// When there is none.
    pub fn from_name(name: &str) -> Result<Self> {
        [Self::None, Self::Alpaca, Self::Chat]
            .into_iter()
            .find(|format| format.name() == name)
            .ok_or_else(|| Error::invalid_config(format!("unknown prompt format `{name}`, expected `none`, `alpaca` or `chat`")))
    }
}

/// The text of [`PromptFormat::None`].
///
/// # Errors
/// When the instruction follows earlier turns, which plain text cannot tell apart.
pub fn plain_prompt(instruction: &Instruction) -> Result<String> {
    if !instruction.history.is_empty() {
        return Err(Error::invalid_data(format!(
            "instruction `{}` follows earlier turns, which the format `none` cannot show",
            instruction.id
        ))
        .with_hint("use the prompt format `chat` or `alpaca`"));
    }
    Ok(instruction.text())
}

/// The text of [`PromptFormat::Alpaca`], as Stanford Alpaca introduced it and AlpacaFarm uses it.
pub fn alpaca_prompt(instruction: &Instruction) -> String {
    const TASK: &str = "Below is an instruction that describes a task";
    const INPUT: &str = ", paired with an input that provides further context";
    const ASK: &str = ". Write a response that appropriately completes the request.";

    let system: Vec<&str> = turns(instruction, Role::System).collect();
    let mut text = match (system.is_empty(), &instruction.input) {
        (false, _) => system.join("\n\n"),
        (true, Some(_)) => format!("{TASK}{INPUT}{ASK}"),
        (true, None) => format!("{TASK}{ASK}"),
    };
    for message in &instruction.history {
        match message.role {
            Role::System => {}
            Role::User => text.push_str(&format!("\n\n### Instruction:\n{}", message.content)),
            Role::Assistant => text.push_str(&format!("\n\n### Response:{}", message.content)),
        }
    }
    text.push_str(&format!("\n\n### Instruction:\n{}", instruction.instruction));
    if let Some(input) = &instruction.input {
        text.push_str(&format!("\n\n### Input:\n{input}"));
    }
    text.push_str("\n\n### Response:");
    text
}

/// The conversation that [`PromptFormat::Chat`] renders: earlier turns, then the instruction with its input.
pub fn chat_messages(instruction: &Instruction) -> Vec<Message> {
    let mut messages = instruction.history.clone();
    messages.push(Message { role: Role::User, content: instruction.text() });
    messages
}

fn turns(instruction: &Instruction, role: Role) -> impl Iterator<Item = &str> {
    instruction.history.iter().filter(move |message| message.role == role).map(|message| message.content.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alpaca_prompt_is_the_known_one() {
        let without = "Below is an instruction that describes a task. Write a response that appropriately completes the request.\
                       \n\n### Instruction:\nAdd {1} and 2.\n\n### Response:";
        assert_eq!(alpaca_prompt(&Instruction::new("Add {1} and 2.", None)), without);
        let with = "Below is an instruction that describes a task, paired with an input that provides further context. Write a response \
                    that appropriately completes the request.\n\n### Instruction:\nAdd.\n\n### Input:\n1 2\n\n### Response:";
        assert_eq!(alpaca_prompt(&Instruction::new("Add.", Some("1 2"))), with);
    }

    #[test]
    fn earlier_turns_become_blocks_and_plain_text_refuses_them() {
        let turn = |role, content: &str| Message { role, content: content.into() };
        let history = vec![turn(Role::System, "Be brief."), turn(Role::User, "Hi"), turn(Role::Assistant, "Hello")];
        let follow_up = Instruction::with_history("Bye", None, history);
        assert_eq!(
            alpaca_prompt(&follow_up),
            "Be brief.\n\n### Instruction:\nHi\n\n### Response:Hello\n\n### Instruction:\nBye\n\n### Response:"
        );
        assert!(plain_prompt(&follow_up).expect_err("refused").hint().is_some());
        assert_eq!(plain_prompt(&Instruction::new("a", Some("b"))).expect("plain"), "a\n\nb");
        assert_eq!(chat_messages(&follow_up).len(), 4);
    }

    #[test]
    fn names_round_trip() {
        for format in [PromptFormat::None, PromptFormat::Alpaca, PromptFormat::Chat] {
            assert_eq!(PromptFormat::from_name(format.name()).expect("known"), format);
            assert_eq!(serde_json::to_value(format).expect("serialises"), format.name());
        }
        assert!(PromptFormat::from_name("chatml").is_err());
    }
}
