//! A model's `config.json`: parsed for use, and kept whole for writing back.

use std::path::Path;
use std::sync::Arc;

use farmhand_core::{Error, Result, run};
use serde_json::{Map, Value, json};

use crate::architecture::{Architecture, ModelShape, ParameterSpec, read_architecture};
use crate::config_json::ConfigJson;
use crate::lora::block_of;
use crate::model_folders::ModelFolders;

/// The configuration of a language model.
#[derive(Debug, Clone)]
pub struct ModelConfig {
    architecture: Arc<dyn Architecture>,
    json: Map<String, Value>,
    eos_token_ids: Vec<u32>,
}

/// The sizes of a small Llama-type model made by [`ModelConfig::tiny_llama`].
#[derive(Debug, Clone, PartialEq)]
pub struct LlamaOptions {
    /// Tokens in the vocabulary.
    pub vocab_size: usize,
    /// Width of a hidden state; a multiple of `n_heads`.
    pub hidden_size: usize,
    /// Width of the feed-forward layers.
    pub intermediate_size: usize,
    /// Transformer blocks.
    pub n_layers: usize,
    /// Attention heads; the head size `hidden_size / n_heads` is even.
    pub n_heads: usize,
    /// Key-value heads, a divisor of `n_heads`.
    pub n_kv_heads: usize,
    /// Longest sequence, in tokens.
    pub max_positions: usize,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Whether the embedding is also the output head.
    pub tie_embeddings: bool,
    /// Id of the token that begins a text, if the tokenizer has one.
    pub bos_token_id: Option<u32>,
    /// Id of the token that ends a text.
    pub eos_token_id: Option<u32>,
    /// Id of the padding token.
    pub pad_token_id: Option<u32>,
}

impl Default for LlamaOptions {
    fn default() -> Self {
        Self {
            vocab_size: 256,
            hidden_size: 64,
            intermediate_size: 172,
            n_layers: 2,
            n_heads: 4,
            n_kv_heads: 2,
            max_positions: 512,
            rope_theta: 10_000.0,
            tie_embeddings: true,
            bos_token_id: None,
            eos_token_id: None,
            pad_token_id: None,
        }
    }
}

impl ModelConfig {
    /// Reads `config.json` of a model folder; for an adapter's folder, that of the model it changes.
    ///
    /// # Errors
    /// When it is missing, is not JSON, describes an unknown architecture, or asks for a feature that is not implemented.
    pub fn load(dir: &Path) -> Result<Self> {
        let path = ModelFolders::of(dir)?.whole().join("config.json");
        let text = std::fs::read_to_string(&path).map_err(|error| {
            Error::io("read", &path, error).with_hint("a model is a folder with config.json, *.safetensors and tokenizer.json")
        })?;
        let source = format!("`{}`", path.display());
        match serde_json::from_str(&text) {
            Ok(Value::Object(json)) => Self::from_json(json, &source),
            Ok(_) => Err(Error::invalid_config(format!("{source} holds no JSON object"))),
            Err(error) => Err(Error::invalid_config(format!("{source} is not JSON")).with_source(error)),
        }
    }

    /// The configuration in a JSON object; `source` names it in errors.
    ///
    /// # Errors
    /// As [`ModelConfig::load`].
    pub fn from_json(json: Map<String, Value>, source: &str) -> Result<Self> {
        let reader = ConfigJson::new(&json, source);
        let architecture = read_architecture(&reader)?;
        let eos_token_ids = reader.token_ids("eos_token_id")?;
        Ok(Self { architecture, json, eos_token_ids })
    }

    /// A small Llama-type model.
    ///
    /// # Panics
    /// When the sizes do not fit each other (see [`LlamaOptions`]).
    pub fn tiny_llama(options: LlamaOptions) -> Self {
        let json = json!({
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_act": "silu",
            "vocab_size": options.vocab_size,
            "hidden_size": options.hidden_size,
            "intermediate_size": options.intermediate_size,
            "num_hidden_layers": options.n_layers,
            "num_attention_heads": options.n_heads,
            "num_key_value_heads": options.n_kv_heads,
            "max_position_embeddings": options.max_positions,
            "rope_theta": options.rope_theta,
            "rms_norm_eps": 1e-5,
            "tie_word_embeddings": options.tie_embeddings,
            "attention_bias": false,
            "mlp_bias": false,
            "initializer_range": 0.02,
            "bos_token_id": options.bos_token_id,
            "eos_token_id": options.eos_token_id,
            "pad_token_id": options.pad_token_id,
            "torch_dtype": "float32",
        });
        let Value::Object(json) = json else { unreachable!("the literal above is an object") };
        Self::from_json(json, "the options").expect("the sizes fit each other")
    }

