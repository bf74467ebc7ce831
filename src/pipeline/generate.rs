//! Answers: instructions and a policy to `completions.jsonl`.

use farmhand_core::types::{Completion, Instruction, SamplingParams};
use farmhand_core::{Policy, Result, RunContext, checked};

use farmhand_core::run::chunked;

/// Instructions answered between two writes of the journal.
const CHUNK: usize = 128;

/// Answers every instruction, `sampling.n` times, under the name `name`, and writes `completions.jsonl`.
///
/// # Errors
/// What the policy reports; answers given so far are kept.
pub fn generate(
    policy: &mut dyn Policy,
    instructions: &[Instruction],
    sampling: &SamplingParams,
    name: &str,
    ctx: &RunContext<'_>,
) -> Result<Vec<Completion>> {
    let mut progress = ctx.progress("answering", Some(instructions.len() as u64), "instructions");
    let completions = chunked(instructions, CHUNK, "completions.jsonl", ctx, |chunk| {
        let mut answers = checked::generate(policy, chunk, sampling, ctx)?;
        for answer in &mut answers {
            name.clone_into(&mut answer.model);
        }
        progress.advance(chunk.len() as u64);
        Ok(answers)
    })?;
    ctx.stage.write_jsonl("completions.jsonl", &completions)?;
    Ok(completions)
}
