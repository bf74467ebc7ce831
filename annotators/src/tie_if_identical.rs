//! The one gate in front of every annotator: identical answers are a tie without asking anyone.
//!
//! It also stops before asking when the user wants to stop, and holds the annotator to one result a comparison, so
//! that no annotator and no wrapper needs to think of these three.

use async_trait::async_trait;
use farmhand_core::types::{Annotation, Comparison, Preference};
use farmhand_core::{Annotator, AnnotatorSpec, BuildContext, Error, Forecast, Result, RunContext};

use crate::failures;

/// An annotator behind the gate.
pub struct TieIfIdentical(Box<dyn Annotator>);

impl TieIfIdentical {
    /// Puts the gate in front of an annotator. A second gate changes nothing.
    pub fn around(annotator: impl Annotator + 'static) -> Box<dyn Annotator> {
        Box::new(Self(Box::new(annotator)))
    }

    /// Builds the annotator a wrapper holds, behind the gate whatever crate it comes from.
    ///
    /// # Errors
    /// Whatever the annotator reports.
    pub fn build(spec: &AnnotatorSpec, ctx: &BuildContext<'_>) -> Result<Box<dyn Annotator>> {
        Ok(Box::new(Self(spec.build(ctx)?)))
    }
}

#[async_trait]
impl Annotator for TieIfIdentical {
    fn id(&self) -> &str {
        self.0.id()
    }

    async fn annotate(&self, comparisons: &[Comparison], ctx: &RunContext<'_>) -> Vec<Result<Annotation>> {
        if let Err(error) = ctx.cancel.check() {
            return failures::repeat(&error, comparisons.len());
        }
        let open: Vec<Comparison> = comparisons.iter().filter(|comparison| !is_identical(comparison)).cloned().collect();
        let answers = if open.is_empty() { Vec::new() } else { self.0.annotate(&open, ctx).await };
        if answers.len() != open.len() {
            let (id, n, m) = (self.0.id(), open.len(), answers.len());
            let error = Error::broken_contract(format!("annotator `{id}` gave {m} results for {n} comparisons"));
            return failures::repeat(&error, comparisons.len());
        }
        let mut answers = answers.into_iter();
        let tie = || Ok(Annotation::new(self.0.id(), Preference::Tie));
        let result =
            |comparison| if is_identical(comparison) { tie() } else { answers.next().expect("one answer was counted for each") };
        comparisons.iter().map(result).collect()
    }

    fn comparisons_at_once(&self) -> Option<usize> {
        self.0.comparisons_at_once()
    }

    fn forecast(&self, comparisons: &[Comparison], ctx: &RunContext<'_>) -> Result<Forecast> {
        let open: Vec<Comparison> = comparisons.iter().filter(|comparison| !is_identical(comparison)).cloned().collect();
        Ok(self.0.forecast(&open, ctx)?.with_settled(comparisons.len() - open.len()))
    }
}

fn is_identical(comparison: &Comparison) -> bool {
    comparison.output_1 == comparison.output_2
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Counting, Desk, comparison};
    use farmhand_core::ErrorKind;

    struct Mute;

    #[async_trait]
    impl Annotator for Mute {
        fn id(&self) -> &str {
            "mute"
        }

        async fn annotate(&self, _: &[Comparison], _: &RunContext<'_>) -> Vec<Result<Annotation>> {
            Vec::new()
        }
    }

    #[test]
    fn identical_answers_are_a_tie_and_nobody_is_asked() {
        let (inner, asked) = Counting::new();
        let gate = TieIfIdentical::around(inner);
        let desk = Desk::new();
        let pairs = [comparison(0, "same", "same"), comparison(0, "a", "bb"), comparison(1, "x", "x"), comparison(1, "ccc", "d")];
        let verdicts = desk.preferences(&*gate, &pairs);
        assert_eq!(verdicts, [Preference::Tie, Preference::Second, Preference::Tie, Preference::First]);
        assert_eq!(asked.count(), 2);
    }

    #[test]
    fn an_annotator_that_answers_too_little_is_named() {
        let results = Desk::new().annotate(&*TieIfIdentical::around(Mute), &[comparison(0, "a", "b")]);
        let error = results[0].as_ref().expect_err("a failure");
        assert_eq!(error.kind(), ErrorKind::BrokenContract);
        assert!(error.message().contains("`mute`"), "{error}");
    }

    #[test]
    fn nobody_is_asked_once_the_user_wants_to_stop() {
        let (inner, asked) = Counting::new();
        let desk = Desk::new();
        desk.cancel.cancel();
        let results = desk.annotate(&*TieIfIdentical::around(inner), &[comparison(0, "a", "b")]);
        assert!(results[0].as_ref().expect_err("stopped").is_cancelled());
        assert_eq!(asked.count(), 0);
    }
}
