//! Comparisons that exist already, in place of sampled answers: `comparisons.jsonl` and the answers in them as `completions.jsonl`.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

use farmhand_core::data::{self, ReadOptions};
use farmhand_core::types::{Comparison, Completion, FinishReason};
use farmhand_core::{Error, Result, RunContext};

use super::learn::note_left_out;

/// Who answered, where a file does not say.
const UNKNOWN_MODEL: &str = "given";

/// Reads the files and writes what a sampling stage would have written. A comparison that stands there twice is taken once.
///
/// # Errors
/// When a file cannot be read or none of them has a comparison of two different answers.
pub(super) fn take(files: &[PathBuf], options: &ReadOptions, ctx: &RunContext<'_>) -> Result<()> {
    let mut comparisons: Vec<Comparison> = Vec::new();
    let mut seen = HashSet::new();
    let mut n_repeated = 0;
    for file in files {
        let (read, report) = data::read_comparisons(file, options)?;
        note_left_out(&report, ctx);
        for comparison in read.into_iter().filter(|comparison| comparison.output_1 != comparison.output_2) {
            if seen.insert(comparison.id.clone()) {
                comparisons.push(comparison);
            } else {
                n_repeated += 1;
            }
        }
    }
    if comparisons.is_empty() {
        return Err(Error::invalid_data("none of the files has a comparison of two different answers"));
    }
    let repeated = if n_repeated > 0 { format!(", {n_repeated} more stand there twice") } else { String::new() };
    ctx.events.info(&format!("  {} comparisons are given{repeated}", comparisons.len()));
    ctx.stage.write_jsonl("comparisons.jsonl", &comparisons)?;
    ctx.stage.write_jsonl("completions.jsonl", &answers(&comparisons)).map(|_| ())
}

/// The different answers to each instruction, numbered by model.
fn answers(comparisons: &[Comparison]) -> Vec<Completion> {
    let mut seen = HashSet::new();
    let mut samples: HashMap<(&str, &str), u32> = HashMap::new();
    let mut answers = Vec::new();
    for comparison in comparisons {
        let sides = [(&comparison.output_1, &comparison.generator_1), (&comparison.output_2, &comparison.generator_2)];
        for (output, generator) in sides {
            let id = comparison.instruction.id.as_str();
            if !seen.insert((id, output.as_str())) {
                continue;
            }
            let model = generator.as_deref().unwrap_or(UNKNOWN_MODEL);
            let sample = samples.entry((id, model)).or_default();
            answers.push(Completion {
                instruction: comparison.instruction.clone(),
                output: output.clone(),
                model: model.to_owned(),
                sample: *sample,
                finish: FinishReason::Stop,
                n_tokens: 0,
                log_prob: None,
            });
            *sample += 1;
        }
    }
    answers
}

#[cfg(test)]
mod tests {
    use super::*;
    use farmhand_core::types::Instruction;

    #[test]
    fn answers_are_taken_once_and_numbered() {
        let pair = |a: &str, b: &str| Comparison::new(Instruction::new("i", None), a, b);
        let named = pair("x", "d").between("m", "n");
        let answers = answers(&[pair("a", "b"), pair("b", "c"), named]);
        let found: Vec<(&str, &str, u32)> = answers.iter().map(|a| (a.output.as_str(), a.model.as_str(), a.sample)).collect();
        assert_eq!(found, [("a", "given", 0), ("b", "given", 1), ("c", "given", 2), ("x", "m", 0), ("d", "n", 0)]);
    }
}
