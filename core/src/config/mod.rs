//! Configuration: TOML as written, checked against every component's options at once, and resolved.

mod document;
mod experiment;
mod nearest;
mod schema_check;

pub use document::{Document, render_problems};
pub use experiment::{
    DataConfig, EvaluateConfig, ExperimentConfig, GenerateConfig, MethodConfig, ModelSource, RewardModelStage, SPLITS,
    SampleConfig, ScratchModel, SftConfig, SplitSizes,
};
pub use nearest::{did_you_mean, nearest};
pub use schema_check::check_against_schema;
