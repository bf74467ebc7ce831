//! The evaluator contract: turns finished judgements and answers into numbers with uncertainty.

use crate::component::BuildContext;
use crate::error::{Problem, Result};
use crate::types::{Completion, EvalReport, Judgement};

/// What an evaluator may look at. Every list may be empty; an evaluator that misses what it needs says so.
#[derive(Debug, Clone, Copy)]
pub struct EvaluationInputs<'a> {
    /// Who is evaluated.
    pub model: &'a str,
    /// The model's answers.
    pub completions: &'a [Completion],
    /// Judgements of the reference's answers (`output_1`) against the model's (`output_2`).
    pub judgements: &'a [Judgement],
    /// A reward model's scores of `completions`, one each, or empty.
    pub rewards: &'a [f64],
}

/// Turns finished judgements into numbers. Pure: no model, network, file or clock.
pub trait Evaluator: Send + Sync {
    /// The numbers for one model.
    ///
    /// # Errors
    /// When what it needs is missing or has no usable record.
    fn evaluate(&self, inputs: &EvaluationInputs<'_>) -> Result<EvalReport>;
}

/// The options of an evaluator, as `[evaluator.NAME]` holds them.
#[typetag::serde]
pub trait EvaluatorConfig: std::fmt::Debug + Send + Sync {
    /// Makes the evaluator.
    ///
    /// # Errors
    /// When the options do not fit.
    fn build(&self, ctx: &BuildContext<'_>) -> Result<Box<dyn Evaluator>>;

    /// Values out of range and combinations that make no sense, paths relative to the options; touches no resources.
    fn problems(&self) -> Vec<Problem> {
        Vec::new()
    }
}
