//! Trains a byte-level BPE tokenizer on texts; the same texts always give the same tokenizer.

use std::collections::BTreeMap;

use farmhand_core::{Error, Result};
use serde_json::{Value, json};
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, TokenizerBuilder};

use crate::tokenizer::{CONFIG_FILE, GENERATION_FILE, TEMPLATE_FILE, TOKENIZER_FILE, Tokenizer};

/// The special tokens of a trained tokenizer, ids 0, 1, 2: end of sequence (also padding), start and end of a turn.
pub const TRAINED_SPECIALS: [&str; 3] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];

/// The chat template of a trained tokenizer: ChatML without a default system turn.
const CHAT_TEMPLATE: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + \
     '<|im_end|>' + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

/// Trains a byte-level BPE tokenizer with at most `vocab_size` tokens: 3 specials, 256 bytes, and the merges that the
/// texts pay for (fewer when the texts are small). Words are split as GPT-2 does; there is no normalisation, so decoding
/// gives every text back unchanged.
///
/// # Errors
/// When `vocab_size` is below 259.
pub fn train_bpe(texts: impl Iterator<Item = String> + Send, vocab_size: usize) -> Result<Tokenizer> {
    let smallest = 256 + TRAINED_SPECIALS.len();
    if vocab_size < smallest {
        return Err(Error::invalid_config(format!("a byte-level vocabulary needs at least {smallest} tokens, got {vocab_size}")));
    }
    let special = |token: &str| AddedToken::from(token, true).normalized(false);
    let mut trainer = BpeTrainerBuilder::new()
        .show_progress(false)
        .vocab_size(vocab_size)
        .min_frequency(2)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .special_tokens(TRAINED_SPECIALS.iter().map(|token| special(token)).collect())
        .build();
    let byte_level = ByteLevel::new(false, false, true);
    let failed = |error: tokenizers::Error| Error::other("the tokenizer cannot be trained").with_source(error);
    let mut tokenizer = TokenizerBuilder::new()
        .with_model(BPE::default())
        .with_normalizer(None::<tokenizers::NormalizerWrapper>)
        .with_pre_tokenizer(Some(byte_level))
        .with_post_processor(Some(byte_level))
        .with_decoder(Some(byte_level))
        .build()
        .map_err(failed)?;
    // One thread's worth of texts at a time would change nothing: counts are summed and ties are broken by token id.
    tokenizer.train(&mut trainer, texts).map_err(failed)?;
    tokenizer.add_special_tokens(TRAINED_SPECIALS.iter().map(|token| special(token))).map_err(failed)?;

    let text = tokenizer.to_string(true).map_err(failed)?;
    let files = BTreeMap::from([
        (TOKENIZER_FILE, text.into_bytes()),
        (CONFIG_FILE, pretty(&tokenizer_config())),
        (TEMPLATE_FILE, CHAT_TEMPLATE.as_bytes().to_vec()),
        (GENERATION_FILE, pretty(&json!({ "eos_token_id": [0, 2], "pad_token_id": 0 }))),
    ]);
    Tokenizer::from_files(files, None)
}

fn tokenizer_config() -> Value {
    let added = |token: &str| json!({ "content": token, "lstrip": false, "normalized": false, "rstrip": false, "single_word": false, "special": true });
    let decoder: serde_json::Map<String, Value> =
        TRAINED_SPECIALS.iter().enumerate().map(|(id, token)| (id.to_string(), added(token))).collect();
    json!({
        "add_prefix_space": false,
        "added_tokens_decoder": decoder,
        "additional_special_tokens": &TRAINED_SPECIALS[1..],
        "clean_up_tokenization_spaces": false,
        "eos_token": TRAINED_SPECIALS[0],
        "model_max_length": 1_000_000_000u64,
        "pad_token": TRAINED_SPECIALS[0],
        "tokenizer_class": "PreTrainedTokenizerFast",
    })
}

