//! Floating-point operations of a model, counted as the field counts them.
//!
//! A multiplication and an addition are two operations. A forward pass takes 2N per token, N being the parameters that are
//! multiplied with: all matrices without the embedding table and with the output head, tied or not. Attention adds
//! 4 · layers · width per pair of tokens, width being all heads together. A backward pass costs the same twice: once for
//! the inputs' gradients, once for the parameters', of which a frozen model or one with adapters saves the second.
//!
//! Two conventions are in use, and both are kept. *Conventional* counts every token of a text with the whole text as its
//! context and through the output head (Chowdhery et al., 2022, <https://arxiv.org/abs/2204.02311>, appendix B; TRL's
//! `compute_flops_per_token`). *Needed* counts what the result needs: causal attention, the output head only where a token
//! is predicted, and a prompt that several answers share once.

use tch::Tensor;

use crate::config::ModelConfig;

/// The sizes that decide how many operations a pass takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ModelFlops {
    /// Parameters of the body's matrices.
    pub n_body: u64,
    /// Parameters of the output head; 0 without one.
    pub n_head: u64,
    /// Blocks times the width of all attention heads together.
    pub attention: u64,
}

/// Operations of a forward pass.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct PassFlops {
    /// As the field counts: full attention, every token through the head.
    pub conventional: f64,
    /// Causal attention; without the head, which is counted by the rows that go through it.
    pub needed_by_body: f64,
}

impl ModelFlops {
    /// Of a model with these settings.
    pub fn of(config: &ModelConfig) -> Self {
        let shape = config.shape();
        let matrices = config.parameters(false);
        let n_body = matrices.iter().filter(|spec| is_matrix(&spec.name, &spec.shape, config));
        Self {
            n_body: n_body.map(|spec| spec.shape.iter().product::<i64>() as u64).sum(),
            n_head: (shape.vocab_size * shape.hidden_size) as u64,
            attention: (shape.n_layers * n_heads(config) * shape.head_dim) as u64,
        }
    }

    /// The same without an output head, as in a reward model.
    #[must_use]
    pub fn without_head(self) -> Self {
        Self { n_head: 0, ..self }
    }

    /// N: the parameters that are multiplied with.
    pub fn n_parameters(self) -> u64 {
        self.n_body + self.n_head
    }

    /// A forward pass over texts of these lengths, of which `positions` were computed: the place of every token in its
    /// text, where a shared prompt stands once and padding may stand too.
    pub fn pass(self, lengths: &[usize], positions: &[i64]) -> PassFlops {
        let causal = |length: usize| (length * (length + 1)) as f64 / 2.0;
        let tokens: usize = lengths.iter().sum();
        let full_pairs: f64 = lengths.iter().map(|length| (length * length) as f64).sum();
        let own_pairs: f64 = lengths.iter().map(|length| causal(*length)).sum();
        let computed_pairs: f64 = positions.iter().map(|position| (position + 1) as f64).sum();
        let (attention, body) = (4.0 * self.attention as f64, 2.0 * self.n_body as f64);
        PassFlops {
            conventional: 2.0 * self.n_parameters() as f64 * tokens as f64 + attention * full_pairs,
            // Padding makes the second larger, a shared prompt makes it smaller.
            needed_by_body: body * tokens.min(positions.len()) as f64 + attention * own_pairs.min(computed_pairs),
        }
    }

    /// A pass of generation over tokens at these positions, which see what the cache holds before them; `rows` of them go
    /// through the head.
    pub fn cached_pass(self, positions: &[i64], rows: usize) -> PassFlops {
        let pairs: f64 = positions.iter().map(|position| (position + 1) as f64).sum();
        let body = 2.0 * self.n_body as f64 * positions.len() as f64 + 4.0 * self.attention as f64 * pairs;
        PassFlops { conventional: body + self.head(rows), needed_by_body: body }
    }

    /// The head on `rows` tokens.
    pub fn head(self, rows: usize) -> f64 {
        2.0 * self.n_head as f64 * rows as f64
    }
}

/// What a backward pass costs as a multiple of its forward pass: 1 for the inputs' gradients and, for the parameters', the
/// share of the matrices that train.
pub(crate) fn backward_factor(parameters: &[(String, Tensor)], config: &ModelConfig) -> f64 {
    let (mut all, mut trained) = (0, 0);
    for (name, tensor) in parameters {
        if is_matrix(name, &tensor.size(), config) {
            all += tensor.numel();
            trained += if tensor.requires_grad() { tensor.numel() } else { 0 };
        }
    }
    1.0 + trained as f64 / all.max(1) as f64
}

/// Whether hidden states are multiplied with this parameter: not an embedding, a bias or a norm. The head is counted apart.
fn is_matrix(name: &str, shape: &[i64], config: &ModelConfig) -> bool {
    let table = name == config.architecture().embedding() || name.ends_with("wpe.weight");
    shape.len() == 2 && !table && name != config.architecture().head()
}

pub(crate) fn n_heads(config: &ModelConfig) -> usize {
    let stated = ["num_attention_heads", "n_head"].iter().find_map(|key| config.json().get(*key)?.as_u64());
    stated.map_or_else(|| config.shape().hidden_size / config.shape().head_dim.max(1), |heads| heads as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LlamaOptions;

    fn config() -> ModelConfig {
        ModelConfig::tiny_llama(LlamaOptions::default())
    }

    #[test]
    fn parameters_are_the_matrices_with_the_head_and_without_the_embedding() {
        let flops = ModelFlops::of(&config());
        // Two blocks of q and o (64 · 64), k and v (64 · 32), gate, up and down (64 · 172); the head is the embedding again.
        assert_eq!(flops.n_body, 2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 172));
        assert_eq!(flops.n_head, 256 * 64);
        assert_eq!(flops.attention, 2 * 64);
        assert_eq!(flops.without_head().n_parameters(), flops.n_body);
    }

    #[test]
    fn a_pass_counts_the_text_and_not_its_padding_and_a_shared_prompt_once() {
        let flops = ModelFlops { n_body: 100, n_head: 10, attention: 3 };
        let plain = flops.pass(&[3, 2], &[0, 1, 2, 0, 1]);
        assert_eq!(plain.conventional, 2.0 * 110.0 * 5.0 + 12.0 * (9.0 + 4.0));
        assert_eq!(plain.needed_by_body, 2.0 * 100.0 * 5.0 + 12.0 * (6.0 + 3.0));
        assert_eq!(flops.pass(&[3, 2], &[0, 1, 2, 0, 1, 2]), plain, "the last token is padding");
        let shared = flops.pass(&[3, 3], &[0, 1, 2, 2]);
        assert_eq!(shared.conventional, 2.0 * flops.pass(&[3], &[0, 1, 2]).conventional);
        assert_eq!(shared.needed_by_body, 200.0 * 4.0 + 12.0 * 9.0);
        let step = flops.cached_pass(&[4, 0], 1);
        assert_eq!(step.needed_by_body, 2.0 * 100.0 * 2.0 + 12.0 * 6.0);
        assert_eq!(step.conventional, step.needed_by_body + 2.0 * 10.0);
    }

    #[test]
    fn a_frozen_model_saves_half_of_the_backward_pass() {
        let model = crate::LanguageModel::random(config(), farmhand_core::Seed::root(1), tch::Device::Cpu).expect("made");
        assert_eq!(backward_factor(model.parameters(), model.config()), 1.0);
        model.set_trainable(true);
        assert_eq!(backward_factor(model.parameters(), model.config()), 2.0);
    }
}
