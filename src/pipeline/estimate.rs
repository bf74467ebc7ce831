//! What fits into how much memory, from a model's `config.json` alone.

use std::path::Path;

use farmhand_core::{Error, Result};
use farmhand_models::{HeldModel, MemoryEstimate, ModelConfig, Storage, tokens_that_fit};
use farmhand_plugins::training::{MemoryNeeds, Trainee};
use serde::Serialize;

/// What is asked.
#[derive(Debug, Clone, PartialEq)]
pub struct EstimateOptions {
    /// Bytes that may be used.
    pub memory: u64,
    /// Bytes the program takes beside its models: libtorch, the GPU's context, tables.
    pub program: u64,
    /// How numbers are kept.
    pub storage: Storage,
    /// Rank of the adapters.
    pub rank: usize,
    /// Tokens in one forward pass.
    pub tokens: usize,
    /// Sequences that are sampled at a time.
    pub rows: usize,
    /// Prompt and answer of a sampled sequence together, in tokens.
    pub length: usize,
    /// Whether `ppo` and `grpo` hold a reward model of the policy's size: not where a program, a server or a rule scores.
    pub reward_model: bool,
}

/// One way to train, and what it takes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EstimatedTraining {
    /// The learner. `grpo` stands for every learner that samples responses of its own and trains a policy alone beside its reference
    /// and the reward model: `rloo`, `remax`, `reinforce_pp`, `online_dpo`, `xpo`, `nash_md`.
    pub method: &'static str,
    /// Whether the whole model is trained, or adapters.
    pub adapters: bool,
    /// Whether only the input of each block is kept for the backward pass.
    pub checkpointing: bool,
    /// Bytes by purpose, at the peak.
    pub parts: Vec<(&'static str, u64)>,
    /// All together.
    pub total_bytes: u64,
    /// Whether that is at most what there is.
    pub fits: bool,
    /// The most tokens in one forward pass that would still fit; 0 when the models alone do not.
    pub most_tokens: usize,
}

/// The configuration in a model folder, or in a `config.json` by itself.
///
/// # Errors
/// When there is none, or it describes no known model.
pub fn read_model_config(path: &Path) -> Result<ModelConfig> {
    if path.is_dir() {
        return ModelConfig::load(path);
    }
    let text = std::fs::read_to_string(path).map_err(|error| Error::io("read", path, error))?;
    let source = format!("`{}`", path.display());
    match serde_json::from_str(&text) {
        Ok(serde_json::Value::Object(json)) => ModelConfig::from_json(json, &source),
        Ok(_) => Err(Error::invalid_config(format!("{source} holds no JSON object"))),
        Err(error) => Err(Error::invalid_config(format!("{source} is not JSON")).with_source(error)),
    }
}

/// Every kind of method with the whole model and with adapters, with and without checkpointing.
pub fn estimate_training(config: &ModelConfig, options: &EstimateOptions) -> Vec<EstimatedTraining> {
    let mut rows = Vec::new();
    for method in ["sft", "reward_modeling", "dpo", "ppo", "grpo"] {
        for adapters in [false, true] {
            for checkpointing in [false, true] {
                let needs = |tokens| needs(method, config, options, adapters, usize::from(checkpointing), tokens);
                let estimate = needs(options.tokens).estimate(options.program);
                rows.push(EstimatedTraining {
                    method,
                    adapters,
                    checkpointing,
                    parts: estimate.parts(),
                    total_bytes: estimate.total(),
                    fits: estimate.total() <= options.memory,
                    most_tokens: {
                        let models = needs(options.tokens).models;
                        tokens_that_fit(&models, |tokens| needs(tokens).activities, options.program, options.memory)
                    },
                });
            }
        }
    }
    rows
}

/// What a method holds and does. Adapters share the policy's weights: the reference is the policy with its adapters off, and the
/// value model starts at the policy's body.
fn needs(
    method: &str,
    config: &ModelConfig,
    options: &EstimateOptions,
    adapters: bool,
    checkpoint_every: usize,
    tokens: usize,
) -> MemoryNeeds {
    let frozen = |role: &str, has_head| HeldModel::frozen(role, config, has_head, options.storage);
    let trained = |role: &str, has_head| {
        let model = frozen(role, has_head);
        if adapters { model.with_adapters(options.rank) } else { model.trained() }
    };
    let trainee = Trainee::of_tokens(tokens, checkpoint_every);
    match method {
        "reward_modeling" => MemoryNeeds::training(trained("reward model", false), trainee),
        "dpo" => MemoryNeeds::training_after_scoring(trained("policy", true), None, trainee),
        "ppo" | "grpo" => {
            let mut others: Vec<HeldModel> = options.reward_model.then(|| frozen("reward model", false)).into_iter().collect();
            others.extend((!adapters).then(|| frozen("reference", true)));
            let mut models = vec![trained("policy", true)];
            if method == "ppo" {
                let value = trained("value model", false);
                models.push(if adapters { value.sharing_weights() } else { value });
            }
            MemoryNeeds::reinforcement(models, others, trainee, options.rows, options.length)
        }
        _ => MemoryNeeds::training(trained("policy", true), trainee),
    }
}

