//! The engine from outside: parity with transformers, model folders that are wrong, generation in batches.

mod generation;
mod loading;
mod parity;

use std::path::{Path, PathBuf};

/// A folder under `tests/golden`, made by `make_goldens.py` there.
fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// Copies the files of a folder.
fn copy_folder(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).expect("a folder") {
        let path = entry.expect("an entry").path();
        std::fs::copy(&path, to.join(path.file_name().expect("a name"))).expect("copied");
    }
}
