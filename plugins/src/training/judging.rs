//! Which of two responses is better, as a reward model or an annotator says it while a learner trains.

use farmhand_core::types::{Comparison, Instruction, Outcome};
use farmhand_core::{Annotator, Error, LearnerInputs, Requirements, Result, RewardModel, RunContext, checked};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::options::Ranges;
use super::rollouts::{Sampled, Sampler};
use crate::rl::pairwise::PairwiseLink;
use crate::rl::reward_shaping::MissingEnd;

/// Who judges.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum JudgedBy {
    /// The experiment's reward model: the response with the higher score is better, and the first of two is so with the
    /// probability `σ(r_1 − r_2)`.
    #[default]
    RewardModel,
    /// The experiment's annotator. Two equal texts are a tie without asking it; where it fails, the pair is left out and counted.
    Annotator,
}

impl JudgedBy {
    /// Adds the judge to what a learner needs.
    #[must_use]
    pub fn required_in(self, requirements: Requirements) -> Requirements {
        match self {
            Self::RewardModel => requirements.with_reward_model(),
            Self::Annotator => requirements.with_annotator(),
        }
    }

    /// The judge among a learner's inputs, whose reward model or annotator this takes.
    ///
    /// # Errors
    /// When it was not given.
    pub fn take<'a>(self, learner: &str, inputs: &mut LearnerInputs<'a>) -> Result<Judge<'a>> {
        match self {
            Self::RewardModel => {
                inputs.reward_model.take().map(Judge::RewardModel).ok_or_else(|| missing(learner, "a reward model"))
            }
            Self::Annotator => inputs.annotator.map(Judge::Annotator).ok_or_else(|| missing(learner, "an annotator")),
        }
    }
}

impl Ranges {
    /// The judge, beside the rule for a response without its end; `link` is the loss of the pairs, where there is one.
    #[must_use]
    pub fn judged(self, judge: JudgedBy, missing_end: MissingEnd, link: Option<PairwiseLink>) -> Self {
        let has_scores = judge == JudgedBy::RewardModel;
        let reads_gaps = matches!(link, Some(PairwiseLink::RewardAware { .. }));
        let expected = "a judge that gives scores (`judge = \"reward_model\"`)";
        self.require("missing_end", has_scores || missing_end == MissingEnd::Keep, expected, "an annotator")
            .require("link", has_scores || !reads_gaps, expected, "an annotator with `reward_aware`")
            .require(
                "link",
                !link.is_some_and(PairwiseLink::compares_pairs),
                "a loss of single pairs",
                "one that compares the pairs of a step",
            )
            .nested("link", link.map(PairwiseLink::problems).unwrap_or_default())
    }
}

fn missing(learner: &str, what: &str) -> Error {
    Error::missing_input(format!("`{learner}` needs {what}"))
}

/// Who judges, at work.
pub enum Judge<'a> {
    /// A reward model.
    RewardModel(&'a mut dyn RewardModel),
    /// An annotator.
    Annotator(&'a dyn Annotator),
}

/// What came of judging pairs of responses.
pub struct Verdicts {
    /// The probability that the first response of each pair is better, in [0, 1], ½ for a tie; none where the judge failed.
    pub p_first: Vec<Option<f64>>,
    /// The first response's score less the second's, where a reward model judged.
    pub gaps: Option<Vec<f64>>,
    /// Mean scores of the first and the second responses before penalties, where a reward model judged.
    pub rewards: Option<[f64; 2]>,
}

impl Verdicts {
    /// What there is to tell, for [`super::OnPolicy::log`].
    pub fn scalars(&self) -> Vec<(&'static str, f64)> {
        let n = self.p_first.len().max(1) as f64;
        let share = |is: &dyn Fn(Option<f64>) -> bool| self.p_first.iter().filter(|p| is(**p)).count() as f64 / n;
        vec![
            ("ties", share(&|p| p == Some(0.5))),
            ("failed_judgements", share(&|p| p.is_none())),
            ("first_preferred", share(&|p| p.is_some_and(|p| p > 0.5))),
        ]
    }
}

impl Judge<'_> {
    /// The reward model, for an estimate of memory.
    pub fn reward_model(&self) -> Option<&dyn RewardModel> {
        match self {
            Self::RewardModel(model) => Some(&**model),
            Self::Annotator(_) => None,
        }
    }

    /// Judges the responses at equal places of `first` and `second`, which are to the same prompts.
    ///
    /// # Errors
    /// What the reward model reports; the annotator's first failure when it fails at every pair it is asked about; on
    /// cancellation.
    pub fn judge(&mut self, sampler: &Sampler<'_>, first: &Sampled, second: &Sampled, ctx: &RunContext<'_>) -> Result<Verdicts> {
        match self {
            Self::RewardModel(model) => {
                let (first, second) = (sampler.score(first, &mut **model, ctx)?, sampler.score(second, &mut **model, ctx)?);
                let gaps: Vec<f64> = first.rewards.iter().zip(&second.rewards).map(|(a, b)| a - b).collect();
                let p_first = gaps.iter().map(|gap| Some(p_better(*gap))).collect();
                Ok(Verdicts { p_first, gaps: Some(gaps), rewards: Some([first.mean(), second.mean()]) })
            }
            Self::Annotator(annotator) => {
                let instructions: Vec<&Instruction> =
                    first.records.iter().map(|record| &sampler.instructions[record.index]).collect();
                let outputs = first.outputs.iter().zip(&second.outputs);
                let pairs: Vec<(&str, &str)> = outputs.map(|(a, b)| (a.as_str(), b.as_str())).collect();
                Ok(Verdicts { p_first: ask(*annotator, &instructions, &pairs, ctx)?, gaps: None, rewards: None })
            }
        }
    }
}