    /// The value of `model_type`, for example `llama`.
    pub fn model_type(&self) -> &str {
        self.json.get("model_type").and_then(Value::as_str).unwrap_or_default()
    }

    /// The sizes of the model.
    pub fn shape(&self) -> ModelShape {
        self.architecture.shape()
    }

    /// Rows of the embedding table; a tokenizer may have fewer tokens, never more.
    pub fn vocab_size(&self) -> usize {
        self.shape().vocab_size
    }

    /// Width of a hidden state.
    pub fn hidden_size(&self) -> usize {
        self.shape().hidden_size
    }

    /// Longest sequence, in tokens.
    pub fn max_positions(&self) -> usize {
        self.shape().max_positions
    }

    /// Transformer blocks.
    pub fn n_layers(&self) -> usize {
        self.shape().n_layers
    }

    /// Parameters of the language model; those of a tied head count once.
    pub fn n_parameters(&self) -> usize {
        self.parameters(true).iter().map(|spec| spec.shape.iter().product::<i64>() as usize).sum()
    }

    /// Whether the embedding is also the output head.
    pub fn is_tied(&self) -> bool {
        self.architecture.is_tied()
    }

    /// Ids of the tokens that end a text; empty when the configuration names none.
    pub fn eos_token_ids(&self) -> &[u32] {
        &self.eos_token_ids
    }

    /// The whole `config.json`.
    pub fn json(&self) -> &Map<String, Value> {
        &self.json
    }

    /// Replaces ids of special tokens, as after training a tokenizer.
    #[must_use]
    pub fn with_token_ids(mut self, bos: Option<u32>, eos: Option<u32>, pad: Option<u32>) -> Self {
        for (key, id) in [("bos_token_id", bos), ("eos_token_id", eos), ("pad_token_id", pad)] {
            self.json.insert(key.to_owned(), json!(id));
        }
        self.eos_token_ids = eos.into_iter().collect();
        self
    }

    /// The same body as a sequence classifier with one output, which is how transformers loads a scalar model.
    #[must_use]
    pub(crate) fn with_scalar_head(mut self) -> Self {
        self.json.insert("architectures".to_owned(), json!([self.architecture.scalar_class()]));
        self.json.insert("num_labels".to_owned(), json!(1));
        self.json.insert("id2label".to_owned(), json!({ "0": "LABEL_0" }));
        self.json.insert("label2id".to_owned(), json!({ "LABEL_0": 0 }));
        self
    }

