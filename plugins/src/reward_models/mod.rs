//! Reward models: a score for an answer.

mod attribute_heads;
mod attributes;
mod bradley_terry;
mod ensemble;
mod length;
mod likelihood;
mod pair_reading;
mod preference_model;
mod reading_rule;
mod scoring;
mod self_reward;

pub use attribute_heads::AttributeHeads;
pub use attributes::AttributesConfig;
pub use bradley_terry::BradleyTerryConfig;
pub use ensemble::{Combine, EnsembleConfig};
pub use length::LengthConfig;
pub use likelihood::LikelihoodConfig;
pub use pair_reading::{AnswerPair, PairReader, PairReading, both_orders, p_first};
pub use preference_model::PreferenceModelConfig;
pub use reading_rule::ReadingRule;
pub use self_reward::SelfRewardConfig;
