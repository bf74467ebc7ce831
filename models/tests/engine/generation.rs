//! What is generated depends on the request alone: not on the batch, its size or its other rows.

use farmhand_core::types::{FinishReason, SamplingParams};
use farmhand_core::{Error, ErrorKind, Seed};
use farmhand_models::{
    GenerateOptions, Generated, GenerationRequest, LanguageModel, Tokenizer, generate, text_before_stop, train_bpe,
};
use tch::{Device, Kind, no_grad};

use crate::golden;

fn model(case: &str) -> LanguageModel {
    LanguageModel::load(&golden(case), Device::Cpu).expect("a fixture")
}

fn request(length: usize, sample: u64) -> GenerationRequest {
    let mut rng = Seed::root(length as u64).rng();
    let prompt = (0..length).map(|_| 1 + rng.below(60) as u32).collect();
    GenerationRequest { prompt, seed: Seed::root(9).child("sample", sample) }
}

fn run(model: &LanguageModel, requests: &[GenerationRequest], sampling: &SamplingParams, max_batch: usize) -> Vec<Generated> {
    let options = GenerateOptions { sampling: sampling.clone(), eos: vec![3, 40], max_batch, ..GenerateOptions::default() };
    generate(model, None, requests, &options, &mut |_| Ok(())).expect("generated")
}

fn sampling() -> SamplingParams {
    SamplingParams { max_new_tokens: 40, log_probs: true, ..SamplingParams::default() }
}

fn same(a: &Generated, b: &Generated) -> bool {
    a == b
}

#[test]
fn an_answer_does_not_depend_on_its_batch() {
    let ways = [
        sampling(),
        SamplingParams { temperature: 0.0, ..sampling() },
        SamplingParams { temperature: 0.8, top_k: 20, top_p: 0.9, min_p: 0.02, repetition_penalty: 1.2, ..sampling() },
    ];
    // Prompts of many lengths, two of them equal, some twice with other seeds.
    let requests: Vec<_> = (0..17).map(|i| request([5, 30, 1, 12, 12, 47, 8][i % 7], i as u64)).collect();
    for case in ["llama", "gpt2", "qwen2", "mistral_window", "gemma2", "gemma3", "gpt_neox", "phi3"] {
        let model = model(case);
        for way in &ways {
            let together = run(&model, &requests, way, 17);
            assert!(together.iter().any(|one| one.tokens.len() < 40) || way.is_greedy(), "{case}: rows leave at different times");
            let by_three = run(&model, &requests, way, 3);
            for (i, request) in requests.iter().enumerate() {
                let alone = run(&model, std::slice::from_ref(request), way, 1);
                assert!(same(&alone[0], &together[i]), "{case}, request {i}: {:?} and {:?}", alone[0], together[i]);
                assert!(same(&alone[0], &by_three[i]), "{case}, request {i}");
            }
        }
    }
}

#[test]
fn log_probs_are_those_of_the_distribution_drawn_from() {
    let model = model("llama");
    let way = SamplingParams { temperature: 0.7, ..sampling() };
    for generated in run(&model, &[request(6, 0), request(20, 1)], &way, 4).iter().zip([request(6, 0), request(20, 1)]) {
        let (generated, request) = generated;
        let ids: Vec<u32> = request.prompt.iter().chain(&generated.tokens).copied().collect();
        let logits = no_grad(|| model.logits(&model.hidden_of(&ids))) / 0.7;
        let log_probs = logits.log_softmax(-1, Kind::Float);
        assert_eq!(generated.log_probs.len(), generated.tokens.len());
        for (i, (token, log_prob)) in generated.tokens.iter().zip(&generated.log_probs).enumerate() {
            let expected = log_probs.double_value(&[(request.prompt.len() + i - 1) as i64, i64::from(*token)]);
            assert!((expected - f64::from(*log_prob)).abs() < 1e-4);
        }
    }
    let silent = run(&model, &[request(6, 0)], &SamplingParams { log_probs: false, ..way }, 4);
    assert!(silent[0].log_probs.is_empty());
}

