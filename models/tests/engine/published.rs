//! Configurations as published checkpoints have them, so far as they matter: they are read, and describe models of the
//! published sizes.

use farmhand_models::ModelConfig;
use serde_json::{Value, json};

#[test]
fn configurations_of_published_models_are_read_with_their_numbers_of_parameters() {
    let llama_3_2_1b = json!({
        "model_type": "llama", "attention_bias": false, "bos_token_id": 128000, "eos_token_id": [128001, 128008, 128009],
        "head_dim": 64, "hidden_act": "silu", "hidden_size": 2048, "intermediate_size": 8192, "max_position_embeddings": 131072,
        "mlp_bias": false, "num_attention_heads": 32, "num_hidden_layers": 16, "num_key_value_heads": 8, "pretraining_tp": 1,
        "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "tie_word_embeddings": true, "torch_dtype": "bfloat16", "vocab_size": 128256,
        "rope_scaling": { "factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
            "original_max_position_embeddings": 8192, "rope_type": "llama3" },
    });
    let mistral_7b = json!({
        "model_type": "mistral", "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 4096,
        "intermediate_size": 14336, "max_position_embeddings": 32768, "num_attention_heads": 32, "num_hidden_layers": 32,
        "num_key_value_heads": 8, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "sliding_window": 4096,
        "tie_word_embeddings": false, "vocab_size": 32000,
    });
    let qwen2_5_0_5b = json!({
        "model_type": "qwen2", "attention_dropout": 0.0, "bos_token_id": 151643, "eos_token_id": 151645, "hidden_act": "silu",
        "hidden_size": 896, "intermediate_size": 4864, "max_position_embeddings": 32768, "max_window_layers": 21,
        "num_attention_heads": 14, "num_hidden_layers": 24, "num_key_value_heads": 2, "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0, "sliding_window": 32768, "tie_word_embeddings": true, "use_sliding_window": false,
        "vocab_size": 151936,
    });
    let qwen3_0_6b = json!({
        "model_type": "qwen3", "attention_bias": false, "bos_token_id": 151643, "eos_token_id": 151645, "head_dim": 128,
        "hidden_act": "silu", "hidden_size": 1024, "intermediate_size": 3072, "max_position_embeddings": 40960,
        "max_window_layers": 28, "num_attention_heads": 16, "num_hidden_layers": 28, "num_key_value_heads": 8,
        "rms_norm_eps": 1e-6, "rope_scaling": null, "rope_theta": 1000000, "sliding_window": null, "tie_word_embeddings": true,
        "use_sliding_window": false, "vocab_size": 151936,
    });
    let phi_3_mini_4k = json!({
        "model_type": "phi3", "bos_token_id": 1, "eos_token_id": 32000, "hidden_act": "silu", "hidden_size": 3072,
        "intermediate_size": 8192, "max_position_embeddings": 4096, "num_attention_heads": 32, "num_hidden_layers": 32,
        "num_key_value_heads": 32, "original_max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "rope_scaling": null,
        "rope_theta": 10000.0, "sliding_window": 2047, "tie_word_embeddings": false, "vocab_size": 32064,
    });
    let phi_4_mini = json!({
        "model_type": "phi3", "attention_bias": false, "bos_token_id": 199999, "eos_token_id": 199999, "hidden_act": "silu",
        "hidden_size": 3072, "intermediate_size": 8192, "max_position_embeddings": 131072, "mlp_bias": false,
        "num_attention_heads": 24, "num_hidden_layers": 32, "num_key_value_heads": 8, "original_max_position_embeddings": 4096,
        "partial_rotary_factor": 0.75, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "sliding_window": 262144,
        "tie_word_embeddings": true, "vocab_size": 200064,
        "rope_scaling": { "type": "longrope", "long_factor": vec![2.0; 48], "short_factor": vec![1.0; 48] },
    });
    let gemma_2_2b = json!({
        "model_type": "gemma2", "attention_bias": false, "attn_logit_softcapping": 50.0, "bos_token_id": 2,
        "cache_implementation": "hybrid", "eos_token_id": 1, "final_logit_softcapping": 30.0, "head_dim": 256,
        "hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 2304,
        "intermediate_size": 9216, "max_position_embeddings": 8192, "num_attention_heads": 8, "num_hidden_layers": 26,
        "num_key_value_heads": 4, "pad_token_id": 0, "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
        "sliding_window": 4096, "vocab_size": 256000,
    });
    let gemma_3_1b = json!({
        "model_type": "gemma3_text", "attention_bias": false, "attn_logit_softcapping": null, "bos_token_id": 2,
        "cache_implementation": "hybrid", "eos_token_id": [1, 106], "final_logit_softcapping": null, "head_dim": 256,
        "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 1152, "intermediate_size": 6912,
        "max_position_embeddings": 32768, "num_attention_heads": 4, "num_hidden_layers": 26, "num_key_value_heads": 1,
        "pad_token_id": 0, "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-6, "rope_local_base_freq": 10000,
        "rope_scaling": null, "rope_theta": 1000000, "sliding_window": 512, "sliding_window_pattern": 6, "vocab_size": 262144,
    });
    let gpt2 = json!({
        "model_type": "gpt2", "activation_function": "gelu_new", "bos_token_id": 50256, "eos_token_id": 50256,
        "layer_norm_epsilon": 1e-5, "n_ctx": 1024, "n_embd": 768, "n_head": 12, "n_layer": 12, "n_positions": 1024,
        "summary_type": "cls_index", "vocab_size": 50257,
    });
    let pythia_160m = json!({
        "model_type": "gpt_neox", "bos_token_id": 0, "eos_token_id": 0, "hidden_act": "gelu", "hidden_size": 768,
        "intermediate_size": 3072, "layer_norm_eps": 1e-5, "max_position_embeddings": 2048, "num_attention_heads": 12,
        "num_hidden_layers": 12, "rotary_emb_base": 10000, "rotary_pct": 0.25, "tie_word_embeddings": false,
        "use_parallel_residual": true, "vocab_size": 50304,
    });
    let cases = [
        ("Llama-3.2-1B", llama_3_2_1b, 1_235_814_400, 131_072),
        ("Mistral-7B-v0.1", mistral_7b, 7_241_732_096, 32_768),
        ("Qwen2.5-0.5B", qwen2_5_0_5b, 494_032_768, 32_768),
        ("Qwen3-0.6B", qwen3_0_6b, 596_049_920, 40_960),
        ("Phi-3-mini-4k", phi_3_mini_4k, 3_821_079_552, 4_096),
        ("Phi-4-mini", phi_4_mini, 3_836_021_760, 4_096),
        ("gemma-2-2b", gemma_2_2b, 2_614_341_888, 8_192),
        ("gemma-3-1b", gemma_3_1b, 999_885_952, 32_768),
        ("gpt2", gpt2, 124_439_808, 1_024),
        ("pythia-160m", pythia_160m, 162_322_944, 2_048),
    ];
    for (name, config, n_parameters, max_positions) in cases {
        let Value::Object(config) = config else { panic!("an object") };
        let config = ModelConfig::from_json(config, name).unwrap_or_else(|error| panic!("{name}: {error:?}"));
        assert_eq!((config.n_parameters(), config.max_positions()), (n_parameters, max_positions), "{name}");
    }
}
