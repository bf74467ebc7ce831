//! Components whose panics are caught before they leave the library they belong to.

use std::task::Poll;

use async_trait::async_trait;

use super::guard::guarded;
use crate::annotator::Annotator;
use crate::checkpoint::Checkpoint;
use crate::context::RunContext;
use crate::error::Result;
use crate::evaluator::{EvaluationInputs, Evaluator};
use crate::forecast::Forecast;
use crate::learner::{Learner, LearnerInputs, Requirements};
use crate::policy::Policy;
use crate::reward_model::RewardModel;
use crate::types::{Annotation, Comparison, Completion, EvalReport, Instruction, Response, SamplingParams};

/// Wraps a component. What it says without a `Result` is asked once, while it is built, where a panic can still be an error.
pub(super) trait Guard {
    /// The component, guarded.
    fn guard(self: Box<Self>) -> Box<Self>;
}

struct GuardedLearner {
    inner: Box<dyn Learner>,
    requires: Requirements,
}

impl Guard for dyn Learner {
    fn guard(self: Box<Self>) -> Box<Self> {
        Box::new(GuardedLearner { requires: self.requires(), inner: self })
    }
}

impl Learner for GuardedLearner {
    fn requires(&self) -> Requirements {
        self.requires
    }

    fn learn(&mut self, inputs: LearnerInputs<'_>, ctx: &RunContext<'_>) -> Result<Checkpoint> {
        guarded("`learn`", || self.inner.learn(inputs, ctx))
    }
}

struct GuardedPolicy {
    inner: Box<dyn Policy>,
    model: String,
}

impl Guard for dyn Policy {
    fn guard(self: Box<Self>) -> Box<Self> {
        Box::new(GuardedPolicy { model: self.model().to_owned(), inner: self })
    }
}

impl Policy for GuardedPolicy {
    fn model(&self) -> &str {
        &self.model
    }

    fn generate(
        &mut self,
        instructions: &[Instruction],
        sampling: &SamplingParams,
        ctx: &RunContext<'_>,
    ) -> Result<Vec<Completion>> {
        guarded("`generate`", || self.inner.generate(instructions, sampling, ctx))
    }
}

struct GuardedRewardModel {
    inner: Box<dyn RewardModel>,
    checkpoint: Option<Checkpoint>,
}

impl Guard for dyn RewardModel {
    fn guard(self: Box<Self>) -> Box<Self> {
        Box::new(GuardedRewardModel { checkpoint: self.checkpoint().cloned(), inner: self })
    }
}

impl RewardModel for GuardedRewardModel {
    fn score(&mut self, items: &[Response<'_>], ctx: &RunContext<'_>) -> Result<Vec<f64>> {
        guarded("`score`", || self.inner.score(items, ctx))
    }

    fn checkpoint(&self) -> Option<&Checkpoint> {
        self.checkpoint.as_ref()
    }
}

struct GuardedAnnotator {
    inner: Box<dyn Annotator>,
    id: String,
    comparisons_at_once: Option<usize>,
}

impl Guard for dyn Annotator {
    fn guard(self: Box<Self>) -> Box<Self> {
        let (id, comparisons_at_once) = (self.id().to_owned(), self.comparisons_at_once());
        Box::new(GuardedAnnotator { id, comparisons_at_once, inner: self })
    }
}

#[async_trait]
impl Annotator for GuardedAnnotator {
    fn id(&self) -> &str {
        &self.id
    }

    async fn annotate(&self, comparisons: &[Comparison], ctx: &RunContext<'_>) -> Vec<Result<Annotation>> {
        let mut future = self.inner.annotate(comparisons, ctx);
        let polled = std::future::poll_fn(|cx| match guarded("`annotate`", || Ok(future.as_mut().poll(cx))) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(results)) => Poll::Ready(Ok(results)),
            Err(error) => Poll::Ready(Err(error)),
        });
        polled.await.unwrap_or_else(|error| comparisons.iter().map(|_| Err(error.copy())).collect())
    }

    fn comparisons_at_once(&self) -> Option<usize> {
        self.comparisons_at_once
    }

    fn forecast(&self, comparisons: &[Comparison], ctx: &RunContext<'_>) -> Result<Forecast> {
        guarded("`forecast`", || self.inner.forecast(comparisons, ctx))
    }
}

struct GuardedEvaluator(Box<dyn Evaluator>);

impl Guard for dyn Evaluator {
    fn guard(self: Box<Self>) -> Box<Self> {
        Box::new(GuardedEvaluator(self))
    }
}

impl Evaluator for GuardedEvaluator {
    fn evaluate(&self, inputs: &EvaluationInputs<'_>) -> Result<EvalReport> {
        guarded("`evaluate`", || self.0.evaluate(inputs))
    }
}
