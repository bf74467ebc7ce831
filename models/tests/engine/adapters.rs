//! Low-rank adapters: parity with PEFT, merging, gradients, and adapters that do not belong to a model.

use std::path::Path;

use farmhand_core::types::SamplingParams;
use farmhand_core::{ErrorKind, Seed};
use farmhand_models::{
    Adapter, BatchLayout, EncodedText, GenerateOptions, GenerationRequest, LanguageModel, LoraConfig, ScalarModel, TokenBatch,
    generate, selected_log_probs,
};
use tch::{Device, Kind, Tensor, no_grad};

use super::{copy_folder, golden};

#[derive(serde::Deserialize)]
struct Expected {
    sequences: Vec<Vec<u32>>,
    #[serde(default)]
    logits: Vec<Vec<Vec<f32>>>,
    #[serde(default)]
    scores: Vec<f64>,
}

fn expected(case: &str) -> Expected {
    let text = std::fs::read_to_string(golden(case).join("expected.json")).expect("a fixture");
    serde_json::from_str(&text).expect("as make_lora_goldens.py writes it")
}

fn load(case: &str) -> LanguageModel {
    LanguageModel::load(&golden(case), Device::Cpu).unwrap_or_else(|error| panic!("{case}: {error:?}"))
}

/// A model with the adapter of a fixture switched on.
fn load_on_the_fly(base: &str, adapter: &str) -> LanguageModel {
    let model = load(base);
    let adapter = Adapter::load(&golden(adapter), &model, Path::new("..")).unwrap_or_else(|error| panic!("{adapter}: {error:?}"));
    model.with_adapter(adapter).expect("it fits")
}

fn batch(texts: &[EncodedText], layout: BatchLayout) -> TokenBatch {
    TokenBatch::new(&texts.iter().collect::<Vec<_>>(), layout, Device::Cpu).expect("made")
}

fn logits(model: &LanguageModel, ids: &[u32]) -> Tensor {
    no_grad(|| model.logits(&model.hidden_of(ids)))
}

fn distance(a: &Tensor, b: &Tensor) -> f64 {
    (a - b).abs().max().double_value(&[])
}

/// A new adapter with random changes.
fn random_adapter(model: &LanguageModel, config: &LoraConfig) -> Adapter {
    let adapter = Adapter::new(model.config(), config, Path::new("base"), Seed::root(1), Device::Cpu).expect("made");
    let mut rng = Seed::root(2).rng();
    for (_, tensor) in adapter.parameters().iter().filter(|(name, _)| name.contains("lora_B")) {
        let values: Vec<f32> = (0..tensor.numel()).map(|_| (0.1 * rng.normal()) as f32).collect();
        no_grad(|| tensor.shallow_clone().copy_(&Tensor::from_slice(&values).view(tensor.size().as_slice())));
    }
    adapter
}

/// Models with every way of storing projections: apart, with biases, fused, input-first.
const MODELS: [&str; 6] = ["llama", "llama_linear_biases", "gemma2", "phi3", "gpt_neox", "gpt2"];

const CASES: [(&str, &str); 3] = [("llama", "lora_llama"), ("gpt2", "lora_gpt2"), ("llama", "lora_made_here")];

#[test]
fn adapters_of_peft_and_of_this_crate_give_pefts_logits_on_the_fly_and_merged() {
    for (base, case) in CASES {
        let (merged, on_the_fly, plain) = (load(case), load_on_the_fly(base, case), load(base));
        let expected = expected(case);
        for (ids, rows) in expected.sequences.iter().zip(&expected.logits) {
            let reference = Tensor::from_slice(&rows.concat()).view([rows.len() as i64, -1]);
            for model in [&merged, &on_the_fly] {
                assert!(distance(&logits(model, ids), &reference) < 1e-4, "{case}");
            }
            assert!(distance(&logits(&plain, ids), &reference) > 0.1, "{case} changes something");
        }
    }
}

#[test]
fn a_sequence_classifier_of_peft_gives_its_scores() {
    let model = ScalarModel::load(&golden("lora_llama_scalar"), Device::Cpu).expect("a scalar model");
    let expected = expected("lora_llama_scalar");
    let texts: Vec<_> = expected.sequences.into_iter().map(|ids| EncodedText { ids, response_start: 1 }).collect();
    let scores = no_grad(|| model.last_token_scores(&batch(&texts, BatchLayout::Packed)));
    for (row, score) in expected.scores.iter().enumerate() {
        assert!((scores.double_value(&[row as i64]) - score).abs() < 1e-4);
    }
}

