//! What judging will cost, told before the answers exist: by the number of comparisons and a guess at their length.

use std::path::Path;

use farmhand_annotators::tie_if_identical::TieIfIdentical;
use farmhand_core::config::ExperimentConfig;
use farmhand_core::data::PairsPerInstruction;
use farmhand_core::types::{Comparison, Instruction};
use farmhand_core::{AnnotatorSpec, BuildContext, FindModel, Forecast, Result, RunContext, data};
use serde::Serialize;

use super::annotate::forecast;
use super::read_options;
use crate::cache_dir::cache_dir;

/// Characters of an instruction that is not there yet.
const INSTRUCTION_CHARS: usize = 200;

/// Characters of a token.
const TOKEN_CHARS: usize = 4;

/// What judging takes in one stage.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PlannedJudging {
    /// The stage, or the kind of stages.
    pub stage: String,
    /// What it takes; absent where it cannot be told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forecast: Option<Forecast>,
    /// Why it cannot be told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unknown: Option<String>,
}

/// What the stages that ask servers for judgements take; those that ask none are left out. `n_models` answer the evaluation, the
/// reference among them.
pub(super) fn planned_judging(
    config: &ExperimentConfig,
    n_models: usize,
    base_dir: &Path,
    models: &dyn FindModel,
    ctx: &RunContext<'_>,
) -> Vec<PlannedJudging> {
    let cache_dir = cache_dir();
    let build = BuildContext { models, cache_dir: cache_dir.as_deref(), ..BuildContext::new(config.device, base_dir) };
    let judge = config.evaluate.annotator.as_ref().unwrap_or(&config.annotator);
    let told = |stage: &str, spec: &AnnotatorSpec, pairs: &dyn Fn() -> Result<Vec<Comparison>>| {
        if !asks_a_server(spec) {
            return None;
        }
        let forecast = pairs().and_then(|pairs| forecast(&*TieIfIdentical::build(spec, &build)?, &pairs, ctx));
        let unknown = forecast.as_ref().err().map(ToString::to_string);
        Some(PlannedJudging { stage: stage.to_owned(), forecast: forecast.ok(), unknown })
    };
    let sampled = || pairs_to_annotate(config, &build);
    let compared = || {
        let asked = instructions(config, "eval", config.data.split.eval, &build)?;
        Ok(guessed(&asked, n_models.saturating_sub(1), config.generate.sampling.max_new_tokens))
    };
    let stages = [told("annotate", &config.annotator, &sampled), told("evaluate, all models", judge, &compared)];
    stages.into_iter().flatten().collect()
}

/// The pairs of the stage `annotate`: those that are given, or a guess at those that will be sampled.
fn pairs_to_annotate(config: &ExperimentConfig, build: &BuildContext<'_>) -> Result<Vec<Comparison>> {
    let sample = &config.sample;
    if sample.comparisons.is_empty() {
        let n = sample.sampling.n as usize;
        let n_pairs = match sample.pairing {
            PairsPerInstruction::One => 1,
            PairsPerInstruction::All => n * n.saturating_sub(1) / 2,
        };
        let asked = instructions(config, "preference", config.data.split.preference, build)?;
        return Ok(guessed(&asked, n_pairs, sample.sampling.max_new_tokens));
    }
    let mut pairs = Vec::new();
    for file in &sample.comparisons {
        pairs.extend(data::read_comparisons(&build.resolve(file), &read_options(config.data.skip_bad_records))?.0);
    }
    Ok(pairs)
}

/// Whether a server is among its options, or among those of an annotator within; AlpacaEval's settings name one themselves.
fn asks_a_server(spec: &AnnotatorSpec) -> bool {
    let named = |options: String| ["\"base_url\"", "\"alpaca_eval\""].iter().any(|name| options.contains(name));
    serde_json::to_string(spec).is_ok_and(named)
}

/// The instructions of a split: those of its file, or as many of a usual length as it will have.
fn instructions(config: &ExperimentConfig, split: &str, n: usize, build: &BuildContext<'_>) -> Result<Vec<Instruction>> {
    if let Some(file) = config.data.files.get(split) {
        return Ok(data::read_instructions(&build.resolve(file), &read_options(config.data.skip_bad_records))?.0);
    }
    Ok((0..n).map(|i| Instruction::new(filler(i, 0, INSTRUCTION_CHARS), None)).collect())
}

/// So many pairs an instruction, of answers half as long as they may be.
fn guessed(instructions: &[Instruction], n_pairs: usize, max_new_tokens: u32) -> Vec<Comparison> {
    let chars = max_new_tokens as usize * TOKEN_CHARS / 2;
    let pair =
        |instruction: &Instruction, i: usize| Comparison::new(instruction.clone(), filler(i, 1, chars), filler(i, 2, chars));
    instructions.iter().flat_map(|instruction| (0..n_pairs).map(move |i| pair(instruction, i))).collect()
}

/// A text of about this many characters that is like no other.
fn filler(i: usize, side: usize, chars: usize) -> String {
    let name = format!("{side}-{i} ");
    name.chars().chain(std::iter::repeat('x')).take(chars.max(name.len())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guessed_pairs_are_all_different_and_as_long_as_told() {
        let asked: Vec<Instruction> = (0..3).map(|i| Instruction::new(filler(i, 0, INSTRUCTION_CHARS), None)).collect();
        let pairs = guessed(&asked, 6, 100);
        let ids: std::collections::HashSet<&str> = pairs.iter().map(|pair| pair.id.as_str()).collect();
        assert_eq!((pairs.len(), ids.len()), (18, 18));
        assert!(pairs.iter().all(|pair| pair.output_1.len() == 200 && pair.output_1 != pair.output_2));
        assert_eq!(pairs[0].instruction.text().len(), INSTRUCTION_CHARS);
    }
}
