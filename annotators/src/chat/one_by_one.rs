//! A judge that shows one comparison a prompt, as an annotator.

use async_trait::async_trait;
use farmhand_core::types::{Annotation, Comparison};
use farmhand_core::{Annotator, Forecast, Result, RunContext};

use super::ask::Asker;
use super::judging::{Interview, Sheet, forecast, judge};

/// A judge whose every prompt shows one comparison.
pub(crate) trait Singly: Interview + Send {
    /// Who asks for it.
    fn asker(&self) -> &Asker;
}

/// The annotator that such a judge is.
pub(crate) struct OneByOne<J>(pub(crate) J);

#[async_trait]
impl<J: Singly> Annotator for OneByOne<J> {
    fn id(&self) -> &str {
        self.0.id()
    }

    async fn annotate(&self, comparisons: &[Comparison], ctx: &RunContext<'_>) -> Vec<Result<Annotation>> {
        judge(&self.0, self.0.asker(), comparisons, &sheets(comparisons), ctx).await
    }

    fn comparisons_at_once(&self) -> Option<usize> {
        self.0.asker().comparisons_at_once()
    }

    fn forecast(&self, comparisons: &[Comparison], ctx: &RunContext<'_>) -> Result<Forecast> {
        forecast(&self.0, self.0.asker(), comparisons, &sheets(comparisons), ctx)
    }
}

fn sheets(comparisons: &[Comparison]) -> Vec<Sheet> {
    (0..comparisons.len()).map(|index| Sheet { members: vec![index], n_places: 1 }).collect()
}
