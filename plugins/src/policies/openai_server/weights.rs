//! Whether a server's weights are those of a checkpoint, as far as the probability of one answer shows.

use std::path::Path;

use farmhand_core::{CancelFlag, Device, Error, ErrorKind, EventSink, Result};
use farmhand_endpoints::Answer;
use farmhand_models::{BatchLayout, LanguageModel, TextCodec, TokenBatch, selected_log_probs_no_grad, tch_device};
use tch::Kind;

/// Tokens of the answer that is compared.
pub(super) const ANSWER_TOKENS: u32 = 32;

/// Loads a checkpoint's weights, asks them for the log-probabilities of a server's answer to `prompt`, and compares. The
/// weights go again afterwards.
///
/// # Errors
/// When they differ by more than `limit` nats a token on average, or the server does not show enough to say.
pub(super) fn same_weights(
    folder: &Path,
    codec: &TextCodec,
    prompt: &[u32],
    answer: &Answer,
    limit: f64,
    (device, cancel, events): (Device, &CancelFlag, &dyn EventSink),
) -> Result<()> {
    let (Some(ids), Some(tokens)) = (&answer.token_ids, &answer.log_probs) else {
        let message = "the server shows no token ids with their log-probabilities, so its weights cannot be compared";
        return Err(Error::new(ErrorKind::RemoteService, message).with_hint("leave `max_log_prob_gap` out, or use vLLM"));
    };
    if ids.is_empty() || ids.len() != tokens.len() {
        let message = format!("the server gave {} log-probabilities for {} tokens", tokens.len(), ids.len());
        return Err(Error::new(ErrorKind::RemoteService, message));
    }
    let model = LanguageModel::load(folder, tch_device(device)?)?;
    cancel.check()?;
    let text = codec.encode_tokens(prompt, ids);
    let batch = TokenBatch::new(&[&text], BatchLayout::Packed, model.device())?;
    let ours = selected_log_probs_no_grad(&model, &batch).0.to_kind(Kind::Double).to_device(tch::Device::Cpu);
    let ours = Vec::<f64>::try_from(ours).map_err(|error| Error::other(error.to_string()))?;
    let gaps = ours.iter().zip(tokens).map(|(ours, theirs)| (ours - theirs.log_prob).abs());
    let gap = gaps.sum::<f64>() / ids.len() as f64;
    if gap <= limit {
        events.info(&format!(
            "  the server's log-probabilities are {gap:.2e} nats a token from the checkpoint's ({} tokens)",
            ids.len()
        ));
        return Ok(());
    }
    let message = format!(
        "the server's log-probabilities are {gap:.3} nats a token from those of `{}`, `max_log_prob_gap` is {limit}",
        folder.display()
    );
    Err(Error::invalid_config(message).with_hint(
        "it serves other weights, or computes with fewer digits: `--dtype float32` serves a checkpoint as it was trained",
    ))
}
