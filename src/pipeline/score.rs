//! Log-probabilities of given responses under a language model, and how a reward model orders given pairs.

use std::collections::BTreeMap;
use std::path::Path;

use farmhand_core::types::{Demonstration, PreferencePair, Response};
use farmhand_core::{BuildContext, Checkpoint, Error, ErrorKind, Result, RewardModel, RewardModelConfig, RunContext, checked};
use farmhand_models::{
    BatchLayout, Ending, LanguageModel, PromptFormat, TextCodec, TokenBatch, default_pass_tokens, micro_batches,
    selected_log_probs_no_grad, sequence_sums, tch_device,
};
use farmhand_plugins::reward_models::BradleyTerryConfig;
use farmhand_plugins::rl::pair_accuracy::{PairReport, ScoredPair};
use serde::Serialize;

/// The score of one record.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ScoredRecord {
    /// The record's place in the file, from 0.
    pub index: usize,
    /// Sum of the log-probabilities of the response's tokens, in nats.
    pub sum_log_prob: f64,
    /// Tokens of the response.
    pub n_tokens: usize,
}

/// How a reward model orders pairs: all together, and those of each data set.
#[derive(Debug, Clone, PartialEq)]
pub struct PairScores {
    /// All pairs.
    pub all: PairReport,
    /// The pairs of each data set that the instructions name; empty for fewer than two.
    pub by_dataset: BTreeMap<String, PairReport>,
}

impl PairScores {
    /// Measures; `scored` has one entry a pair. `None` without pairs.
    pub fn of(pairs: &[&PreferencePair], scored: &[ScoredPair]) -> Option<Self> {
        let mut datasets: BTreeMap<&str, Vec<ScoredPair>> = BTreeMap::new();
        for (pair, scored) in pairs.iter().zip(scored) {
            datasets.entry(pair.instruction.dataset.as_deref().unwrap_or("other")).or_default().push(*scored);
        }
        let several = datasets.len() > 1;
        let report = |(name, pairs): (&str, Vec<ScoredPair>)| Some((name.to_owned(), PairReport::of(&pairs)?));
        let by_dataset = datasets.into_iter().filter(|_| several).filter_map(report).collect();
        Some(Self { all: PairReport::of(scored)?, by_dataset })
    }

    /// Every number by name: those of all pairs, and where there are several data sets `accuracy/NAME` and `n_pairs/NAME` of each
    /// and `accuracy_over_datasets`, the plain mean of their accuracies, as RewardBench counts
    /// (<https://arxiv.org/abs/2403.13787>).
    pub fn numbers(&self) -> BTreeMap<String, f64> {
        let mut numbers: BTreeMap<String, f64> =
            self.all.numbers.iter().map(|(name, number)| ((*name).to_owned(), *number)).collect();
        let accuracies: Vec<f64> = self.by_dataset.values().filter_map(|report| report.get("accuracy")).collect();
        for (name, report) in &self.by_dataset {
            numbers.extend(report.get("accuracy").map(|accuracy| (format!("accuracy/{name}"), accuracy)));
            numbers.insert(format!("n_pairs/{name}"), report.n as f64);
        }
        if !accuracies.is_empty() {
            numbers.insert("accuracy_over_datasets".to_owned(), accuracies.iter().sum::<f64>() / accuracies.len() as f64);
        }
        numbers
    }
}

/// Scores every record's response given its prompt; at most `max_batch_tokens` tokens in one forward pass, by default
/// [`default_pass_tokens`]. With the format `none` nothing is added to the texts; otherwise the response ends with one
/// end-of-sequence token.
///
/// # Errors
/// When the model cannot be loaded, a record is too long for it, or on cancellation.
pub fn score_records(
    checkpoint: &Checkpoint,
    format: Option<PromptFormat>,
    records: &[Demonstration],
    max_batch_tokens: Option<usize>,
    ctx: &RunContext<'_>,
) -> Result<Vec<ScoredRecord>> {
    let device = tch_device(ctx.device)?;
    let codec = TextCodec::load(checkpoint, format)?;
    let model = LanguageModel::load(checkpoint.path(), device)?;
    model.set_trainable(false);
    let ending = if codec.format == PromptFormat::None { Ending::Open } else { Ending::WithEos };
    let mut encoded = Vec::with_capacity(records.len());
    for (i, record) in records.iter().enumerate() {
        let text = codec
            .encode(&record.instruction, &record.output, ending)
            .map_err(|error| error.context(format_args!("record {i}")))?;
        if text.response_start == 0 {
            return Err(Error::invalid_data(format!(
                "record {i}: the prompt is empty, so the response's first token has no probability"
            ))
            .with_hint("give every record a prompt; the count starts at 0"));
        }
        model.check_length(text.ids.len()).map_err(|error| error.context(format_args!("record {i}")))?;
        encoded.push(text);
    }
    let mut progress = ctx.progress("scoring", Some(records.len() as u64), "records");
    let mut scored: Vec<Option<ScoredRecord>> = vec![None; records.len()];
    let texts = encoded.iter().map(std::slice::from_ref);
    let max_tokens = max_batch_tokens.unwrap_or_else(|| default_pass_tokens(device));
    for rows in micro_batches(texts, BatchLayout::Packed, max_tokens, usize::MAX) {
        ctx.cancel.check()?;
        let items: Vec<_> = rows.iter().map(|row| &encoded[*row]).collect();
        let batch = TokenBatch::new(&items, BatchLayout::Packed, device)?;
        let (log_probs, _) = selected_log_probs_no_grad(&model, &batch);
        let sums: Vec<f32> = Vec::try_from(sequence_sums(&log_probs, &batch)).expect("one sum a row");
        for ((row, sum), n_tokens) in rows.iter().zip(sums).zip(batch.response_lengths()) {
            scored[*row] = Some(ScoredRecord { index: *row, sum_log_prob: f64::from(sum), n_tokens });
        }
        progress.advance(rows.len() as u64);
    }
    Ok(scored.into_iter().map(|record| record.expect("every record is in one batch")).collect())
}

