//! A causal language model: a body, an output head, and nothing about how it is trained.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use farmhand_core::{AdapterBase, Error, Result, Seed};
use sha2::{Digest, Sha256};
use tch::{Device, Kind, Tensor, no_grad};

use crate::adapter_folder::write_adapter;
use crate::architecture::{HEAD, Init, ParameterSpec, Parameters};
use crate::batch::TokenBatch;
use crate::config::ModelConfig;
use crate::flops::{ModelFlops, backward_factor};
use crate::forward_pass::{Pass, WholePass, indices};
use crate::freeze::FreezeConfig;
use crate::layout::{Layout, Segment};
use crate::lora::{Adapter, block_of};
use crate::model_folders::ModelFolders;
use crate::precision::{Precision, like_activations};
use crate::recompute::SharedBody;
use crate::safetensors_file::write_safetensors_mapped;
use crate::weights::WeightFiles;
use crate::work::{count_pass, tensor_work};

/// A causal language model.
pub struct LanguageModel {
    config: ModelConfig,
    parameters: Vec<(String, Tensor)>,
    body: SharedBody,
    /// Blocks between inputs that are kept for the backward pass; 0 keeps everything.
    checkpoint_every: Cell<usize>,
    precision: Cell<Precision>,
    /// The output head `[v, d]`: the embedding when tied; absent in the body of a scalar model that is not tied.
    head: Option<Tensor>,
    /// Low-rank changes, which the body applies.
    adapter: Option<Adapter>,
    device: Device,
    flops: ModelFlops,
}

impl std::fmt::Debug for LanguageModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LanguageModel({}, {} parameters, {:?})", self.config.model_type(), self.config.n_parameters(), self.device)
    }
}

impl LanguageModel {
    /// Reads a Hugging Face folder: `config.json` and safetensors, one file or sharded, any float type. The folder may also be
    /// that of a low-rank adapter: then the model it changes is read, and the adapter merged into it.
    ///
    /// # Errors
    /// When a file is missing or damaged, the architecture is unknown, the tensors are not those of the configuration, or an
    /// adapter's base is not there or another one.
    pub fn load(dir: &Path, device: Device) -> Result<Self> {
        Self::load_from(&ModelFolders::of(dir)?, device)
    }

    /// As [`LanguageModel::load`] from folders that were looked up.
    pub(crate) fn load_from(folders: &ModelFolders, device: Device) -> Result<Self> {
        let whole = folders.whole();
        let model = Self::load_with(ModelConfig::load(whole)?, &mut WeightFiles::open(whole)?, true, device)?;
        model.merge_adapters(folders)?;
        Ok(model)
    }

    /// Merges the adapters among the model's folders into the weights in place.
    pub(crate) fn merge_adapters(&self, folders: &ModelFolders) -> Result<()> {
        for (dir, base) in folders.adapters() {
            let adapter = Adapter::load(dir, self, base)?;
            for (name, tensor) in &self.parameters {
                let merged = adapter.merged(name, tensor, self.config.architecture().stores_input_first());
                no_grad(|| tensor.shallow_clone().copy_(&merged));
            }
        }
        Ok(())
    }

    /// A hash over the body's weights without an adapter: names, shapes, and up to 512 values of each, rounded to `bf16`, so
    /// that the type and the files they are stored in do not matter. Two trained models differ in far more values than that.
    pub fn fingerprint(&self) -> String {
        let mut hash = Sha256::new();
        for (name, tensor) in self.parameters.iter().filter(|(name, _)| !self.config.is_head(name)) {
            let stride = tensor.numel().div_ceil(512).max(1) as i64;
            let values = no_grad(|| {
                let sampled = tensor.reshape([-1]).slice(0, None, None, stride);
                sampled.to_device(Device::Cpu).to_kind(Kind::BFloat16).to_kind(Kind::Float)
            });
            let values = Vec::<f32>::try_from(values).expect("a vector of floats");
            hash.update(format!("{name} {:?}\n", tensor.size()));
            values.iter().for_each(|value| hash.update(value.to_le_bytes()));
        }
        hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
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
        Ok(Self::assemble(config, parameters, None, device))
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
        Ok(Self::assemble(config, parameters, None, device))
    }

