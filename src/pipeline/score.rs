//! Log-probabilities of given responses under a language model, and how a reward model orders given pairs.

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
) -> Result<PairReport> {
    let build = BuildContext { reward_model: Some(checkpoint), ..BuildContext::new(ctx.device, Path::new(".")) };
    let config = BradleyTerryConfig { prompt: format, max_batch_tokens, ..BradleyTerryConfig::default() };
    score_pairs_by(&mut *config.build(&build)?, pairs, ctx)
}

/// The same with any reward model.
///
/// # Errors
/// When there are no pairs, or what the reward model reports.
pub fn score_pairs_by(model: &mut dyn RewardModel, pairs: &[PreferencePair], ctx: &RunContext<'_>) -> Result<PairReport> {
    let answers = |pairs: &'_ [PreferencePair]| -> Result<Vec<f64>> {
        let answers: Vec<Response<'_>> = pairs
            .iter()
            .flat_map(|pair| [&pair.chosen, &pair.rejected].map(|output| Response { instruction: &pair.instruction, output }))
            .collect();
        checked::score(model, &answers, ctx)
    };
    let scored = one_by_one_where_needed(pairs, answers, ctx)?;
    let length = |text: &str| text.chars().count() as f64;
    let scored = scored.into_iter().map(|(pair, scores)| ScoredPair {
        difference: scores[0] - scores[1],
        length_difference: length(&pair.chosen) - length(&pair.rejected),
        margin: pair.margin,
    });
    PairReport::of(&scored.collect::<Vec<_>>()).ok_or_else(|| Error::missing_input("there are no preference pairs to score"))
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
