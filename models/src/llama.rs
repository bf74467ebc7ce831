//! The Llama family: Llama 1 to 3, SmolLM2, Mistral, Qwen2, Qwen3 and Phi-3, which differ in sizes, biases, windows,
//! rotary settings, norms on queries and keys, and in whether projections of one input are stored as one.
//!
//! Touvron et al., 2023, <https://arxiv.org/abs/2302.13971>: pre-norm blocks with RMS norm (Zhang and Sennrich,
//! 2019), rotary positions, grouped-query attention (Ainslie et al., 2023) and a gated feed-forward layer (Shazeer, 2020).

use std::sync::Arc;

use farmhand_core::Result;
use tch::Tensor;

use crate::architecture::{Architecture, Body, Init, ModelShape, ParameterSpec, Parameters, embed};
use crate::config_json::ConfigJson;
use crate::forward_pass::{Attention, Pass};
use crate::layer_windows::{LayerWindows, read_layer_windows, read_window};
use crate::layers::{Activation, Linear, RmsNorm};
use crate::rotary::{Rotary, RotaryEmbedding, RotarySpelling, RotaryTables};

/// The configuration of a model of the family.
#[derive(Debug, Clone)]
struct Llama {
    shape: ModelShape,
    n_heads: usize,
    intermediate_size: usize,
    activation: Activation,
    norm_eps: f64,
    rotary: Rotary,
    windows: LayerWindows,
    /// Norms on the heads of queries and keys.
    has_head_norms: bool,
    /// Whether queries, keys and values come from one stored projection, and gate and up from another.
    is_fused: bool,
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
    let llama = read(json, RotarySpelling::PLAIN, "LlamaForSequenceClassification")?;
    let windows = read_layer_windows(json, llama.shape.n_layers, None, |_| false)?;
    Ok(Arc::new(Llama { qkv_bias: bias, output_bias: bias, mlp_bias, windows, ..llama }))
}

/// Reads `model_type` `mistral`, which has one window in every layer or none in any.
pub(crate) fn read_mistral(json: &ConfigJson<'_>) -> Result<Arc<dyn Architecture>> {
    json.size("num_key_value_heads")?;
    let llama = read(json, RotarySpelling::PLAIN, "MistralForSequenceClassification")?;
    let window = read_window(json, Some(4096))?;
    let windows = vec![window; llama.shape.n_layers];
    if read_layer_windows(json, windows.len(), window, |_| true)? != windows {
        return Err(json.unsupported("layer_types", "one kind of attention in all layers, as `sliding_window` says"));
    }
    Ok(Arc::new(Llama { windows, ..llama }))
}

/// Reads `model_type` `qwen2`, which has biases on queries, keys and values.
pub(crate) fn read_qwen2(json: &ConfigJson<'_>) -> Result<Arc<dyn Architecture>> {
    json.size("num_key_value_heads")?;
    let llama = read(json, RotarySpelling::PLAIN, "Qwen2ForSequenceClassification")?;
    Ok(Arc::new(Llama { qkv_bias: true, windows: read_upper_windows(json, llama.shape.n_layers)?, ..llama }))
}

/// Reads `model_type` `qwen3`, which has norms on queries and keys instead of biases.
pub(crate) fn read_qwen3(json: &ConfigJson<'_>) -> Result<Arc<dyn Architecture>> {
    json.size("num_key_value_heads")?;
    json.size("head_dim")?;
    let bias = json.flag_or("attention_bias", false)?;
    let llama = read(json, RotarySpelling::PLAIN, "Qwen3ForSequenceClassification")?;
    let windows = read_upper_windows(json, llama.shape.n_layers)?;
    Ok(Arc::new(Llama { qkv_bias: bias, output_bias: bias, has_head_norms: true, windows, ..llama }))
}

/// Reads `model_type` `phi3`, which stores projections of one input as one and may turn only a part of each head.
pub(crate) fn read_phi3(json: &ConfigJson<'_>) -> Result<Arc<dyn Architecture>> {
    let llama = read(json, RotarySpelling::PHI3, "Phi3ForSequenceClassification")?;
    let windows = vec![read_window(json, None)?; llama.shape.n_layers];
    Ok(Arc::new(Llama { is_fused: true, windows, ..llama }))
}

