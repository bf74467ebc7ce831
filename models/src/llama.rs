//! The Llama family: Llama 1 to 3, SmolLM2, Mistral and Qwen2, which differ in sizes, biases and rotary settings.
//!
//! Touvron et al., 2023, <https://arxiv.org/abs/2302.13971>: pre-norm blocks with RMS norm (Zhang and Sennrich,
//! 2019), rotary positions, grouped-query attention (Ainslie et al., 2023) and a gated feed-forward layer (Shazeer, 2020).

use std::sync::Arc;

use farmhand_core::Result;
use tch::Tensor;

use crate::architecture::{Architecture, Body, Init, ModelShape, ParameterSpec, Parameters, embed};
use crate::config_json::ConfigJson;
use crate::forward_pass::{Attention, Pass};
use crate::layers::{Activation, Linear, RmsNorm};
use crate::rotary::{Rotary, RotaryEmbedding, RotaryTables};

/// The configuration of a model of the family.
#[derive(Debug, Clone)]
struct Llama {
    shape: ModelShape,
    n_heads: usize,
    intermediate_size: usize,
    activation: Activation,
    norm_eps: f64,
    rotary: Rotary,
    /// Biases on the query, key and value projections.
    qkv_bias: bool,
    /// A bias on the attention's output projection.
    output_bias: bool,
    mlp_bias: bool,
    tied: bool,
    init_std: f64,
    scalar_class: &'static str,
}

/// Reads `model_type` `llama`.
pub(crate) fn read_llama(json: &ConfigJson<'_>) -> Result<Arc<dyn Architecture>> {
    let bias = json.flag_or("attention_bias", false)?;
    let mlp_bias = json.flag_or("mlp_bias", false)?;
    let llama = Llama { qkv_bias: bias, output_bias: bias, mlp_bias, ..read(json, "LlamaForSequenceClassification")? };
    Ok(Arc::new(llama))
}

/// Reads `model_type` `mistral`, which is Llama when no sliding window is in use.
pub(crate) fn read_mistral(json: &ConfigJson<'_>) -> Result<Arc<dyn Architecture>> {
    // Absent means 4096 to transformers; only an explicit null switches the window off.
    if !json.is_null("sliding_window") {
        return Err(json.unsupported("sliding_window", "null"));
    }
    json.size("num_key_value_heads")?;
    Ok(Arc::new(read(json, "MistralForSequenceClassification")?))
}

/// Reads `model_type` `qwen2`, which has biases on queries, keys and values.
pub(crate) fn read_qwen2(json: &ConfigJson<'_>) -> Result<Arc<dyn Architecture>> {
    json.expect_flag("use_sliding_window", false)?;
    json.size("num_key_value_heads")?;
    Ok(Arc::new(Llama { qkv_bias: true, ..read(json, "Qwen2ForSequenceClassification")? }))
}

fn read(json: &ConfigJson<'_>, scalar_class: &'static str) -> Result<Llama> {
    let (hidden_size, n_heads) = (json.size("hidden_size")?, json.size("num_attention_heads")?);
    let n_kv_heads = json.size_or("num_key_value_heads", n_heads)?;
    if !n_heads.is_multiple_of(n_kv_heads) {
        return Err(json.wrong("num_key_value_heads", &format!("a divisor of `num_attention_heads`, which is {n_heads}")));
    }
    if !json.is_set("head_dim") && !hidden_size.is_multiple_of(n_heads) {
        return Err(json.wrong("num_attention_heads", &format!("a divisor of `hidden_size`, which is {hidden_size}")));
    }
    let head_dim = json.size_or("head_dim", hidden_size / n_heads)?;
    refuse_other_layers(json)?;
    Ok(Llama {
        shape: ModelShape {
            vocab_size: json.size("vocab_size")?,
            hidden_size,
            n_layers: json.size("num_hidden_layers")?,
            n_kv_heads,
            head_dim,
            max_positions: json.size("max_position_embeddings")?,
        },
        n_heads,
        intermediate_size: json.size("intermediate_size")?,
        activation: Activation::read(json, "hidden_act", "silu")?,
        norm_eps: json.positive_or("rms_norm_eps", 1e-6)?,
        rotary: Rotary::read(json, head_dim)?,
        qkv_bias: false,
        output_bias: false,
        mlp_bias: false,
        tied: json.flag_or("tie_word_embeddings", false)?,
        init_std: json.positive_or("initializer_range", 0.02)?,
        scalar_class,
    })
}

/// Newer configurations list the attention of every layer; only full attention is implemented.
fn refuse_other_layers(json: &ConfigJson<'_>) -> Result<()> {
    let Some(types) = json.find("layer_types") else { return Ok(()) };
    let full = types.as_array().is_some_and(|types| types.iter().all(|kind| kind == "full_attention"));
    if full { Ok(()) } else { Err(json.unsupported("layer_types", "`full_attention` in every layer")) }
}

impl Architecture for Llama {
    fn shape(&self) -> ModelShape {
        self.shape
    }