    /// Writes `config.json`, with `float32` as the type of the weights: that is what this crate writes.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn save(&self, dir: &Path) -> Result<()> {
        let mut json = self.json.clone();
        if json.contains_key("dtype") {
            json.insert("dtype".to_owned(), json!("float32"));
        }
        if json.contains_key("torch_dtype") || !json.contains_key("dtype") {
            json.insert("torch_dtype".to_owned(), json!("float32"));
        }
        let path = dir.join("config.json");
        run::write_atomic(&path, |out| {
            serde_json::to_writer_pretty(&mut *out, &json).map_err(|error| Error::io("write", &path, error.into()))?;
            out.write_all(b"\n").map_err(|error| Error::io("write", &path, error))
        })
    }

    /// Whether a parameter is an output head of the model's own.
    pub(crate) fn is_head(&self, name: &str) -> bool {
        name == self.architecture.head()
    }

    /// Whether a parameter is an embedding of tokens or positions: outside the blocks, the only matrices are these and the head.
    pub(crate) fn is_embedding(&self, name: &str, tensor: &tch::Tensor) -> bool {
        block_of(name).is_none() && tensor.dim() == 2 && !self.is_head(name)
    }

    pub(crate) fn architecture(&self) -> &dyn Architecture {
        self.architecture.as_ref()
    }

    /// The parameters of the model, sorted by name, with or without a head of its own.
    pub(crate) fn parameters(&self, with_head: bool) -> Vec<ParameterSpec> {
        let mut specs = self.architecture.parameters();
        if with_head && !self.is_tied() {
            let shape = self.shape();
            let init = crate::architecture::Init::Normal(self.architecture.init_std());
            specs.push(ParameterSpec::new(self.architecture.head(), &[shape.vocab_size, shape.hidden_size], init));
        }
        specs.sort_by(|a, b| a.name.cmp(&b.name));
        specs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: Value) -> Result<ModelConfig> {
        let Value::Object(fields) = json else { panic!("an object") };
        ModelConfig::from_json(fields, "`config.json`")
    }

    fn tiny() -> Value {
        Value::Object(ModelConfig::tiny_llama(LlamaOptions::default()).json().clone())
    }

    #[test]
    fn what_would_change_the_maths_is_refused_by_name() {
        let cases = [
            ("model_type", json!("bloom"), "unknown `model_type` `bloom`"),
            ("hidden_act", json!("quick_gelu"), "`hidden_act` is `\"quick_gelu\"`"),
            ("rope_scaling", json!({ "rope_type": "ntk" }), "`rope_scaling.rope_type` is `\"ntk\"`"),
            ("rope_parameters", json!({ "full_attention": {} }), "`rope_parameters.full_attention` is `{}`"),
            ("quantization_config", json!({ "bits": 4 }), "`quantization_config`"),
            ("layer_types", json!(["sliding_attention", "full_attention"]), "without a sliding window"),
            ("layer_types", json!(["full_attention"]), "a list of 2 texts"),
            ("num_key_value_heads", json!(3), "a divisor of `num_attention_heads`, which is 4"),
            ("hidden_size", json!("wide"), "expected a positive integer"),
        ];
        for (key, value, expected) in cases {
            let mut json = tiny();
            json[key] = value;
            let error = parse(json).expect_err(key);
            assert!(error.message().contains(expected), "{key}: {error}");
        }
    }

    #[test]
    fn families_read_their_own_keys() {
        let with = |model_type: &str, changes: Value| {
            let mut json = tiny();
            json["model_type"] = json!(model_type);
            for (key, value) in changes.as_object().expect("an object") {
                json[key] = value.clone();
            }
            parse(json)
        };
        let refused = |model_type: &str, changes: Value| with(model_type, changes).expect_err("refused").to_string();
        // A window for some layers only is what Mistral does not have.
        let mixed = json!(["sliding_attention", "full_attention"]);
        assert!(refused("mistral", json!({ "layer_types": mixed })).contains("`layer_types`"));
        assert!(with("qwen2", json!({ "use_sliding_window": true, "layer_types": mixed })).is_ok());
        assert!(refused("qwen2", json!({ "layer_types": mixed })).contains("without a sliding window"));
        assert!(refused("qwen2", json!({ "max_window_layers": -1 })).contains("an integer from 0 on"));
        assert!(refused("qwen3", json!({})).contains("`head_dim` is missing"));
        assert!(refused("gemma2", json!({ "use_bidirectional_attention": true })).contains("use_bidirectional_attention"));
        assert!(refused("gemma2", json!({ "final_logit_softcapping": -1 })).contains("a number above 0"));
        assert!(refused("gemma3_text", json!({ "attn_logit_softcapping": 50.0 })).contains("not supported"));
        assert!(refused("gpt_neox", json!({ "rotary_pct": 1.5 })).contains("at most 1"));
        // Rotary settings by layer type, in either spelling.
        let rope =
            json!({ "full_attention": { "rope_type": "linear", "rope_theta": 1e6, "factor": 8.0 }, "sliding_attention": {} });
        let new = with("gemma3_text", json!({ "rope_theta": null, "rope_parameters": rope })).expect("valid");
        let old =
            json!({ "rope_theta": 1e6, "rope_local_base_freq": 1e4, "rope_scaling": { "rope_type": "linear", "factor": 8.0 } });
        let old = with("gemma3_text", old).expect("valid");
        assert_eq!(format!("{:?}", new.architecture()), format!("{:?}", old.architecture()));
        let flat = json!({ "rope_type": "default" });
        assert!(refused("gemma3_text", json!({ "rope_parameters": flat })).contains("`full_attention` and `sliding_attention`"));
        assert!(refused("gemma3_text", json!({ "rope_parameters": rope, "rope_scaling": flat })).contains("both"));
        // The context of LongRoPE ends where its second list would begin.
        let long = json!({ "type": "su", "short_factor": vec![1.0; 8], "long_factor": vec![2.0; 8] });
        let phi = with("phi3", json!({ "rope_scaling": long, "original_max_position_embeddings": 100 })).expect("valid");
        assert_eq!(phi.max_positions(), 100);
        assert!(refused("phi3", json!({ "rope_scaling": long })).contains("original_max_position_embeddings` is missing"));
    }

    #[test]
    fn unknown_keys_survive_a_round_trip_and_the_weight_type_becomes_float32() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut json = tiny();
        json["my_note"] = json!({ "kept": [1, 2] });
        json["torch_dtype"] = json!("bfloat16");
        json["eos_token_id"] = json!([2, 7]);
        let config = parse(json).expect("valid");
        config.save(dir.path()).expect("written");
        let again = ModelConfig::load(dir.path()).expect("readable");
        assert_eq!(again.json()["my_note"], json!({ "kept": [1, 2] }));
        assert_eq!(again.json()["torch_dtype"], json!("float32"));
        assert_eq!(again.eos_token_ids(), [2, 7]);
        assert_eq!(again.n_parameters(), config.n_parameters());
    }
}
