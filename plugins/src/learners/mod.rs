//! Learners: from a checkpoint and feedback to a better checkpoint, one method a file.

mod attribute_regression;
mod dpo;
mod expert_iteration;
mod feedme;
mod filtered_mle;
mod ppo;
mod preference_modeling;
mod raft;
mod rejection_sampling;
mod reward_modeling;
mod reward_weighted_regression;
mod sft;

pub use attribute_regression::AttributeRegressionConfig;
pub use dpo::DpoConfig;
pub use expert_iteration::ExpertIterationConfig;
pub use feedme::{FeedmeConfig, Keep};
pub use filtered_mle::FilteredMleConfig;
pub use ppo::{PpoConfig, ValueInit};
pub use preference_modeling::{PreferenceModelingConfig, ReplyLoss, ShownOrders};
pub use raft::{RaftConfig, RaftSelection};
pub use rejection_sampling::{RejectionSamplingConfig, RoundsReplayed};
pub use reward_modeling::{LearnFrom, RewardModelingConfig};
pub use reward_weighted_regression::{RewardWeightedRegressionConfig, Weighting};
pub use sft::SftConfig;
