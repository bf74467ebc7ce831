//! Learners: from a checkpoint and feedback to a better checkpoint, one method a file.

mod attribute_regression;
mod dpo;
mod ppo;
mod preference_modeling;
mod reward_modeling;
mod sft;

pub use attribute_regression::AttributeRegressionConfig;
pub use dpo::DpoConfig;
pub use ppo::{PpoConfig, ValueInit};
pub use preference_modeling::{PreferenceModelingConfig, ReplyLoss, ShownOrders};
pub use reward_modeling::{LearnFrom, RewardModelingConfig};
pub use sft::SftConfig;
