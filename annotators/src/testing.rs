//! What the tests of this crate share: a stage to work in, comparisons, and small scripted annotators.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use farmhand_core::run::StageDir;
use farmhand_core::types::{Annotation, Comparison, Instruction, Preference, Response};
use farmhand_core::{
    Annotator, CancelFlag, Device, Error, PollingExecutor, RecordedEvents, Result, RewardModel, RunContext, Seed,
};

/// A stage in a temporary folder.
pub(crate) struct Desk {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) cancel: CancelFlag,
    pub(crate) events: RecordedEvents,
    pub(crate) stage: StageDir,
}

impl Desk {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let stage = StageDir::create(dir.path().join("stage")).expect("made");
        Self { dir, cancel: CancelFlag::new(), events: RecordedEvents::default(), stage }
    }

    pub(crate) fn context(&self, seed: u64) -> RunContext<'_> {
        let (stage, events, cancel) = (&self.stage, &self.events, &self.cancel);
        RunContext { stage, seed: Seed::root(seed), device: Device::Cpu, events, cancel, executor: &PollingExecutor }
    }

    pub(crate) fn annotate(&self, annotator: &dyn Annotator, comparisons: &[Comparison]) -> Vec<Result<Annotation>> {
        let ctx = self.context(0);
        ctx.block_on(annotator.annotate(comparisons, &ctx))
    }

    pub(crate) fn annotations(&self, annotator: &dyn Annotator, comparisons: &[Comparison]) -> Vec<Annotation> {
        self.annotate(annotator, comparisons).into_iter().map(|result| result.expect("a verdict")).collect()
    }

    pub(crate) fn preferences(&self, annotator: &dyn Annotator, comparisons: &[Comparison]) -> Vec<Preference> {
        self.annotations(annotator, comparisons).into_iter().map(|annotation| annotation.preference).collect()
    }
}

/// Two answers to the i-th instruction.
pub(crate) fn comparison(i: usize, output_1: &str, output_2: &str) -> Comparison {
    Comparison::new(Instruction::new(format!("Describe animal number {i}."), None), output_1, output_2)
}

/// `n` comparisons of answers of many lengths and shapes.
pub(crate) fn varied(n: usize) -> Vec<Comparison> {
    let mut rng = Seed::root(99).rng();
    let words = ["animal", "number", "the", "cat", "sat.", "- on", "a mat\n", "Überall", "describe", "!"];
    let mut text = || (0..1 + rng.below(60)).map(|_| words[rng.below(words.len())]).collect::<Vec<_>>().join(" ");
    (0..n).map(|i| comparison(i, &text(), &text())).collect()
}

/// Prefers the longer answer (in bytes) and counts what it is asked.
pub(crate) struct Counting(Arc<AtomicUsize>);

/// How many comparisons a [`Counting`] annotator was asked.
pub(crate) struct Asked(Arc<AtomicUsize>);

impl Asked {
    pub(crate) fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

impl Counting {
    pub(crate) fn new() -> (Self, Asked) {
        let count = Arc::new(AtomicUsize::new(0));
        (Self(count.clone()), Asked(count))
    }
}

#[async_trait]
impl Annotator for Counting {
    fn id(&self) -> &str {
        "longer"
    }

    async fn annotate(&self, comparisons: &[Comparison], _: &RunContext<'_>) -> Vec<Result<Annotation>> {
        self.0.fetch_add(comparisons.len(), Ordering::SeqCst);
        let verdict = |comparison: &Comparison| match comparison.output_1.len().cmp(&comparison.output_2.len()) {
            std::cmp::Ordering::Greater => Preference::First,
            std::cmp::Ordering::Less => Preference::Second,
            std::cmp::Ordering::Equal => Preference::Tie,
        };
        let annotation = |c| Annotation { cost_usd: Some(0.25), time_secs: Some(1.0), ..Annotation::new("longer", verdict(c)) };
        comparisons.iter().map(|comparison| Ok(annotation(comparison))).collect()
    }
}

/// Always prefers the answer shown first.
pub(crate) struct FirstShown;

#[async_trait]
impl Annotator for FirstShown {
    fn id(&self) -> &str {
        "first_shown"
    }

    async fn annotate(&self, comparisons: &[Comparison], _: &RunContext<'_>) -> Vec<Result<Annotation>> {
        let scored = || Annotation { scores: Some([1.0, 0.0]), ..Annotation::new("first_shown", Preference::First) };
        comparisons.iter().map(|_| Ok(scored())).collect()
    }
}

/// Prefers the longer answer, but fails when either answer contains `fail`.
pub(crate) struct Picky;

#[async_trait]
impl Annotator for Picky {
    fn id(&self) -> &str {
        "picky"
    }

    async fn annotate(&self, comparisons: &[Comparison], ctx: &RunContext<'_>) -> Vec<Result<Annotation>> {
        let (longer, _) = Counting::new();
        let results = longer.annotate(comparisons, ctx).await;
        let fails = |comparison: &Comparison| comparison.output_1.contains("fail") || comparison.output_2.contains("fail");
        let checked = comparisons.iter().zip(results);
        checked
            .map(|(c, result)| if fails(c) { Err(Error::other("the judge fell asleep").retryable()) } else { result })
            .collect()
    }
}

/// Scores an answer by its length in characters; refuses any batch with an answer that contains `fail`, and is not
/// finite on one that contains `nan`.
pub(crate) struct CharCount;

impl RewardModel for CharCount {
    fn score(&mut self, items: &[Response<'_>], _: &RunContext<'_>) -> Result<Vec<f64>> {
        if items.iter().any(|item| item.output.contains("fail")) {
            return Err(Error::invalid_data("too long for the model"));
        }
        let score = |item: &Response<'_>| if item.output.contains("nan") { f64::NAN } else { item.output.chars().count() as f64 };
        Ok(items.iter().map(score).collect())
    }
}
