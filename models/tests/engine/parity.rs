//! The same numbers as transformers, and the same after writing and reading back.

use std::collections::BTreeMap;

use farmhand_core::Seed;
use farmhand_core::types::{FinishReason, SamplingParams};
use farmhand_models::{
    BatchLayout, EncodedText, GenerateOptions, GenerationRequest, LanguageModel, SafetensorsFile, ScalarModel, TokenBatch,
    generate, selected_log_probs,
};
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor, no_grad};

use crate::{copy_folder, golden};

const CASES: [&str; 16] = [
    "llama",
    "llama3",
    "llama_linear_biases",
    "llama_yarn",
    "mistral",
    "qwen2",
    "gpt2",
    "mistral_window",
    "qwen2_window",
    "qwen3",
    "gemma2",
    "gemma3",
    "gpt_neox",
    "gpt_neox_sequential",
    "phi3",
    "phi3_longrope",
];

#[derive(serde::Deserialize)]
struct Expected {
    sequences: Vec<Vec<i64>>,
    /// `[sequences][tokens][v]`.
    logits: Vec<Vec<Vec<f32>>>,
    /// 64 greedy tokens after the second sequence, by repetition penalty.
    greedy: BTreeMap<String, Vec<u32>>,
    /// The norm of each parameter's gradient of the first sequence's mean log-probability.
    gradients: BTreeMap<String, f64>,
}

fn expected(case: &str) -> Expected {
    let text = std::fs::read_to_string(golden(case).join("expected.json")).expect("a fixture");
    serde_json::from_str(&text).expect("as make_goldens.py writes it")
}

fn load(case: &str) -> LanguageModel {
    LanguageModel::load(&golden(case), Device::Cpu).unwrap_or_else(|error| panic!("{case}: {error:?}"))
}

/// The logits `[t, v]` of each sequence, all computed in one batch.
fn logits(model: &LanguageModel, sequences: &[Vec<i64>], layout: BatchLayout) -> Vec<Tensor> {
    let text = |ids: &Vec<i64>| EncodedText { ids: ids.iter().map(|id| *id as u32).collect(), response_start: 1 };
    let texts: Vec<_> = sequences.iter().map(text).collect();
    let batch = TokenBatch::new(&texts.iter().collect::<Vec<_>>(), layout, Device::Cpu).expect("made");
    let logits = no_grad(|| model.logits(&model.hidden(&batch)));
    let places = |row: usize| {
        Tensor::cat(
            &[batch.predict_rows.masked_select(&batch.row_of.eq(row as i64)), batch.last_rows.narrow(0, row as i64, 1)],
            0,
        )
    };
    (0..texts.len()).map(|row| logits.index_select(0, &places(row))).collect()
}

#[test]
fn logits_are_within_1e_4_of_transformers_in_either_layout() {
    for case in CASES {
        let (model, expected) = (load(case), expected(case));
        for layout in [BatchLayout::Packed, BatchLayout::Padded] {
            let logits = logits(&model, &expected.sequences, layout);
            for (row, rows) in expected.logits.iter().enumerate() {
                let reference = Tensor::from_slice(&rows.concat()).view([rows.len() as i64, -1]);
                let difference = (&logits[row] - reference).abs().max().double_value(&[]);
                assert!(difference < 1e-4, "{case}, {layout:?}, sequence {row}: {difference}");
            }
        }
    }
}

#[test]
fn gradients_of_a_log_probability_have_the_norms_transformers_finds() {
    for case in CASES {
        let (model, expected) = (load(case), expected(case));
        model.set_trainable(true);
        let text = EncodedText { ids: expected.sequences[0].iter().map(|id| *id as u32).collect(), response_start: 1 };
        for layout in [BatchLayout::Packed, BatchLayout::Padded] {
            let batch = TokenBatch::new(&[&text], layout, Device::Cpu).expect("made");
            let selected = selected_log_probs(&model, &batch);
            let loss = selected.values.mean(Kind::Float);
            selected.backward(&loss);
            assert_eq!(model.parameters().len(), expected.gradients.len(), "{case}");
            for (name, parameter) in model.parameters() {
                let (norm, reference) = (parameter.grad().norm().double_value(&[]), expected.gradients[name]);
                assert!((norm - reference).abs() < 1e-5 + 1e-4 * reference, "{case}, {layout:?}, {name}: {norm} and {reference}");
                parameter.shallow_clone().zero_grad();
            }
        }
    }
}

