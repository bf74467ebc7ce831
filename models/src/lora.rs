//! Low-rank adaptation: small trained changes to the linear layers of a model whose own weights stay as they are.
//!
//! Hu et al., 2021, <https://arxiv.org/abs/2106.09685>; the scale by the root of the rank is Kalajdzievski, 2023,
//! <https://arxiv.org/abs/2312.03732>. Starts, names and files are those of PEFT.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use farmhand_core::{Error, Problem, Result, Seed};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor, no_grad};

use crate::config::ModelConfig;
use crate::low_rank::LowRank;

/// What a learner writes when it has trained an adapter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AdapterOutput {
    /// A whole model with the adapter merged into its weights, which everything that reads a Hugging Face folder can use, and
    /// the adapter by itself in the folder `adapter` within it.
    #[default]
    Merged,
    /// The adapter alone, in PEFT's format: small, and of use only as long as its base model stays where it is.
    Adapter,
}

/// Low-rank adaptation (LoRA): the table `lora` of a learner.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LoraConfig {
    /// Rank r of the changes, ≥ 1 and at most the narrowest layer.
    pub rank: usize,
    /// Changes are scaled by alpha / rank, > 0.
    pub alpha: f64,
    /// Scale by alpha / √rank instead.
    pub use_rslora: bool,
    /// Share of a change's inputs that is dropped in training, in [0, 1).
    pub dropout: f64,
    /// The linear layers to change, by name or by the end of it, such as `q_proj` or `layers.0.self_attn.q_proj`; empty for all
    /// linear layers of the transformer's blocks.
    pub targets: Vec<String>,
    /// What the checkpoint holds.
    pub output: AdapterOutput,
}

impl Default for LoraConfig {
    fn default() -> Self {
        Self { rank: 16, alpha: 32.0, use_rslora: false, dropout: 0.0, targets: Vec::new(), output: AdapterOutput::Merged }
    }
}

impl LoraConfig {
    /// Everything out of range, paths relative to this table.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut check = |ok: bool, key: &str, expected: &str, got: String| {
            if !ok {
                problems.push(Problem::new(key, format!("expected {expected}, got {got}")));
            }
        };
        check(self.rank >= 1, "rank", "a whole number ≥ 1", self.rank.to_string());
        check(self.alpha.is_finite() && self.alpha > 0.0, "alpha", "a number > 0", self.alpha.to_string());
        check((0.0..1.0).contains(&self.dropout), "dropout", "a number in [0, 1)", self.dropout.to_string());
        problems
    }

    /// The factor on the changes.
    pub(crate) fn scale(&self) -> f64 {
        let rank = self.rank as f64;
        self.alpha / if self.use_rslora { rank.sqrt() } else { rank }
    }
}

/// A linear layer that can be changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LinearModule {
    pub(crate) name: String,
    pub(crate) from: i64,
    pub(crate) to: i64,
}

/// The linear layers of the blocks of a model: their weights are the blocks' matrices.
pub(crate) fn linear_modules(config: &ModelConfig) -> Vec<LinearModule> {
    let is_input_first = config.architecture().stores_input_first();
    let module = |spec: crate::architecture::ParameterSpec| {
        let &[first, second] = spec.shape.as_slice() else { return None };
        let (from, to) = if is_input_first { (first, second) } else { (second, first) };
        let name = spec.name.strip_suffix(".weight").filter(|name| block_of(name).is_some())?;
        Some(LinearModule { name: name.to_owned(), from, to })
    };
    config.parameters(false).into_iter().filter_map(module).collect()
}

/// The block a parameter belongs to: the first number in its name.
pub(crate) fn block_of(name: &str) -> Option<usize> {
    name.split('.').find_map(|part| part.parse().ok())
}

/// Low-rank changes to the linear layers of one model.
#[derive(Debug)]
pub struct Adapter {
    config: LoraConfig,
    /// The folder of the model it changes.
    base: PathBuf,
    /// By the name of the layer.
    layers: BTreeMap<String, LowRank>,
}

impl Adapter {
    /// A new adapter of a model from the folder `base`; it changes nothing yet. A is uniform in ±1/√from (Kaiming uniform
    /// with a = √5, as in PEFT), every layer's from its own stream; B is zero.
    ///
    /// # Errors
    /// When a target is no linear layer of the model's blocks, or the rank is larger than a layer.
    pub fn new(model: &ModelConfig, config: &LoraConfig, base: &Path, seed: Seed, device: Device) -> Result<Self> {
        if let Some(problem) = config.problems().into_iter().next() {
            return Err(Error::invalid_config(format!("`lora.{}`: {}", problem.path, problem.message)));
        }
        let rank = config.rank as i64;
        let mut layers = BTreeMap::new();
        for LinearModule { name, from, to } in targeted(linear_modules(model), &config.targets)? {
            if rank > from.min(to) {
                return Err(Error::invalid_config(format!(
                    "`lora.rank` is {rank}, but the layer `{name}` is a matrix of {to} by {from}, so its rank is {} at most",
                    from.min(to)
                )));
            }
            let a = uniform(&[rank, from], 1.0 / (from as f64).sqrt(), seed.child_text("lora_A", &name)).to_device(device);
            let b = Tensor::zeros([to, rank], (Kind::Float, device));
            layers.insert(name.clone(), LowRank { module: name, a, b, scale: config.scale(), dropout: config.dropout });
        }
        Ok(Self { config: config.clone(), base: base.to_owned(), layers })
    }

