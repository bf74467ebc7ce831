//! Annotators that hold a language model; all others are in `farmhand_annotators`, which knows no tensor.

mod preference_model;

pub use preference_model::PreferenceAnnotatorConfig;
