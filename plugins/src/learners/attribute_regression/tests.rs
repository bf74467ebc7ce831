//! What this learner must keep: golden values, invariances, a toy with a known end, exact resumption, refusals.

use std::path::Path;

use farmhand_core::types::{Completion, FinishReason, Response};
use farmhand_core::{Device, Feedback, NoEvents, RecordedEvents, RewardModelConfig};
use farmhand_models::BatchLayout;

use super::*;
use crate::reward_models::AttributesConfig;
use crate::testing::{
    SPLITS, Stage, assert_resumes_exactly, assert_same_gradients, fast_optim, learn_and_validate, lively_checkpoint, pairs,
    small_lora, take_gradients, tiny_checkpoint,
};
use crate::training::PassOptions;

fn with(change: impl FnOnce(&mut TrainOptions)) -> AttributeRegressionConfig {
    let mut config = AttributeRegressionConfig::default();
    let optim = fast_optim(1e-2);
    config.train = TrainOptions { epochs: 10, batch_size: 8, save_every: 4, validate_every: 4, optim, ..TrainOptions::default() };
    change(&mut config.train);
    config
}

/// Good answers are helpful (4 of 4), bad ones are not (0); only some are rated on length, in characters of 10.
fn answers(n: usize) -> Vec<RatedCompletion> {
    let answer = |(i, (instruction, output, quality)): (usize, (_, String, f64))| {
        let mut ratings = BTreeMap::from([("quality".to_owned(), quality)]);
        if i % 3 != 0 {
            ratings.insert("length".to_owned(), output.len() as f64 / 10.0);
        }
        let completion = Completion {
            instruction,
            output,
            model: "test".to_owned(),
            sample: 0,
            finish: FinishReason::Stop,
            n_tokens: 3,
            log_prob: None,
        };
        RatedCompletion { completion, ratings }
    };
    let both = pairs(n)
        .into_iter()
        .flat_map(|pair| [(pair.instruction.clone(), pair.chosen, 4.0), (pair.instruction, pair.rejected, 0.0)]);
    both.enumerate().map(answer).collect()
}

fn learn(config: &AttributeRegressionConfig, init: &Checkpoint, ctx: &RunContext<'_>) -> Result<Checkpoint> {
    let all = answers(16);
    let (train, held_out) = all.split_at(24);
    learn_and_validate(config, init, (Feedback::Rated(train), Feedback::Rated(held_out)), ctx)
}

fn scores(checkpoint: &Checkpoint, weights: serde_json::Value, ctx: &RunContext<'_>) -> Result<Vec<f64>> {
    let mut build = BuildContext::new(Device::Cpu, Path::new("."));
    build.reward_model = Some(checkpoint);
    let config: AttributesConfig = serde_json::from_value(serde_json::json!({ "weights": weights })).expect("options");
    let items = answers(4);
    let items: Vec<Response<'_>> = items
        .iter()
        .map(|item| Response { instruction: &item.completion.instruction, output: &item.completion.output })
        .collect();
    config.build(&build)?.score(&items, ctx)
}

#[test]
fn it_learns_ratings_and_the_reward_model_reads_a_weighted_sum_of_them() {
    let stage = Stage::new();
    let events = RecordedEvents::default();
    let ctx = stage.context(&events);
    let checkpoint = learn(&with(|_| ()), &tiny_checkpoint(&stage), &ctx).expect("learned");
    let loss = events.scalars("attribute_regression/validation_loss_quality");
    assert!(loss.last().expect("validated").1 < 0.5, "{loss:?}");
    let quality = scores(&checkpoint, serde_json::json!({ "quality": 1.0 }), &ctx).expect("scored");
    assert!(quality.chunks(2).all(|pair| pair[0] > 3.0 && pair[1] < 1.0), "{quality:?}");
    let length = scores(&checkpoint, serde_json::json!({ "length": 1.0 }), &ctx).expect("scored");
    let both = scores(&checkpoint, serde_json::json!({ "quality": 0.5, "length": -2.0 }), &ctx).expect("scored");
    for ((both, quality), length) in both.iter().zip(&quality).zip(&length) {
        assert!((both - (0.5 * quality - 2.0 * length)).abs() < 1e-4);
    }
    // Without weights the mean, which is also what a scalar reward model reads.
    let mean = scores(&checkpoint, serde_json::json!({}), &ctx).expect("scored");
    assert!((mean[0] - (quality[0] + length[0]) / 2.0).abs() < 1e-4);
    let mut build = BuildContext::new(Device::Cpu, Path::new("."));
    build.reward_model = Some(&checkpoint);
    let items = answers(1);
    let item = Response { instruction: &items[0].completion.instruction, output: &items[0].completion.output };
    let mut scalar = crate::reward_models::BradleyTerryConfig::default().build(&build).expect("a reward model");
    assert!((scalar.score(&[item], &ctx).expect("scored")[0] - mean[0]).abs() < 1e-4);
    assert!(scores(&checkpoint, serde_json::json!({ "humour": 1.0 }), &ctx).is_err());
}

