//! The heart of farmhand: domain types, the five contracts, configuration, the registry and the run directory.
//!
//! This crate knows no tensor, no network and no table library, so half of the workspace builds and tests
//! without them. Text, ids, scores and checkpoint paths cross the contracts; tensors stay inside a plugin.
//!
//! * [`types`]: what travels between stages.
//! * [`Policy`], [`RewardModel`], [`Annotator`], [`Learner`], [`Evaluator`]: the contracts, each with its
//!   configuration trait.
//! * [`component`]: registration, specs, lookup by name.
//! * [`plugin`]: components from shared libraries.
//! * [`Seed`]: random streams named by purpose.
//! * [`run`]: atomic files, journals and saved states.

pub mod checked;
pub mod component;
pub mod config;
pub mod data;
pub mod plugin;
pub mod run;
pub mod types;

mod annotator;
mod budget;
mod checkpoint;
mod context;
mod dylib;
mod error;
mod evaluator;
mod events;
mod forecast;
mod learner;
mod policy;
mod reward_model;
mod seed;
mod spec;

pub use annotator::{Annotator, AnnotatorConfig};
pub use budget::{Budget, Reservation};
pub use checkpoint::{
    ADAPTER_CONFIG, AdapterBase, CHECKPOINT_FORMAT, CHECKPOINT_MANIFEST, Checkpoint, CheckpointKind, CheckpointManifest,
    FindModel, FoldersOnly,
};
pub use component::{
    AnnotatorSpec, BuildContext, ComponentInfo, ComponentKind, EvaluatorSpec, LearnerSpec, PolicySpec, Preset, RewardModelSpec,
    defaults_json, options_json, schema_json,
};
pub use context::{CancelFlag, Cancelled, Device, Executor, PollingExecutor, RunContext};
pub use dylib::open_globally;
pub use error::{Error, ErrorKind, Problem, Result};
pub use evaluator::{EvaluationInputs, Evaluator, EvaluatorConfig};
pub use events::{Event, EventSink, NoEvents, Progress, RecordedEvents};
pub use forecast::{Forecast, Range};
pub use learner::{Feedback, FeedbackKind, Learner, LearnerConfig, LearnerInputs, Requirements};
pub use policy::{Policy, PolicyConfig};
pub use reward_model::{RewardModel, RewardModelConfig};
pub use seed::{Rng, Seed};

#[doc(hidden)]
pub use inventory;