fn read(json: &ConfigJson<'_>, rotary: RotarySpelling, scalar_class: &'static str) -> Result<Llama> {
    let (hidden_size, n_heads) = (json.size("hidden_size")?, json.size("num_attention_heads")?);
    let n_kv_heads = json.size_or("num_key_value_heads", n_heads)?;
    if !n_heads.is_multiple_of(n_kv_heads) {
        return Err(json.wrong("num_key_value_heads", &format!("a divisor of `num_attention_heads`, which is {n_heads}")));
    }
    if !json.is_set("head_dim") && !hidden_size.is_multiple_of(n_heads) {
        return Err(json.wrong("num_attention_heads", &format!("a divisor of `hidden_size`, which is {hidden_size}")));
    }
    let head_dim = json.size_or("head_dim", hidden_size / n_heads)?;
    let rotary = Rotary::read(json, head_dim, rotary)?;
    let max_positions = json.size("max_position_embeddings")?;
    Ok(Llama {
        shape: ModelShape {
            vocab_size: json.size("vocab_size")?,
            hidden_size,
            n_layers: json.size("num_hidden_layers")?,
            n_kv_heads,
            head_dim,
            max_positions: rotary.longest().map_or(max_positions, |longest| longest.min(max_positions)),
        },
        n_heads,
        intermediate_size: json.size("intermediate_size")?,
        activation: Activation::read(json, "hidden_act", "silu")?,
        norm_eps: json.positive_or("rms_norm_eps", 1e-6)?,
        rotary,
        windows: Vec::new(),
        has_head_norms: false,
        is_fused: false,
        qkv_bias: false,
        output_bias: false,
        mlp_bias: false,
        tied: json.flag_or("tie_word_embeddings", false)?,
        init_std: json.positive_or("initializer_range", 0.02)?,
        scalar_class,
    })
}

