//! The frozen policy that a method stays close to.

use std::path::PathBuf;

use farmhand_core::run::hash_path;
use farmhand_core::{Checkpoint, Error, Result};
use farmhand_models::LanguageModel;

/// Loads a reference policy for `policy`: it must know the policy's tokens and take texts as long.
///
/// # Errors
/// When it cannot be loaded, or its vocabulary or context does not fit.
pub fn load_reference(checkpoint: &Checkpoint, policy: &LanguageModel) -> Result<LanguageModel> {
    let reference = LanguageModel::load(checkpoint.path(), policy.device())?;
    let (own, wanted) = (reference.config(), policy.config());
    let problem = if own.vocab_size() != wanted.vocab_size() {
        format!("has a vocabulary of {} tokens, the policy one of {}", own.vocab_size(), wanted.vocab_size())
    } else if own.max_positions() < wanted.max_positions() {
        format!("has a context of {} tokens, the policy one of {}", own.max_positions(), wanted.max_positions())
    } else {
        return Ok(reference);
    };
    Err(Error::invalid_config(format!("the reference `{}` {problem}", checkpoint.path().display()))
        .with_hint("a reference is a model of the same family, usually the one the policy starts from"))
}

/// Whether two checkpoints are the same model, in one folder or in two: then there is no need to load it twice.
///
/// # Errors
/// When a file cannot be read.
pub fn is_same_model(a: &Checkpoint, b: &Checkpoint) -> Result<bool> {
    if a.path() == b.path() || a.path().canonicalize().is_ok_and(|a| b.path().canonicalize().is_ok_and(|b| a == b)) {
        return Ok(true);
    }
    let (a, b) = (model_files(a)?, model_files(b)?);
    let differs = |(a, b): (&(PathBuf, u64), &(PathBuf, u64))| a.0.file_name() != b.0.file_name() || a.1 != b.1;
    if a.len() != b.len() || a.iter().zip(&b).any(differs) {
        return Ok(false);
    }
    for ((a, _), (b, _)) in a.iter().zip(&b) {
        if hash_path(a)? != hash_path(b)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The files that decide what a model computes, with their lengths, sorted.
fn model_files(checkpoint: &Checkpoint) -> Result<Vec<(PathBuf, u64)>> {
    let dir = checkpoint.path();
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(|error| Error::io("read", dir, error))? {
        let path = entry.map_err(|error| Error::io("read", dir, error))?.path();
        let is_model = path.extension().is_some_and(|extension| extension == "safetensors")
            || path.file_name().is_some_and(|name| name == "config.json" || name == farmhand_core::ADAPTER_CONFIG);
        if is_model {
            let length = std::fs::metadata(&path).map_err(|error| Error::io("read", &path, error))?.len();
            files.push((path, length));
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use farmhand_core::ErrorKind;

    use super::*;
    use crate::testing::{Stage, tiny_checkpoint, tiny_checkpoint_with};

    #[test]
    fn a_reference_that_does_not_fit_the_policy_is_refused_with_both_numbers() {
        let stage = Stage::new();
        let (long, short) = (tiny_checkpoint(&stage), tiny_checkpoint_with(&stage, "short", 48));
        let policy = |checkpoint: &Checkpoint| LanguageModel::load(checkpoint.path(), tch::Device::Cpu).expect("loaded");
        assert!(load_reference(&long, &policy(&short)).is_ok());
        let error = load_reference(&short, &policy(&long)).expect_err("its context is shorter");
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        assert!(error.message().contains("48 tokens, the policy one of 96"), "{error}");
    }

    #[test]
    fn the_same_folder_and_a_copy_of_it_are_the_same_model_and_others_are_not() {
        let stage = Stage::new();
        let (one, other) = (tiny_checkpoint(&stage), tiny_checkpoint_with(&stage, "short", 48));
        let copy = stage.path().join("copy");
        std::fs::create_dir(&copy).expect("made");
        for file in ["config.json", "model.safetensors"] {
            std::fs::copy(one.path().join(file), copy.join(file)).expect("copied");
        }
        let copy = Checkpoint::open(copy).expect("a model");
        assert!(is_same_model(&one, &one).expect("read") && is_same_model(&one, &copy).expect("read"));
        assert!(!is_same_model(&one, &other).expect("read"));
        let model = LanguageModel::load(copy.path(), tch::Device::Cpu).expect("loaded");
        let _ = tch::no_grad(|| model.parameters()[0].1.shallow_clone().g_mul_scalar_(2.0));
        model.save(copy.path()).expect("written");
        assert!(!is_same_model(&one, &copy).expect("read"));
    }
}
