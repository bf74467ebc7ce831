//! The integration tests: one binary, for each one more links libtorch and polars again.

mod annotate;
mod book;
mod checkpoint;
mod cli;
mod command;
mod compare;
mod contract;
mod external;
mod external_method;
mod feedback;
mod hub;
mod hub_server;
mod judgements;
mod judges;
mod judging_judges;
mod label;
mod leaderboard;
mod learners;
mod own_program;
mod pipeline;
mod plugins;
mod promises;
mod query;
mod reward_models;
mod server;
mod swap_annotators;
mod templates;
mod tidy;
mod untrained_reward_models;

// Where templates find what stands beside them in the crate that they are written for.
use farmhand_annotators::tie_if_identical;
use farmhand_evaluators::estimate;
use farmhand_plugins::training;
