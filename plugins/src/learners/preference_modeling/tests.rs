//! What this learner must keep: golden values, invariances, a toy with a known end, exact resumption, refusals.

use farmhand_core::types::{Comparison, Preference};
use farmhand_core::{AnnotatorConfig, Device, Feedback, RecordedEvents, checked};
use farmhand_models::BatchLayout;

use super::*;
use crate::annotators::PreferenceAnnotatorConfig;
use crate::testing::{
    SPLITS, Stage, assert_resumes_exactly, assert_same_gradients, fast_optim, learn_and_validate, lively_checkpoint, pairs,
    small_lora, take_gradients, tiny_checkpoint,
};
use crate::training::PassOptions;

fn with(change: impl FnOnce(&mut PreferenceModelingConfig)) -> PreferenceModelingConfig {
    let optim = fast_optim(1e-2);
    let train = TrainOptions { epochs: 20, batch_size: 8, save_every: 4, validate_every: 20, optim, ..TrainOptions::default() };
    let mut config = PreferenceModelingConfig { train, ..PreferenceModelingConfig::default() };
    change(&mut config);
    config
}

fn learn(config: &PreferenceModelingConfig, init: &Checkpoint, ctx: &RunContext<'_>) -> Result<Checkpoint> {
    let all = pairs(30);
    let (train, held_out) = all.split_at(24);
    learn_and_validate(config, init, (Feedback::Preferences(train), Feedback::Preferences(held_out)), ctx)
}

#[test]
fn it_learns_to_say_which_answer_is_better_and_the_annotator_says_it() {
    let stage = Stage::new();
    let init = lively_checkpoint(&stage);
    for loss in [ReplyLoss::FullVocabulary, ReplyLoss::TwoReplies] {
        let (stage, events) = (Stage::new(), RecordedEvents::default());
        let ctx = stage.context(&events);
        let config = with(|config| (config.loss, config.orders) = (loss, ShownOrders::Both));
        let checkpoint = learn(&config, &init, &ctx).expect("learned");
        let accuracy = events.scalars("preference_modeling/validation_accuracy").last().expect("validated").1;
        assert!(accuracy > 0.9, "{loss:?}: {accuracy}");
        let build = BuildContext { reward_model: Some(&checkpoint), ..BuildContext::new(Device::Cpu, stage.path()) };
        let judge = PreferenceAnnotatorConfig::default().build(&build).expect("built");
        let new = &pairs(36)[30..];
        let comparisons: Vec<Comparison> =
            new.iter().map(|pair| Comparison::new(pair.instruction.clone(), &*pair.rejected, &*pair.chosen)).collect();
        let judgements = ctx.block_on(checked::annotate(&*judge, &comparisons, &ctx)).expect("judged");
        assert!(judgements.iter().all(|judged| judged.preference().is_some_and(|p: Preference| p.p_second() > 0.5)));
    }
}

#[test]
fn a_stopped_or_killed_run_continues_to_the_same_bytes_also_with_an_adapter() {
    let base = Stage::new();
    let init = lively_checkpoint(&base);
    let short = with(|config| config.train.epochs = 4);
    assert_resumes_exactly("preference_modeling/loss", 9, |ctx| learn(&short, &init, ctx));
    let lora = with(|config| (config.train.epochs, config.train.passes.lora) = (4, Some(small_lora())));
    assert_resumes_exactly("preference_modeling/loss", 9, |ctx| learn(&lora, &init, ctx));
}

#[test]
fn loss_and_gradients_do_not_depend_on_layout_and_micro_batches() {
    let stage = Stage::new();
    let init = tiny_checkpoint(&stage);
    let ctx = stage.context(&farmhand_core::NoEvents);
    let codec = TextCodec::load(&init, None).expect("a codec");
    let model = LanguageModel::load(init.path(), tch::Device::Cpu).expect("loaded");
    model.set_trainable(true);
    let all = pairs(4);
    let questions: Vec<Question<'_>> = all.iter().flat_map(|pair| [(pair, true), (pair, false)]).collect();
    let limit = TrainOptions::default().token_limit(96);
    let records = encode(&questions, "pairs", &PairReading::default(), &codec, limit, &ctx).expect("encoded");
    assert!(records.iter().all(|record| record.texts[0].prompt() == record.texts[1].prompt()));
    for loss in [ReplyLoss::FullVocabulary, ReplyLoss::TwoReplies] {
        let gradients = |layout, size, tokens| {
            let (micro_batch_size, micro_batch_tokens) = (Some(size), Some(tokens));
            let passes = PassOptions { layout, micro_batch_size, micro_batch_tokens, ..PassOptions::default() };
            let config = with(|config| (config.loss, config.train.passes) = (loss, passes));
            let picked = [7, 6, 5, 4, 3, 2, 1, 0];
            let loss = run_questions(&model, &records, &picked, &config, Some(Seed::root(0))).expect("run").loss;
            (loss, take_gradients(model.parameters()))
        };
        let (loss, expected) = gradients(BatchLayout::Padded, 8, 4096);
        for (layout, size, tokens) in SPLITS {
            let (same_loss, same) = gradients(layout, size, tokens);
            assert!((loss - same_loss).abs() < 1e-6);
            assert_same_gradients(&same, &expected, 1e-6);
        }
    }
}

#[test]
fn the_two_losses_by_hand_and_a_pair_counts_when_both_orders_are_there() {
    let (right, wrong) = (Tensor::from_slice(&[-0.5]), Tensor::from_slice(&[-1.2]));
    assert!((reply_losses(&right, &wrong, ReplyLoss::FullVocabulary).double_value(&[0]) - 0.5).abs() < 1e-12);
    assert!((reply_losses(&right, &wrong, ReplyLoss::TwoReplies).double_value(&[0]) - 0.403_186).abs() < 1e-6);
    for loss in [ReplyLoss::FullVocabulary, ReplyLoss::TwoReplies] {
        let leaf = right.copy().set_requires_grad(true);
        reply_losses(&leaf, &wrong, loss).sum(Kind::Double).backward();
        let at = |step: f64| reply_losses(&(&right + step), &wrong, loss).double_value(&[0]);
        assert!(((at(1e-6) - at(-1e-6)) / 2e-6 - leaf.grad().double_value(&[0])).abs() < 1e-6, "{loss:?}");
    }
    let all = pairs(3);
    let questions: Vec<Question<'_>> = all.iter().flat_map(|pair| [(pair, true), (pair, false)]).collect();
    let record = |index: usize| Record { index, ..Record::new("", []) };
    // The second pair lacks an order. P(chosen) of the first is (0.8 + 0.7) / 2, of the third (0.2 + 0.4) / 2.
    let report = both_orders_report(&[0, 1, 2, 4, 5].map(record), &questions, &[0.8, 0.7, 0.9, 0.2, 0.4]).expect("two pairs");
    assert_eq!((report.n, report.get("accuracy")), (2, Some(0.5)));
    assert!((report.get("brier").expect("there") - (0.25_f64.powi(2) + 0.7_f64.powi(2)) / 2.0).abs() < 1e-9);
}

#[test]
fn equal_labels_are_refused() {
    assert_eq!(with(|_| ()).problems(), []);
    let config = with(|config| config.labels = ["A", "A"].map(str::to_owned));
    assert_eq!(config.problems()[0].path, "labels");
}
