//! Prompts: no template panics, and what an example says moves nothing.

#![no_main]

use farmhand_annotators::chat::prompt::{Example, PlaceholderTemplate, Prompt, PromptFile, Variables};
use libfuzzer_sys::fuzz_target;
use serde_json::json;

/// A text that no template holds, so that it can be found again.
const MARK: &str = "\u{e000}mark\u{e001}";

fn shape(prompt: &Prompt) -> (usize, usize) {
    match prompt {
        Prompt::Plain(text) => (0, text.matches(MARK).count()),
        Prompt::Chat(messages) => (messages.len(), messages.iter().map(|message| message.content.matches(MARK).count()).sum()),
    }
}

fuzz_target!(|input: (u8, &str, &str)| {
    let (batch_size, template, hostile) = input;
    if template.contains(MARK) || hostile.contains(MARK) {
        return;
    }
    let batch_size = usize::from(batch_size % 5);
    if let Ok(parsed) = PlaceholderTemplate::parse(template, batch_size) {
        let example = |text: &str| {
            let marked = format!("{text}{MARK}");
            Example { instruction: marked.clone(), input: marked.clone(), output_1: marked.clone(), output_2: marked }
        };
        for parsed in [parsed.clone(), parsed.into_chat()] {
            let filled = |text: &str| parsed.fill(&vec![example(text); batch_size]).expect("whole prompts");
            let (plain, attacked) = (filled("x"), filled(hostile));
            assert_eq!(plain.len(), attacked.len());
            assert!(plain.iter().zip(&attacked).all(|(a, b)| shape(a) == shape(b)));
            assert!(shape(&plain[0]).1 >= 2 * batch_size);
        }
    }
    const VARIABLES: Variables = Variables { needed: &["output_1", "output_2"], other: &["instruction"] };
    if let Ok(file) = PromptFile::parse(template, VARIABLES) {
        // A template of one's own may loop as long as it likes; that is not what is looked for here.
        if !template.contains("{%") && template.len() < 2000 {
            let _ = file.fill(&json!({ "instruction": hostile, "output_1": hostile, "output_2": hostile }));
        }
    }
});