#[test]
fn samples_differ_by_seed_and_greedy_ones_do_not() {
    let model = model("llama");
    let requests: Vec<_> = (0..4).map(|sample| request(10, sample)).collect();
    let sampled = run(&model, &requests, &SamplingParams { temperature: 1.5, ..sampling() }, 4);
    assert!(sampled.iter().any(|one| one.tokens != sampled[0].tokens));
    let greedy = run(&model, &requests, &SamplingParams { temperature: 0.0, ..sampling() }, 4);
    assert!(greedy.iter().all(|one| *one == greedy[0]));
    assert!(greedy[0].log_probs.iter().all(|log_prob| *log_prob == 0.0));
}

#[test]
fn answers_end_at_eos_at_the_token_limit_or_at_the_end_of_the_context() {
    let model = model("gpt2");
    let long = SamplingParams { max_new_tokens: 500, temperature: 2.0, ..sampling() };
    let options = GenerateOptions { sampling: long, eos: Vec::new(), max_batch: 2, ..GenerateOptions::default() };
    let full = generate(&model, None, &[request(100, 0)], &options, &mut |_| Ok(())).expect("generated");
    assert_eq!((full[0].tokens.len(), full[0].finish), (28, FinishReason::Length), "128 positions, 100 of them the prompt's");
    let eos = full[0].tokens[5];
    let first = full[0].tokens.iter().position(|token| *token == eos).expect("it is there");
    let options = GenerateOptions { eos: vec![eos], ..options };
    let ended = generate(&model, None, &[request(100, 0)], &options, &mut |_| Ok(())).expect("generated");
    assert_eq!((ended[0].tokens.as_slice(), ended[0].finish), (&full[0].tokens[..=first], FinishReason::Stop));
}

#[test]
fn a_cache_that_grows_several_times_changes_nothing() {
    let model = model("llama");
    let long = SamplingParams { max_new_tokens: 700, temperature: 0.0, log_probs: false, ..sampling() };
    let options = GenerateOptions { sampling: long, eos: Vec::new(), max_batch: 2, ..GenerateOptions::default() };
    let generated = generate(&model, None, &[request(4, 0), request(9, 0)], &options, &mut |_| Ok(())).expect("generated");
    // Teacher forcing: every token is the argmax after those before it, or ties with it.
    for (generated, request) in generated.iter().zip([request(4, 0), request(9, 0)]) {
        assert_eq!(generated.tokens.len(), 700);
        let ids: Vec<u32> = request.prompt.iter().chain(&generated.tokens).copied().collect();
        let logits = no_grad(|| model.logits(&model.hidden_of(&ids)));
        for (i, token) in generated.tokens.iter().enumerate() {
            let row = logits.get((request.prompt.len() + i - 1) as i64);
            let gap = row.max().double_value(&[]) - row.double_value(&[i64::from(*token)]);
            assert!(gap < 1e-3, "token {i}: {gap}");
        }
    }
}

fn tokenizer() -> Tokenizer {
    let words = ["the red fox runs", "over the hill and far away", "a stop is a stop"];
    train_bpe(words.iter().cycle().take(30).map(|text| (*text).to_owned()), 90 + 256).expect("trained")
}

