//! A causal language model: a body, an output head, and nothing about how it is trained.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use farmhand_core::{Error, Result, Seed};
use tch::{Device, Tensor};

use crate::architecture::{HEAD, Init, ParameterSpec, Parameters};
use crate::batch::TokenBatch;
use crate::config::ModelConfig;
use crate::flops::{ModelFlops, backward_factor};
use crate::forward_pass::{Pass, WholePass, indices};
use crate::layout::{Layout, Segment};
use crate::recompute::SharedBody;
use crate::safetensors_file::write_safetensors;
use crate::weights::WeightFiles;
use crate::work::{count_pass, tensor_work};

/// A causal language model.
pub struct LanguageModel {
    config: ModelConfig,
    parameters: Vec<(String, Tensor)>,
    body: SharedBody,
    /// Blocks between inputs that are kept for the backward pass; 0 keeps everything.
    checkpoint_every: Cell<usize>,
    /// The output head `[v, d]`: the embedding when tied; absent in the body of a scalar model that is not tied.
    head: Option<Tensor>,
    device: Device,
    flops: ModelFlops,
}

impl std::fmt::Debug for LanguageModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LanguageModel({}, {} parameters, {:?})", self.config.model_type(), self.config.n_parameters(), self.device)
    }
}

impl LanguageModel {
    /// Reads a Hugging Face folder: `config.json` and safetensors, one file or sharded, any float type.
    ///
    /// # Errors
    /// When a file is missing or damaged, the architecture is unknown, or the tensors are not those of the configuration.
    pub fn load(dir: &Path, device: Device) -> Result<Self> {
        Self::load_with(ModelConfig::load(dir)?, &mut WeightFiles::open(dir)?, true, device)
    }

    /// As [`LanguageModel::load`] from open files, with the output head or without.
    pub(crate) fn load_with(config: ModelConfig, files: &mut WeightFiles, with_head: bool, device: Device) -> Result<Self> {
        let specs = config.parameters(with_head);
        let architecture = config.architecture();
        let (prefix, embedding, head) = (architecture.prefix(), architecture.embedding(), architecture.head());
        // Checkpoints of a bare body lack the prefix.
        let is_bare = !files.contains(embedding) && embedding.strip_prefix(prefix).is_some_and(|name| files.contains(name));
        let stored_head = if files.contains(head) { head } else { HEAD };
        let stored = |name: &str| match name.strip_prefix(prefix) {
            Some(bare) if is_bare => bare.to_owned(),
            _ if name == head => stored_head.to_owned(),
            _ => name.to_owned(),
        };
        refuse_unknown_tensors(&config, &specs, files, &stored)?;
        let mut parameters = Vec::with_capacity(specs.len());
        for spec in &specs {
            let tensor = files.read(&stored(&spec.name), spec, device).map_err(|error| {
                if spec.name != head || files.contains(stored_head) {
                    return error;
                }
                error.with_hint(
                    "config.json says that the model has an output head of its own; if the embedding is its head, \
                     `tie_word_embeddings` must be true",
                )
            })?;
            parameters.push((spec.name.clone(), tensor));
        }
        if config.is_tied() && files.contains(stored_head) {
            let spec = specs.iter().find(|spec| spec.name == embedding).expect("every model has an embedding");
            let rows = parameters.iter().find(|(name, _)| name == embedding).map(|(_, tensor)| tensor);
            if files.read(stored_head, spec, device)?.ne_tensor(rows.expect("it was read")).any().int64_value(&[]) != 0 {
                return Err(Error::invalid_data(format!(
                    "config.json ties the output head to the embedding, but in the weights `{stored_head}` differs from `{}`",
                    stored(embedding)
                ))
                .with_hint(format!(
                    "if the model has a head of its own, set `tie_word_embeddings` to false in config.json; if not, remove `{stored_head}`"
                )));
            }
        }
        Ok(Self::assemble(config, parameters, device))
    }

    /// A new model. Every parameter draws from its own stream, so the start depends on `seed` and the sizes alone.
    ///
    /// # Errors
    /// None today; loading onto a device may fail.
    pub fn random(config: ModelConfig, seed: Seed, device: Device) -> Result<Self> {
        let start = |spec: &ParameterSpec| {
            let tensor = match spec.init {
                Init::Zeros => Tensor::zeros(spec.shape.as_slice(), tch::kind::FLOAT_CPU),
                Init::Ones => Tensor::ones(spec.shape.as_slice(), tch::kind::FLOAT_CPU),
                Init::Normal(std) => normal(&spec.shape, std, seed.child_text("parameter", &spec.name)),
            };
            (spec.name.clone(), tensor.to_device(device))
        };
        let parameters = config.parameters(true).iter().map(start).collect();
        Ok(Self::assemble(config, parameters, device))
    }