    fn parameters(&self) -> Vec<ParameterSpec> {
        let ModelShape { vocab_size, hidden_size: d, n_kv_heads, head_dim, .. } = self.shape;
        let (q, kv, ff) = (self.n_heads * head_dim, n_kv_heads * head_dim, self.intermediate_size);
        let weight = Init::Normal(self.init_std);
        let mut specs = vec![
            ParameterSpec::new(self.embedding(), &[vocab_size, d], weight),
            ParameterSpec::new("model.norm.weight", &[d], Init::Ones),
        ];
        for layer in 0..self.shape.n_layers {
            let name = |part: &str| format!("model.layers.{layer}.{part}");
            let projections = [
                ("self_attn.q_proj", q, d, self.qkv_bias),
                ("self_attn.k_proj", kv, d, self.qkv_bias),
                ("self_attn.v_proj", kv, d, self.qkv_bias),
                ("self_attn.o_proj", d, q, self.output_bias),
                ("mlp.gate_proj", ff, d, self.mlp_bias),
                ("mlp.up_proj", ff, d, self.mlp_bias),
                ("mlp.down_proj", d, ff, self.mlp_bias),
            ];
            for (part, to, from, has_bias) in projections {
                specs.push(ParameterSpec::new(name(&format!("{part}.weight")), &[to, from], weight));
                if has_bias {
                    specs.push(ParameterSpec::new(name(&format!("{part}.bias")), &[to], Init::Zeros));
                }
            }
            for norm in ["input_layernorm.weight", "post_attention_layernorm.weight"] {
                specs.push(ParameterSpec::new(name(norm), &[d], Init::Ones));
            }
        }
        specs
    }

    fn embedding(&self) -> &'static str {
        "model.embed_tokens.weight"
    }

    fn prefix(&self) -> &'static str {
        "model."
    }

    fn is_tied(&self) -> bool {
        self.tied
    }

    fn init_std(&self) -> f64 {
        self.init_std
    }

    fn is_stored_constant(&self, name: &str) -> bool {
        name.ends_with(".rotary_emb.inv_freq")
    }

    fn scalar_class(&self) -> &'static str {
        self.scalar_class
    }

    fn body(&self, parameters: &Parameters) -> Box<dyn Body> {
        let norm = |name: &str| RmsNorm { weight: parameters.get(name), eps: self.norm_eps };
        let blocks = (0..self.shape.n_layers).map(|layer| {
            let linear = |part: &str| parameters.linear(&format!("model.layers.{layer}.{part}"));
            Block {
                attention_norm: norm(&format!("model.layers.{layer}.input_layernorm.weight")),
                queries: linear("self_attn.q_proj"),
                keys: linear("self_attn.k_proj"),
                values: linear("self_attn.v_proj"),
                output: linear("self_attn.o_proj"),
                feed_forward_norm: norm(&format!("model.layers.{layer}.post_attention_layernorm.weight")),
                gate: linear("mlp.gate_proj"),
                up: linear("mlp.up_proj"),
                down: linear("mlp.down_proj"),
                activation: self.activation,
                attention: Attention::causal(self.shape.head_dim),
                head_dim: self.shape.head_dim as i64,
            }
        });
        let embedding = parameters.get(self.embedding());
        Box::new(LlamaBody {
            rotary: self.rotary.on(embedding.device()),
            embedding,
            blocks: blocks.collect(),
            norm: norm("model.norm.weight"),
        })
    }
}

struct Block {
    attention_norm: RmsNorm,
    queries: Linear,
    keys: Linear,
    values: Linear,
    output: Linear,
    feed_forward_norm: RmsNorm,
    gate: Linear,
    up: Linear,
    down: Linear,
    activation: Activation,
    attention: Attention,
    head_dim: i64,
}

impl Block {
    /// `[n, d]` → `[n, d]`.
    fn forward(&self, layer: usize, x: &Tensor, tables: &RotaryTables, pass: &mut dyn Pass) -> Tensor {
        let n = x.size()[0];
        let normed = self.attention_norm.forward(x);
        let heads = |linear: &Linear, pass: &dyn Pass| pass.linear(linear, &normed).view([n, -1, self.head_dim]);
        let queries = tables.rotate(&heads(&self.queries, pass));
        let keys = tables.rotate(&heads(&self.keys, pass));
        let values = heads(&self.values, pass);
        let attended = pass.attend(layer, &self.attention, &queries, &keys, &values);
        let x = x + pass.linear(&self.output, &attended);

        let normed = self.feed_forward_norm.forward(&x);
        let gated = self.activation.gated(&pass.linear(&self.gate, &normed), &pass.linear(&self.up, &normed));
        x + pass.linear(&self.down, &gated)
    }
}

struct LlamaBody {
    embedding: Tensor,
    blocks: Vec<Block>,
    norm: RmsNorm,
    rotary: RotaryEmbedding,
}

impl Body for LlamaBody {
    fn start(&self, ids: &Tensor, positions: &Tensor) -> (Tensor, Vec<RotaryTables>) {
        (embed(&self.embedding, ids), vec![self.rotary.tables(positions)])
    }

    fn n_blocks(&self) -> usize {
        self.blocks.len()
    }

    fn block(&self, layer: usize, x: &Tensor, tables: &[RotaryTables], pass: &mut dyn Pass) -> Tensor {
        self.blocks[layer].forward(layer, x, &tables[0], pass)
    }

    fn finish(&self, x: &Tensor) -> Tensor {
        self.norm.forward(x)
    }
}
