//! What is generated does not depend on what is generated beside it, how it is grouped into passes, or how much memory there
//! is: to the bit with the CPU kernels.

use farmhand_core::types::SamplingParams;
use farmhand_core::{ErrorKind, Seed};
use farmhand_models::{CacheFormat, CacheOptions, GenerateOptions, Generated, GenerationRequest, LanguageModel, generate};
use tch::{Device, Kind, no_grad};

use crate::golden;

/// One of each kind of attention, norm, activation and rotary embedding.
const CASES: [&str; 8] = ["llama", "gpt2", "qwen3", "mistral_window", "gemma2", "gemma3", "gpt_neox", "phi3"];

fn model(case: &str) -> LanguageModel {
    LanguageModel::load(&golden(case), Device::Cpu).expect("a fixture")
}

fn request(length: usize, sample: u64) -> GenerationRequest {
    let mut rng = Seed::root(length as u64).rng();
    let prompt = (0..length).map(|_| 1 + rng.below(60) as u32).collect();
    GenerationRequest { prompt, seed: Seed::root(9).child("sample", sample) }
}

/// Prompts of many lengths, some of them equal, so that their samples share what is computed.
fn requests() -> Vec<GenerationRequest> {
    (0..19).map(|i| request([5, 30, 1, 12, 12, 47, 8, 33, 12][i % 9], i as u64)).collect()
}

fn sampled() -> SamplingParams {
    SamplingParams { max_new_tokens: 40, log_probs: true, temperature: 1.2, ..SamplingParams::default() }
}

fn options(sampling: SamplingParams) -> GenerateOptions {
    GenerateOptions { sampling, eos: vec![3, 40], ..GenerateOptions::default() }
}

/// The answers, and the passes it took to make them.
fn run(model: &LanguageModel, requests: &[GenerationRequest], options: &GenerateOptions) -> (Vec<Generated>, usize) {
    let mut passes = 0;
    let generated = generate(model, None, requests, options, &mut |_| {
        passes += 1;
        Ok(())
    });
    (generated.expect("generated"), passes)
}

fn assert_same_bits(expected: &[Generated], got: &[Generated], what: &str) {
    for (i, (expected, got)) in expected.iter().zip(got).enumerate() {
        assert_eq!((&expected.tokens, expected.finish), (&got.tokens, got.finish), "{what}, request {i}");
        let bits = |one: &Generated| one.log_probs.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(expected), bits(got), "{what}, request {i}");
    }
}

#[test]
fn answers_are_the_same_to_the_bit_alone_and_in_any_company() {
    let requests = requests();
    for case in CASES {
        let model = model(case);
        let smaller = ["llama", "gemma2"].contains(&case).then_some([CacheFormat::Bf16, CacheFormat::Int8]);
        for format in [CacheFormat::F32].into_iter().chain(smaller.into_iter().flatten()) {
            let with_cache = |block, options: GenerateOptions| GenerateOptions {
                cache: CacheOptions { format, block, ..CacheOptions::default() },
                ..options
            };
            let (alone, _): (Vec<_>, Vec<_>) = requests
                .iter()
                .map(|request| {
                    let (mut one, passes) = run(&model, std::slice::from_ref(request), &with_cache(32, options(sampled())));
                    (one.remove(0), passes)
                })
                .unzip();
            assert!(alone.iter().any(|one| one.tokens.len() < 40), "{case}: answers end at different times");
            let ways = [(19, 512, 32), (3, 512, 16), (7, 1, 48), (19, 5, 16), (64, 31, 64), (1, 9, 16)];
            for (max_batch, prompt_tokens, block) in ways {
                let way = GenerateOptions { max_batch, prompt_tokens, ..with_cache(block, options(sampled())) };
                let what = format!("{case}, {format:?}, {max_batch} at once, {prompt_tokens} prompt tokens, blocks of {block}");
                assert_same_bits(&alone, &run(&model, &requests, &way).0, &what);
            }
        }
    }
}

/// The bytes of a block of 16 tokens of the `llama` fixture: 2 layers, 2 key-value heads, keys of 8 numbers and values of as
/// many, padded to 16.
const BLOCK_BYTES: usize = 2 * 2 * (8 + 16) * 16 * 4;

fn with_blocks(n_blocks: usize, options: GenerateOptions) -> GenerateOptions {
    let cache = CacheOptions { memory: n_blocks * BLOCK_BYTES, block: 16, ..CacheOptions::default() };
    GenerateOptions { cache, ..options }
}

#[test]
fn a_full_cache_delays_answers_and_changes_nothing() {
    let model = model("llama");
    let ways = [
        sampled(),
        SamplingParams { temperature: 0.9, top_k: 20, top_p: 0.9, min_p: 0.02, repetition_penalty: 1.2, ..sampled() },
    ];
    let requests: Vec<_> = (0..24).map(|i| request([5, 30, 12, 12, 47][i % 5], i as u64)).collect();
    for way in ways {
        let (plenty, passes) = run(&model, &requests, &with_blocks(1000, options(way.clone())));
        // The longest text has 47 + 39 tokens in the cache: 6 blocks.
        let mut slower = passes;
        for n_blocks in [40, 12, 7, 6] {
            let (tight, passes) = run(&model, &requests, &with_blocks(n_blocks, options(way.clone())));
            assert_same_bits(&plenty, &tight, &format!("{n_blocks} blocks"));
            assert!(passes >= slower, "{n_blocks} blocks took {passes} passes, more blocks {slower}");
            slower = passes;
        }
        assert!(slower > 2 * passes, "texts waited for memory");
    }
}

