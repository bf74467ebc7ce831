//! Python's languages: literals and patterns, on any text.

#![no_main]

use farmhand_annotators::chat::parsers::{compile_python_regex, read_literal};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (&str, &str)| {
    let (text, pattern) = input;
    if let Ok(value) = read_literal(text) {
        // What was read once is read again from its JSON, for JSON's values are Python's but for three words.
        let again = value.to_string();
        if !["true", "false", "null"].iter().any(|word| again.contains(word)) && !again.contains("\\u") {
            assert_eq!(read_literal(&again).as_ref().map(ToString::to_string), Ok(again.clone()), "{text}");
        }
    }
    if pattern.len() < 200
        && let Ok(regex) = compile_python_regex(pattern)
        && let Ok(Some(found)) = regex.find(text)
    {
        assert!(text.get(found.start()..found.end()).is_some());
    }
});
