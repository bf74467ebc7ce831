//! Calls across the contracts that check what comes back, so that a plugin that breaks its promise is named at its
//! call and not three stages later.

use crate::annotator::Annotator;
use crate::context::RunContext;
use crate::error::{Error, ErrorKind, Result};
use crate::policy::Policy;
use crate::reward_model::RewardModel;
use crate::types::{Comparison, Completion, Instruction, Judgement, Response, SamplingParams};

/// [`Policy::generate`], checked: `sampling.n` answers per instruction, grouped, in order, samples from 0.
///
/// # Errors
/// What the policy reports, or `BrokenContract`.
pub fn generate(
    policy: &mut dyn Policy,
    instructions: &[Instruction],
    sampling: &SamplingParams,
    ctx: &RunContext<'_>,
) -> Result<Vec<Completion>> {
    let completions = policy.generate(instructions, sampling, ctx)?;
    let n = sampling.n as usize;
    let broken = |what: String| Error::broken_contract(format!("policy `{}` {what}", policy.model()));
    if completions.len() != instructions.len() * n {
        return Err(broken(format!("gave {} answers, expected {} × {n}", completions.len(), instructions.len())));
    }
    for (i, completion) in completions.iter().enumerate() {
        let instruction = &instructions[i / n];
        if completion.instruction.id != instruction.id {
            return Err(broken(format!(
                "gave answer {i} for instruction `{}`, expected `{}`",
                completion.instruction.id, instruction.id
            )));
        }
        if completion.sample as usize != i % n {
            return Err(broken(format!("numbered answer {i} as sample {}, expected {}", completion.sample, i % n)));
        }
        if completion.log_prob.is_some_and(|log_prob| !log_prob.is_finite()) {
            return Err(broken(format!("gave answer {i} a log-probability that is not finite")));
        }
    }
    Ok(completions)
}

/// [`RewardModel::score`], checked: one finite number an item.
///
/// # Errors
/// What the reward model reports, or `BrokenContract`.
pub fn score(model: &mut dyn RewardModel, items: &[Response<'_>], ctx: &RunContext<'_>) -> Result<Vec<f64>> {
    let scores = model.score(items, ctx)?;
    if scores.len() != items.len() {
        let message = format!("a reward model gave {} scores for {} answers", scores.len(), items.len());
        return Err(Error::broken_contract(message));
    }
    if let Some(i) = scores.iter().position(|score| !score.is_finite()) {
        let message = format!("a reward model scored the answer to instruction `{}` with {}", items[i].instruction.id, scores[i]);
        return Err(
            Error::broken_contract(message).with_hint("the reward model diverged in training, or its checkpoint is broken")
        );
    }
    Ok(scores)
}

/// [`Annotator::annotate`], checked and joined with the comparisons.
///
/// # Errors
/// `BrokenContract` when the number of results is wrong, `Cancelled` when the user asked to stop, `BudgetSpent` when a judge may
/// not be paid any more. Failures of single comparisons are part of the result.
pub async fn annotate(annotator: &dyn Annotator, comparisons: &[Comparison], ctx: &RunContext<'_>) -> Result<Vec<Judgement>> {
    let results = annotator.annotate(comparisons, ctx).await;
    if results.len() != comparisons.len() {
        let message =
            format!("annotator `{}` gave {} results for {} comparisons", annotator.id(), results.len(), comparisons.len());
        return Err(Error::broken_contract(message));
    }
    if results.iter().any(|result| result.as_ref().is_err_and(Error::is_cancelled)) {
        return Err(Error::cancelled());
    }
    if let Some(Err(error)) = results.iter().find(|result| matches!(result, Err(error) if error.kind() == ErrorKind::BudgetSpent))
    {
        let stop = Error::new(ErrorKind::BudgetSpent, error.to_string());
        return Err(match error.hint() {
            Some(hint) => stop.with_hint(hint),
            None => stop,
        });
    }
    Ok(comparisons.iter().cloned().zip(results).map(|(comparison, result)| Judgement::new(comparison, result)).collect())
}
