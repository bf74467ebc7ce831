//! The run directory. Only this module writes into it.
//!
//! `runs/<name>/` holds `run.toml` (the resolved configuration), `manifest.json` (per stage: its options and the
//! hashes of its inputs and outputs), `events.jsonl` (progress and scalars, append-only) and one folder a stage. A
//! stage whose record fits is skipped; an interrupted one goes on from its last saved state.

mod atomic;
mod chunked;
mod chunks_side_by_side;
mod event_log;
mod file_hash;
mod journal;
mod ledger;
mod manifest;
mod run_dir;
mod shared_journal;
mod stage_dir;
#[cfg(test)]
mod testing;

pub use atomic::{write_atomic, write_dir_atomic};
pub use chunked::chunked;
pub use chunks_side_by_side::chunked_side_by_side;
pub use event_log::EventLog;
pub use file_hash::{file_hash, hash_path};
pub use journal::Journal;
pub use ledger::{Ledger, SPENDING};
pub use manifest::{MANIFEST_FORMAT, Manifest, StageRecord};
pub use run_dir::{RunDir, StagePlan, StageStatus};
pub use shared_journal::{News, SharedJournal};
pub use stage_dir::StageDir;
