//! Settings files: whatever one holds, reading it ends in judges or in one error.

#![no_main]

use std::path::Path;

use farmhand_annotators::chat::alpaca_eval::settings;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    match settings(text, Path::new("fuzzed/configs.yaml")) {
        Ok(judges) => assert!(!judges.is_empty()),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