#[test]
fn what_peft_read_is_what_is_written_today() {
    let dir = tempfile::tempdir().expect("a folder");
    let model = load("llama");
    let case = golden("lora_made_here");
    let adapter = Adapter::load(&case, &model, Path::new("../llama")).expect("read");
    model.with_adapter(adapter).expect("it fits").save_adapter(dir.path()).expect("written");
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        let [ours, theirs] = [dir.path(), case.as_path()].map(|dir| std::fs::read(dir.join(file)).expect("readable"));
        assert!(ours == theirs, "{file}");
    }
}

#[test]
fn a_new_adapter_changes_nothing_and_switching_it_off_is_the_base_again() {
    for case in MODELS {
        let model = load(case);
        let base = logits(&model, &[5, 17, 40, 3]);
        let config = LoraConfig { rank: 3, ..LoraConfig::default() };
        let new = Adapter::new(model.config(), &config, Path::new("base"), Seed::root(1), Device::Cpu).expect("made");
        let a = &new.parameters()[0].1;
        assert!(a.std(false).double_value(&[]) > 0.05 && a.abs().max().double_value(&[]) <= 1.0 / (a.size()[1] as f64).sqrt());
        assert_eq!(logits(&model.with_adapter(new).expect("it fits"), &[5, 17, 40, 3]), base, "{case}");
        let changed = model.with_adapter(random_adapter(&model, &config)).expect("it fits");
        assert!(distance(&logits(&changed, &[5, 17, 40, 3]), &base) > 1e-2, "{case}");
        let off = changed.without_adapter();
        assert_eq!(logits(&off, &[5, 17, 40, 3]), base, "{case}");
        let shared = |a: &LanguageModel, b: &LanguageModel| {
            a.parameters().iter().zip(b.parameters()).all(|((_, a), (_, b))| a.data_ptr() == b.data_ptr())
        };
        assert!(shared(&off, &model) && shared(&changed, &model), "{case}: nothing is copied");
    }
}

#[test]
fn merged_and_on_the_fly_give_the_same_logits_and_tokens() {
    for case in MODELS {
        for use_rslora in [false, true] {
            let model = load(case);
            let config = LoraConfig { rank: 4, alpha: 4.0, use_rslora, ..LoraConfig::default() };
            let model = model.with_adapter(random_adapter(&model, &config)).expect("it fits");
            let merged = model.merged();
            let ids: Vec<u32> = (0..40).map(|i| (i * 37 + 5) % 64).collect();
            let (one, other) = (logits(&model, &ids), logits(&merged, &ids));
            let scale = one.abs().max().double_value(&[]).max(1.0);
            assert!(distance(&one, &other) < 1e-5 * scale, "{case}: {}", distance(&one, &other));
            let requests = [&ids[..7], &ids[..3]].map(|ids| GenerationRequest { prompt: ids.to_vec(), seed: Seed::root(0) });
            let sampling = SamplingParams { temperature: 0.0, max_new_tokens: 24, ..SamplingParams::default() };
            let options = GenerateOptions { sampling, max_batch: 2, ..GenerateOptions::default() };
            let [one, other] =
                [&model, &merged].map(|model| generate(model, None, &requests, &options, &mut |_| Ok(())).expect("generated"));
            assert_eq!(one, other, "{case}");
            assert_ne!(merged.fingerprint(), model.fingerprint());
        }
    }
}