/// What sampling takes: weights, cache, logits.
pub fn estimate_sampling(config: &ModelConfig, options: &EstimateOptions) -> MemoryEstimate {
    let model = HeldModel::frozen("policy", config, true, options.storage);
    let generate = farmhand_models::Activity::Generate { model: 0, rows: options.rows, length: options.length };
    farmhand_models::estimate_memory(&[model], &[generate], options.program)
}

#[cfg(test)]
mod tests {
    use farmhand_models::LlamaOptions;

    use super::*;

    /// The sizes of Llama 2 7B.
    fn seven_billion() -> ModelConfig {
        ModelConfig::tiny_llama(LlamaOptions {
            vocab_size: 32_000,
            hidden_size: 4096,
            intermediate_size: 11_008,
            n_layers: 32,
            n_heads: 32,
            n_kv_heads: 32,
            max_positions: 4096,
            tie_embeddings: false,
            ..LlamaOptions::default()
        })
    }

    #[test]
    fn one_card_of_80_gb_trains_adapters_of_a_model_of_7_billion_parameters_and_not_the_whole_model() {
        let options = EstimateOptions {
            memory: 80_000_000_000,
            program: 500_000_000,
            storage: Storage::Bf16,
            rank: 16,
            tokens: 8192,
            rows: 64,
            length: 1024,
            reward_model: true,
        };
        let config = seven_billion();
        assert_eq!(config.n_parameters(), 6_738_415_616);
        let rows = estimate_training(&config, &options);
        assert_eq!(rows.len(), 20);
        let find = |method: &str, adapters, checkpointing| {
            let is_it =
                |row: &&EstimatedTraining| (row.method, row.adapters, row.checkpointing) == (method, adapters, checkpointing);
            rows.iter().find(is_it).expect("listed")
        };
        // Weights, master copies and two moments alone: 2 + 4 + 8 bytes a parameter.
        assert!(find("sft", false, true).total_bytes > 14 * 6_738_415_616);
        assert!(rows.iter().filter(|row| !row.adapters).all(|row| !row.fits && row.most_tokens == 0));
        assert!(["sft", "dpo", "reward_modeling", "ppo", "grpo"].iter().all(|method| find(method, true, true).fits));
        // Without a value model: its weights, gradients and moments are what `ppo` takes more.
        assert!(find("grpo", false, true).total_bytes + 14 * 6_600_000_000 < find("ppo", false, true).total_bytes);
        // Two sets of weights, the policy's and the reward model's: reference and value model add none.
        let ppo = &find("ppo", true, true).parts;
        let weights: u64 = ppo.iter().filter(|(part, _)| part.ends_with("weights")).map(|(_, bytes)| bytes).sum();
        assert!((26_000_000_000..28_000_000_000).contains(&weights), "{weights}");
        let elsewhere = estimate_training(&config, &EstimateOptions { reward_model: false, ..options.clone() });
        let of_ppo = |row: &&EstimatedTraining| row.method == "ppo" && row.adapters && row.checkpointing;
        let saved = find("ppo", true, true).total_bytes - elsewhere.iter().find(of_ppo).expect("listed").total_bytes;
        assert!((13_000_000_000..14_000_000_000).contains(&saved), "{saved}");
        assert!(find("sft", true, true).most_tokens > find("sft", true, false).most_tokens);
        // Weights that stay in 4 bytes leave an adapter's base 27 GB; it still fits.
        let mixed = estimate_training(&config, &EstimateOptions { storage: Storage::Mixed, ..options.clone() });
        let is_adapter = |row: &&EstimatedTraining| row.method == "sft" && row.adapters && row.checkpointing;
        let adapter = mixed.iter().find(is_adapter).expect("listed");
        assert!(adapter.fits && adapter.total_bytes > 4 * 6_738_415_616, "{adapter:?}");
        let half = EstimateOptions { memory: 10_000_000_000, ..options };
        assert!(estimate_training(&config, &half).iter().all(|row| !row.fits));
        // 64 sequences of 1024 tokens, 2 bytes, keys and values of 32 layers and 4096 values each.
        assert_eq!(estimate_sampling(&config, &half).cache, 64 * 1024 * 2 * 2 * 32 * 4096);
    }
}
