//! Gemma 2 and the text models of Gemma 3.
//!
//! Gemma Team, 2024, <https://arxiv.org/abs/2408.00118>, and 2025, <https://arxiv.org/abs/2503.19786>. What differs from
//! Llama: norms after attention and feed-forward as well as before, norm weights that count from one, embeddings scaled by
//! the root of the hidden size, and windows in most layers. Gemma 2 bends attention scores and logits by a tanh; Gemma 3
//! normalises queries and keys instead, and has rotary settings of its own for layers with a window.

use std::sync::Arc;

use farmhand_core::Result;
use tch::Tensor;

use crate::architecture::{Architecture, Body, Init, ModelShape, ParameterSpec, Parameters, embed};
use crate::config_json::ConfigJson;
use crate::forward_pass::{Attention, Pass};
use crate::layer_windows::{LayerWindows, read_layer_windows, read_window};
use crate::layers::{Activation, Linear, RmsNorm};
use crate::rotary::{Rotary, RotaryEmbedding, RotarySpelling, RotaryTables};

/// The configuration of a Gemma model.
#[derive(Debug, Clone)]
struct Gemma {
    shape: ModelShape,
    n_heads: usize,
    intermediate_size: usize,
    activation: Activation,
    norm_eps: f64,
    has_bias: bool,
    windows: LayerWindows,
    /// The rotary settings of layers that see everything.
    full_rotary: Rotary,
    /// Those of layers with a window.
    sliding_rotary: Rotary,
    /// The factor on attention scores.
    scale: f64,
    attention_softcap: Option<f64>,
    logit_softcap: Option<f64>,
    /// Norms on the heads of queries and keys.
    has_head_norms: bool,
    tied: bool,
    init_std: f64,
    scalar_class: &'static str,
}

/// Reads `model_type` `gemma2`, where every other layer has a window, the first one included.
pub(crate) fn read_gemma2(json: &ConfigJson<'_>) -> Result<Arc<dyn Architecture>> {
    let softcap = |key: &str, default: f64| {
        // Null switches it off, absent means the default.
        if json.is_null(key) { Ok(None) } else { json.positive_or(key, default).map(Some) }
    };
    let head_dim = json.size_or("head_dim", 256)?;
    let rotary = Rotary::read(json, head_dim, RotarySpelling::PLAIN)?;
    Ok(Arc::new(Gemma {
        attention_softcap: softcap("attn_logit_softcapping", 50.0)?,
        logit_softcap: softcap("final_logit_softcapping", 30.0)?,
        ..read(json, head_dim, |layer| layer % 2 == 0, [rotary.clone(), rotary], "Gemma2ForSequenceClassification")?
    }))
}

/// Reads `model_type` `gemma3_text`, where every sixth layer sees everything.
pub(crate) fn read_gemma3(json: &ConfigJson<'_>) -> Result<Arc<dyn Architecture>> {
    // transformers reads this key and does not apply it, so nobody knows what a model with it would mean.
    if json.is_set("attn_logit_softcapping") {
        return Err(json.unsupported("attn_logit_softcapping", "null"));
    }
    let key = if json.is_set("sliding_window_pattern") { "sliding_window_pattern" } else { "_sliding_window_pattern" };
    let pattern = json.size_or(key, 6)?;
    let head_dim = json.size_or("head_dim", 256)?;
    let rotary = Rotary::read_by_layer_type(json, head_dim)?;
    let logit_softcap = json.is_set("final_logit_softcapping").then(|| json.positive("final_logit_softcapping")).transpose()?;
    let is_sliding = |layer: usize| !(layer + 1).is_multiple_of(pattern);
    let gemma = read(json, head_dim, is_sliding, rotary, "Gemma3TextForSequenceClassification")?;
    Ok(Arc::new(Gemma { logit_softcap, has_head_norms: true, ..gemma }))
}