#[test]
fn a_stopped_or_killed_run_continues_to_the_same_bytes_also_with_an_adapter() {
    let base = Stage::new();
    let init = tiny_checkpoint(&base);
    assert_resumes_exactly("attribute_regression/loss", 9, |ctx| learn(&with(|_| ()), &init, ctx));
    let lively = lively_checkpoint(&base);
    let lora = with(|train| train.passes.lora = Some(small_lora()));
    assert_resumes_exactly("attribute_regression/loss", 9, |ctx| learn(&lora, &lively, ctx));
}

#[test]
fn loss_and_gradients_do_not_depend_on_layout_and_micro_batches() {
    let stage = Stage::new();
    let init = tiny_checkpoint(&stage);
    let ctx = stage.context(&NoEvents);
    let codec = TextCodec::load(&init, None).expect("a codec");
    let body = starting_body(&init, &ctx).expect("loaded");
    body.set_trainable(true);
    let names = ["length", "quality"].map(str::to_owned).to_vec();
    let heads = AttributeHeads::random(names.clone(), &[1.0, 2.0], 16, Seed::root(1), tch::Device::Cpu);
    heads.set_trainable(true);
    let model = Model { body, heads };
    let limit = TrainOptions::default().token_limit(96);
    let rated = Rated::new(&answers(4), "rated answers", &names, &with(|_| ()), &codec, limit, &ctx).expect("encoded");
    let gradients = |layout, size, tokens| {
        let (micro_batch_size, micro_batch_tokens) = (Some(size), Some(tokens));
        let passes = PassOptions { layout, micro_batch_size, micro_batch_tokens, ..PassOptions::default() };
        let config = with(|train| train.passes = passes);
        let errors = run_rated(&model, &rated, &[7, 6, 5, 4, 3, 2, 1, 0], &config, Some(Seed::root(0))).expect("run");
        (mean(&errors), take_gradients(&model.trained()))
    };
    let (loss, expected) = gradients(BatchLayout::Padded, 8, 4096);
    for (layout, size, tokens) in SPLITS {
        let (same_loss, same) = gradients(layout, size, tokens);
        assert!((loss - same_loss).abs() < 1e-6);
        assert_same_gradients(&same, &expected, 1e-6);
    }
}

#[test]
fn answers_without_a_rating_are_counted_and_unknown_attributes_named() {
    let stage = Stage::new();
    let init = tiny_checkpoint(&stage);
    let events = RecordedEvents::default();
    let length = AttributeRegressionConfig { attributes: vec!["length".to_owned()], ..with(|train| train.epochs = 1) };
    learn(&length, &init, &stage.context(&events)).expect("learned");
    let told = format!("{:?}", events.take());
    assert!(told.contains("8 of 24 rated answers are rated on none of the attributes"), "{told}");
    let humour = AttributeRegressionConfig { attributes: vec!["humour".to_owned()], ..with(|_| ()) };
    let error = learn(&humour, &init, &stage.context(&events)).expect_err("unknown");
    assert!(error.message().contains("no answer is rated on `humour`"), "{error}");
    let twice = AttributeRegressionConfig { attributes: vec!["a".to_owned(), "a".to_owned()], ..with(|_| ()) };
    assert_eq!(twice.problems()[0].path, "attributes");
}