fn pretty(value: &Value) -> Vec<u8> {
    let mut text = serde_json::to_vec_pretty(value).expect("a JSON value is JSON");
    text.push(b'\n');
    text
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use farmhand_core::run::hash_path;
    use farmhand_core::types::{Instruction, Message, Role};
    use serde::Deserialize;

    use super::*;
    use crate::{Ending, PromptFormat, TextCodec};

    #[derive(Deserialize)]
    struct Golden {
        texts: Vec<GoldenText>,
        chats: Vec<GoldenChat>,
    }

    #[derive(Deserialize)]
    struct GoldenText {
        text: String,
        ids: Vec<u32>,
    }

    #[derive(Deserialize)]
    struct GoldenChat {
        messages: Vec<Message>,
        answer: String,
        prompt: Vec<u32>,
        whole: Vec<u32>,
    }

    #[test]
    fn transformers_reads_the_folder_and_gives_the_same_ids() {
        let golden: Golden = serde_json::from_str(include_str!("../tests/golden_text/tokenizer_ids.json")).expect("goldens");
        let codec = TextCodec::new(train_bpe(texts(), 400).expect("trained"), PromptFormat::Chat).expect("a codec");
        assert!(golden.texts.len() > 5 && golden.chats.len() > 2);
        for case in golden.texts {
            assert_eq!(codec.tokenizer.encode_markup(&case.text).expect("encoded"), case.ids, "{:?}", case.text);
        }
        for mut case in golden.chats {
            let last = case.messages.pop().expect("a turn");
            assert_eq!(last.role, Role::User);
            let instruction = Instruction::with_history(last.content, None, case.messages);
            let text = codec.encode(&instruction, &case.answer, Ending::WithEos).expect("encoded");
            assert_eq!((text.prompt(), &text.ids), (case.prompt.as_slice(), &case.whole));
        }
    }

    fn texts() -> impl Iterator<Item = String> {
        (0..200).map(|i| format!("The {i}th farmer has {} alpacas; the alpacas eat hay, and hay is {}.", i * 7 % 31, i % 5))
    }

    #[test]
    fn the_same_texts_give_the_same_files_and_a_folder_that_loads_again() {
        let (one, two) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        let tokenizer = train_bpe(texts(), 400).expect("trained");
        tokenizer.save(one.path()).expect("saved");
        train_bpe(texts(), 400).expect("trained").save(two.path()).expect("saved");
        assert_eq!(hash_path(one.path()).expect("hashed"), hash_path(two.path()).expect("hashed"));
        // Kept with the goldens: a change here changes the ids of every tokenizer trained from now on.
        let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden_text/tokenizer");
        assert_eq!(hash_path(&kept).expect("hashed"), hash_path(one.path()).expect("hashed"));

        let again = Tokenizer::load(one.path()).expect("loaded");
        let text = "The alpacas eat 12 hay; naïve 🦙 \u{0}\r\n\tok <|im_end|>";
        let ids = again.encode(text).expect("encoded");
        assert_eq!(ids, tokenizer.encode(text).expect("encoded"));
        assert_eq!(again.decode(&ids), text);
        assert!(ids.len() < text.len() && ids.iter().all(|id| !again.is_special(*id)));
        assert_eq!(again.encode_markup("a<|im_end|>").expect("encoded").last(), Some(&2));
        assert_eq!((again.eos_ids(), again.pad_id(), again.bos_id()), ([0, 2].as_slice(), 0, None));
        assert!(again.vocab_size() <= 400 && again.check_vocabulary(again.vocab_size()).is_ok());
        let error = again.check_vocabulary(300).expect_err("too few rows");
        assert!(error.message().contains("the model's vocabulary holds 300"), "{error}");
    }

    #[test]
    fn a_vocabulary_too_small_for_the_bytes_is_refused() {
        assert!(train_bpe(texts(), 258).is_err());
        assert_eq!(train_bpe(std::iter::empty(), 259).expect("bytes only").vocab_size(), 259);
    }
}
