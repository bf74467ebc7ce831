//! Policies: an answer for an instruction.

mod best_of_n;
mod causal_lm;
mod conditioned;
mod openai_chat;
mod openai_server;

pub use best_of_n::BestOfNConfig;
pub use causal_lm::CausalLmConfig;
pub use conditioned::ConditionedConfig;
pub use openai_chat::{OpenAiChatConfig, Refused};
pub use openai_server::{Api, Dialect, OpenAiServerConfig, Template};