#[test]
fn a_stop_string_ends_an_answer_when_it_appears() {
    let tokenizer = tokenizer();
    let config = farmhand_models::ModelConfig::tiny_llama(farmhand_models::LlamaOptions {
        vocab_size: tokenizer.vocab_size(),
        ..Default::default()
    });
    let model = LanguageModel::random(config, Seed::root(5), Device::Cpu).expect("made");
    let prompt = tokenizer.encode("the red fox").expect("encoded");
    let requests = [GenerationRequest { prompt, seed: Seed::root(1) }];
    let mut options = GenerateOptions { sampling: sampling(), eos: Vec::new(), max_batch: 1, ..GenerateOptions::default() };
    let free = generate(&model, Some(&tokenizer), &requests, &options, &mut |_| Ok(())).expect("generated");
    let text = tokenizer.decode(&free[0].tokens);
    // A stop string that spans tokens: three characters from the middle of the text.
    let stop: String = text.chars().skip(text.chars().count() / 2).take(3).collect();
    options.sampling.stop = vec!["never there".to_owned(), stop.clone()];
    let stopped = generate(&model, Some(&tokenizer), &requests, &options, &mut |_| Ok(())).expect("generated");
    assert_eq!(stopped[0].finish, FinishReason::StopString);
    assert!(free[0].tokens.starts_with(&stopped[0].tokens));
    let text = tokenizer.decode(&stopped[0].tokens);
    assert!(text.contains(&stop));
    assert!(
        !tokenizer.decode(&stopped[0].tokens[..stopped[0].tokens.len() - 1]).contains(&stop),
        "it ends with the token that completes it"
    );
    assert!(!text_before_stop(&text, &options.sampling.stop).contains(&stop));
    assert_eq!(text_before_stop("abcabd", &["abd".to_owned(), "c".to_owned()]), "ab");

    let error = generate(&model, None, &requests, &options, &mut |_| Ok(())).expect_err("no tokenizer");
    assert_eq!(error.kind(), ErrorKind::MissingInput);
}

#[test]
fn what_cannot_be_generated_is_refused_before_anything_is_computed() {
    let model = model("gpt2");
    let attempt = |prompt: Vec<u32>, sampling: SamplingParams, max_batch: usize| -> Error {
        let options = GenerateOptions { sampling, eos: Vec::new(), max_batch, ..GenerateOptions::default() };
        let requests = [request(3, 0), GenerationRequest { prompt, seed: Seed::root(0) }];
        generate(&model, None, &requests, &options, &mut |_| panic!("nothing is generated")).expect_err("refused")
    };
    let error = attempt(vec![1; 128], sampling(), 4);
    assert!(error.message().contains("128 tokens leaves no room"), "{error}");
    assert!(attempt(vec![], sampling(), 4).message().contains("no tokens"));
    assert!(attempt(vec![96], sampling(), 4).message().contains("token id 96"));
    assert!(attempt(vec![1], SamplingParams { top_p: 0.0, ..sampling() }, 4).message().contains("top_p"));
    assert!(attempt(vec![1], sampling(), 0).message().contains("batch size"));
}

#[test]
fn progress_is_reported_and_generation_stops_on_request() {
    let model = model("gpt2");
    let requests: Vec<_> = (0..5).map(|i| request(6 + i, i as u64)).collect();
    let options = GenerateOptions { sampling: sampling(), eos: Vec::new(), max_batch: 2, ..GenerateOptions::default() };
    let mut heard = Vec::new();
    generate(&model, None, &requests, &options, &mut |n| {
        heard.push(n);
        Ok(())
    })
    .expect("generated");
    assert!(heard.is_sorted());
    assert_eq!(heard.last(), Some(&5));
    let error = generate(&model, None, &requests, &options, &mut |_| Err(Error::cancelled())).expect_err("cancelled");
    assert!(error.is_cancelled());
    assert!(generate(&model, None, &[], &options, &mut |_| Ok(())).expect("nothing to do").is_empty());
}

#[test]
fn a_diverged_model_is_an_error() {
    let model = model("llama");
    no_grad(|| drop(model.parameters()[0].1.shallow_clone().fill_(f64::NAN)));
    let options = GenerateOptions { sampling: sampling(), eos: Vec::new(), max_batch: 2, ..GenerateOptions::default() };
    let error = generate(&model, None, &[request(4, 0)], &options, &mut |_| Ok(())).expect_err("not finite");
    assert_eq!(error.kind(), ErrorKind::NonFinite);
}
