//! Model and tokenizer must know the same tokens, as far as texts can have them.

use std::path::Path;

use farmhand_core::types::{Instruction, SamplingParams};
use farmhand_core::{Checkpoint, Error, ErrorKind, Seed};
use farmhand_models::{
    Ending, GenerateOptions, GenerationRequest, LanguageModel, LlamaOptions, ModelConfig, PromptFormat, TextCodec, Tokenizer,
    generate,
};
use serde_json::{Value, json};
use tch::{Device, Kind, no_grad};

use crate::families::folder;
use crate::{copy_folder, edit_json};

/// The folder of a family's tokenizer beside a model with this many rows, after `change`.
fn codec(family: &str, n_rows: usize, change: impl FnOnce(&Path)) -> Result<TextCodec, Error> {
    let dir = tempfile::tempdir().expect("a folder");
    copy_folder(&folder(family), dir.path());
    ModelConfig::tiny_llama(LlamaOptions { vocab_size: n_rows, ..LlamaOptions::default() }).save(dir.path()).expect("written");
    change(dir.path());
    TextCodec::load(&Checkpoint::open(dir.path()).expect("a model folder"), None)
}

fn n_tokens(family: &str) -> usize {
    Tokenizer::load(&folder(family)).expect("a fixture").vocab_size()
}

#[test]
fn a_tokenizer_with_more_tokens_than_the_model_has_rows_is_refused() {
    for family in ["mistral", "phi3", "qwen", "gpt_neox"] {
        let n = n_tokens(family);
        assert!(codec(family, n, |_| {}).is_ok(), "{family}");
        let error = codec(family, 300, |_| {}).expect_err("too few rows");
        assert_eq!(error.kind(), ErrorKind::InvalidData);
        let message = error.to_string();
        for part in [format!("the tokenizer has {n} tokens"), "vocabulary holds 300".to_owned(), "has id 300".to_owned()] {
            assert!(message.contains(&part), "{family}: no `{part}` in {message}");
        }
    }
    // Of a special token, it matters whether it ends texts.
    let error = codec("qwen", n_tokens("qwen") - 3, |_| {}).expect_err("`<|im_end|>` is the last special token");
    assert!(error.to_string().contains("`<|im_end|>`"), "{error}");
}

#[test]
fn special_tokens_no_text_has_may_lie_beyond_the_rows_but_not_be_written() {
    let n_rows = n_tokens("gemma") - 1;
    let codec_of = |change: fn(&Path)| codec("gemma", n_rows, change);
    let gemma = codec_of(|_| {}).expect("only the mark of an image is beyond");
    let nasty = Instruction::new("What is <image_soft_token>?", None);
    let text = gemma.encode(&nasty, "A <image_soft_token>.", Ending::WithEos).expect("texts are only texts");
    assert!(text.ids.iter().all(|id| (*id as usize) < n_rows));
    assert_eq!(gemma.decode(text.response()), "A <image_soft_token>.");
    let template = |dir: &Path| {
        edit_json(&dir.join("tokenizer_config.json"), |json| {
            let template = json["chat_template"].as_str().expect("a text").replace("<start_of_turn>", "<image_soft_token>");
            json["chat_template"] = Value::String(template);
        });
    };
    let error = codec_of(template).expect_err("the template writes it");
    assert!(error.to_string().contains("`<image_soft_token>` has id"), "{error}");
    let ends = |dir: &Path| edit_json(&dir.join("tokenizer_config.json"), |json| json["eos_token"] = json!("<image_soft_token>"));
    assert!(codec_of(ends).is_err(), "a text could not end");
}

#[test]
fn rows_that_fill_a_vocabulary_up_spell_nothing() {
    let tokenizer = Tokenizer::load(&folder("qwen")).expect("a fixture");
    let n = tokenizer.vocab_size();
    let padding: Vec<u32> = (n as u32..n as u32 + 7).collect();
    assert_eq!(tokenizer.ids_without_token(n + 7), padding);
    assert!(tokenizer.ids_without_token(n - 1).is_empty());
    assert_eq!(tokenizer.decode(&padding), "");
    assert_eq!(codec("qwen", n + 7, |_| {}).expect("a codec").format, PromptFormat::Chat);
    // A token that is taken out leaves a gap.
    let dir = tempfile::tempdir().expect("a folder");
    copy_folder(&folder("mistral"), dir.path());
    edit_json(&dir.path().join("tokenizer.json"), |json| {
        drop(json["model"]["vocab"].as_object_mut().expect("an object").remove("<0x00>"));
    });
    let gapped = Tokenizer::load(dir.path()).expect("loaded");
    assert_eq!(gapped.ids_without_token(300), [3]);
}

#[test]
fn rows_without_a_token_are_never_generated() {
    let mut tokenizer = Tokenizer::load(&folder("qwen")).expect("a fixture");
    let n = tokenizer.vocab_size() as u32;
    // As many rows again, so that half of the probability is theirs.
    let config = ModelConfig::tiny_llama(LlamaOptions { vocab_size: 2 * n as usize, ..LlamaOptions::default() });
    let model = LanguageModel::random(config, Seed::root(4), Device::Cpu).expect("made");
    tokenizer = tokenizer.for_model(model.config().vocab_size()).expect("it has enough");
    let requests: Vec<_> =
        (0..3).map(|i| GenerationRequest { prompt: vec![5, 7 + i, 9], seed: Seed::root(u64::from(i)) }).collect();
    for temperature in [0.0, 1.0] {
        for kernels in [true, false] {
            let sampling = SamplingParams { temperature, max_new_tokens: 30, log_probs: true, ..SamplingParams::default() };
            let options = GenerateOptions { sampling, kernels, ..GenerateOptions::default() };
            let run = |tokenizer| generate(&model, tokenizer, &requests, &options, &mut |_| Ok(())).expect("generated");
            let with = run(Some(&tokenizer));
            assert!(with.iter().flat_map(|one| &one.tokens).all(|token| *token < n));
            if temperature == 0.0 {
                continue;
            }
            assert!(
                run(None).iter().flat_map(|one| &one.tokens).any(|token| *token >= n),
                "without a tokenizer nothing is known"
            );
            // Log-probabilities are those of the rest.
            for (one, request) in with.iter().zip(&requests) {
                let ids: Vec<u32> = request.prompt.iter().chain(&one.tokens).copied().collect();
                let logits = no_grad(|| model.logits(&model.hidden_of(&ids))).narrow(1, 0, i64::from(n));
                let log_probs = logits.log_softmax(-1, Kind::Double);
                for (i, (token, log_prob)) in one.tokens.iter().zip(&one.log_probs).enumerate() {
                    let expected = log_probs.double_value(&[(request.prompt.len() + i - 1) as i64, i64::from(*token)]);
                    assert!((expected - f64::from(*log_prob)).abs() < 1e-4, "{expected} and {log_prob}");
                }
            }
        }
    }
}
