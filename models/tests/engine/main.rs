//! The engine from outside: parity with transformers, tokenizers of families, model folders that are wrong, generation in batches.

mod adapters;
mod batching;
mod families;
mod generation;
mod loading;
mod parity;
mod published;
mod recovery;
mod vocabulary;

use std::path::{Path, PathBuf};

use serde_json::Value;

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

/// Changes a JSON file.
fn edit_json(path: &Path, edit: impl FnOnce(&mut Value)) {
    let mut json = serde_json::from_str(&std::fs::read_to_string(path).expect("readable")).expect("JSON");
    edit(&mut json);
    std::fs::write(path, json.to_string()).expect("written");
}