/// What both have; `rotary` is that of full and of sliding layers.
fn read(
    json: &ConfigJson<'_>,
    head_dim: usize,
    is_sliding: impl Fn(usize) -> bool,
    rotary: [Rotary; 2],
    scalar_class: &'static str,
) -> Result<Gemma> {
    json.expect_flag("use_bidirectional_attention", false)?;
    let (n_layers, n_heads) = (json.size("num_hidden_layers")?, json.size("num_attention_heads")?);
    let n_kv_heads = json.size("num_key_value_heads")?;
    if !n_heads.is_multiple_of(n_kv_heads) {
        return Err(json.wrong("num_key_value_heads", &format!("a divisor of `num_attention_heads`, which is {n_heads}")));
    }
    let [full_rotary, sliding_rotary] = rotary;
    Ok(Gemma {
        shape: ModelShape {
            vocab_size: json.size("vocab_size")?,
            hidden_size: json.size("hidden_size")?,
            n_layers,
            n_kv_heads,
            head_dim,
            max_positions: json.size("max_position_embeddings")?,
        },
        n_heads,
        intermediate_size: json.size("intermediate_size")?,
        activation: Activation::read(json, "hidden_activation", "gelu_pytorch_tanh")?,
        norm_eps: json.positive_or("rms_norm_eps", 1e-6)?,
        has_bias: json.flag_or("attention_bias", false)?,
        windows: read_layer_windows(json, n_layers, read_window(json, Some(4096))?, is_sliding)?,
        full_rotary,
        sliding_rotary,
        scale: 1.0 / json.positive_or("query_pre_attn_scalar", 256.0)?.sqrt(),
        attention_softcap: None,
        logit_softcap: None,
        has_head_norms: false,
        tied: json.flag_or("tie_word_embeddings", true)?,
        init_std: json.positive_or("initializer_range", 0.02)?,
        scalar_class,
    })
}

/// The norms of a block over the whole width: before and after attention, before and after the feed-forward layer.
const NORMS: [&str; 4] =
    ["input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm"];

impl Architecture for Gemma {
    fn shape(&self) -> ModelShape {
        self.shape
    }