    /// The model over parameters that have the names and shapes of `config`, sorted by name.
    fn assemble(config: ModelConfig, parameters: Vec<(String, Tensor)>, device: Device) -> Self {
        let by_name = Parameters::new(&parameters);
        let head = if config.is_tied() {
            by_name.find(config.architecture().embedding())
        } else {
            by_name.find(config.architecture().head())
        };
        let body = SharedBody::new(config.architecture().body(&by_name));
        let flops = ModelFlops::of(&config);
        Self { config, parameters, body, checkpoint_every: Cell::new(0), head, device, flops }
    }

    /// Its configuration.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Where its tensors live.
    pub fn device(&self) -> Device {
        self.device
    }

    /// Its parameters under their Hugging Face names, sorted by name.
    pub fn parameters(&self) -> &[(String, Tensor)] {
        &self.parameters
    }

    /// Whether gradients are kept for its parameters; a new model is frozen.
    pub fn set_trainable(&self, trainable: bool) {
        for (_, tensor) in &self.parameters {
            let _ = tensor.set_requires_grad(trainable);
        }
    }

    /// Gradient checkpointing: of every `every` blocks only the input is kept for the backward pass, which computes the rest
    /// again; 0, as in a new model, keeps everything. Values and gradients stay the same bit for bit.
    pub fn set_checkpointing(&self, every: usize) {
        self.checkpoint_every.set(every);
    }

    /// Checks that a sequence of `n_tokens` fits the model.
    ///
    /// # Errors
    /// When it is longer than the model's positions.
    pub fn check_length(&self, n_tokens: usize) -> Result<()> {
        let limit = self.config.max_positions();
        if n_tokens <= limit {
            return Ok(());
        }
        Err(Error::invalid_data(format!("a text of {n_tokens} tokens is longer than the model's context of {limit} tokens"))
            .with_hint("shorten or drop the text, or use a model with a longer context"))
    }

    /// Checks that every token id has a row in the embedding table.
    ///
    /// # Errors
    /// When an id lies beyond the vocabulary.
    pub fn check_ids(&self, ids: &[u32]) -> Result<()> {
        let size = self.config.vocab_size();
        match ids.iter().find(|id| **id as usize >= size) {
            None => Ok(()),
            Some(id) => Err(Error::invalid_data(format!("token id {id} is beyond the model's vocabulary of {size} tokens"))
                .with_hint("the tokenizer belongs to another model")),
        }
    }

    /// Hidden states `[tokens, d]` after the final norm, of all tokens of a batch as they lie in it; differentiable.
    ///
    /// Attention is causal and stays within a text. Lengths and ids are the caller's to check
    /// ([`LanguageModel::check_length`], [`LanguageModel::check_ids`]).
    pub fn hidden(&self, batch: &TokenBatch) -> Tensor {
        let hidden = tensor_work(|| match self.checkpoint_every.get() {
            0 => self.run(&batch.ids, &mut WholePass::new(&batch.layout, self.device)),
            every => self.body.run_checkpointed(&batch.ids, &batch.layout, every, self.device),
        });
        let flops = if self.has_head() { self.flops } else { self.flops.without_head() };
        let cost = flops.pass(&batch.lengths, batch.layout.positions());
        count_pass(batch.lengths.iter().sum(), batch.n_computed_tokens(), cost, self.cost_factor(&hidden));
        hidden
    }

    /// What a pass that gave `output` costs with the backward pass that it is made for, as a multiple of itself.
    fn cost_factor(&self, output: &Tensor) -> f64 {
        if output.requires_grad() { 1.0 + backward_factor(&self.parameters, &self.config) } else { 1.0 }
    }

    /// Hidden states `[t, d]` of one text of t tokens; differentiable.
    pub fn hidden_of(&self, ids: &[u32]) -> Tensor {
        let ids: Vec<i64> = ids.iter().map(|id| i64::from(*id)).collect();
        let layout = Layout::packed(vec![Segment { length: ids.len() as i64, prefix: None }]);
        self.run(&indices(&ids, self.device), &mut WholePass::new(&Arc::new(layout), self.device))
    }