#[test]
fn a_cache_too_small_for_one_text_is_an_error_before_anything_is_computed() {
    let model = model("llama");
    let way = with_blocks(5, options(sampled()));
    let error = generate(&model, None, &requests(), &way, &mut |_| panic!("nothing is generated")).expect_err("too small");
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    assert!(error.message().contains("a text of 86 tokens needs 1 MiB of cache"), "{error}");
    let mut way = options(sampled());
    way.cache.block = 24;
    let error = generate(&model, None, &requests(), &way, &mut |_| panic!("nothing is generated")).expect_err("odd");
    assert!(error.message().contains("24 tokens, expected a multiple of 16"), "{error}");
}

#[test]
fn samples_of_one_prompt_compute_it_once() {
    let model = model("llama");
    let samples: Vec<_> = (0..12).map(|sample| request(33, sample)).collect();
    let way = |max_batch| GenerateOptions { max_batch, prompt_tokens: 8, eos: Vec::new(), ..options(sampled()) };
    let (together, passes) = run(&model, &samples, &way(64));
    // Five passes for the prompt, then one for each token; the other samples draw their first token one pass later.
    assert_eq!(passes, 5 + 40);
    assert!((1..12).any(|i| together[i].tokens != together[0].tokens));
    // The prompt is kept for those that enter later.
    let (later, passes) = run(&model, &samples, &way(5));
    assert_same_bits(&together, &later, "five at a time");
    assert!(passes < 4 * 40, "{passes}");
}

#[test]
fn tokens_are_those_of_the_model_without_a_cache() {
    for case in CASES {
        let model = model(case);
        for (temperature, length) in [(0.0, 9), (1.0, 14)] {
            let way = SamplingParams { temperature, max_new_tokens: 24, ..sampled() };
            let request = request(length, 5);
            let (generated, _) =
                run(&model, std::slice::from_ref(&request), &GenerateOptions { eos: Vec::new(), ..options(way) });
            let (mut ids, mut rng) = (request.prompt.clone(), request.seed.rng());
            for _ in 0..24 {
                let hidden = no_grad(|| model.hidden_of(&ids));
                let logits = no_grad(|| model.logits(&hidden.narrow(0, ids.len() as i64 - 1, 1))).squeeze_dim(0);
                let next = if temperature == 0.0 {
                    logits.argmax(0, false).int64_value(&[]) as u32
                } else {
                    let probabilities = Vec::<f64>::try_from(logits.softmax(0, Kind::Double)).expect("numbers");
                    let target = rng.uniform();
                    let mut sum = 0.0;
                    let exceeds = |p: &f64| {
                        sum += p;
                        sum > target
                    };
                    probabilities.iter().position(exceeds).expect("probabilities add up to one") as u32
                };
                ids.push(next);
            }
            assert_eq!(generated[0].tokens, ids[length..], "{case}, temperature {temperature}");
        }
    }
}

#[test]
fn libtorchs_operators_give_the_same_tokens() {
    let requests = requests();
    for case in CASES {
        let model = model(case);
        for way in [SamplingParams { temperature: 0.0, ..sampled() }, SamplingParams { top_k: 30, top_p: 0.95, ..sampled() }] {
            let (kernels, passes) = run(&model, &requests, &options(way.clone()));
            let operators = |max_batch| GenerateOptions { kernels: false, max_batch, prompt_tokens: 40, ..options(way.clone()) };
            for max_batch in [64, 4] {
                let (generated, _) = run(&model, &requests, &operators(max_batch));
                for (i, (a, b)) in kernels.iter().zip(&generated).enumerate() {
                    assert_eq!(a.tokens, b.tokens, "{case}, request {i}");
                    assert!(a.log_probs.iter().zip(&b.log_probs).all(|(a, b)| (a - b).abs() < 1e-4), "{case}, request {i}");
                }
            }
            assert!(passes < 60);
        }
    }
    let tight = CacheOptions { memory: 7 * 2 * 2 * 2 * 8 * 16 * 4, block: 16, ..CacheOptions::default() };
    let model = model("llama");
    let (plenty, _) = run(&model, &requests, &options(sampled()));
    let (waited, _) = run(&model, &requests, &GenerateOptions { kernels: false, cache: tight, ..options(sampled()) });
    assert!(plenty.iter().zip(&waited).all(|(a, b)| a.tokens == b.tokens));
}

#[test]
fn smaller_caches_stay_close() {
    let requests = requests();
    for kernels in [true, false] {
        for case in ["llama", "gpt2", "qwen3"] {
            let model = model(case);
            let with_format = |format| {
                let cache = CacheOptions { format, ..CacheOptions::default() };
                run(&model, &requests, &GenerateOptions { kernels, cache, ..options(sampled()) }).0
            };
            let exact = with_format(CacheFormat::F32);
            for (format, tolerance) in [(CacheFormat::Bf16, 0.005), (CacheFormat::Int8, 0.01)] {
                let (mut compared, mut differences) = (0, 0.0);
                for (a, b) in exact.iter().zip(with_format(format)) {
                    // Until another token is drawn, the texts are the same.
                    let n = a.tokens.iter().zip(&b.tokens).take_while(|(a, b)| a == b).count();
                    compared += n;
                    differences +=
                        a.log_probs.iter().zip(&b.log_probs).take(n).map(|(x, y)| f64::from((x - y).abs())).sum::<f64>();
                }
                assert!(compared > 200, "{case}, {format:?}: only {compared} tokens alike");
                let mean = differences / compared as f64;
                assert!(mean > 0.0 && mean < tolerance, "{case}, {format:?}: {mean}");
            }
        }
    }
}