/// Qwen's windows: from layer `max_window_layers` on, where they are in use at all.
fn read_upper_windows(json: &ConfigJson<'_>, n_layers: usize) -> Result<LayerWindows> {
    let window = if json.flag_or("use_sliding_window", false)? { read_window(json, Some(4096))? } else { None };
    let first = json.count_or("max_window_layers", 28)?;
    read_layer_windows(json, n_layers, window, |layer| layer >= first)
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
            let inputs: &[_] = if self.is_fused {
                &[("self_attn.qkv_proj", q + 2 * kv, d, false), ("mlp.gate_up_proj", 2 * ff, d, false)]
            } else {
                &[
                    ("self_attn.q_proj", q, d, self.qkv_bias),
                    ("self_attn.k_proj", kv, d, self.qkv_bias),
                    ("self_attn.v_proj", kv, d, self.qkv_bias),
                    ("mlp.gate_proj", ff, d, self.mlp_bias),
                    ("mlp.up_proj", ff, d, self.mlp_bias),
                ]
            };
            let outputs = [("self_attn.o_proj", d, q, self.output_bias), ("mlp.down_proj", d, ff, self.mlp_bias)];
            for (part, to, from, has_bias) in inputs.iter().copied().chain(outputs) {
                specs.push(ParameterSpec::new(name(&format!("{part}.weight")), &[to, from], weight));
                if has_bias {
                    specs.push(ParameterSpec::new(name(&format!("{part}.bias")), &[to], Init::Zeros));
                }
            }
            for norm in ["input_layernorm.weight", "post_attention_layernorm.weight"] {
                specs.push(ParameterSpec::new(name(norm), &[d], Init::Ones));
            }
            if self.has_head_norms {
                for norm in HEAD_NORMS {
                    specs.push(ParameterSpec::new(name(&format!("{norm}.weight")), &[head_dim], Init::Ones));
                }
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

    fn body(&self, parameters: &Parameters<'_>) -> Box<dyn Body> {
        let ModelShape { n_kv_heads, head_dim, .. } = self.shape;
        let norm = |name: &str| RmsNorm { weight: parameters.get(&format!("{name}.weight")), plus: 0.0, eps: self.norm_eps };
        let blocks = self.windows.iter().enumerate().map(|(layer, window)| {
            let name = |part: &str| format!("model.layers.{layer}.{part}");
            let linear = |part: &str| parameters.linear(&name(part));
            let (queries_keys_values, gate_up) = if self.is_fused {
                let widths = [self.n_heads, n_kv_heads, n_kv_heads].map(|heads| (heads * head_dim) as i64);
                let halves = [self.intermediate_size as i64; 2];
                (Joint::Fused(linear("self_attn.qkv_proj"), widths), Joint::Fused(linear("mlp.gate_up_proj"), halves))
            } else {
                let apart = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"].map(linear);
                (Joint::Apart(apart), Joint::Apart(["mlp.gate_proj", "mlp.up_proj"].map(linear)))
            };
            Block {
                attention_norm: norm(&name("input_layernorm")),
                queries_keys_values,
                head_norms: self.has_head_norms.then(|| HEAD_NORMS.map(|part| norm(&name(part)))),
                output: linear("self_attn.o_proj"),
                feed_forward_norm: norm(&name("post_attention_layernorm")),
                gate_up,
                down: linear("mlp.down_proj"),
                activation: self.activation,
                attention: Attention { window: *window, ..Attention::causal(head_dim) },
                head_dim: head_dim as i64,
            }
        });
        let embedding = parameters.get(self.embedding());
        Box::new(LlamaBody {
            rotary: self.rotary.on(embedding.device()),
            embedding,
            blocks: blocks.collect(),
            norm: norm("model.norm"),
        })
    }
}

/// The norms on the heads of queries and of keys.
const HEAD_NORMS: [&str; 2] = ["self_attn.q_norm", "self_attn.k_norm"];

/// Projections of one input.
enum Joint<const N: usize> {
    /// Stored each by itself.
    Apart([Linear; N]),
    /// Stored as one, their outputs of these widths one after the other.
    Fused(Linear, [i64; N]),
}

impl<const N: usize> Joint<N> {
    /// `[n, from]` → N times `[n, to]`.
    fn forward(&self, x: &Tensor, pass: &dyn Pass) -> [Tensor; N] {
        match self {
            Self::Apart(linears) => linears.each_ref().map(|linear| pass.linear(linear, x)),
            Self::Fused(linear, widths) => {
                let parts = pass.linear(linear, x).split_with_sizes(widths, -1);
                parts.try_into().expect("a part for each width")
            }
        }
    }
}

struct Block {
    attention_norm: RmsNorm,
    queries_keys_values: Joint<3>,
    /// Of queries and of keys.
    head_norms: Option<[RmsNorm; 2]>,
    output: Linear,
    feed_forward_norm: RmsNorm,
    gate_up: Joint<2>,
    down: Linear,
    activation: Activation,
    attention: Attention,
    head_dim: i64,
}

impl Block {
    /// `[n, d]` → `[n, d]`.
    fn forward(&self, layer: usize, x: &Tensor, tables: &RotaryTables, pass: &mut dyn Pass) -> Tensor {
        let n = x.size()[0];
        let projected = self.queries_keys_values.forward(&pass.rms_norm(&self.attention_norm, x), pass);
        let [mut queries, mut keys, values] = projected.map(|part| part.reshape([n, -1, self.head_dim]));
        if let Some([of_queries, of_keys]) = &self.head_norms {
            (queries, keys) = (pass.rms_norm(of_queries, &queries), pass.rms_norm(of_keys, &keys));
        }
        let (queries, keys) = (pass.rotate(tables, &queries), pass.rotate(tables, &keys));
        let attended = pass.attend(layer, &self.attention, &queries, &keys, &values);
        let x = x + pass.linear(&self.output, &attended);

        let [gate, up] = self.gate_up.forward(&pass.rms_norm(&self.feed_forward_norm, &x), pass);
        x + pass.linear(&self.down, &pass.gated(self.activation, &gate, &up))
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

    fn finish(&self, x: &Tensor, pass: &dyn Pass) -> Tensor {
        pass.rms_norm(&self.norm, x)
    }
}
