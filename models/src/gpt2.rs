//! GPT-2: learned positions, layer norm, and projections stored input-first as the original code did.
//!
//! Radford et al., 2019, "Language Models are Unsupervised Multitask Learners".

use std::sync::Arc;

use farmhand_core::Result;
use tch::Tensor;

use crate::architecture::{Architecture, Body, Init, ModelShape, ParameterSpec, Parameters, embed};
use crate::config_json::ConfigJson;
use crate::forward_pass::{Attention, Pass};
use crate::layers::{Activation, LayerNorm, Linear};
use crate::rotary::RotaryTables;

/// The configuration of a GPT-2 model. Its dropout rates are not applied: no method here trains with dropout.
#[derive(Debug, Clone)]
struct Gpt2 {
    shape: ModelShape,
    intermediate_size: usize,
    activation: Activation,
    norm_eps: f64,
    tied: bool,
    init_std: f64,
}

/// Reads `model_type` `gpt2`.
pub(crate) fn read(json: &ConfigJson<'_>) -> Result<Arc<dyn Architecture>> {
    let (hidden_size, n_heads) = (json.size_or("n_embd", 768)?, json.size_or("n_head", 12)?);
    if !hidden_size.is_multiple_of(n_heads) {
        return Err(json.wrong("n_head", &format!("a divisor of `n_embd`, which is {hidden_size}")));
    }
    json.expect_flag("scale_attn_weights", true)?;
    json.expect_flag("scale_attn_by_inverse_layer_idx", false)?;
    json.expect_flag("add_cross_attention", false)?;
    Ok(Arc::new(Gpt2 {
        shape: ModelShape {
            vocab_size: json.size("vocab_size")?,
            hidden_size,
            n_layers: json.size_or("n_layer", 12)?,
            n_kv_heads: n_heads,
            head_dim: hidden_size / n_heads,
            max_positions: json.size_or("n_positions", 1024)?,
        },
        intermediate_size: json.size_or("n_inner", 4 * hidden_size)?,
        activation: Activation::read(json, "activation_function", "gelu_new")?,
        norm_eps: json.positive_or("layer_norm_epsilon", 1e-5)?,
        tied: json.flag_or("tie_word_embeddings", true)?,
        init_std: json.positive_or("initializer_range", 0.02)?,
    }))
}

impl Architecture for Gpt2 {
    fn shape(&self) -> ModelShape {
        self.shape
    }

    fn parameters(&self) -> Vec<ParameterSpec> {
        let ModelShape { vocab_size, hidden_size: d, n_layers, max_positions, .. } = self.shape;
        let weight = Init::Normal(self.init_std);
        // Projections back into the residual stream start smaller, by the number of them (section 2.3 of the paper).
        let residual = Init::Normal(self.init_std / (2.0 * n_layers as f64).sqrt());
        let mut specs = vec![
            ParameterSpec::new(self.embedding(), &[vocab_size, d], weight),
            ParameterSpec::new("transformer.wpe.weight", &[max_positions, d], weight),
            ParameterSpec::new("transformer.ln_f.weight", &[d], Init::Ones),
            ParameterSpec::new("transformer.ln_f.bias", &[d], Init::Zeros),
        ];
        for layer in 0..n_layers {
            let name = |part: &str| format!("transformer.h.{layer}.{part}");
            let projections = [
                ("attn.c_attn", d, 3 * d, weight),
                ("attn.c_proj", d, d, residual),
                ("mlp.c_fc", d, self.intermediate_size, weight),
                ("mlp.c_proj", self.intermediate_size, d, residual),
            ];
            for (part, from, to, init) in projections {
                specs.push(ParameterSpec::new(name(&format!("{part}.weight")), &[from, to], init));
                specs.push(ParameterSpec::new(name(&format!("{part}.bias")), &[to], Init::Zeros));
            }
            for norm in ["ln_1", "ln_2"] {
                specs.push(ParameterSpec::new(name(&format!("{norm}.weight")), &[d], Init::Ones));
                specs.push(ParameterSpec::new(name(&format!("{norm}.bias")), &[d], Init::Zeros));
            }
        }
        specs
    }

    fn embedding(&self) -> &'static str {
        "transformer.wte.weight"
    }

    fn prefix(&self) -> &'static str {
        "transformer."
    }

    fn is_tied(&self) -> bool {
        self.tied
    }

    fn init_std(&self) -> f64 {
        self.init_std
    }

    fn is_stored_constant(&self, name: &str) -> bool {
        name.ends_with(".attn.bias") || name.ends_with(".attn.masked_bias")
    }

    fn scalar_class(&self) -> &'static str {
        "GPT2ForSequenceClassification"
    }

    fn stores_input_first(&self) -> bool {
        true
    }

    fn body(&self, parameters: &Parameters<'_>) -> Box<dyn Body> {
        let norm = |name: &str| LayerNorm {
            weight: parameters.get(&format!("{name}.weight")),
            bias: parameters.get(&format!("{name}.bias")),
            eps: self.norm_eps,
        };
        let blocks = (0..self.shape.n_layers).map(|layer| {
            let name = |part: &str| format!("transformer.h.{layer}.{part}");
            let projection = |part: &str| parameters.linear(&name(part));
            Block {
                attention_norm: norm(&name("ln_1")),
                queries_keys_values: projection("attn.c_attn"),
                output: projection("attn.c_proj"),
                feed_forward_norm: norm(&name("ln_2")),
                up: projection("mlp.c_fc"),
                down: projection("mlp.c_proj"),
                activation: self.activation,
                attention: Attention::causal(self.shape.head_dim),
                head_dim: self.shape.head_dim as i64,
            }
        });
        Box::new(Gpt2Body {
            tokens: parameters.get(self.embedding()),
            positions: parameters.get("transformer.wpe.weight"),
            blocks: blocks.collect(),
            norm: norm("transformer.ln_f"),
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
    head_dim: i64,
}

impl Block {
    /// `[n, d]` → `[n, d]`.
    fn forward(&self, layer: usize, x: &Tensor, pass: &mut dyn Pass) -> Tensor {
        let n = x.size()[0];
        let projected = pass.linear(&self.queries_keys_values, &pass.layer_norm(&self.attention_norm, x)).chunk(3, -1);
        let heads = |part: &Tensor| part.reshape([n, -1, self.head_dim]);
        let (queries, keys, values) = (heads(&projected[0]), heads(&projected[1]), heads(&projected[2]));
        let attended = pass.attend(layer, &self.attention, &queries, &keys, &values);
        let x = x + pass.linear(&self.output, &attended);
        let widened = pass.linear(&self.up, &pass.layer_norm(&self.feed_forward_norm, &x));
        &x + pass.linear(&self.down, &pass.activate(self.activation, &widened))
    }
}

struct Gpt2Body {
    tokens: Tensor,
    positions: Tensor,
    blocks: Vec<Block>,
    norm: LayerNorm,
}

impl Body for Gpt2Body {
    fn start(&self, ids: &Tensor, positions: &Tensor) -> (Tensor, Vec<RotaryTables>) {
        (embed(&self.tokens, ids) + embed(&self.positions, positions), Vec::new())
    }

    fn n_blocks(&self) -> usize {
        self.blocks.len()
    }

    fn block(&self, layer: usize, x: &Tensor, _: &[RotaryTables], pass: &mut dyn Pass) -> Tensor {
        self.blocks[layer].forward(layer, x, pass)
    }

    fn finish(&self, x: &Tensor, pass: &dyn Pass) -> Tensor {
        pass.layer_norm(&self.norm, x)
    }
}
