//! Learners: from a checkpoint and feedback to a better checkpoint, one method a file.

mod attribute_regression;
mod decision_transformer;
mod dpo;
mod expert_iteration;
mod feedme;
mod filtered_mle;
mod ppo;
mod preference_modeling;
mod quark;
mod raft;
mod rejection_sampling;
mod reward_conditioning;
mod reward_modeling;
mod reward_weighted_regression;
mod sft;
mod steerlm;

pub use attribute_regression::AttributeRegressionConfig;
pub use decision_transformer::DecisionTransformerConfig;
pub use dpo::DpoConfig;
pub use expert_iteration::ExpertIterationConfig;
pub use feedme::{FeedmeConfig, Keep};
pub use filtered_mle::FilteredMleConfig;
pub use ppo::{PpoConfig, ValueInit};
pub use preference_modeling::{PreferenceModelingConfig, ReplyLoss, ShownOrders};
pub use quark::{KlDirection, Pool, QuarkConfig, TrainedBins};
pub use raft::{RaftConfig, RaftSelection};
pub use rejection_sampling::{RejectionSamplingConfig, RoundsReplayed};
pub use reward_conditioning::{Levels, RewardConditioningConfig};
pub use reward_modeling::{LearnFrom, RewardModelingConfig};
pub use reward_weighted_regression::{RewardWeightedRegressionConfig, Weighting};
pub use sft::SftConfig;
pub use steerlm::{Bootstrap, BootstrapUpdate, SteerlmConfig};