    /// An adapter over changes that were checked against the model.
    pub(crate) fn from_layers(config: LoraConfig, base: PathBuf, layers: BTreeMap<String, LowRank>) -> Self {
        Self { config, base, layers }
    }

    /// Its options.
    pub fn config(&self) -> &LoraConfig {
        &self.config
    }

    /// The folder of the model it changes.
    pub fn base(&self) -> &Path {
        &self.base
    }

    /// The same adapter over other tensors.
    pub(crate) fn map(&self, tensor: impl Fn(&Tensor) -> Tensor) -> Self {
        let layers = self.layers.iter().map(|(name, layer)| (name.clone(), layer.map(&tensor))).collect();
        Self { config: self.config.clone(), base: self.base.clone(), layers }
    }

    /// The change to a layer, if it has one.
    pub(crate) fn layer(&self, name: &str) -> Option<LowRank> {
        self.layers.get(name).map(LowRank::handle)
    }

    /// The names of the layers it changes, sorted.
    pub fn modules(&self) -> impl Iterator<Item = &str> {
        self.layers.keys().map(String::as_str)
    }

    /// Its tensors under PEFT's names, such as `base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight`.
    pub fn parameters(&self) -> Vec<(String, Tensor)> {
        let both = |(name, layer): (&String, &LowRank)| {
            let tensor = |part: &str, tensor: &Tensor| (tensor_name(name, part), tensor.shallow_clone());
            [tensor("lora_A", &layer.a), tensor("lora_B", &layer.b)]
        };
        self.layers.iter().flat_map(both).collect()
    }

    /// Whether gradients are kept for its tensors.
    pub(crate) fn set_trainable(&self, trainable: bool) {
        for layer in self.layers.values() {
            let _ = layer.a.set_requires_grad(trainable);
            let _ = layer.b.set_requires_grad(trainable);
        }
    }

    /// Checks that every layer is one of the model's and has its sizes.
    pub(crate) fn check(&self, model: &ModelConfig) -> Result<()> {
        let modules = linear_modules(model);
        for (name, layer) in &self.layers {
            let Some(module) = modules.iter().find(|module| module.name == *name) else {
                return Err(Error::invalid_data(format!(
                    "the adapter changes `{name}`, which is no linear layer of a block of this `{}` model",
                    model.model_type()
                ))
                .with_hint("the adapter was made for another base model"));
            };
            let rank = layer.a.size()[0];
            for (part, tensor, expected) in [("lora_A", &layer.a, [rank, module.from]), ("lora_B", &layer.b, [module.to, rank])] {
                if tensor.size() != expected {
                    return Err(Error::invalid_data(format!(
                        "tensor `{}` of the adapter has shape {:?}, the model asks for {expected:?}",
                        tensor_name(name, part),
                        tensor.size()
                    ))
                    .with_hint("the adapter was made for another base model"));
                }
            }
        }
        Ok(())
    }

    /// A weight of the model with its change added, if it has one; otherwise a handle on the weight itself.
    pub(crate) fn merged(&self, name: &str, weight: &Tensor, is_input_first: bool) -> Tensor {
        match name.strip_suffix(".weight").and_then(|module| self.layers.get(module)) {
            Some(layer) => no_grad(|| weight.detach() + layer.delta(is_input_first).to_kind(weight.kind())),
            None => weight.shallow_clone(),
        }
    }
}

/// PEFT's name of a tensor; `part` is `lora_A` or `lora_B`.
pub(crate) fn tensor_name(module: &str, part: &str) -> String {
    format!("{PEFT_PREFIX}{module}.{part}.weight")
}

/// What PEFT's names begin with.
pub(crate) const PEFT_PREFIX: &str = "base_model.model.";

/// The modules that the targets name; all of them without targets.
fn targeted(modules: Vec<LinearModule>, targets: &[String]) -> Result<Vec<LinearModule>> {
    let is_meant = |name: &str, target: &String| {
        name.strip_suffix(target.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    for target in targets {
        if !modules.iter().any(|module| is_meant(&module.name, target)) {
            let known: BTreeSet<&str> = modules.iter().filter_map(|module| module.name.rsplit('.').next()).collect();
            let known: Vec<String> = known.into_iter().map(|name| format!("`{name}`")).collect();
            return Err(Error::invalid_config(format!("`lora.targets`: `{target}` is no linear layer of the model's blocks"))
                .with_hint(format!("they are called {}", known.join(", "))));
        }
    }
    let is_targeted = |name: &str| targets.is_empty() || targets.iter().any(|target| is_meant(name, target));
    Ok(modules.into_iter().filter(|module| is_targeted(&module.name)).collect())
}

/// Uniform numbers in ±`bound`.
fn uniform(shape: &[i64], bound: f64, seed: Seed) -> Tensor {
    let mut rng = seed.rng();
    let values: Vec<f32> = (0..shape.iter().product::<i64>()).map(|_| ((2.0 * rng.uniform() - 1.0) * bound) as f32).collect();
    Tensor::from_slice(&values).view(shape)
}
