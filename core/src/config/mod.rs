//! Configuration: TOML as written, checked against every component's options at once, and resolved.

mod document;
mod experiment;
mod feedback;
mod method;
mod nearest;
mod reward_models;
mod schema_check;

pub use document::{Document, render_problems};
pub use experiment::{
    DataConfig, EvaluateConfig, ExperimentConfig, GenerateConfig, ModelSource, SPLITS, SampleConfig, ScratchModel, SftConfig,
    SplitSizes,
};
pub use feedback::{FeedbackConfig, FeedbackFiles, LabelSource, ScoreSource};
pub use method::{MethodConfig, methods_in_order};
pub use nearest::{did_you_mean, nearest};
pub use reward_models::{RewardModelStage, trained_name, trained_names};
pub use schema_check::{check_against_schema, check_options};