    fn parameters(&self) -> Vec<ParameterSpec> {
        let ModelShape { vocab_size, hidden_size: d, n_kv_heads, head_dim, .. } = self.shape;
        let (q, kv, ff) = (self.n_heads * head_dim, n_kv_heads * head_dim, self.intermediate_size);
        let weight = Init::Normal(self.init_std);
        let mut specs = vec![
            ParameterSpec::new(self.embedding(), &[vocab_size, d], weight),
            ParameterSpec::new("model.norm.weight", &[d], Init::Zeros),
        ];
        for layer in 0..self.shape.n_layers {
            let name = |part: &str| format!("model.layers.{layer}.{part}");
            let projections = [
                ("self_attn.q_proj", q, d, self.has_bias),
                ("self_attn.k_proj", kv, d, self.has_bias),
                ("self_attn.v_proj", kv, d, self.has_bias),
                ("self_attn.o_proj", d, q, self.has_bias),
                ("mlp.gate_proj", ff, d, false),
                ("mlp.up_proj", ff, d, false),
                ("mlp.down_proj", d, ff, false),
            ];
            for (part, to, from, has_bias) in projections {
                specs.push(ParameterSpec::new(name(&format!("{part}.weight")), &[to, from], weight));
                if has_bias {
                    specs.push(ParameterSpec::new(name(&format!("{part}.bias")), &[to], Init::Zeros));
                }
            }
            for norm in NORMS {
                specs.push(ParameterSpec::new(name(&format!("{norm}.weight")), &[d], Init::Zeros));
            }
            if self.has_head_norms {
                for norm in ["self_attn.q_norm.weight", "self_attn.k_norm.weight"] {
                    specs.push(ParameterSpec::new(name(norm), &[head_dim], Init::Zeros));
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

    fn logit_softcap(&self) -> Option<f64> {
        self.logit_softcap
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
        // Weights count from one.
        let norm = |name: &str| RmsNorm { weight: parameters.get(&format!("{name}.weight")), plus: 1.0, eps: self.norm_eps };
        let blocks = self.windows.iter().enumerate().map(|(layer, window)| {
            let name = |part: &str| format!("model.layers.{layer}.{part}");
            let linear = |part: &str| parameters.linear(&name(part));
            Block {
                norms: NORMS.map(|part| norm(&name(part))),
                queries: linear("self_attn.q_proj"),
                keys: linear("self_attn.k_proj"),
                values: linear("self_attn.v_proj"),
                output: linear("self_attn.o_proj"),
                head_norms: self.has_head_norms.then(|| ["self_attn.q_norm", "self_attn.k_norm"].map(|part| norm(&name(part)))),
                gate: linear("mlp.gate_proj"),
                up: linear("mlp.up_proj"),
                down: linear("mlp.down_proj"),
                activation: self.activation,
                attention: Attention { scale: self.scale, window: *window, softcap: self.attention_softcap },
                head_dim: self.shape.head_dim as i64,
            }
        });
        let embedding = parameters.get(self.embedding());
        Box::new(GemmaBody {
            rotary: [&self.full_rotary, &self.sliding_rotary].map(|rotary| rotary.on(embedding.device())),
            embedding_scale: (self.shape.hidden_size as f64).sqrt(),
            embedding,
            blocks: blocks.collect(),
            norm: norm("model.norm"),
        })
    }
}

struct Block {
    /// In the order of [`NORMS`].
    norms: [RmsNorm; 4],
    queries: Linear,
    keys: Linear,
    values: Linear,
    output: Linear,
    /// Of queries and of keys.
    head_norms: Option<[RmsNorm; 2]>,
    gate: Linear,
    up: Linear,
    down: Linear,
    activation: Activation,
    attention: Attention,
    head_dim: i64,
}

impl Block {
    /// `[n, d]` → `[n, d]`.
    fn forward(&self, layer: usize, x: &Tensor, tables: &[RotaryTables], pass: &mut dyn Pass) -> Tensor {
        let [before_attention, after_attention, before_feed_forward, after_feed_forward] = &self.norms;
        let tables = &tables[usize::from(self.attention.window.is_some())];
        let n = x.size()[0];
        let normed = pass.rms_norm(before_attention, x);
        let heads = |linear: &Linear, pass: &dyn Pass| pass.linear(linear, &normed).view([n, -1, self.head_dim]);
        let (mut queries, mut keys) = (heads(&self.queries, pass), heads(&self.keys, pass));
        if let Some([of_queries, of_keys]) = &self.head_norms {
            (queries, keys) = (pass.rms_norm(of_queries, &queries), pass.rms_norm(of_keys, &keys));
        }
        let (queries, keys, values) = (pass.rotate(tables, &queries), pass.rotate(tables, &keys), heads(&self.values, pass));
        let attended = pass.attend(layer, &self.attention, &queries, &keys, &values);
        let x = x + pass.rms_norm(after_attention, &pass.linear(&self.output, &attended));

        let normed = pass.rms_norm(before_feed_forward, &x);
        let gated = pass.gated(self.activation, &pass.linear(&self.gate, &normed), &pass.linear(&self.up, &normed));
        x + pass.rms_norm(after_feed_forward, &pass.linear(&self.down, &gated))
    }
}

struct GemmaBody {
    embedding: Tensor,
    embedding_scale: f64,
    blocks: Vec<Block>,
    norm: RmsNorm,
    /// Of full and of sliding layers.
    rotary: [RotaryEmbedding; 2],
}

impl Body for GemmaBody {
    fn start(&self, ids: &Tensor, positions: &Tensor) -> (Tensor, Vec<RotaryTables>) {
        let tables = self.rotary.iter().map(|rotary| rotary.tables(positions)).collect();
        (embed(&self.embedding, ids) * self.embedding_scale, tables)
    }

    fn n_blocks(&self) -> usize {
        self.blocks.len()
    }

    fn block(&self, layer: usize, x: &Tensor, tables: &[RotaryTables], pass: &mut dyn Pass) -> Tensor {
        self.blocks[layer].forward(layer, x, tables, pass)
    }

    fn finish(&self, x: &Tensor, pass: &dyn Pass) -> Tensor {
        pass.rms_norm(&self.norm, x)
    }
}
