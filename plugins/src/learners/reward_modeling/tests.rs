//! What this learner must keep: golden values, invariances, a toy with a known end, exact resumption, refusals.

use std::path::Path;

use farmhand_core::types::{PreferencePair, RankedList, Response};
use farmhand_core::{Device, Feedback, RecordedEvents, RewardModelConfig, Seed};
use farmhand_models::{AdapterOutput, BatchLayout, LoraConfig};

use super::*;
use crate::reward_models::BradleyTerryConfig;
use crate::testing::{
    SPLITS, Stage, assert_resumes_exactly, assert_same_bytes, assert_same_gradients, fast_optim, learn_and_validate,
    lively_checkpoint, pairs, small_lora, take_gradients, tiny_checkpoint,
};
use crate::training::PassOptions;

fn with(change: impl FnOnce(&mut RewardModelingConfig)) -> RewardModelingConfig {
    let mut config = RewardModelingConfig::default();
    let optim = fast_optim(1e-2);
    config.train = TrainOptions { epochs: 6, batch_size: 4, save_every: 4, validate_every: 4, optim, ..TrainOptions::default() };
    change(&mut config);
    config
}

fn config() -> RewardModelingConfig {
    with(|_| ())
}

fn learn(config: &RewardModelingConfig, init: &Checkpoint, ctx: &RunContext<'_>) -> Result<Checkpoint> {
    let all = pairs(24);
    let (train, held_out) = all.split_at(16);
    learn_and_validate(config, init, (Feedback::Preferences(train), Feedback::Preferences(held_out)), ctx)
}

#[test]
fn it_learns_which_answers_are_better_and_scores_new_ones_as_trained() {
    let stage = Stage::new();
    let events = RecordedEvents::default();
    let ctx = stage.context(&events);
    let checkpoint = learn(&with(|config| config.with_eos = true), &tiny_checkpoint(&stage), &ctx).expect("learned");
    let accuracy = events.scalars("reward_modeling/validation_accuracy");
    assert_eq!(accuracy.len(), 6);
    assert_eq!(accuracy[5].1, 1.0, "{accuracy:?}");
    assert!(events.scalars("reward_modeling/validation_loss")[5].1 < 0.2);
    assert!(events.scalars("reward_modeling/validation_brier")[5].1 < 0.1);

    assert_eq!(ReadingRule::load(checkpoint.path()).expect("read"), ReadingRule { with_eos: true });
    let mut build = BuildContext::new(Device::Cpu, Path::new("."));
    build.reward_model = Some(&checkpoint);
    let mut model = BradleyTerryConfig::default().build(&build).expect("built");
    assert_eq!(model.checkpoint(), Some(&checkpoint));
    let new = &pairs(30)[24..];
    let side = |pick: fn(&PreferencePair) -> &str| {
        new.iter().map(move |pair| Response { instruction: &pair.instruction, output: pick(pair) }).collect::<Vec<_>>()
    };
    let chosen = model.score(&side(|pair| &pair.chosen), &ctx).expect("scored");
    let rejected = model.score(&side(|pair| &pair.rejected), &ctx).expect("scored");
    assert!(chosen.iter().zip(&rejected).all(|(chosen, rejected)| chosen > rejected), "{chosen:?} {rejected:?}");
    // A score depends on its item alone.
    let alone = model.score(&side(|pair| &pair.chosen)[3..4], &ctx).expect("scored")[0];
    assert!((alone - chosen[3]).abs() < 1e-5);
}

#[test]
fn an_adapter_and_the_head_learn_and_a_stopped_run_continues_to_the_same_bytes() {
    let base = Stage::new();
    let init = lively_checkpoint(&base);
    for output in [AdapterOutput::Merged, AdapterOutput::Adapter] {
        let config = with(|config| config.train.passes.lora = Some(LoraConfig { output, ..small_lora() }));
        let (stage, events) = (Stage::new(), RecordedEvents::default());
        let learned = learn(&config, &init, &stage.context(&events)).expect("learned");
        let accuracy = events.scalars("reward_modeling/validation_accuracy");
        assert!(accuracy.last().expect("validated").1 > 0.8, "{accuracy:?}");
        let model = ScalarModel::load(learned.path(), tch::Device::Cpu).expect("loaded");
        let fresh = starting_model(&init, &stage.context(&events)).expect("made");
        assert_ne!(model.head.weight(), fresh.head.weight());
        assert_resumes_exactly("reward_modeling/loss", 9, |ctx| learn(&config, &init, ctx));
    }
}

