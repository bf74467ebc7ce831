//! Data files and what is made of them: readers and writers for the field's forms, splits, pairing, and the project's own
//! synthetic instructions.
//!
//! Each reader takes a file whose records have one of its known forms, tells the form by the first record's fields, and
//! gives back our own types with a [`ReadReport`]. See [`Records`] for layouts and compression.

mod completions;
mod conversation;
mod demonstrations;
mod fields;
mod form;
mod human_judgements;
mod instructions;
mod json_list;
mod judgements;
mod pairing;
mod preferences;
mod ratings;
mod records;
mod report;
mod split;
mod verdict_scale;
mod write;

pub mod synthetic;

pub use completions::{read_completions, read_ranked_lists, read_scored_completions};
pub use demonstrations::read_demonstrations;
pub use instructions::read_instructions;
pub use judgements::{UNKNOWN_ANNOTATOR, read_comparisons, read_judgements};
pub use pairing::{PairedSamples, PairedWithReference, PairsPerInstruction, pair_samples, pair_with_reference};
pub use preferences::read_preference_pairs;
pub use ratings::{read_labelled_completions, read_rated_completions};
pub use records::{Record, RecordError, Records};
pub use report::{BadRecord, BadRecords, Location, ParquetReader, ReadOptions, ReadReport};
pub use split::{HasInstruction, Share, check_disjoint, split};
pub use verdict_scale::VerdictScale;
pub use write::{
    LeftOutOfPreferences, write_alpaca_eval_annotations, write_alpaca_eval_outputs, write_alpaca_farm_preferences,
    write_compressed, write_jsonl, write_trl_preferences,
};
