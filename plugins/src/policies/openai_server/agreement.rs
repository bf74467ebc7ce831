//! Whether a server tokenises and renders as a checkpoint does, and where not.

use farmhand_core::types::Instruction;
use farmhand_core::{CancelFlag, Error, Result};
use farmhand_endpoints::{Client, wait};
use farmhand_models::{TextCodec, chat_messages};

/// Texts on which tokenizers and templates differ: spaces and lines, digits, contractions, accents, scripts, emoji, code.
const PROBES: [&str; 8] = [
    "The quick brown fox jumps over 13 lazy dogs, doesn't it?",
    "  two spaces,\ttab\n\n\nthree lines  \r\n and an end ",
    "1234567890 3.14159 1,000,000 0x1F -7",
    "naïve café — “quoted” … ﬁne Ångström e\u{301}",
    "def f(x):\n    return x**2  # four spaces\n",
    "人工智能。かなカナ 한국어 العربية हिन्दी",
    "🦙🏽 👩‍👩‍👧 🇨🇭\u{200b}!",
    "https://example.org/a?b=c&d=%20 WE'LL DON'T <b>x</b> [INST]",
];

/// Tokens shown before and after a difference.
const SHOWN_TOKENS: usize = 10;

/// What a comparison shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Agreement {
    /// The same ids.
    Same,
    /// The server does not tell its ids.
    Untold,
}

/// Compares the tokenizers on the probe texts and on the text of a rendered prompt, special tokens included.
///
/// # Errors
/// When they differ, or the server fails.
pub(super) fn tokenizers(
    client: &Client,
    model: &str,
    codec: &TextCodec,
    prompt: &str,
    cancel: &CancelFlag,
) -> Result<Agreement> {
    for text in PROBES.iter().chain([&prompt]) {
        let asking = client.tokenize_text(model, text);
        let Some(theirs) = wait(client.unless_cancelled(asking, cancel))? else { return Ok(Agreement::Untold) };
        let ours = codec.tokenizer.encode_markup(text)?;
        if let Some(difference) = difference(codec, &ours, &theirs) {
            let shown: String = text.chars().take(60).collect();
            return Err(Error::invalid_config(format!(
                "the server has another tokenizer than the checkpoint: for {shown:?} {difference}"
            ))
            .with_hint("serve this checkpoint, or set `checkpoint` to the folder that the server serves"));
        }
    }
    Ok(Agreement::Same)
}

/// Compares the chat templates on conversations of one turn each.
///
/// # Errors
/// When they differ, or the server fails.
pub(super) fn templates(client: &Client, model: &str, codec: &TextCodec, cancel: &CancelFlag) -> Result<Agreement> {
    for text in PROBES {
        let instruction = Instruction::new(text, None);
        let asking = client.tokenize_messages(model, &chat_messages(&instruction));
        let Some(theirs) = wait(client.unless_cancelled(asking, cancel))? else { return Ok(Agreement::Untold) };
        same_rendering(codec, &codec.prompt(&instruction)?, &theirs, &format!("the question {text:?}"))?;
    }
    Ok(Agreement::Same)
}

/// That the server rendered a prompt as the checkpoint does.
///
/// # Errors
/// When it did not; shows where.
pub(super) fn same_rendering(codec: &TextCodec, ours: &[u32], theirs: &[u32], what: &str) -> Result<()> {
    let Some(difference) = difference(codec, ours, theirs) else { return Ok(()) };
    Err(Error::invalid_config(format!("the server renders prompts otherwise than the checkpoint: for {what} {difference}"))
        .with_hint("use `api = \"completions\"`, which sends the checkpoint's rendering, or serve the checkpoint's own folder and template"))
}

/// Where two lists of ids differ first, in words; `None` when they do not.
fn difference(codec: &TextCodec, ours: &[u32], theirs: &[u32]) -> Option<String> {
    if ours == theirs {
        return None;
    }
    let at = ours.iter().zip(theirs).take_while(|(a, b)| a == b).count();
    let spelled = |ids: &[u32]| codec.tokenizer.decode_with_specials(ids);
    let shown = |ids: &[u32]| match &ids[at..] {
        [] => "the end".to_owned(),
        [id, ..] => format!("{id} (in {:?})", spelled(&ids[at..ids.len().min(at + SHOWN_TOKENS)])),
    };
    let mut text = format!("token {} is {} at the server and {} in the checkpoint", at + 1, shown(theirs), shown(ours));
    if at > 0 {
        text += &format!(", after {:?}", spelled(&ours[at.saturating_sub(SHOWN_TOKENS)..at]));
    }
    text += &format!("; {} and {} tokens", theirs.len(), ours.len());
    if theirs.len() == ours.len() + 1 && theirs[1..] == *ours {
        text += ": the server puts one in front, such as a beginning-of-sequence token";
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use farmhand_models::PromptFormat;

    use super::*;
    use crate::testing::tokenizer;

    #[test]
    fn the_first_difference_is_shown_with_what_is_before_it() {
        let codec = TextCodec::new(tokenizer(), PromptFormat::Chat).expect("a codec");
        let ours = codec.prompt(&Instruction::new("say yes", None)).expect("encoded");
        assert_eq!(difference(&codec, &ours, &ours), None);
        let mut theirs = ours.clone();
        theirs[2] = 5;
        let text = difference(&codec, &ours, &theirs).expect("different");
        assert!(text.starts_with("token 3 is 5 (in ") && text.contains("in the checkpoint, after \"<|im_start|>"), "{text}");
        let text = difference(&codec, &ours, &ours[..4]).expect("different");
        assert!(
            text.starts_with("token 5 is the end at the server") && text.contains(&format!("; 4 and {} tokens", ours.len())),
            "{text}"
        );
        let with_bos = [&[0], ours.as_slice()].concat();
        assert!(difference(&codec, &ours, &with_bos).expect("different").contains("puts one in front"));
        let error = same_rendering(&codec, &ours, &theirs, "instruction `i`").expect_err("different");
        assert!(error.message().contains("for instruction `i` token 3") && error.hint().is_some(), "{error}");
    }
}
