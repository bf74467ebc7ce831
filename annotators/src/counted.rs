//! How many comparisons an annotator judged inside a learner: the label budget that an online method spent.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use farmhand_core::run::Journal;
use farmhand_core::types::{Annotation, Comparison};
use farmhand_core::{Annotator, Error, Forecast, Result, RunContext};

/// An annotator around another that remembers which comparisons got a verdict, across interruptions of the stage. The same two
/// answers count once, in whatever order and however often they are asked about, so that a resumed run counts as one that never
/// stopped.
pub struct CountedAnnotator {
    inner: Box<dyn Annotator>,
    judged: Judged,
}

/// What was judged, shared with the one who wants to know.
#[derive(Debug, Clone)]
pub struct Judged(Arc<Mutex<(Journal, HashSet<String>)>>);

impl Judged {
    /// How many different comparisons have a verdict.
    pub fn count(&self) -> usize {
        self.0.lock().map_or(0, |state| state.1.len())
    }

    fn add(&self, ids: impl Iterator<Item = String>) -> Result<()> {
        let mut state = self.0.lock().map_err(|_| Error::other("counting annotations was interrupted by a panic"))?;
        let (journal, seen) = &mut *state;
        let new: Vec<String> = ids.filter(|id| seen.insert(id.clone())).collect();
        if new.is_empty() { Ok(()) } else { journal.append(&new) }
    }
}

impl CountedAnnotator {
    /// Counts in the stage of `ctx`, going on after what an interrupted run counted.
    ///
    /// # Errors
    /// When the stage's journal cannot be opened.
    pub fn around(inner: Box<dyn Annotator>, ctx: &RunContext<'_>) -> Result<(Self, Judged)> {
        let (journal, before) = ctx.stage.journal::<String>("judged.jsonl")?;
        let judged = Judged(Arc::new(Mutex::new((journal, before.into_iter().collect()))));
        Ok((Self { inner, judged: judged.clone() }, judged))
    }
}

#[async_trait]
impl Annotator for CountedAnnotator {
    fn id(&self) -> &str {
        self.inner.id()
    }

    async fn annotate(&self, comparisons: &[Comparison], ctx: &RunContext<'_>) -> Vec<Result<Annotation>> {
        let results = self.inner.annotate(comparisons, ctx).await;
        let judged = comparisons.iter().zip(&results).filter(|(_, result)| result.is_ok());
        // Either order of the two answers is the same question.
        let ids = judged.map(|(comparison, _)| comparison.id.clone().min(comparison.swapped().id));
        match self.judged.add(ids) {
            Ok(()) => results,
            Err(error) => comparisons.iter().map(|_| Err(Error::new(error.kind(), error.message()))).collect(),
        }
    }

    fn comparisons_at_once(&self) -> Option<usize> {
        self.inner.comparisons_at_once()
    }

    fn forecast(&self, comparisons: &[Comparison], ctx: &RunContext<'_>) -> Result<Forecast> {
        self.inner.forecast(comparisons, ctx)
    }
}

#[cfg(test)]
mod tests {
    use farmhand_core::types::{Instruction, Preference};

    use super::*;
    use crate::testing::Desk;

    /// Judges all but those whose first answer is empty.
    struct Judge;

    #[async_trait]
    impl Annotator for Judge {
        fn id(&self) -> &str {
            "judge"
        }

        async fn annotate(&self, comparisons: &[Comparison], _: &RunContext<'_>) -> Vec<Result<Annotation>> {
            let verdict = |comparison: &Comparison| match comparison.output_1.is_empty() {
                true => Err(Error::other("nothing to read")),
                false => Ok(Annotation::new("judge", Preference::First)),
            };
            comparisons.iter().map(verdict).collect()
        }
    }

    #[test]
    fn a_comparison_counts_once_also_when_asked_again_after_an_interruption() {
        let desk = Desk::new();
        let ctx = desk.context(0);
        let compare = |first: &str, second: &str| Comparison::new(Instruction::new("i", None), first, second);
        let ask = |comparisons: &[Comparison]| {
            let (annotator, judged) = CountedAnnotator::around(Box::new(Judge), &ctx).expect("opened");
            assert_eq!(ctx.block_on(annotator.annotate(comparisons, &ctx)).len(), comparisons.len());
            judged.count()
        };
        assert_eq!(ask(&[compare("a", "b"), compare("b", "a"), compare("a", "c"), compare("", "c")]), 2);
        assert_eq!(ask(&[compare("a", "c"), compare("a", "d")]), 3);
    }
}
