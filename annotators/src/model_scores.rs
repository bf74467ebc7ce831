//! A reward model's scores of both answers of each comparison, with one result a comparison.

use std::sync::{Mutex, PoisonError};

use farmhand_core::types::Comparison;
use farmhand_core::{BuildContext, Error, Result, RewardModel, RewardModelSpec, RunContext};

use crate::failures;

/// A reward model that annotators share between threads. Scoring blocks the calling thread.
pub(crate) struct ModelScores(Mutex<Box<dyn RewardModel>>);

impl ModelScores {
    pub(crate) fn new(model: Box<dyn RewardModel>) -> Self {
        Self(Mutex::new(model))
    }

    pub(crate) fn build(spec: &RewardModelSpec, ctx: &BuildContext<'_>) -> Result<Self> {
        Ok(Self::new(spec.build(ctx)?))
    }

    /// The scores of `(output_1, output_2)` of each comparison, in order. When the whole batch is refused, every comparison
    /// is tried alone, so that only those that cannot be scored fail.
    pub(crate) fn score(&self, comparisons: &[Comparison], ctx: &RunContext<'_>) -> Vec<Result<[f64; 2]>> {
        let mut model = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match score_batch(&mut **model, comparisons, ctx) {
            Ok(scores) => scores.into_iter().map(finite).collect(),
            Err(error) if error.is_cancelled() => failures::repeat(&error, comparisons.len()),
            Err(error) if comparisons.len() == 1 => vec![Err(error)],
            Err(_) => comparisons.iter().map(|one| score_one(&mut **model, one, ctx)).collect(),
        }
    }
}

fn score_one(model: &mut dyn RewardModel, comparison: &Comparison, ctx: &RunContext<'_>) -> Result<[f64; 2]> {
    ctx.cancel.check()?;
    let scores = score_batch(model, std::slice::from_ref(comparison), ctx)?;
    finite(scores[0])
}

fn score_batch(model: &mut dyn RewardModel, comparisons: &[Comparison], ctx: &RunContext<'_>) -> Result<Vec<[f64; 2]>> {
    let responses: Vec<_> = comparisons.iter().flat_map(Comparison::responses).collect();
    let scores = model.score(&responses, ctx)?;
    if scores.len() != responses.len() {
        let (n, m) = (scores.len(), responses.len());
        return Err(Error::broken_contract(format!("the reward model gave {n} scores for {m} answers")));
    }
    Ok(scores.chunks_exact(2).map(|pair| [pair[0], pair[1]]).collect())
}

fn finite(scores: [f64; 2]) -> Result<[f64; 2]> {
    match scores.iter().find(|score| !score.is_finite()) {
        Some(score) => Err(Error::non_finite(format!("the reward model scored an answer {score}"))),
        None => Ok(scores),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{CharCount, Desk, comparison};
    use farmhand_core::ErrorKind;

    #[test]
    fn one_answer_that_cannot_be_scored_fails_alone() {
        let (scores, desk) = (ModelScores::new(Box::new(CharCount)), Desk::new());
        let pairs = [comparison(0, "é", "bb"), comparison(1, "fail", "b"), comparison(2, "a", "nan"), comparison(3, "ccc", "")];
        let results = scores.score(&pairs, &desk.context(0));
        assert_eq!(results[0].as_ref().expect("scored"), &[1.0, 2.0]);
        assert_eq!(results[1].as_ref().expect_err("refused").kind(), ErrorKind::InvalidData);
        assert_eq!(results[2].as_ref().expect_err("refused").kind(), ErrorKind::NonFinite);
        assert_eq!(results[3].as_ref().expect("scored"), &[3.0, 0.0]);
    }
}
