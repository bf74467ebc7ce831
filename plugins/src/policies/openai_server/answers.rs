//! From a server's answer to a completion.

use farmhand_core::types::{FinishReason, Message, SamplingParams};
use farmhand_core::{Error, ErrorKind, Result};
use farmhand_endpoints::{Answer, Finish};
use farmhand_models::{TextCodec, text_before_stop};

use super::connection::no_log_probs;

/// An instruction in every form that may be sent.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    /// The instruction's id.
    pub(super) id: String,
    /// The prompt's ids by the checkpoint's tokenizer and template, when those count.
    pub(super) ids: Option<Vec<u32>>,
    /// The prompt as text; empty through the chat interface.
    pub(super) text: String,
    /// The conversation; empty through the completions interface.
    pub(super) messages: Vec<Message>,
}

/// Where log-probabilities come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LogProbs {
    /// Nobody asked for them.
    Unasked,
    /// Greedy decoding leaves no choice: every token has probability 1.
    Certain,
    /// The server reports them.
    Server,
}

/// What an answer becomes.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Read {
    pub(super) output: String,
    pub(super) finish: FinishReason,
    pub(super) n_tokens: u32,
    pub(super) log_prob: Option<f64>,
}

/// Reads an answer. Where the server gives token ids, the checkpoint's tokenizer decodes them, as it does for local policies.
///
/// # Errors
/// When the answer is none (filtered, aborted), or lacks what is needed.
pub(super) fn read(
    answer: &Answer,
    asked: &Asked,
    sampling: &SamplingParams,
    log_probs: LogProbs,
    codec: Option<&TextCodec>,
) -> Result<Read> {
    let remote = |message: String| Error::new(ErrorKind::RemoteService, format!("instruction `{}`: {message}", asked.id));
    let finish = match &answer.finish {
        Finish::EndOfSequence => FinishReason::Stop,
        Finish::StopText => FinishReason::StopString,
        Finish::Length => FinishReason::Length,
        Finish::Stop => {
            return Err(remote("the server does not say whether the model or a stop text ended an answer".to_owned())
                .with_hint("leave `stop` out: an answer that a stop text ended has no end-of-sequence token to learn from"));
        }
        Finish::Filtered => {
            return Err(remote("the server's content filter refused an answer".to_owned()).with_hint("leave the instruction out"));
        }
        Finish::ToolCalls => return Err(remote("the model called a function, which nobody offered".to_owned())),
        Finish::Other(reason) => return Err(remote(format!("an answer ended with `{reason}`, expected `stop` or `length`"))),
    };
    let output = match (&answer.token_ids, codec) {
        (Some(ids), Some(codec)) => text_before_stop(&codec.decode(ids), &sampling.stop).to_owned(),
        (None, Some(codec)) if asked.messages.is_empty() => codec.answer_in(&answer.text).to_owned(),
        _ => answer.text.clone(),
    };
    let tokens = answer.log_probs.as_ref();
    let counted = answer.token_ids.as_ref().map(Vec::len).or(answer.n_completion_tokens.map(|n| n as usize));
    let n_tokens =
        counted.or(tokens.map(Vec::len)).ok_or_else(|| remote("the server does not count the answer's tokens".to_owned()))?;
    let log_prob = match log_probs {
        LogProbs::Unasked => None,
        LogProbs::Certain => Some(0.0),
        LogProbs::Server => {
            let tokens = tokens.ok_or_else(|| no_log_probs().context(format_args!("instruction `{}`", asked.id)))?;
            if let Some(ids) = answer.token_ids.as_ref().filter(|ids| ids.len() != tokens.len()) {
                return Err(remote(format!("the server gave {} log-probabilities for {} tokens", tokens.len(), ids.len())));
            }
            Some(tokens.iter().map(|token| token.log_prob).sum())
        }
    };
    Ok(Read { output, finish, n_tokens: n_tokens as u32, log_prob })
}
