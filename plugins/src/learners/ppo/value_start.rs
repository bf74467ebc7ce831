//! Where the value model comes from.

use farmhand_core::{Checkpoint, CheckpointKind, Error, Result, RewardModel, Seed};
use farmhand_models::{FreezeConfig, LanguageModel, ScalarHead, ScalarModel, Tokenizer};

use super::{PpoConfig, ValueInit};
use crate::training::{PassOptions, start_training};

/// The value model, ready to train: a body from where the options say, and a head that gives 0 everywhere. With `lora` the body
/// has an adapter of its own, and shares the weights of `policy`, which was loaded from `init`, when it starts there.
pub(super) fn starting_value_model(
    config: &PpoConfig,
    init: &Checkpoint,
    policy: &LanguageModel,
    reward_model: &dyn RewardModel,
    seed: Seed,
) -> Result<ScalarModel> {
    let device = policy.device();
    let from_reward = match (config.value_init, reward_model.checkpoint()) {
        (ValueInit::Policy, _) | (ValueInit::Auto, None) => None,
        (ValueInit::RewardModel, None) => {
            return Err(Error::invalid_config(
                "`value_init = \"reward_model\"` needs a reward model with a checkpoint of its own",
            )
            .with_hint("use `value_init = \"policy\"`"));
        }
        (_, Some(checkpoint)) => match (config.value_init, reads_the_same_tokens(init, checkpoint)?) {
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
        // The policy's own weights do not move when it has an adapter, so two adapters can share them.
        None if config.passes.lora.is_some() => policy.without_adapter(),
        None => policy.copy()?,
    };
    let head = ScalarHead::zeros(body.config().hidden_size(), device);
    head.set_trainable(true);
    let base = from_reward.unwrap_or(init);
    body.set_precision(config.passes.precision);
    let all_of_it = PassOptions { freeze: FreezeConfig::default(), ..config.passes.clone() };
    let body = start_training(body, &all_of_it, base, seed.child("value_lora", 0))?;
    Ok(ScalarModel::from_language_model(body, head))
}

/// Whether two checkpoints have the same tokenizer, byte for byte.
fn reads_the_same_tokens(a: &Checkpoint, b: &Checkpoint) -> Result<bool> {
    Ok(Tokenizer::load(a.path())?.is_same_file(&Tokenizer::load(b.path())?))
}

#[cfg(test)]
mod tests {
    use farmhand_core::types::Response;
    use farmhand_core::{ErrorKind, RunContext};
    use farmhand_models::LoraConfig;

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
        let stage = Stage::new();
        let (init, other) = (tiny_checkpoint(&stage), tiny_checkpoint_with(&stage, "other", 48));
        let policy = LanguageModel::load(init.path(), tch::Device::Cpu).expect("loaded");
        let context = |value: &ScalarModel| value.body.config().max_positions();
        let start = |value_init, reward_model: &dyn RewardModel| {
            let config = PpoConfig { value_init, ..PpoConfig::default() };
            starting_value_model(&config, &init, &policy, reward_model, Seed::root(0))
        };
        let trained = Trained(other);
        assert_eq!(context(&start(ValueInit::Auto, &trained).expect("started")), 48);
        assert_eq!(context(&start(ValueInit::Policy, &trained).expect("started")), 96);
        assert_eq!(context(&start(ValueInit::Auto, &Untrained).expect("started")), 96);
        assert_eq!(start(ValueInit::RewardModel, &Untrained).expect_err("it has none").kind(), ErrorKind::InvalidConfig);
        let path = trained.0.path().join("tokenizer.json");
        let text = std::fs::read_to_string(&path).expect("readable");
        std::fs::write(&path, text + "\n").expect("written");
        assert_eq!(context(&start(ValueInit::Auto, &trained).expect("started")), 96);
        assert!(start(ValueInit::RewardModel, &trained).is_err());
    }

    #[test]
    fn with_adapters_the_value_model_shares_the_policys_weights_and_trains_its_own_adapter_and_head() {
        let stage = Stage::new();
        let init = tiny_checkpoint(&stage);
        let policy = LanguageModel::load(init.path(), tch::Device::Cpu).expect("loaded");
        let lora = Some(LoraConfig { rank: 2, ..LoraConfig::default() });
        let passes = PassOptions { lora, ..PassOptions::default() };
        let config = PpoConfig { passes: passes.clone(), ..PpoConfig::default() };
        let value = starting_value_model(&config, &init, &policy, &Untrained, Seed::root(0)).expect("started");
        let policy = start_training(policy, &passes, &init, Seed::root(0)).expect("started");
        let pairs = policy.parameters().iter().zip(value.body.parameters());
        assert!(pairs.clone().count() > 0 && pairs.into_iter().all(|((_, a), (_, b))| a.data_ptr() == b.data_ptr()));
        let names: Vec<String> = value.trained().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names.iter().filter(|name| !name.contains("lora_")).collect::<Vec<_>>(), ["score.bias", "score.weight"]);
        let (own, others) = (value.trained(), policy.trained());
        assert!(own.iter().all(|(_, tensor)| others.iter().all(|(_, other)| tensor.data_ptr() != other.data_ptr())));
    }
}