/// The probability under Bradley-Terry that a response is better than one whose score is lower by `gap`.
fn p_better(gap: f64) -> f64 {
    1.0 / (1.0 + (-gap).exp())
}

/// An annotator's verdicts on pairs of texts; equal ones are a tie.
fn ask(
    annotator: &dyn Annotator,
    instructions: &[&Instruction],
    pairs: &[(&str, &str)],
    ctx: &RunContext<'_>,
) -> Result<Vec<Option<f64>>> {
    let asked: Vec<usize> = (0..pairs.len()).filter(|&i| pairs[i].0 != pairs[i].1).collect();
    let comparison = |&i: &usize| Comparison::new(instructions[i].clone(), pairs[i].0, pairs[i].1);
    let comparisons: Vec<Comparison> = asked.iter().map(comparison).collect();
    let judgements = ctx.block_on(checked::annotate(annotator, &comparisons, ctx))?;
    let mut p_first = vec![Some(0.5); pairs.len()];
    let mut failures = Vec::new();
    for (&i, judgement) in asked.iter().zip(judgements) {
        p_first[i] = judgement.preference().map(|preference| 1.0 - preference.p_second());
        if let Outcome::Failure(failure) = judgement.outcome {
            failures.push(failure);
        }
    }
    match failures.into_iter().next() {
        Some(failure) if p_first.iter().zip(pairs).all(|(p, (a, b))| p.is_none() || a == b) => {
            let message =
                format!("annotator `{}` failed at all {} pairs of a step: {}", annotator.id(), asked.len(), failure.message);
            Err(Error::new(failure.kind, message))
        }
        _ => Ok(p_first),
    }
}

#[cfg(test)]
mod tests {
    use farmhand_core::{ErrorKind, NoEvents};

    use super::*;
    use crate::testing::{PrefersE, instructions, with_context};

    #[test]
    fn an_annotators_failures_are_no_ties_and_equal_texts_are() {
        let instructions = instructions(6);
        let instructions: Vec<&Instruction> = instructions.iter().collect();
        let pairs = [("e", "a"), ("a", "e"), ("same", "same"), ("a", "b"), ("ee", "x"), ("x", "ee")];
        with_context(&NoEvents, |ctx| {
            let verdicts = ask(&PrefersE { fails: 0 }, &instructions, &pairs, ctx).expect("judged");
            assert_eq!(verdicts, [Some(1.0), Some(0.0), Some(0.5), Some(0.5), Some(1.0), Some(0.0)]);
            let some = ask(&PrefersE { fails: 2 }, &instructions, &pairs, ctx).expect("some are judged");
            assert_eq!(some[2], Some(0.5));
            assert!(some.iter().any(Option::is_none) && some.iter().flatten().count() > 1, "{some:?}");
            assert!(some.iter().zip(&verdicts).all(|(some, all)| some.is_none() || some == all));
            let error = ask(&PrefersE { fails: 1 }, &instructions, &pairs, ctx).expect_err("all fail");
            assert_eq!(error.kind(), ErrorKind::RemoteService);
            assert!(error.message().contains("all 5 pairs of a step: the judge is out"), "{error}");
            assert_eq!(ask(&PrefersE { fails: 1 }, &instructions[..1], &pairs[2..3], ctx).expect("not asked"), [Some(0.5)]);
        });
    }

    #[test]
    fn scores_become_probabilities_of_bradley_and_terry() {
        assert_eq!(p_better(0.0), 0.5);
        assert!((p_better(1.386_294_361) - 0.8).abs() < 1e-9);
        assert!((p_better(0.7) + p_better(-0.7) - 1.0).abs() < 1e-12);
        assert!(p_better(-1e4) == 0.0 && p_better(1e4) == 1.0);
    }
}
