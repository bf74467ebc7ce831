//! Scoring encoded answers in micro-batches, in input order.

use farmhand_core::types::Response;
use farmhand_core::{Error, Result, RunContext};
use farmhand_models::{EncodedText, LanguageModel, TokenBatch};
use tch::{Kind, Tensor, no_grad};

use crate::training::MicroBatching;

/// Runs `score` over all texts, as many at a time as `micro` allows, and puts the scores back in order. Checks before the
/// first forward pass that every text fits the model.
///
/// # Errors
/// When a text is longer than the model's context, a score is not finite, or on cancellation.
pub(super) fn score_in_batches(
    items: &[Response<'_>],
    texts: &[EncodedText],
    body: &LanguageModel,
    micro: MicroBatching,
    ctx: &RunContext<'_>,
    score: impl Fn(&TokenBatch) -> Tensor,
) -> Result<Vec<f64>> {
    let lengths: Vec<usize> = texts.iter().map(|text| text.ids.len()).collect();
    let context = body.config().max_positions();
    if let Some(i) = lengths.iter().position(|&length| length > context) {
        let id = &items[i].instruction.id;
        let message = format!("instruction `{id}` and its answer have {} tokens, the model's context is {context}", lengths[i]);
        return Err(Error::invalid_data(message).with_hint("use a reward model with a longer context, or sample shorter answers"));
    }
    let all: Vec<usize> = (0..texts.len()).collect();
    let mut scores = vec![0.0; texts.len()];
    let mut progress = ctx.progress("scoring", Some(texts.len() as u64), "answers");
    for rows in micro.groups_of(&all, |index| std::slice::from_ref(&texts[index])) {
        ctx.cancel.check()?;
        let picked: Vec<&EncodedText> = rows.iter().map(|&row| &texts[row]).collect();
        let batch = TokenBatch::new(&picked, micro.layout, body.device())?;
        let values = no_grad(|| score(&batch)).to_kind(Kind::Double).to_device(tch::Device::Cpu);
        let values = Vec::<f64>::try_from(values).map_err(|error| Error::other(error.to_string()))?;
        for (&row, value) in rows.iter().zip(values) {
            if !value.is_finite() {
                let message = format!("the score of the answer to instruction `{}` is {value}", items[row].instruction.id);
                return Err(Error::non_finite(message).with_hint("the model diverged in training, or its checkpoint is broken"));
            }
            scores[row] = value;
        }
        progress.advance(rows.len() as u64);
    }
    Ok(scores)
}