#[test]
fn gradients_of_a_and_b_are_those_of_the_merged_weight() {
    for case in ["llama", "gpt2"] {
        let base = load(case);
        let config = LoraConfig { rank: 3, alpha: 6.0, ..LoraConfig::default() };
        let model = base.with_adapter(random_adapter(&base, &config)).expect("it fits");
        let text = EncodedText { ids: (0..20).map(|i| (i * 31 + 2) % 95).collect(), response_start: 4 };
        let run = |model: &LanguageModel| {
            let selected = selected_log_probs(model, &batch(std::slice::from_ref(&text), BatchLayout::Packed));
            let loss = selected.values.mean(Kind::Float);
            selected.backward(&loss);
        };
        model.set_trainable(true);
        run(&model);
        assert!(model.parameters().iter().all(|(_, tensor)| !tensor.requires_grad() && !tensor.grad().defined()), "{case}");

        let merged = model.merged();
        let merged = merged.copy().expect("copied");
        merged.set_trainable(true);
        run(&merged);
        let adapter = model.adapter().expect("it has one");
        let tensors = adapter.parameters();
        for (place, module) in adapter.modules().enumerate() {
            let weight = merged.parameters().iter().find(|(name, _)| *name == format!("{module}.weight")).expect("there");
            // ∂L/∂W as [to, from]; ∂L/∂B = s ∂L/∂W · Aᵀ and ∂L/∂A = s Bᵀ · ∂L/∂W.
            let gradient = if case == "gpt2" { weight.1.grad().tr() } else { weight.1.grad() };
            let (a, b) = (&tensors[2 * place].1, &tensors[2 * place + 1].1);
            let (of_a, of_b) = no_grad(|| (b.tr().matmul(&gradient) * 2.0, gradient.matmul(&a.tr()) * 2.0));
            for (ours, expected) in [(a.grad(), of_a), (b.grad(), of_b)] {
                let scale = expected.abs().max().double_value(&[]);
                assert!(scale > 0.0 && distance(&ours, &expected) < 1e-4 * scale, "{case} {module}");
            }
        }
    }
}

#[test]
fn dropout_follows_the_texts_and_not_the_batch_and_stays_off_elsewhere() {
    let base = load("llama");
    let config = LoraConfig { rank: 3, dropout: 0.3, ..LoraConfig::default() };
    let model = base.with_adapter(random_adapter(&base, &config)).expect("it fits");
    let text = |salt: u32, n: u32| EncodedText {
        ids: (0..n).map(|i| if i < 4 { 7 + i } else { (i * salt) % 95 }).collect(),
        response_start: 4,
    };
    let texts = [text(11, 9), text(23, 15), text(5, 7)];
    let seeds = [Seed::root(1), Seed::root(1), Seed::root(2)];
    let values = |texts: &[EncodedText], seeds: &[Seed], layout| {
        no_grad(|| selected_log_probs(&model, &batch(texts, layout).with_dropout(seeds)).values)
    };
    // The first two texts share their prompt and, being answers of one record, their seed.
    let packed = values(&texts[..2], &seeds[..2], BatchLayout::Packed);
    assert_eq!(packed, values(&texts[..2], &seeds[..2], BatchLayout::Packed));
    assert!(distance(&packed, &values(&texts[..2], &seeds[..2], BatchLayout::Padded)) < 1e-5);
    let alone = Tensor::cat(&[0, 1].map(|i: usize| values(&texts[i..=i], &seeds[i..=i], BatchLayout::Packed)), 0);
    assert!(distance(&packed, &alone) < 1e-5 * packed.abs().max().double_value(&[]));
    assert!(distance(&packed, &values(&texts[..2], &[seeds[2], seeds[2]], BatchLayout::Packed)) > 1e-3);
    let off = no_grad(|| selected_log_probs(&model, &batch(&texts[..2], BatchLayout::Packed)).values);
    assert!(distance(&packed, &off) > 1e-3);
    let merged = model.merged();
    let merged = no_grad(|| selected_log_probs(&merged, &batch(&texts[..2], BatchLayout::Packed)).values);
    assert!(distance(&merged, &off) < 1e-5 * off.abs().max().double_value(&[]));
}

