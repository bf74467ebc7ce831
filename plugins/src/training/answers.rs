//! Answers of a policy and their scores inside a learner: each kept as it is made, so that a stopped run goes on after them.

use std::path::Path;

use farmhand_core::run::chunked;
use farmhand_core::types::{Completion, Instruction, Response, SamplingParams};
use farmhand_core::{BuildContext, Checkpoint, Device, FindModel, PolicySpec, Result, RewardModel, RunContext, checked};

/// Instructions answered between two writes of the journal.
const CHUNK: usize = 128;

/// Who answers.
#[derive(Debug, Clone, Copy)]
pub struct Answerer<'a> {
    /// The policy; one that names no model of its own answers with `checkpoint`.
    pub policy: &'a PolicySpec,
    /// The weights.
    pub checkpoint: &'a Checkpoint,
    /// Where relative paths in the policy's options start.
    pub base_dir: &'a Path,
    /// Finds the models that the policy's options name.
    pub models: &'a dyn FindModel,
}

impl<'a> Answerer<'a> {
    /// What the policy, and other components beside it, are built with.
    pub fn build_context(&self, device: Device) -> BuildContext<'a> {
        BuildContext { policy: Some(self.checkpoint), models: self.models, ..BuildContext::new(device, self.base_dir) }
    }
}

/// Answers to every instruction, `sampling.n` each, in the order of the instructions. They are kept under `name` in the stage: as
/// a journal while it runs, then as `name.jsonl`, which a stopped run reads instead of sampling again. An answer depends on its
/// instruction, its sample number and `ctx.seed`.
///
/// # Errors
/// What the policy reports; the answers given so far are kept.
pub fn sample_answers(
    who: Answerer<'_>,
    instructions: &[Instruction],
    sampling: &SamplingParams,
    name: &str,
    ctx: &RunContext<'_>,
) -> Result<Vec<Completion>> {
    let build = who.build_context(ctx.device);
    // Loaded only if there is something left to answer.
    let mut policy = None;
    let mut progress = ctx.progress("answering", Some(instructions.len() as u64), "instructions");
    let file = format!("{name}.jsonl");
    let answers = chunked(instructions, CHUNK, &file, ctx, |chunk| {
        let policy = match &mut policy {
            Some(policy) => policy,
            none => none.insert(who.policy.build(&build)?),
        };
        let answers = checked::generate(&mut **policy, chunk, sampling, ctx)?;
        progress.advance(chunk.len() as u64);
        Ok(answers)
    })?;
    ctx.stage.write_jsonl(&file, &answers)?;
    Ok(answers)
}

/// The reward model's score of each answer, kept under `name` in the stage as [`sample_answers`] keeps answers.
///
/// # Errors
/// What the reward model reports; the scores given so far are kept.
pub fn score_answers(
    reward_model: &mut dyn RewardModel,
    answers: &[Completion],
    name: &str,
    ctx: &RunContext<'_>,
) -> Result<Vec<f64>> {
    chunked(answers, CHUNK, &format!("{name}.jsonl"), ctx, |chunk| {
        let items: Vec<Response<'_>> =
            chunk.iter().map(|answer| Response { instruction: &answer.instruction, output: &answer.output }).collect();
        checked::score(reward_model, &items, ctx)
    })
}

#[cfg(test)]
mod tests {
    use farmhand_core::{NoEvents, RewardModelConfig};

    use super::*;
    use crate::reward_models::LengthConfig;
    use crate::testing::{Stage, instructions, tiny_checkpoint};

    #[test]
    fn answers_and_scores_that_are_there_are_not_made_again() {
        let stage = Stage::new();
        let checkpoint = tiny_checkpoint(&stage);
        let ctx = stage.context(&NoEvents);
        let spec = PolicySpec::from_json("causal_lm", "{}").expect("built in");
        let base_dir = Path::new(".");
        let sampling = SamplingParams { n: 2, max_new_tokens: 5, ..SamplingParams::default() };
        let ask = |checkpoint: &Checkpoint| {
            sample_answers(
                Answerer { policy: &spec, checkpoint, base_dir, models: &farmhand_core::FoldersOnly },
                &instructions(5),
                &sampling,
                "answers",
                &ctx,
            )
        };
        let first = ask(&checkpoint).expect("answered");
        assert_eq!(first.len(), 10);
        // The policy is not even loaded again: its folder may be gone.
        std::fs::remove_file(checkpoint.path().join("model.safetensors")).expect("removed");
        assert_eq!(ask(&checkpoint).expect("read"), first);
        let build = BuildContext::new(ctx.device, base_dir);
        let mut length = LengthConfig::default().build(&build).expect("built");
        let scores = score_answers(&mut *length, &first, "scores", &ctx).expect("scored");
        assert_eq!(scores.len(), 10);
        assert_eq!(score_answers(&mut *length, &first, "scores", &ctx).expect("read"), scores);
    }
}
