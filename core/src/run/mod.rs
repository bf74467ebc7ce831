//! The run directory. Only this module writes into it.

mod atomic;
mod journal;
mod stage_dir;

pub use atomic::{file_hash, hash_path, write_atomic, write_dir_atomic};
pub use journal::Journal;
pub use stage_dir::StageDir;