    /// The model over parameters that have the names and shapes of `config`, sorted by name.
    fn assemble(config: ModelConfig, parameters: Vec<(String, Tensor)>, adapter: Option<Adapter>, device: Device) -> Self {
        let by_name = Parameters::new(config.architecture(), &parameters, adapter.as_ref());
        let head = if config.is_tied() {
            by_name.find(config.architecture().embedding())
        } else {
            by_name.find(config.architecture().head())
        };
        let body = SharedBody::new(config.architecture().body(&by_name));
        let flops = ModelFlops::of(&config);
        Self {
            config,
            parameters,
            body,
            checkpoint_every: Cell::new(0),
            precision: Cell::default(),
            head,
            adapter,
            device,
            flops,
        }
    }

    /// Its configuration.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Where its tensors live.
    pub fn device(&self) -> Device {
        self.device
    }

    /// Its parameters under their Hugging Face names, sorted by name; those of an adapter are the adapter's.
    pub fn parameters(&self) -> &[(String, Tensor)] {
        &self.parameters
    }

    /// Whether gradients are kept for its parameters, or for those of its adapter if it has one; a new model is frozen.
    pub fn set_trainable(&self, trainable: bool) {
        if let Some(adapter) = &self.adapter {
            adapter.set_trainable(trainable);
            return;
        }
        for (_, tensor) in &self.parameters {
            let _ = tensor.set_requires_grad(trainable);
        }
    }

    /// Gradient checkpointing: of every `every` blocks only the input is kept for the backward pass, which computes the rest
    /// again; 0, as in a new model, keeps everything. Values and gradients stay the same bit for bit.
    pub fn set_checkpointing(&self, every: usize) {
        self.checkpoint_every.set(every);
    }

    /// The type its activations are computed in from now on; weights stay `f32`. A new model has [`Precision::Auto`].
    pub fn set_precision(&self, precision: Precision) {
        self.precision.set(precision);
    }

    /// The type its activations are computed in, as it was set.
    pub fn precision(&self) -> Precision {
        self.precision.get()
    }

    /// The type of its activations on its device.
    pub fn kind(&self) -> Kind {
        self.precision.get().kind(self.device)
    }

    /// Keeps no gradients for some of its parameters.
    ///
    /// # Errors
    /// When something named is not there, or nothing is left to train.
    pub fn freeze(&self, freeze: &FreezeConfig) -> Result<()> {
        freeze.apply(&self.config, &self.parameters)
    }

    /// The tensors that keep gradients, its own and its adapter's, sorted by name.
    pub fn trained(&self) -> Vec<(String, Tensor)> {
        let own = self.parameters.iter().map(|(name, tensor)| (name.clone(), tensor.shallow_clone()));
        let all = own.chain(self.adapter.iter().flat_map(Adapter::parameters));
        let mut trained: Vec<_> = all.filter(|(_, tensor)| tensor.requires_grad()).collect();
        trained.sort_by(|a, b| a.0.cmp(&b.0));
        trained
    }

    /// The first block that trains something or follows on something that does; the number of blocks when none does.
    pub(crate) fn first_trained_block(&self) -> usize {
        // The final norm and a head of the model's own come after all blocks.
        let block = |(name, tensor): &(String, Tensor)| match block_of(name) {
            Some(block) => block,
            None if self.config.is_embedding(name, tensor) => 0,
            None => self.config.n_layers(),
        };
        self.trained().iter().map(block).min().unwrap_or(self.config.n_layers())
    }

    /// The adapter that is switched on, if there is one.
    pub fn adapter(&self) -> Option<&Adapter> {
        self.adapter.as_ref()
    }

    /// The model with an adapter switched on, over the same tensors: nothing is copied.
    ///
    /// # Errors
    /// When the adapter was made for a model with other layers.
    pub fn with_adapter(&self, adapter: Adapter) -> Result<Self> {
        adapter.check(&self.config)?;
        Ok(self.over(self.handles(), Some(adapter)))
    }

    /// The model with its adapter switched off, over the same tensors: what the adapter was added to.
    #[must_use]
    pub fn without_adapter(&self) -> Self {
        self.over(self.handles(), None)
    }

    /// The model with its adapter merged into weights of its own; what the adapter does not change is shared.
    #[must_use]
    pub fn merged(&self) -> Self {
        let parameters = self.parameters.iter().map(|(name, tensor)| (name.clone(), self.merged_tensor(name, tensor)));
        self.over(parameters.collect(), None)
    }

    /// A model of the same kind over other parameters.
    fn over(&self, parameters: Vec<(String, Tensor)>, adapter: Option<Adapter>) -> Self {
        let model = Self::assemble(self.config.clone(), parameters, adapter, self.device);
        model.set_checkpointing(self.checkpoint_every.get());
        model.set_precision(self.precision.get());
        model
    }