#[test]
fn gradient_checkpointing_changes_no_byte_and_no_resumption() {
    let base = Stage::new();
    let init = tiny_checkpoint(&base);
    let saving = with(|config| config.train.passes.checkpoint_every = 1);
    let run = |config: &RewardModelingConfig, ctx: &RunContext<'_>| learn(config, &init, ctx);
    assert_same_bytes(&[config(), saving.clone()], run);
    assert_resumes_exactly("reward_modeling/loss", 9, |ctx| run(&saving, ctx));
}

#[test]
fn a_stopped_or_killed_run_continues_to_the_same_bytes() {
    let base = Stage::new();
    let init = tiny_checkpoint(&base);
    assert_resumes_exactly("reward_modeling/loss", 9, |ctx| learn(&config(), &init, ctx));
    let by_tokens = with(|config| (config.train.batch_size, config.train.batch_tokens) = (16, Some(60)));
    assert_resumes_exactly("reward_modeling/loss", 9, |ctx| learn(&by_tokens, &init, ctx));
}

fn lists(n: usize) -> Vec<RankedList> {
    // The longest answer that begins with `good` is the best, two answers are as good as each other.
    let list = |pair: PreferencePair| RankedList {
        instruction: pair.instruction,
        outputs: vec![format!("{} yes", pair.chosen), pair.chosen, format!("{} no", pair.rejected), pair.rejected],
        scores: vec![2.0, 1.0, 0.0, 0.0],
    };
    pairs(n).into_iter().map(list).collect()
}

fn learn_lists(config: &RewardModelingConfig, init: &Checkpoint, ctx: &RunContext<'_>) -> Result<Checkpoint> {
    let all = lists(16);
    let (train, held_out) = all.split_at(12);
    learn_and_validate(config, init, (Feedback::RankedLists(train), Feedback::RankedLists(held_out)), ctx)
}

#[test]
fn it_learns_the_order_of_lists_under_every_model_of_them() {
    let base = Stage::new();
    let init = tiny_checkpoint(&base);
    for (learn_from, ties) in [
        (LearnFrom::AllPairs, TieModel::None),
        (LearnFrom::AllPairs, TieModel::RaoKupper { theta: 2.0 }),
        (LearnFrom::AllPairs, TieModel::Davidson { nu: 1.0 }),
        (LearnFrom::PlackettLuce, TieModel::None),
    ] {
        let (stage, events) = (Stage::new(), RecordedEvents::default());
        let config = with(|config| (config.learn_from, config.ties, config.train.epochs) = (learn_from, ties, 10));
        assert_eq!(config.problems(), []);
        learn_lists(&config, &init, &stage.context(&events)).expect("learned");
        let accuracy = events.scalars("reward_modeling/validation_accuracy").last().expect("validated").1;
        assert!(accuracy > 0.9, "{learn_from:?} {ties:?}: {accuracy}");
        let interval = ["low", "high"].map(|end| events.scalars(&format!("reward_modeling/validation_accuracy_{end}")));
        assert!(interval[0].last() < interval[1].last());
        assert!(!events.scalars("reward_modeling/validation_calibration_error").is_empty());
        assert!(!events.scalars("reward_modeling/validation_accuracy_large_margin").is_empty());
    }
    assert_resumes_exactly("reward_modeling/loss", 9, |ctx| {
        learn_lists(&with(|config| config.learn_from = LearnFrom::PlackettLuce), &init, ctx)
    });
}

#[test]
fn lists_in_which_nothing_is_better_are_counted_and_alone_an_error() {
    let base = Stage::new();
    let init = tiny_checkpoint(&base);
    let mut items = lists(4);
    items[1].scores = vec![1.0; 4];
    let run = |items: &[RankedList], config: &RewardModelingConfig| {
        let (stage, events) = (Stage::new(), RecordedEvents::default());
        let feedback = Feedback::RankedLists(items);
        let inputs = LearnerInputs {
            init: &init,
            reference: None,
            feedback,
            validation: None,
            reward_model: None,
            annotator: None,
            models: &farmhand_core::FoldersOnly,
        };
        let result = RewardModeling(config.clone()).learn(inputs, &stage.context(&events)).map(drop);
        (result, format!("{:?}", events.take()))
    };
    let config = with(|config| config.learn_from = LearnFrom::AllPairs);
    let (result, told) = run(&items, &config);
    result.expect("three lists are left");
    assert!(told.contains("1 of 4 ranked lists have no two different answers to compare"), "{told}");
    let (result, _) = run(&items[1..2], &config);
    assert!(result.expect_err("nothing to learn").message().contains("no ranked lists are left"));
    let ties = with(|config| (config.learn_from, config.ties) = (LearnFrom::AllPairs, TieModel::Davidson { nu: 1.0 }));
    run(&items[1..2], &ties).0.expect("ties teach that answers are alike");
}

