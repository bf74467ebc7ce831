//! The annotator contract: something that says which of two answers is better.

use async_trait::async_trait;

use crate::component::BuildContext;
use crate::context::RunContext;
use crate::error::{Problem, Result};
use crate::forecast::Forecast;
use crate::types::{Annotation, Comparison};

/// Says which of two answers is better. The only asynchronous contract, for only judges wait on a network.
#[async_trait]
pub trait Annotator: Send + Sync {
    /// The name annotations carry, for example `pool` or a judge's model.
    fn id(&self) -> &str;

    /// One result a comparison, in input order: one failed comparison does not lose the others. A verdict
    /// depends on its comparison and `ctx.seed`, never on position or batch.
    async fn annotate(&self, comparisons: &[Comparison], ctx: &RunContext<'_>) -> Vec<Result<Annotation>>;

    /// How many comparisons it wants in one call, where that matters: a judge that is asked in batches, which a server answers within
    /// a day, wants all of them at once. `None`: as many as suits the caller.
    fn comparisons_at_once(&self) -> Option<usize> {
        None
    }

    /// What judging these comparisons would take; asks nobody. One that asks no server need not say anything.
    ///
    /// # Errors
    /// When what is known of earlier judgements cannot be read.
    fn forecast(&self, comparisons: &[Comparison], _ctx: &RunContext<'_>) -> Result<Forecast> {
        Ok(Forecast::local(comparisons.len()))
    }
}

/// The options of an annotator, as `[annotator.NAME]` holds them.
#[typetag::serde]
pub trait AnnotatorConfig: std::fmt::Debug + Send + Sync {
    /// Loads what the options name; secrets come from the environment, never from the options.
    ///
    /// # Errors
    /// When a file or a secret is missing or does not fit.
    fn build(&self, ctx: &BuildContext<'_>) -> Result<Box<dyn Annotator>>;

    /// Values out of range and combinations that make no sense, paths relative to the options; touches no resources.
    fn problems(&self) -> Vec<Problem> {
        Vec::new()
    }
}
