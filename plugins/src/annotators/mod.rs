//! Annotators that hold a language model; all others are in `farmhand_annotators`, which knows no tensor.

mod local_judge;
mod preference_model;

pub use local_judge::LocalJudgeConfig;
pub use preference_model::PreferenceAnnotatorConfig;
