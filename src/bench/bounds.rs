//! The shortest time in which a machine could generate some answers.
//!
//! A step of generation reads every weight once and the cache of every text, and multiplies each text's newest token with
//! every weight. So it takes at least as long as the slower of the two: reading (weights + cache) / bandwidth, or
//! 2 N · texts / rate (Pope et al., 2022, <https://arxiv.org/abs/2211.05102>). Prompts take 2 N operations a token.

use farmhand_models::{Ceilings, ModelConfig, ModelFlops};

/// Seconds for answers of these lengths to prompts of these lengths, all generated together from the first step on, with
/// numbers of 4 bytes; each different prompt is computed once.
pub(super) fn generation_secs(config: &ModelConfig, ceilings: &Ceilings, prompts: &[usize], answers: &[Answer]) -> f64 {
    let flops = ModelFlops::of(config);
    let shape = config.shape();
    let weight_bytes = 4.0 * flops.n_parameters() as f64;
    let cache_bytes = 4.0 * (2 * shape.n_layers * shape.n_kv_heads * shape.head_dim) as f64;
    let prompt_tokens: usize = prompts.iter().sum();
    let prefill = 2.0 * flops.n_body as f64 * prompt_tokens as f64 / ceilings.matmul_flops;
    let longest = answers.iter().map(|answer| answer.n_tokens).max().unwrap_or(0);
    // The first token of an answer comes from its prompt's pass.
    let step = |step: usize| {
        let running = answers.iter().filter(|answer| answer.n_tokens > step);
        let (mut rows, mut cached) = (0.0, 0.0);
        for answer in running {
            rows += 1.0;
            cached += (answer.n_prompt + step) as f64;
        }
        let reading = (weight_bytes + cache_bytes * cached) / ceilings.read_bytes;
        let computing =
            (2.0 * flops.n_parameters() as f64 * rows + 4.0 * flops.attention as f64 * cached) / ceilings.matmul_flops;
        reading.max(computing)
    };
    prefill + (1..longest).map(step).sum::<f64>()
}

/// The sizes of one answer, in tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) n_prompt: usize,
    pub(super) n_tokens: usize,
}

#[cfg(test)]
mod tests {
    use farmhand_models::LlamaOptions;

    use super::*;

    #[test]
    fn one_answer_is_bound_by_reading_and_many_by_computing() {
        let config = ModelConfig::tiny_llama(LlamaOptions::default());
        let n = ModelFlops::of(&config).n_parameters() as f64;
        let answers = |rows: usize| vec![Answer { n_prompt: 0, n_tokens: 11 }; rows];
        let slow_memory = Ceilings { matmul_flops: 1e30, read_bytes: 1e9 };
        let one = generation_secs(&config, &slow_memory, &[], &answers(1));
        assert!(one >= 10.0 * 4.0 * n / 1e9 && one < 10.1 * 4.0 * n / 1e9, "{one}");
        // A second text costs no second reading of the weights.
        assert!(generation_secs(&config, &slow_memory, &[], &answers(2)) < 1.1 * one);
        let slow_arithmetic = Ceilings { matmul_flops: 1e9, read_bytes: 1e30 };
        let one = generation_secs(&config, &slow_arithmetic, &[], &answers(1));
        let ten = generation_secs(&config, &slow_arithmetic, &[], &answers(10));
        assert!((ten / one - 10.0).abs() < 1e-9 && one >= 10.0 * 2.0 * n / 1e9);
        let with_prompt = generation_secs(&config, &slow_arithmetic, &[7], &answers(1));
        assert!(with_prompt > one);
    }

    #[test]
    fn answers_that_end_leave() {
        let config = ModelConfig::tiny_llama(LlamaOptions::default());
        let ceilings = Ceilings { matmul_flops: 1e9, read_bytes: 1e30 };
        let answer = |n_tokens| Answer { n_prompt: 3, n_tokens };
        let both = generation_secs(&config, &ceilings, &[], &[answer(5), answer(2)]);
        let apart = [5, 2].map(|n| generation_secs(&config, &ceilings, &[], &[answer(n)])).iter().sum::<f64>();
        assert!((both - apart).abs() < 1e-12 * apart.max(1.0));
    }
}
