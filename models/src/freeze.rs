//! Which weights of a model stay as they are in training.

use farmhand_core::{Error, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Tensor;

use crate::config::ModelConfig;
use crate::lora::block_of;

/// Weights that stay as they are: the table `freeze` of a learner. Every entry adds to what is frozen.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FreezeConfig {
    /// The embeddings of tokens and positions; of a tied model this is the output head as well.
    pub embeddings: bool,
    /// The first blocks, as many as this; at most all of them.
    pub first_blocks: usize,
    /// Weights by their name in the checkpoint, such as `model.norm.weight`; `*` stands for any characters.
    pub names: Vec<String>,
}

impl FreezeConfig {
    /// Whether it freezes nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Switches off the gradients of what it names among the parameters of a model.
    ///
    /// # Errors
    /// When a name matches no parameter, there are fewer blocks than that, or nothing is left to train.
    pub(crate) fn apply(&self, model: &ModelConfig, parameters: &[(String, Tensor)]) -> Result<()> {
        if self.first_blocks > model.n_layers() {
            return Err(Error::invalid_config(format!(
                "`freeze.first_blocks` is {}, but the model has {} blocks",
                self.first_blocks,
                model.n_layers()
            )));
        }
        if let Some(name) = self.names.iter().find(|pattern| !parameters.iter().any(|(name, _)| matches(pattern, name))) {
            let example = parameters.iter().find(|(name, _)| block_of(name).is_some());
            let example = example.map_or("", |(name, _)| name.as_str());
            return Err(Error::invalid_config(format!("`freeze.names`: `{name}` matches no weight of the model")).with_hint(
                format!("weights are called as in the checkpoint, for example `{example}`; `*` matches any characters"),
            ));
        }
        let (kept, frozen): (Vec<_>, Vec<_>) = parameters.iter().partition(|(name, tensor)| !self.freezes(model, name, tensor));
        if kept.is_empty() {
            return Err(Error::invalid_config("`freeze` leaves no weight to train"));
        }
        for (_, tensor) in frozen {
            let _ = tensor.set_requires_grad(false);
        }
        Ok(())
    }

    fn freezes(&self, model: &ModelConfig, name: &str, tensor: &Tensor) -> bool {
        self.embeddings && model.is_embedding(name, tensor)
            || block_of(name).is_some_and(|block| block < self.first_blocks)
            || self.names.iter().any(|pattern| matches(pattern, name))
    }
}

/// Whether a name is what a pattern describes, where `*` stands for any characters.
fn matches(pattern: &str, name: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(tail) = name.strip_prefix(start) else { return false };
    (0..=tail.len()).filter(|&skipped| tail.is_char_boundary(skipped)).any(|skipped| matches(rest, &tail[skipped..]))
}

#[cfg(test)]
mod tests {
    use farmhand_core::Seed;

    use super::*;
    use crate::{LanguageModel, LlamaOptions};

    fn frozen(freeze: &FreezeConfig, tied: bool) -> Result<Vec<String>> {
        let config = ModelConfig::tiny_llama(LlamaOptions { n_layers: 3, tie_embeddings: tied, ..LlamaOptions::default() });
        let model = LanguageModel::random(config, Seed::root(1), tch::Device::Cpu)?;
        model.set_trainable(true);
        model.freeze(freeze)?;
        let trained: Vec<String> = model.trained().into_iter().map(|(name, _)| name).collect();
        Ok(model.parameters().iter().map(|(name, _)| name.clone()).filter(|name| !trained.contains(name)).collect())
    }

    #[test]
    fn embeddings_first_blocks_and_names_are_frozen_and_nothing_else() {
        let embeddings = FreezeConfig { embeddings: true, ..FreezeConfig::default() };
        for tied in [true, false] {
            assert_eq!(frozen(&embeddings, tied).expect("applied"), ["model.embed_tokens.weight"]);
        }
        let blocks = FreezeConfig { first_blocks: 2, ..FreezeConfig::default() };
        let names = frozen(&blocks, true).expect("applied");
        assert!(names.len() == 2 * 9 && names.iter().all(|name| name.contains("layers.0.") || name.contains("layers.1.")));
        let names = ["model.norm.weight", "*.mlp.*_proj.weight"].map(str::to_owned).to_vec();
        assert_eq!(frozen(&FreezeConfig { names, ..FreezeConfig::default() }, true).expect("applied").len(), 1 + 3 * 3);
        assert_eq!(frozen(&FreezeConfig::default(), true).expect("applied"), [""; 0]);
    }

    #[test]
    fn names_that_match_nothing_too_many_blocks_and_nothing_left_are_errors() {
        let of =
            |names: &[&str]| FreezeConfig { names: names.iter().map(|&name| name.to_owned()).collect(), ..Default::default() };
        let error = frozen(&of(&["model.norm.weight", "*.wq.weight"]), true).expect_err("unknown");
        assert!(
            error.message().contains("`*.wq.weight`") && error.hint().is_some_and(|hint| hint.contains("layers.0.")),
            "{error}"
        );
        let error = frozen(&FreezeConfig { first_blocks: 4, ..Default::default() }, true).expect_err("too many");
        assert!(error.message().contains("has 3 blocks"), "{error}");
        assert!(frozen(&of(&["*"]), true).is_err());
    }

    #[test]
    fn a_star_stands_for_any_characters_and_nothing_else_does() {
        for (pattern, name, expected) in
            [("a*c", "abc", true), ("a*c", "ac", true), ("a*c", "abcd", false), ("*.b.*", "x.b.", true), ("a.c", "abc", false)]
        {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }
}
