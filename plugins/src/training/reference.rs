//! The frozen policy that a method stays close to.

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
}
