//! The pipeline: one stage a file, and the experiment that runs them in order.

mod annotate;
mod answer_feedback;
mod base_model;
mod estimate;
mod evaluate;
mod experiment;
mod generate;
mod given_comparisons;
mod judging_plan;
mod learn;
mod phase_meter;
mod plan;
mod score;
mod session;
mod split_data;

pub use farmhand_analysis::read_options;

pub use annotate::{AnnotationSummary, annotate, describe_forecast, forecast, write_preferences};
pub use estimate::{EstimateOptions, EstimatedTraining, estimate_sampling, estimate_training, read_model_config};
pub use evaluate::{comparisons_against, measure, rewards};
pub use experiment::{Experiment, pair, read_experiment, reward_model_spec};
pub use generate::generate;
pub use judging_plan::PlannedJudging;
pub use learn::{OwnedFeedback, learn, note_left_out};
pub use plan::{PlannedStage, RunPlan, plan};
pub use score::{PairScores, ScoredRecord, score_pairs, score_pairs_by, score_records};
pub use session::{CANCEL, Session, TokioExecutor};