/// The error of a fixture's adapter after a change to its files, looked up from a place beside the fixture's base.
fn refused(case: &str, base: &str, change: impl FnOnce(&Path, &mut serde_json::Value)) -> farmhand_core::Error {
    let dir = tempfile::tempdir().expect("a folder");
    let (adapter, to) = (dir.path().join("adapter"), dir.path().join("base"));
    for (from, to) in [(case, &adapter), (base, &to)] {
        std::fs::create_dir(to).expect("made");
        copy_folder(&golden(from), to);
    }
    let path = adapter.join("adapter_config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).expect("readable")).expect("JSON");
    config["base_model_name_or_path"] = "../base".into();
    change(&adapter, &mut config);
    std::fs::write(&path, config.to_string()).expect("written");
    LanguageModel::load(&adapter, Device::Cpu).err().unwrap_or_else(|| panic!("{case} over {base} was taken"))
}

#[test]
fn an_adapter_for_another_model_is_refused_with_what_does_not_fit() {
    let same = |_: &Path, _: &mut serde_json::Value| {};
    let error = refused("lora_llama", "gpt2", same);
    assert!(error.message().contains("q_proj") || error.message().contains("_proj"), "{error}");
    assert!(error.hint().is_some_and(|hint| hint.contains("another base model")), "{error:?}");
    let error = refused("lora_llama", "llama_linear_biases", same);
    assert!(error.message().contains("lora_") && error.message().contains("shape"), "{error}");
    let error = refused("lora_llama", "llama", |_, config| config["r"] = 5.into());
    assert!(error.message().contains("shape [4, ") && error.message().contains("is 5"), "{error}");
    let error = refused("lora_llama", "llama", |_, config| config["base_model_name_or_path"] = "elsewhere".into());
    assert_eq!(error.kind(), ErrorKind::MissingInput);
    assert!(error.message().contains("`elsewhere`"), "{error}");
    let error = refused("lora_llama", "llama", |dir, _| {
        std::fs::remove_file(dir.join("adapter_model.safetensors")).expect("removed");
        std::fs::write(dir.join("adapter_model.bin"), b"").expect("written");
    });
    assert!(error.hint().is_some_and(|hint| hint.contains("pickle")), "{error:?}");
}

#[test]
fn what_would_change_the_maths_is_refused_by_name() {
    for (key, value) in [
        ("peft_type", serde_json::json!("IA3")),
        ("use_dora", serde_json::json!(true)),
        ("bias", serde_json::json!("all")),
        ("init_lora_weights", serde_json::json!("pissa")),
        ("rank_pattern", serde_json::json!({ "q_proj": 8 })),
        ("modules_to_save", serde_json::json!(["lm_head"])),
        ("lora_alpha", serde_json::json!(0)),
    ] {
        let error = refused("lora_llama", "llama", |_, config| config[key] = value);
        assert!(error.message().contains(key), "{key}: {error}");
    }
}

#[test]
fn targets_are_named_as_in_peft_and_unknown_ones_are_listed_with_the_known() {
    let (llama, gpt2) = (load("llama"), load("gpt2"));
    let modules = |model: &LanguageModel, targets: &[&str]| {
        let targets = targets.iter().map(|&target| target.to_owned()).collect();
        let config = LoraConfig { rank: 2, targets, ..LoraConfig::default() };
        let adapter = Adapter::new(model.config(), &config, Path::new("base"), Seed::root(1), Device::Cpu)?;
        Ok::<_, farmhand_core::Error>(adapter.modules().map(str::to_owned).collect::<Vec<_>>())
    };
    assert_eq!(modules(&llama, &[]).expect("made").len(), 2 * 7);
    assert_eq!(modules(&gpt2, &[]).expect("made").len(), 2 * 4);
    assert_eq!(modules(&gpt2, &["c_proj"]).expect("made").len(), 2 * 2);
    let one = modules(&llama, &["layers.1.mlp.up_proj", "k_proj"]).expect("made");
    assert_eq!(
        one,
        ["model.layers.0.self_attn.k_proj", "model.layers.1.mlp.up_proj", "model.layers.1.self_attn.k_proj"].map(str::to_owned)
    );
    for unknown in ["proj", "lm_head", "embed_tokens", "input_layernorm", ""] {
        let error = modules(&llama, &["q_proj", unknown]).expect_err(unknown);
        assert!(error.message().contains(&format!("`{unknown}`")), "{error}");
        assert!(error.hint().is_some_and(|hint| hint.contains("`q_proj`")), "{error:?}");
    }
    let too_wide = LoraConfig { rank: 17, ..LoraConfig::default() };
    let error = Adapter::new(llama.config(), &too_wide, Path::new("base"), Seed::root(1), Device::Cpu).expect_err("too large");
    assert!(error.message().contains("17") && error.message().contains("16 at most"), "{error}");
    let paths: Vec<String> = LoraConfig { rank: 0, alpha: 0.0, dropout: 1.0, ..LoraConfig::default() }
        .problems()
        .into_iter()
        .map(|problem| problem.path)
        .collect();
    assert_eq!(paths, ["rank", "alpha", "dropout"]);
}
