//! The question of one of our own judges: a filled prompt with the options' model and decoding.

use farmhand_core::{Result, RunContext};
use farmhand_endpoints::{AnswerFormat, ChatRequest};

use super::ask::Question;
use super::ask_options::AskOptions;
use super::prompt::Prompt;

/// A prompt as a question, with the seed of its sample. A greedy reply is the same whatever the seed, so all runs share it.
///
/// # Errors
/// When the options name no model.
pub(super) fn question(
    options: &AskOptions,
    prompt: Prompt,
    format: AnswerFormat,
    ctx: &RunContext<'_>,
) -> Result<(Question, u64)> {
    let Prompt::Chat(messages) = prompt else { unreachable!("our own prompts are conversations") };
    let mut request = ChatRequest { decoding: options.decoding(), format, ..ChatRequest::new(options.model()?, messages) };
    if options.temperature == 0.0 {
        return Ok((Question::Chat(request), 0));
    }
    let text = request.question().to_string();
    let seed = ctx.seed.child_text("judge's reply", &text).to_i64().unsigned_abs();
    if options.send_seed {
        // OpenAI's interface takes 32 bits from some clients and 64 from others; 31 fit everywhere.
        request.decoding.seed = Some(seed & 0x7fff_ffff);
    }
    Ok((Question::Chat(request), seed))
}
