//! farmhand: learn from feedback on a language model's answers, evaluate, and draw the comparison.
//!
//! A program of one's own with all of it is ten lines: [`main`], and `use my_plugin as _;` for whatever registers components.
//!
//! This package ties the parts together: the [`pipeline`] with one stage a file, the [`cli`], and [`bench`]. The parts themselves are
//! crates of their own: `core` (types, contracts, configuration, run directory), `models` (language models
//! on libtorch), `plugins` (policies, reward models, learners), `annotators`, `evaluators`, `analysis`.

// Components register themselves where they are written; linking their crates is what makes them known.
use farmhand_annotators as _;
use farmhand_evaluators as _;
use farmhand_external as _;
use farmhand_plugins as _;

pub mod bench;
mod cache_dir;
pub mod cli;
pub mod hub;
pub mod pipeline;
mod program;
mod variables;

pub use farmhand_core as core;
pub use program::main;