#[test]
fn a_margin_rule_without_margins_is_an_error() {
    let base = Stage::new();
    let config = with(|config| config.margin = MarginRule::Llama2Large);
    let error = learn(&config, &tiny_checkpoint(&base), &base.context(&farmhand_core::NoEvents)).expect_err("no margins");
    assert!(error.message().contains("none of the preference pairs has a margin"), "{error}");
}

#[test]
fn combinations_that_make_no_sense_are_refused_with_the_reason() {
    for config in [RewardModelingConfig::llama2(), RewardModelingConfig::helpsteer2(), RewardModelingConfig::instruct_gpt()] {
        assert_eq!(config.problems(), []);
    }
    let config = RewardModelingConfig {
        learn_from: LearnFrom::PlackettLuce,
        margin: MarginRule::Scaling,
        ties: TieModel::RaoKupper { theta: 1.0 },
        label_smoothing: 0.1,
        centring: 0.1,
        ..RewardModelingConfig::default()
    };
    let paths: Vec<String> = config.problems().into_iter().map(|problem| problem.path).collect();
    assert_eq!(paths, ["margin", "ties.rao_kupper.theta", "ties", "label_smoothing", "centring"]);
    let ties = RewardModelingConfig { ties: TieModel::Davidson { nu: 1.0 }, ..RewardModelingConfig::default() };
    assert!(ties.problems()[0].message.contains("only ranked lists hold ties"));
}

#[test]
fn loss_and_gradients_do_not_depend_on_layout_and_micro_batches() {
    let base = Stage::new();
    let init = tiny_checkpoint(&base);
    let codec = TextCodec::load(&init, None).expect("a codec");
    let model = with_head(&init);
    let ctx = base.context(&farmhand_core::NoEvents);
    let limit = TrainOptions::default().token_limit(96);
    let (all_pairs, mut all_lists) = (pairs(8), lists(8));
    // Lists of unequal length.
    all_lists[2].outputs.truncate(2);
    all_lists[2].scores.truncate(2);
    let picked: Vec<usize> = (0..8).collect();
    for config in [
        with(|config| config.centring = 0.01),
        with(|config| (config.learn_from, config.ties) = (LearnFrom::AllPairs, TieModel::RaoKupper { theta: 2.0 })),
        with(|config| config.learn_from = LearnFrom::PlackettLuce),
    ] {
        let feedback = match config.learn_from {
            LearnFrom::Pairs => Feedback::Preferences(&all_pairs),
            _ => Feedback::RankedLists(&all_lists),
        };
        let examples = Examples::new(feedback, false, &config, &codec, limit, &ctx).expect("encoded");
        let gradients = |layout, size, tokens| {
            let (micro_batch_size, micro_batch_tokens) = (Some(size), Some(tokens));
            let mut config = config.clone();
            config.train.passes = PassOptions { layout, micro_batch_size, micro_batch_tokens, ..PassOptions::default() };
            let loss = run_examples(&model, &examples, &picked, &config, Some(Seed::root(0))).expect("run").loss;
            (loss, take_gradients(&model.parameters()))
        };
        let (loss, expected) = gradients(BatchLayout::Padded, 8, 4096);
        for (layout, size, tokens) in SPLITS {
            let (same_loss, same) = gradients(layout, size, tokens);
            assert!((loss - same_loss).abs() < 1e-6);
            assert_same_gradients(&same, &expected, 1e-6);
        }
    }
}

fn with_head(init: &Checkpoint) -> ScalarModel {
    let stage = Stage::new();
    let model = starting_model(init, &stage.context(&farmhand_core::NoEvents)).expect("made");
    model.set_trainable(true);
    model
}
