//! GPT-NeoX, the architecture of Pythia.
//!
//! Black et al., 2022, <https://arxiv.org/abs/2204.06745>: attention and feed-forward layer side by side on the same
//! residual, rotary positions on the first part of each head, layer norms, and one projection for queries, keys and values.

use std::sync::Arc;

use farmhand_core::Result;
use tch::Tensor;

use crate::architecture::{Architecture, Body, Init, ModelShape, ParameterSpec, Parameters, embed};
use crate::config_json::ConfigJson;
use crate::forward_pass::{Attention, Pass};
use crate::layers::{Activation, LayerNorm, Linear};
use crate::rotary::{Rotary, RotaryEmbedding, RotarySpelling, RotaryTables};

/// The configuration of a GPT-NeoX model. Its dropout rates are not applied: no method here trains with dropout.
#[derive(Debug, Clone)]
struct GptNeox {
    shape: ModelShape,
    intermediate_size: usize,
    activation: Activation,
    norm_eps: f64,
    rotary: Rotary,
    /// Biases on the projections of attention; the feed-forward layer always has them.
    attention_bias: bool,
    /// Whether attention and feed-forward layer read the same input.
    is_parallel: bool,
    tied: bool,
    init_std: f64,
}

/// Reads `model_type` `gpt_neox`.
pub(crate) fn read(json: &ConfigJson<'_>) -> Result<Arc<dyn Architecture>> {
    let (hidden_size, n_heads) = (json.size("hidden_size")?, json.size("num_attention_heads")?);
    if !hidden_size.is_multiple_of(n_heads) {
        return Err(json.wrong("num_attention_heads", &format!("a divisor of `hidden_size`, which is {hidden_size}")));
    }
    let head_dim = hidden_size / n_heads;
    Ok(Arc::new(GptNeox {
        shape: ModelShape {
            vocab_size: json.size("vocab_size")?,
            hidden_size,
            n_layers: json.size("num_hidden_layers")?,
            n_kv_heads: n_heads,
            head_dim,
            max_positions: json.size("max_position_embeddings")?,
        },
        intermediate_size: json.size("intermediate_size")?,
        activation: Activation::read(json, "hidden_act", "gelu")?,
        norm_eps: json.positive_or("layer_norm_eps", 1e-5)?,
        rotary: Rotary::read(json, head_dim, RotarySpelling::NEOX)?,
        attention_bias: json.flag_or("attention_bias", true)?,
        is_parallel: json.flag_or("use_parallel_residual", true)?,
        tied: json.flag_or("tie_word_embeddings", false)?,
        init_std: json.positive_or("initializer_range", 0.02)?,
    }))
}

impl Architecture for GptNeox {
    fn shape(&self) -> ModelShape {
        self.shape
    }

    fn parameters(&self) -> Vec<ParameterSpec> {
        let (d, ff, weight) = (self.shape.hidden_size, self.intermediate_size, Init::Normal(self.init_std));
        let norm = |name: String| {
            [("weight", Init::Ones), ("bias", Init::Zeros)]
                .map(|(part, init)| ParameterSpec::new(format!("{name}.{part}"), &[d], init))
        };
        let mut specs = vec![ParameterSpec::new(self.embedding(), &[self.shape.vocab_size, d], weight)];
        specs.extend(norm("gpt_neox.final_layer_norm".to_owned()));
        for layer in 0..self.shape.n_layers {
            let name = |part: &str| format!("gpt_neox.layers.{layer}.{part}");
            let projections = [
                ("attention.query_key_value", 3 * d, d, self.attention_bias),
                ("attention.dense", d, d, self.attention_bias),
                ("mlp.dense_h_to_4h", ff, d, true),
                ("mlp.dense_4h_to_h", d, ff, true),
            ];
            for (part, to, from, has_bias) in projections {
                specs.push(ParameterSpec::new(name(&format!("{part}.weight")), &[to, from], weight));
                if has_bias {
                    specs.push(ParameterSpec::new(name(&format!("{part}.bias")), &[to], Init::Zeros));
                }
            }
            specs.extend(["input_layernorm", "post_attention_layernorm"].into_iter().flat_map(|part| norm(name(part))));
        }
        specs
    }

