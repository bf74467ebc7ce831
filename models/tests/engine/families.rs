//! Tokenizers with the habits of published families: the same ids as transformers, and answers that survive the way back.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use farmhand_core::types::Instruction;
use farmhand_models::{Ending, PromptFormat, TextCodec, Tokenizer};

const FAMILIES: [&str; 5] = ["mistral", "gemma", "phi3", "qwen", "gpt_neox"];

#[derive(serde::Deserialize)]
struct Golden {
    texts: Vec<Text>,
    chats: Vec<Chat>,
}

#[derive(serde::Deserialize)]
struct Text {
    text: String,
    ids: Vec<u32>,
}

#[derive(serde::Deserialize)]
struct Chat {
    question: String,
    answer: String,
    prompt: Vec<u32>,
    whole: Vec<u32>,
}

/// A folder made by `tests/golden_text/make_families.py`.
pub(crate) fn folder(family: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden_text/families").join(family)
}

fn load(family: &str) -> Tokenizer {
    Tokenizer::load(&folder(family)).unwrap_or_else(|error| panic!("{family}: {error:?}"))
}

fn goldens() -> BTreeMap<String, Golden> {
    let text = std::fs::read_to_string(folder("families.json")).expect("a fixture");
    serde_json::from_str(&text).expect("as make_families.py writes it")
}

#[test]
fn ids_of_texts_are_those_of_transformers() {
    for (family, golden) in goldens() {
        let tokenizer = load(&family);
        for Text { text, ids } in &golden.texts {
            assert_eq!(&tokenizer.encode(text).expect("encoded"), ids, "{family}: {text:?}");
        }
    }
}

#[test]
fn ids_of_chats_are_those_of_transformers() {
    let mut n = 0;
    for (family, golden) in goldens().into_iter().filter(|(_, golden)| !golden.chats.is_empty()) {
        let codec = TextCodec::new(load(&family), PromptFormat::Chat).expect("a codec");
        for Chat { question, answer, prompt, whole } in &golden.chats {
            let instruction = Instruction::new(question, None);
            assert_eq!(&codec.prompt(&instruction).expect("encoded"), prompt, "{family}: {question:?}");
            let text = codec.encode(&instruction, answer, Ending::WithEos).expect("encoded");
            assert_eq!(text.prompt(), prompt, "{family}");
            // After the end of the turn a template may write a line break or an end of text, which nothing learns from.
            assert!(whole.starts_with(&text.ids), "{family}, {answer:?}: {:?} and {whole:?}", text.ids);
            assert!(whole.len() <= text.ids.len() + 1, "{family}, {answer:?}");
            n += 1;
        }
    }
    assert!(n >= 20, "every family with a template is compared");
}

#[test]
fn answers_survive_the_way_to_ids_and_back() {
    let hello = Instruction::new("How many legs has an alpaca?", None);
    for family in FAMILIES {
        let tokenizer = load(family);
        let mut formats = vec![PromptFormat::None, PromptFormat::Alpaca];
        formats.extend(tokenizer.chat_template_source().map(|_| PromptFormat::Chat));
        for format in formats {
            let codec = TextCodec::new(tokenizer.clone(), format).expect("a codec");
            for answer in ["Four legs.", "four", " Four", "\nTwo,\n\n  three", "é 🦙 漢字", "x  y\t", "", "</s><|end|>"] {
                let text = codec.encode(&hello, answer, Ending::WithEos).expect("encoded");
                assert_eq!(text.prompt(), codec.prompt(&hello).expect("encoded"), "{family}, {format:?}, {answer:?}");
                assert_eq!(codec.decode(text.response()), answer, "{family}, {format:?}: {:?}", text.response());
                assert_eq!(text.ids.last(), Some(&codec.end_id()), "{family}, {format:?}");
            }
        }
    }
}