/// Without this the parity above could hold although a part of an architecture has no effect on so small a model.
#[test]
fn every_part_of_an_architecture_is_heard() {
    let full = json!(["full_attention", "full_attention", "full_attention"]);
    let rope = |rope: Value| json!({ "full_attention": rope, "sliding_attention": { "rope_theta": 300.0 } });
    let changes = [
        ("mistral_window", "sliding_window", Value::Null),
        ("mistral_window", "sliding_window", json!(8)),
        ("qwen2_window", "layer_types", json!(["full_attention", "full_attention"])),
        ("qwen2_window", "layer_types", json!(["sliding_attention", "sliding_attention"])),
        ("gemma2", "attn_logit_softcapping", Value::Null),
        ("gemma2", "final_logit_softcapping", Value::Null),
        ("gemma2", "query_pre_attn_scalar", json!(8)),
        ("gemma2", "layer_types", full.clone()),
        ("gemma3", "query_pre_attn_scalar", json!(8)),
        ("gemma3", "layer_types", full),
        ("gemma3", "rope_parameters", rope(json!({ "rope_theta": 20000.0 }))),
        ("gemma3", "rope_parameters", rope(json!({ "rope_type": "linear", "rope_theta": 300.0, "factor": 4.0 }))),
        ("gpt_neox", "use_parallel_residual", json!(false)),
        ("gpt_neox", "rope_parameters", json!({ "rope_theta": 200.0, "partial_rotary_factor": 1.0 })),
        ("gpt_neox_sequential", "hidden_act", json!("gelu")),
        ("phi3", "sliding_window", Value::Null),
        ("phi3", "rope_parameters", json!({ "partial_rotary_factor": 1.0 })),
        ("phi3_longrope", "max_position_embeddings", json!(192)),
        ("phi3_longrope", "rope_parameters", json!({ "partial_rotary_factor": 0.75 })),
    ];
    for (case, key, value) in changes {
        let dir = tempfile::tempdir().expect("a folder");
        copy_folder(&golden(case), dir.path());
        let path = dir.path().join("config.json");
        let mut config: Value = serde_json::from_str(&std::fs::read_to_string(&path).expect("readable")).expect("JSON");
        config[key] = value.clone();
        std::fs::write(&path, config.to_string()).expect("written");
        let changed = LanguageModel::load(dir.path(), Device::Cpu).unwrap_or_else(|error| panic!("{case}, {key}: {error:?}"));
        let sequences = expected(case).sequences;
        let [ours, theirs] = [&load(case), &changed].map(|model| logits(model, &sequences[..1], BatchLayout::Packed));
        let difference = (&ours[0] - &theirs[0]).abs().max().double_value(&[]);
        assert!(difference > 1e-3, "{case}: `{key}` {value} changes logits by {difference} only");
    }
}

#[test]
fn greedy_tokens_are_those_of_transformers_with_and_without_a_repetition_penalty() {
    for case in CASES {
        let (model, expected) = (load(case), expected(case));
        let prompts = [1, 0, 1].map(|i: usize| expected.sequences[i].iter().map(|id| *id as u32).collect::<Vec<_>>());
        let requests = prompts.map(|prompt| GenerationRequest { prompt, seed: Seed::root(0) });
        for (penalty, tokens) in &expected.greedy {
            let sampling = SamplingParams {
                temperature: 0.0,
                max_new_tokens: 64,
                repetition_penalty: penalty.parse().expect("a number"),
                ..SamplingParams::default()
            };
            let options = GenerateOptions { sampling, eos: Vec::new(), max_batch: 8, ..GenerateOptions::default() };
            let generated = generate(&model, None, &requests, &options, &mut |_| Ok(())).expect("generated");
            assert_eq!(&generated[0].tokens, tokens, "{case}, penalty {penalty}");
            assert_eq!(generated[0], generated[2], "{case}: the same request twice");
            assert_eq!(generated[1].finish, FinishReason::Length);
        }
    }
}

