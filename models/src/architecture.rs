//! What an architecture must offer, and the list of those this crate knows.
//!
//! Adding one: a file with a struct that implements [`Architecture`], a `read` function that parses its
//! `config.json`, and a line in [`KNOWN`].

use std::collections::BTreeMap;
use std::sync::Arc;

use farmhand_core::{Error, Result};
use tch::{Kind, Tensor};

use crate::config_json::ConfigJson;
use crate::forward_pass::Pass;
use crate::layers::Linear;
use crate::lora::Adapter;
use crate::rotary::RotaryTables;

/// Reads the `config.json` of one architecture.
pub(crate) type ReadArchitecture = fn(&ConfigJson<'_>) -> Result<Arc<dyn Architecture>>;

/// The known values of `model_type`, and how their configuration is read.
const KNOWN: &[(&str, ReadArchitecture)] = &[
    ("gemma2", crate::gemma::read_gemma2),
    ("gemma3_text", crate::gemma::read_gemma3),
    ("gpt2", crate::gpt2::read),
    ("gpt_neox", crate::gpt_neox::read),
    ("llama", crate::llama::read_llama),
    ("mistral", crate::llama::read_mistral),
    ("phi3", crate::llama::read_phi3),
    ("qwen2", crate::llama::read_qwen2),
    ("qwen3", crate::llama::read_qwen3),
];

/// The architecture a `config.json` describes.
pub(crate) fn read_architecture(json: &ConfigJson<'_>) -> Result<Arc<dyn Architecture>> {
    let model_type = json.text("model_type")?;
    let known: Vec<&str> = KNOWN.iter().map(|(name, _)| *name).collect();
    let Some((_, read)) = KNOWN.iter().find(|(name, _)| *name == model_type) else {
        return Err(Error::invalid_config(format!("{}: unknown `model_type` `{model_type}`", json.source()))
            .with_hint(format!("known are {}", known.join(", "))));
    };
    if json.is_set("quantization_config") {
        return Err(json.unsupported("quantization_config", "a model with float weights"));
    }
    read(json)
}

/// The sizes that callers outside an architecture need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModelShape {
    /// Rows of the embedding table.
    pub vocab_size: usize,
    /// Width of a hidden state.
    pub hidden_size: usize,
    /// Transformer blocks.
    pub n_layers: usize,
    /// Key-value heads of a block.
    pub n_kv_heads: usize,
    /// Width of one attention head.
    pub head_dim: usize,
    /// Longest sequence, in tokens.
    pub max_positions: usize,
}

/// How a parameter of a new model starts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Init {
    Zeros,
    Ones,
    /// Normal with mean 0 and this standard deviation.
    Normal(f64),
}

/// Name, shape and start of one parameter.
#[derive(Debug, Clone)]
pub(crate) struct ParameterSpec {
    pub(crate) name: String,
    pub(crate) shape: Vec<i64>,
    pub(crate) init: Init,
}

impl ParameterSpec {
    pub(crate) fn new(name: impl Into<String>, shape: &[usize], init: Init) -> Self {
        Self { name: name.into(), shape: shape.iter().map(|size| *size as i64).collect(), init }
    }
}

/// The name of the output head in nearly every architecture.
pub(crate) const HEAD: &str = "lm_head.weight";

/// The parsed configuration of one architecture.
pub(crate) trait Architecture: std::fmt::Debug + Send + Sync {
    /// Its sizes.
    fn shape(&self) -> ModelShape;

    /// The parameters of the body, named as in Hugging Face checkpoints, without the output head.
    fn parameters(&self) -> Vec<ParameterSpec>;

    /// The name of the token embedding `[v, d]`, which is also the output head of a tied model.
    fn embedding(&self) -> &'static str;

    /// The name of an output head that is not tied.
    fn head(&self) -> &'static str {
        HEAD
    }

    /// Logits are bent to softcap · tanh(logit / softcap).
    fn logit_softcap(&self) -> Option<f64> {
        None
    }

    /// What names of the body start with in a checkpoint of the full model and not in one of the bare body.
    fn prefix(&self) -> &'static str;

    /// Whether the embedding is also the output head.
    fn is_tied(&self) -> bool;

    /// Standard deviation of a new output head.
    fn init_std(&self) -> f64;

    /// Whether a tensor in a checkpoint is a constant that old versions of transformers stored.
    fn is_stored_constant(&self, name: &str) -> bool;

    /// The class in transformers that has this body and a score head.
    fn scalar_class(&self) -> &'static str;

    /// Whether the weights of linear layers are `[from, to]` instead of `[to, from]`.
    fn stores_input_first(&self) -> bool {
        false
    }

    /// The body over these parameters.
    fn body(&self, parameters: &Parameters<'_>) -> Box<dyn Body>;
}

/// The transformer without its output head, on flat tokens: one row a token.
pub(crate) trait Body: Send {
    /// The embedded tokens `[n, d]` of ids `[n]` at positions `[n]`, and the rotary tables all blocks share.
    fn start(&self, ids: &Tensor, positions: &Tensor) -> (Tensor, Vec<RotaryTables>);

    /// Transformer blocks.
    fn n_blocks(&self) -> usize;

    /// One block, `[n, d]` → `[n, d]`.
    fn block(&self, layer: usize, x: &Tensor, tables: &[RotaryTables], pass: &mut dyn Pass) -> Tensor;

    /// The final norm, `[n, d]` → `[n, d]`.
    fn finish(&self, x: &Tensor, pass: &dyn Pass) -> Tensor;
}

/// Checked parameters by name, and the low-rank changes that belong to some of them.
pub(crate) struct Parameters<'a> {
    tensors: BTreeMap<&'a str, &'a Tensor>,
    is_input_first: bool,
    adapter: Option<&'a Adapter>,
}

impl<'a> Parameters<'a> {
    /// The parameters of a model; every one the architecture names must be there.
    pub(crate) fn new(architecture: &dyn Architecture, parameters: &'a [(String, Tensor)], adapter: Option<&'a Adapter>) -> Self {
        let tensors = parameters.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
        Self { tensors, is_input_first: architecture.stores_input_first(), adapter }
    }

    /// A handle on one parameter.
    pub(crate) fn get(&self, name: &str) -> Tensor {
        self.find(name).expect("an architecture asks only for parameters it declared")
    }

    /// A handle on one parameter, if the model has it.
    pub(crate) fn find(&self, name: &str) -> Option<Tensor> {
        self.tensors.get(name).map(|tensor| tensor.shallow_clone())
    }

    /// The linear layer of this name, with its bias and its low-rank change if it has them.
    pub(crate) fn linear(&self, name: &str) -> Linear {
        let (weight, bias) = (self.get(&format!("{name}.weight")), self.find(&format!("{name}.bias")));
        let linear = if self.is_input_first { Linear::input_first(weight, bias) } else { Linear::new(weight, bias) };
        linear.with_low_rank(self.adapter.and_then(|adapter| adapter.layer(name)))
    }
}

/// Rows of an embedding table `[v, d]` for ids of any shape.
pub(crate) fn embed(table: &Tensor, ids: &Tensor) -> Tensor {
    debug_assert_eq!(ids.kind(), Kind::Int64);
    Tensor::embedding(table, ids, -1, false, false)
}