    /// A parameter with the adapter's change to it.
    pub(crate) fn merged_tensor(&self, name: &str, tensor: &Tensor) -> Tensor {
        match &self.adapter {
            Some(adapter) => adapter.merged(name, tensor, self.config.architecture().stores_input_first()),
            None => tensor.shallow_clone(),
        }
    }

    /// Other handles on its parameters.
    fn handles(&self) -> Vec<(String, Tensor)> {
        self.parameters.iter().map(|(name, tensor)| (name.clone(), tensor.shallow_clone())).collect()
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
        let mut pass = WholePass::new(&batch.layout, batch.dropout.as_ref(), self.device, self.kind());
        let hidden = tensor_work(|| match self.checkpoint_every.get() {
            0 => self.run(&batch.ids, &mut pass),
            every => self.body.run_checkpointed(&batch.ids, &pass, self.first_trained_block(), every),
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
        self.run(&indices(&ids, self.device), &mut WholePass::new(&Arc::new(layout), None, self.device, self.kind()))
    }

    /// Runs the body over ids `[n]` → `[n, d]`.
    pub(crate) fn run(&self, ids: &Tensor, pass: &mut dyn Pass) -> Tensor {
        let body = self.body.lock();
        let (x, tables) = body.start(ids, &pass.positions());
        let mut x = x.to_kind(pass.kind());
        for layer in 0..body.n_blocks() {
            x = body.block(layer, &x, &tables, pass);
        }
        body.finish(&x, pass)
    }

    /// Logits `[.., v]` of hidden states `[.., d]`, bent where the architecture has a softcap.
    ///
    /// # Panics
    /// When the model is the body of a scalar model and has no output head.
    pub fn logits(&self, hidden: &Tensor) -> Tensor {
        let logits = hidden.linear(&like_activations(self.head(), hidden), None::<Tensor>);
        match self.logit_softcap() {
            Some(cap) => (logits / cap).tanh() * cap,
            None => logits,
        }
    }

    /// As [`LanguageModel::logits`], by the operations of a pass.
    pub(crate) fn logits_in(&self, hidden: &Tensor, pass: &dyn Pass) -> Tensor {
        let logits = pass.head(self.head(), hidden);
        match self.logit_softcap() {
            Some(cap) => pass.bend(&logits, cap),
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
        let model = Self::assemble(self.config, parameters, self.adapter, self.device);
        model.set_precision(self.precision.get());
        model
    }

    /// Writes `model.safetensors` as `f32`, with the names transformers expects; a tied head is not written twice, and an
    /// adapter is merged.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn save_weights(&self, dir: &Path) -> Result<()> {
        write_model_weights(dir, self.parameters.iter(), |name, tensor| self.merged_tensor(name, tensor))
    }

    /// Writes `config.json` and `model.safetensors`.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn save(&self, dir: &Path) -> Result<()> {
        self.config.save(dir)?;
        self.save_weights(dir)
    }

    /// Writes its adapter in PEFT's format into an existing folder, and gives back what a manifest has to say about the base.
    ///
    /// # Errors
    /// When the disk refuses.
    ///
    /// # Panics
    /// When it has no adapter.
    pub fn save_adapter(&self, dir: &Path) -> Result<AdapterBase> {
        write_adapter(dir, dir, self, None)
    }

    /// A frozen model of its own with the same values, such as a reference policy.
    ///
    /// # Errors
    /// None today; a device may run out of memory.
    pub fn copy(&self) -> Result<Self> {
        let copied = |tensor: &Tensor| tensor.detach().copy();
        let parameters = self.parameters.iter().map(|(name, tensor)| (name.clone(), copied(tensor)));
        let adapter = self.adapter.as_ref().map(|adapter| adapter.map(copied));
        Ok(self.over(parameters.collect(), adapter))
    }
}

/// Writes `model.safetensors` with the metadata transformers asks for. `merged` gives each tensor as it is to be written, when
/// its turn comes.
pub(crate) fn write_model_weights<'a>(
    dir: &Path,
    parameters: impl Iterator<Item = &'a (String, Tensor)>,
    merged: impl Fn(&str, &Tensor) -> Tensor,
) -> Result<()> {
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    let tensors = parameters.map(|(name, tensor)| (name.as_str(), tensor));
    write_safetensors_mapped(&dir.join("model.safetensors"), tensors, &metadata, merged)
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
