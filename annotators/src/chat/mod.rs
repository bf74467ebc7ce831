//! Judges that are language models behind a server: prompts, parsers, and the loop that asks.

pub mod parsers;
pub mod prompt;