#[test]
fn a_saved_model_gives_the_same_logits_and_the_same_bytes_again() {
    for case in CASES {
        let (model, expected) = (load(case), expected(case));
        let folders = [tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder")];
        model.save(folders[0].path()).expect("written");
        let again = LanguageModel::load(folders[0].path(), Device::Cpu).expect("readable");
        assert_eq!(
            logits(&again, &expected.sequences, BatchLayout::Packed),
            logits(&model, &expected.sequences, BatchLayout::Packed),
            "{case}"
        );
        again.save(folders[1].path()).expect("written");
        for file in ["config.json", "model.safetensors"] {
            let [first, second] = [0, 1].map(|i: usize| std::fs::read(folders[i].path().join(file)).expect("readable"));
            assert!(first == second, "{case}: {file}");
        }
        let names: Vec<&str> = model.parameters().iter().map(|(name, _)| name.as_str()).collect();
        assert!(names.is_sorted());
        assert!(model.parameters().iter().all(|(_, tensor)| tensor.kind() == Kind::Float));
        // What transformers wrote is what is written: the same names, shapes and values, so it loads there as it came.
        if case == "llama3" {
            continue; // Sharded there.
        }
        let tensors = |dir: &std::path::Path| -> Vec<(String, Tensor)> {
            let mut file = SafetensorsFile::open(&dir.join("model.safetensors")).expect("whole");
            let names = file.names();
            let read = |name: String| (name.clone(), file.read(&name).expect("there").to_kind(Kind::Float));
            names.into_iter().map(read).collect()
        };
        assert!(tensors(folders[0].path()) == tensors(&golden(case)), "{case}");
    }
}

#[test]
fn a_sequence_classifier_of_transformers_is_a_scalar_model_with_the_same_scores() {
    #[derive(serde::Deserialize)]
    struct Expected {
        sequences: Vec<Vec<u32>>,
        scores: Vec<f64>,
    }
    let dir = golden("llama_scalar");
    let text = std::fs::read_to_string(dir.join("expected.json")).expect("a fixture");
    let expected: Expected = serde_json::from_str(&text).expect("as make_goldens.py writes it");
    let model = ScalarModel::load(&dir, Device::Cpu).expect("a scalar model");
    let texts: Vec<_> = expected.sequences.into_iter().map(|ids| EncodedText { ids, response_start: 1 }).collect();
    let batch = TokenBatch::new(&texts.iter().collect::<Vec<_>>(), BatchLayout::Packed, Device::Cpu).expect("made");
    let scores = no_grad(|| model.last_token_scores(&batch));
    for (row, score) in expected.scores.iter().enumerate() {
        assert!((scores.double_value(&[row as i64]) - score).abs() < 1e-4);
    }
    assert!(!model.body.has_head());
}

#[test]
fn models_may_move_between_threads() {
    fn movable<T: Send>(value: T) -> T {
        value
    }
    let model = movable(load("gpt2"));
    let sum =
        std::thread::spawn(move || logits(&model, &[vec![1, 2, 3]], BatchLayout::Packed)[0].sum(Kind::Double).double_value(&[]));
    assert!(sum.join().expect("no panic").is_finite());
}

#[test]
fn a_copy_is_a_model_of_its_own() {
    let model = load("llama");
    model.set_trainable(true);
    let copy = model.copy().expect("copied");
    assert!(copy.parameters().iter().all(|(_, tensor)| !tensor.requires_grad()));
    let before = logits(&copy, &[vec![1, 2, 3]], BatchLayout::Packed);
    no_grad(|| model.parameters().iter().for_each(|(_, tensor)| drop(tensor.shallow_clone().zero_())));
    assert_eq!(logits(&copy, &[vec![1, 2, 3]], BatchLayout::Packed), before);
}

#[test]
fn a_random_model_depends_on_its_seed_and_sizes_alone() {
    let config = load("gpt2").config().clone();
    let make = |seed| LanguageModel::random(config.clone(), Seed::root(seed), Device::Cpu).expect("made");
    let (first, again, other) = (make(1), make(1), make(2));
    for ((name, a), ((_, b), (_, c))) in first.parameters().iter().zip(again.parameters().iter().zip(other.parameters())) {
        assert_eq!(a, b, "{name}");
        assert_eq!(a == c, name.contains("ln_") || name.ends_with("bias"), "{name}");
    }
    let std = first.parameters().iter().find(|(name, _)| name == "transformer.wte.weight").expect("there").1.std(false);
    assert!((std.double_value(&[]) - 0.02).abs() < 0.002);
    let n: usize = first.parameters().iter().map(|(_, tensor)| tensor.numel()).sum();
    assert_eq!(n, config.n_parameters());
}

#[test]
fn the_context_limit_and_the_vocabulary_are_checked_with_both_numbers() {
    let model = load("gpt2");
    assert!(model.check_length(128).is_ok());
    let error = model.check_length(129).expect_err("too long");
    assert!(error.message().contains("129") && error.message().contains("128"), "{error}");
    assert!(model.check_ids(&[0, 95]).is_ok());
    let error = model.check_ids(&[3, 96]).expect_err("too large");
    assert!(error.message().contains("token id 96"), "{error}");
}