    fn embedding(&self) -> &'static str {
        "gpt_neox.embed_in.weight"
    }

    fn head(&self) -> &'static str {
        "embed_out.weight"
    }

    fn prefix(&self) -> &'static str {
        "gpt_neox."
    }

    fn is_tied(&self) -> bool {
        self.tied
    }

    fn init_std(&self) -> f64 {
        self.init_std
    }

    fn is_stored_constant(&self, name: &str) -> bool {
        [".attention.bias", ".attention.masked_bias", ".rotary_emb.inv_freq"].iter().any(|end| name.ends_with(end))
    }

    fn scalar_class(&self) -> &'static str {
        "GPTNeoXForSequenceClassification"
    }

    fn body(&self, parameters: &Parameters<'_>) -> Box<dyn Body> {
        let norm = |name: &str| LayerNorm {
            weight: parameters.get(&format!("{name}.weight")),
            bias: parameters.get(&format!("{name}.bias")),
            eps: self.norm_eps,
        };
        let blocks = (0..self.shape.n_layers).map(|layer| {
            let name = |part: &str| format!("gpt_neox.layers.{layer}.{part}");
            Block {
                attention_norm: norm(&name("input_layernorm")),
                queries_keys_values: parameters.linear(&name("attention.query_key_value")),
                output: parameters.linear(&name("attention.dense")),
                feed_forward_norm: norm(&name("post_attention_layernorm")),
                up: parameters.linear(&name("mlp.dense_h_to_4h")),
                down: parameters.linear(&name("mlp.dense_4h_to_h")),
                activation: self.activation,
                attention: Attention::causal(self.shape.head_dim),
                is_parallel: self.is_parallel,
                head_dim: self.shape.head_dim as i64,
            }
        });
        let embedding = parameters.get(self.embedding());
        Box::new(GptNeoxBody {
            rotary: self.rotary.on(embedding.device()),
            embedding,
            blocks: blocks.collect(),
            norm: norm("gpt_neox.final_layer_norm"),
        })
    }
}

struct Block {
    attention_norm: LayerNorm,
    queries_keys_values: Linear,
    output: Linear,
    feed_forward_norm: LayerNorm,
    up: Linear,
    down: Linear,
    activation: Activation,
    attention: Attention,
    is_parallel: bool,
    head_dim: i64,
}

impl Block {
    /// `[n, d]` → `[n, d]`.
    fn forward(&self, layer: usize, x: &Tensor, tables: &RotaryTables, pass: &mut dyn Pass) -> Tensor {
        let projected = pass.linear(&self.queries_keys_values, &pass.layer_norm(&self.attention_norm, x));
        // Head by head: its query, its key, its value.
        let parts = projected.view([x.size()[0], -1, 3 * self.head_dim]).chunk(3, -1);
        let (queries, keys) = (pass.rotate(tables, &parts[0]), pass.rotate(tables, &parts[1]));
        let attended = pass.attend(layer, &self.attention, &queries, &keys, &parts[2]);
        let attended = x + pass.linear(&self.output, &attended);
        let widened =
            pass.linear(&self.up, &pass.layer_norm(&self.feed_forward_norm, if self.is_parallel { x } else { &attended }));
        attended + pass.linear(&self.down, &pass.activate(self.activation, &widened))
    }
}

struct GptNeoxBody {
    embedding: Tensor,
    blocks: Vec<Block>,
    norm: LayerNorm,
    rotary: RotaryEmbedding,
}

impl Body for GptNeoxBody {
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
        pass.layer_norm(&self.norm, x)
    }
}
