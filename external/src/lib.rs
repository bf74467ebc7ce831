//! Components that are programs of their own, in any language: `command` as reward model, annotator and evaluator; and
//! reward models that are servers, `http`.
//!
//! The program of a `command` is started once and stays. It reads one JSON object a line on stdin and writes one a line on stdout; what it says
//! on stderr is shown. [`process`] is the whole protocol; the components only say what goes into a line. What a server is sent, and what it answers, is in [`http`].

pub mod annotator;
pub mod evaluator;
pub mod http;
pub mod options;
pub mod process;
pub mod reward_model;

#[cfg(test)]
mod testing;

pub use annotator::CommandAnnotatorConfig;
pub use evaluator::CommandEvaluatorConfig;
pub use http::HttpRewardModelConfig;
pub use options::CommandOptions;
pub use process::{PROTOCOL_VERSION, Process};
pub use reward_model::CommandRewardModelConfig;
