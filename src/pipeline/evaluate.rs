//! Numbers: one model's answers against a reference's, judged and measured.

use farmhand_analysis::AnswerScores;
use farmhand_core::data::pair_with_reference;
use farmhand_core::types::{Comparison, Completion, EvalReport, Response};
use farmhand_core::{Error, EvaluationInputs, Evaluator, Result, RewardModel, RunContext, checked};

use farmhand_core::run::chunked;

/// Answers scored between two writes of the journal.
const CHUNK: usize = 256;

/// Pairs a model's answers with the reference's, joined by instruction: the reference's first, the model's second.
///
/// # Errors
/// When not one instruction is common to both.
pub fn comparisons_against(reference: &[Completion], model: &[Completion], ctx: &RunContext<'_>) -> Result<Vec<Comparison>> {
    let paired = pair_with_reference(model, reference)?;
    if paired.n_without_reference > 0 {
        let n = paired.n_without_reference;
        ctx.events.warn(&format!("{n} of {} answers have no answer of the reference to compare with", model.len()));
    }
    Ok(paired.comparisons)
}

/// Scores answers with a reward model.
///
/// # Errors
/// What the reward model reports.
pub fn rewards(model: &mut dyn RewardModel, completions: &[Completion], ctx: &RunContext<'_>) -> Result<Vec<f64>> {
    rewards_kept_as("rewards.jsonl", model, completions, ctx)
}

/// Scores answers with a reward model; what an interrupted stage has scored is kept in the journal of that name.
///
/// # Errors
/// What the reward model reports.
pub(super) fn rewards_kept_as(
    journal: &str,
    model: &mut dyn RewardModel,
    completions: &[Completion],
    ctx: &RunContext<'_>,
) -> Result<Vec<f64>> {
    let mut progress = ctx.progress("scoring", Some(completions.len() as u64), "answers");
    chunked(completions, CHUNK, journal, ctx, |chunk| {
        let items: Vec<Response<'_>> =
            chunk.iter().map(|answer| Response { instruction: &answer.instruction, output: &answer.output }).collect();
        let scores = checked::score(model, &items, ctx)?;
        progress.advance(chunk.len() as u64);
        Ok(scores)
    })
}

/// Writes what every reward model gave each answer into `scores.jsonl`, one line an answer; nothing when nobody scored.
///
/// # Errors
/// When the disk refuses.
pub(super) fn write_scores(answers: &[Completion], own: &[f64], others: &[(&str, Vec<f64>)], ctx: &RunContext<'_>) -> Result<()> {
    if own.is_empty() && others.is_empty() {
        return Ok(());
    }
    let scores = |(i, answer): (usize, &Completion)| {
        let own = own.get(i).map(|reward| (AnswerScores::REWARD_MODEL.to_owned(), *reward));
        let others = others.iter().map(|(name, rewards)| ((*name).to_owned(), rewards[i]));
        let rewards = own.into_iter().chain(others).collect();
        AnswerScores { instruction: answer.instruction.id.clone(), sample: answer.sample, rewards }
    };
    let scores: Vec<AnswerScores> = answers.iter().enumerate().map(scores).collect();
    ctx.stage.write_jsonl("scores.jsonl", &scores).map(|_| ())
}

/// Measures and writes `report.json`, one entry an evaluator.
///
/// # Errors
/// What an evaluator reports.
pub fn measure(
    evaluators: &[Box<dyn Evaluator>],
    inputs: &EvaluationInputs<'_>,
    names: (&str, &str),
    ctx: &RunContext<'_>,
) -> Result<Vec<EvalReport>> {
    let (reference, annotator) = names;
    let mut reports = Vec::new();
    for evaluator in evaluators {
        let mut report = evaluator.evaluate(inputs)?;
        report.reference = report.reference.or_else(|| Some(reference.to_owned()));
        report.annotator = report.annotator.or_else(|| Some(annotator.to_owned()));
        reports.push(report);
    }
    ctx.stage.write("report.json", |out| {
        let text = serde_json::to_string_pretty(&reports).expect("a report is JSON");
        out.write_all(text.as_bytes()).map_err(|error| Error::io("write", std::path::Path::new("report.json"), error))
    })?;
    Ok(reports)
}
