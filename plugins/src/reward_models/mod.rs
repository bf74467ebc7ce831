//! Reward models: a score for an answer.

mod bradley_terry;
mod ensemble;
mod length;
mod likelihood;
mod reading_rule;
mod scoring;

pub use bradley_terry::BradleyTerryConfig;
pub use ensemble::{Combine, EnsembleConfig};
pub use length::LengthConfig;
pub use likelihood::LikelihoodConfig;
pub use reading_rule::ReadingRule;