    /// Runs the body over ids `[n]` → `[n, d]`.
    pub(crate) fn run(&self, ids: &Tensor, pass: &mut dyn Pass) -> Tensor {
        let body = self.body.lock();
        let (mut x, tables) = body.start(ids, &pass.positions());
        for layer in 0..body.n_blocks() {
            x = body.block(layer, &x, &tables, pass);
        }
        body.finish(&x)
    }

    /// Logits `[.., v]` of hidden states `[.., d]`, bent where the architecture has a softcap.
    ///
    /// # Panics
    /// When the model is the body of a scalar model and has no output head.
    pub fn logits(&self, hidden: &Tensor) -> Tensor {
        let logits = hidden.linear(self.head(), None::<Tensor>);
        match self.logit_softcap() {
            Some(cap) => (logits / cap).tanh() * cap,
            None => logits,
        }
    }

    /// Where logits are bent to softcap · tanh(logit / softcap): the softcap.
    pub(crate) fn logit_softcap(&self) -> Option<f64> {
        self.config.architecture().logit_softcap()
    }

    /// The output head `[v, d]`, which is the embedding of a tied model.
    pub(crate) fn head(&self) -> &Tensor {
        self.head.as_ref().expect("only the body of a scalar model lacks an output head")
    }

    /// Operations of its passes.
    pub fn flops(&self) -> ModelFlops {
        self.flops
    }

    /// Whether it can give logits: everything but the body of a scalar model can.
    pub fn has_head(&self) -> bool {
        self.head.is_some()
    }

    /// The same model without an output head of its own; the embedding of a tied model stays.
    #[must_use]
    pub(crate) fn without_head(self) -> Self {
        let head = self.config.architecture().head();
        let parameters = self.parameters.into_iter().filter(|(name, _)| name != head).collect();
        Self::assemble(self.config, parameters, self.device)
    }

    /// Writes `model.safetensors` as `f32`, with the names transformers expects; a tied head is not written twice.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn save_weights(&self, dir: &Path) -> Result<()> {
        write_model_weights(dir, self.parameters.iter())
    }

    /// Writes `config.json` and `model.safetensors`.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn save(&self, dir: &Path) -> Result<()> {
        self.config.save(dir)?;
        self.save_weights(dir)
    }

    /// A frozen model of its own with the same values, such as a reference policy.
    ///
    /// # Errors
    /// None today; a device may run out of memory.
    pub fn copy(&self) -> Result<Self> {
        let copied = |(name, tensor): &(String, Tensor)| (name.clone(), tensor.detach().copy());
        Ok(Self::assemble(self.config.clone(), self.parameters.iter().map(copied).collect(), self.device))
    }
}

/// Writes `model.safetensors` with the metadata transformers asks for.
pub(crate) fn write_model_weights<'a>(dir: &Path, parameters: impl Iterator<Item = &'a (String, Tensor)>) -> Result<()> {
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    write_safetensors(&dir.join("model.safetensors"), parameters.map(|(name, tensor)| (name.as_str(), tensor)), &metadata)
}

/// Normal numbers of a seed.
pub(crate) fn normal(shape: &[i64], std: f64, seed: Seed) -> Tensor {
    let mut rng = seed.rng();
    let values: Vec<f32> = (0..shape.iter().product::<i64>()).map(|_| (rng.normal() * std) as f32).collect();
    Tensor::from_slice(&values).view(shape)
}

/// Tensors the architecture does not know would be ignored in the forward pass, which would then be another model's.
fn refuse_unknown_tensors(
    config: &ModelConfig,
    specs: &[ParameterSpec],
    files: &WeightFiles,
    stored: &impl Fn(&str) -> String,
) -> Result<()> {
    let known: std::collections::BTreeSet<String> = specs.iter().map(|spec| stored(&spec.name)).collect();
    let architecture = config.architecture();
    // A head may be stored beside a body that does not use it.
    let needs_head = known.contains(HEAD) || known.contains(architecture.head());
    let is_fine = |name: &str| {
        known.contains(name)
            || !needs_head && (name == HEAD || name == architecture.head())
            || name.starts_with("score.")
            || architecture.is_stored_constant(name)
    };
    let unknown: Vec<&str> = files.names().filter(|name| !is_fine(name)).collect();
    if unknown.is_empty() || specs.iter().any(|spec| !files.contains(&stored(&spec.name))) {
        // A missing tensor says more than those that are too many.
        return Ok(());
    }
    let shown = unknown.iter().take(3).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    Err(Error::invalid_data(format!(
        "the weights hold {} tensors that a `{}` model has no place for: {shown}",
        unknown.len(),
        config.model_type()
    ))
    .with_hint("config.json describes another model than the weights"))
}