/// Scores both answers of each pair with a reward model: accuracy, calibration, and accuracy by length and margin. Lengths are in
/// characters; at most `max_batch_tokens` tokens go through in one forward pass.
///
/// # Errors
/// When there are no pairs, the reward model cannot be loaded, a pair is too long for it, or on cancellation.
pub fn score_pairs(
    checkpoint: &Checkpoint,
    format: Option<PromptFormat>,
    pairs: &[PreferencePair],
    max_batch_tokens: Option<usize>,
    ctx: &RunContext<'_>,
) -> Result<PairScores> {
    let build = BuildContext { reward_model: Some(checkpoint), ..BuildContext::new(ctx.device, Path::new(".")) };
    let config = BradleyTerryConfig { prompt: format, max_batch_tokens, ..BradleyTerryConfig::default() };
    score_pairs_by(&mut *config.build(&build)?, pairs, ctx)
}

/// The same with any reward model.
///
/// # Errors
/// When there are no pairs, or what the reward model reports.
pub fn score_pairs_by(model: &mut dyn RewardModel, pairs: &[PreferencePair], ctx: &RunContext<'_>) -> Result<PairScores> {
    let answers = |pairs: &'_ [PreferencePair]| -> Result<Vec<f64>> {
        let answers: Vec<Response<'_>> = pairs
            .iter()
            .flat_map(|pair| [&pair.chosen, &pair.rejected].map(|output| Response { instruction: &pair.instruction, output }))
            .collect();
        checked::score(model, &answers, ctx)
    };
    let scored = one_by_one_where_needed(pairs, answers, ctx)?;
    let length = |text: &str| text.chars().count() as f64;
    let measured = |(pair, scores): (&'_ PreferencePair, [f64; 2])| ScoredPair {
        difference: scores[0] - scores[1],
        length_difference: length(&pair.chosen) - length(&pair.rejected),
        margin: pair.margin,
    };
    let (read, scored): (Vec<&PreferencePair>, Vec<ScoredPair>) =
        scored.into_iter().map(|(pair, scores)| (pair, measured((pair, scores)))).unzip();
    PairScores::of(&read, &scored).ok_or_else(|| Error::missing_input("there are no preference pairs to score"))
}

/// Scores all pairs at once; where one of them cannot be scored, because it is too long for the model for example, those are left out
/// and counted.
fn one_by_one_where_needed<'p>(
    pairs: &'p [PreferencePair],
    mut score: impl FnMut(&[PreferencePair]) -> Result<Vec<f64>>,
    ctx: &RunContext<'_>,
) -> Result<Vec<(&'p PreferencePair, [f64; 2])>> {
    let two = |scores: &[f64]| [scores[0], scores[1]];
    match score(pairs) {
        Ok(scores) => return Ok(pairs.iter().zip(scores.chunks(2).map(two)).collect()),
        Err(error) if error.kind() != ErrorKind::InvalidData => return Err(error),
        Err(_) => {}
    }
    let (mut scored, mut first) = (Vec::new(), None);
    for pair in pairs {
        match score(std::slice::from_ref(pair)) {
            Ok(scores) => scored.push((pair, two(&scores))),
            Err(error) if error.kind() == ErrorKind::InvalidData => first = first.or(Some(error)),
            Err(error) => return Err(error),
        }
    }
    let Some(error) = first else { return Ok(scored) };
    if scored.is_empty() {
        return Err(error);
    }
    let n_out = pairs.len() - scored.len();
    ctx.events.warn(&format!("{n_out} of {} pairs cannot be scored and are left out; the first: {error}", pairs.len()));
    Ok(scored)
}

#[cfg(test)]
mod tests {
    use farmhand_core::types::Instruction;

    use super::*;

    #[test]
    fn accuracy_over_data_sets_weighs_each_alike() {
        let pair = |i: usize, dataset: &str| PreferencePair {
            instruction: Instruction::new(format!("Question {i}"), None).from_dataset(dataset),
            chosen: "good".into(),
            rejected: "bad".into(),
            p_chosen: None,
            margin: None,
        };
        let pairs: Vec<PreferencePair> = (0..5).map(|i| pair(i, if i < 4 { "chat" } else { "safety" })).collect();
        let scored = |i: usize| ScoredPair { difference: if i < 4 { 1.0 } else { -1.0 }, length_difference: 1.0, margin: None };
        let scored: Vec<ScoredPair> = (0..5).map(scored).collect();
        let numbers = PairScores::of(&pairs.iter().collect::<Vec<_>>(), &scored).expect("pairs").numbers();
        assert_eq!((numbers["accuracy"], numbers["accuracy_over_datasets"]), (0.8, 0.5));
        assert_eq!((numbers["accuracy/chat"], numbers["n_pairs/safety"]), (1.0, 1.0));
        let alone = PairScores::of(&pairs[..4].iter().collect::<Vec<_>>(), &scored[..4]).expect("pairs").numbers();
        assert!(!alone.contains_key("accuracy/chat") && !alone.contains_key("accuracy_over_datasets"));
        assert!(PairScores::of(&[], &[]).is_none());
    }
}
