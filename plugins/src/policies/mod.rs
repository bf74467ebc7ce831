//! Policies: an answer for an instruction.

mod best_of_n;
mod causal_lm;

pub use best_of_n::BestOfNConfig;
pub use causal_lm::CausalLmConfig;
