//! Where the value model comes from.

use farmhand_core::{Checkpoint, CheckpointKind, Error, Result, RewardModel};
use farmhand_models::{LanguageModel, ScalarHead, ScalarModel};

use super::ValueInit;

/// The value model: a body from where `init` says, and a head that gives 0 everywhere.
pub(super) fn starting_value_model(
    init: ValueInit,
    policy: &Checkpoint,
    reward_model: &dyn RewardModel,
    device: tch::Device,
) -> Result<ScalarModel> {
    let from_reward = match (init, reward_model.checkpoint()) {
        (ValueInit::Policy, _) | (ValueInit::Auto, None) => None,
        (ValueInit::RewardModel, None) => {
            return Err(Error::invalid_config(
                "`value_init = \"reward_model\"` needs a reward model with a checkpoint of its own",
            )
            .with_hint("use `value_init = \"policy\"`"));
        }
        (_, Some(checkpoint)) => match (init, reads_the_same_tokens(policy, checkpoint)?) {
            (_, true) => Some(checkpoint),
            (ValueInit::RewardModel, false) => {
                return Err(Error::invalid_config(
                    "`value_init = \"reward_model\"` needs a reward model with the policy's tokenizer",
                )
                .with_hint("use `value_init = \"policy\"`"));
            }
            (_, false) => None,
        },
    };
    let body = match from_reward {
        Some(checkpoint) if checkpoint.kind()? == CheckpointKind::RewardModel => {
            ScalarModel::load(checkpoint.path(), device)?.body
        }
        Some(checkpoint) => LanguageModel::load(checkpoint.path(), device)?,
        None => LanguageModel::load(policy.path(), device)?,
    };
    let head = ScalarHead::zeros(body.config().hidden_size(), device);
    Ok(ScalarModel::from_language_model(body, head))
}

/// Whether two checkpoints have the same tokenizer, byte for byte.
fn reads_the_same_tokens(a: &Checkpoint, b: &Checkpoint) -> Result<bool> {
    let read = |checkpoint: &Checkpoint| {
        let path = checkpoint.path().join("tokenizer.json");
        std::fs::read(&path).map_err(|error| Error::io("read", &path, error))
    };
    Ok(read(a)? == read(b)?)
}

#[cfg(test)]
mod tests {
    use farmhand_core::types::Response;
    use farmhand_core::{ErrorKind, RunContext};

    use super::*;
    use crate::testing::{Stage, tiny_checkpoint, tiny_checkpoint_with};

    struct Untrained;

    impl RewardModel for Untrained {
        fn score(&mut self, items: &[Response<'_>], _: &RunContext<'_>) -> Result<Vec<f64>> {
            Ok(vec![0.0; items.len()])
        }
    }

    #[test]
    fn the_value_model_starts_from_the_reward_model_only_when_that_reads_the_same_tokens() {
        struct Trained(Checkpoint);
        impl RewardModel for Trained {
            fn score(&mut self, items: &[Response<'_>], _: &RunContext<'_>) -> Result<Vec<f64>> {
                Ok(vec![0.0; items.len()])
            }
            fn checkpoint(&self) -> Option<&Checkpoint> {
                Some(&self.0)
            }
        }
        let (stage, cpu) = (Stage::new(), tch::Device::Cpu);
        let (policy, other) = (tiny_checkpoint(&stage), tiny_checkpoint_with(&stage, "other", 48));
        let context = |value: &ScalarModel| value.body.config().max_positions();
        let start = |init, reward_model: &dyn RewardModel| starting_value_model(init, &policy, reward_model, cpu);
        let trained = Trained(other);
        assert_eq!(context(&start(ValueInit::Auto, &trained).expect("started")), 48);
        assert_eq!(context(&start(ValueInit::Policy, &trained).expect("started")), 96);
        assert_eq!(context(&start(ValueInit::Auto, &Untrained).expect("started")), 96);
        assert_eq!(start(ValueInit::RewardModel, &Untrained).expect_err("it has none").kind(), ErrorKind::InvalidConfig);
        std::fs::write(trained.0.path().join("tokenizer.json"), "{}").expect("written");
        assert_eq!(context(&start(ValueInit::Auto, &trained).expect("started")), 96);
        assert!(start(ValueInit::RewardModel, &trained).is_err());
    }
}
