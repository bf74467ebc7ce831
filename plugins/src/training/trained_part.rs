//! Which part of a model a learner trains: all of it, what `freeze` leaves, or an adapter.

use farmhand_core::{Checkpoint, Result, Seed};
use farmhand_models::{Adapter, FreezeConfig, LanguageModel, LoraConfig};

use super::learner_options::PassOptions;
use super::options::Ranges;

impl Ranges {
    /// The tables `lora` and `freeze`, of which a learner takes one.
    #[must_use]
    pub fn trained_part(self, lora: Option<&LoraConfig>, freeze: &FreezeConfig) -> Self {
        let both = lora.is_some() && !freeze.is_empty();
        self.nested("lora", lora.map(LoraConfig::problems).unwrap_or_default()).require(
            "freeze",
            !both,
            "`lora`, which freezes all weights, or `freeze`",
            "both",
        )
    }
}

/// The model ready to train: with a new adapter over its own weights when there is a `lora`, otherwise all of it but what
/// `freeze` names. `init` is where it was loaded from.
///
/// # Errors
/// When the options name something that the model does not have, or leave nothing to train.
pub fn start_training(model: LanguageModel, options: &PassOptions, init: &Checkpoint, seed: Seed) -> Result<LanguageModel> {
    let model = match &options.lora {
        Some(lora) => model.with_adapter(Adapter::new(model.config(), lora, init.path(), seed, model.device())?)?,
        None => model,
    };
    model.set_trainable(true);
    model.freeze(&options.freeze)?;
    model.set_checkpointing(options.checkpoint_every);
    Ok(model)
}

#[cfg(test)]
mod tests {
    use farmhand_core::ErrorKind;

    use super::*;
    use crate::testing::{Stage, tiny_checkpoint};

    #[test]
    fn only_an_adapter_or_what_is_not_frozen_trains() {
        let stage = Stage::new();
        let init = tiny_checkpoint(&stage);
        let load = || LanguageModel::load(init.path(), tch::Device::Cpu).expect("loaded");
        let start = |lora: Option<&LoraConfig>, freeze: &FreezeConfig| {
            let options = PassOptions { lora: lora.cloned(), freeze: freeze.clone(), ..PassOptions::default() };
            let model = start_training(load(), &options, &init, Seed::root(0))?;
            Ok::<_, farmhand_core::Error>(model.trained().into_iter().map(|(name, _)| name).collect::<Vec<_>>())
        };
        let none = FreezeConfig::default();
        assert_eq!(start(None, &none).expect("started").len(), load().parameters().len());
        let lora = LoraConfig { rank: 2, ..LoraConfig::default() };
        let names = start(Some(&lora), &none).expect("started");
        assert!(names.len() == 2 * 2 * 7 && names.iter().all(|name| name.contains("lora_")), "{names:?}");
        let embeddings = FreezeConfig { embeddings: true, ..FreezeConfig::default() };
        assert_eq!(start(None, &embeddings).expect("started").len(), load().parameters().len() - 1);
        let unknown = FreezeConfig { names: vec!["*.wq.*".to_owned()], ..FreezeConfig::default() };
        assert_eq!(start(None, &unknown).expect_err("unknown").kind(), ErrorKind::InvalidConfig);

        let paths = |ranges: Ranges| ranges.problems().into_iter().map(|problem| problem.path).collect::<Vec<_>>();
        assert_eq!(paths(Ranges::new().trained_part(Some(&lora), &none)), [""; 0]);
        let wrong = LoraConfig { rank: 0, ..lora };
        assert_eq!(paths(Ranges::new().trained_part(Some(&wrong), &embeddings)), ["lora.rank", "freeze"]);
    }
}
