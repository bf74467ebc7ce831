//! What this learner must keep: golden values, invariances, a toy with a known end, exact resumption, refusals.

use farmhand_core::{ErrorKind, Feedback, RecordedEvents};
use tch::Kind;

use super::*;
use crate::testing::{
    Constant, LikesE, Stage, assert_resumes_exactly, assert_resumes_exactly_also_with_an_adapter, assert_same_however_split,
    disliked_pairs, fast_optim, learn_from, learn_from_prompts, lively_checkpoint, pair_records, pairs, tiny_checkpoint,
};

fn config() -> SlicConfig {
    let optim = fast_optim(3e-3);
    let train = TrainOptions { epochs: 6, batch_size: 4, save_every: 4, optim, ..TrainOptions::default() };
    SlicConfig { imitation_weight: 0.1, train, ..SlicConfig::default() }
}

fn sampling(ranked_by: RankedBy, reference_text: ReferenceText) -> SlicConfig {
    let sampling = SamplingParams { n: 5, max_new_tokens: 6, ..SamplingParams::default() };
    let source = PairSource::SampleRank(SampleRank { sampling, ranked_by, reference_text, ..SampleRank::default() });
    let mut config = SlicConfig { source, ..config() };
    config.train.epochs = 2;
    config
}

#[test]
fn the_loss_matches_the_goldens() {
    // Fixture A: sums −1.8 and −3.1.
    let difference = Tensor::from_slice(&[1.3]).set_requires_grad(true);
    let at = |delta| calibration_losses(&difference, delta).double_value(&[0]);
    assert!(at(1.0) == 0.0 && (at(2.0) - 0.7).abs() < 1e-9 && (at(2.0) + 0.5 * 1.8 - 1.6).abs() < 1e-9);
    calibration_losses(&difference, 2.0).sum(Kind::Double).backward();
    assert_eq!(difference.grad().double_value(&[0]), -1.0);
}

#[test]
fn draws_repeat_no_pair_and_equal_scores_make_none() {
    let mut rng = Seed::root(1).rng();
    let drawn = drawn_pairs(&[0.1, 0.9, 0.4, 0.4, 0.7], &mut rng);
    assert!(drawn.len() == 4 || drawn.len() == 5);
    let mut unordered: Vec<_> = drawn.iter().map(|pair| (pair.better.min(pair.worse), pair.better.max(pair.worse))).collect();
    unordered.sort_unstable();
    unordered.dedup();
    assert_eq!(unordered.len(), drawn.len());
    assert!(drawn_pairs(&[1.0, 1.0, 1.0], &mut rng).is_empty());
    assert_eq!(drawn_pairs(&[1.0, 2.0], &mut rng), [Pair { better: 1, worse: 0 }]);
}

#[test]
fn loss_and_gradients_do_not_depend_on_layout_and_micro_batches() {
    let stage = Stage::new();
    let init = tiny_checkpoint(&stage);
    let policy = LanguageModel::load(init.path(), tch::Device::Cpu).expect("loaded");
    policy.set_trainable(true);
    let codec = TextCodec::load(&init, None).expect("a codec");
    let two = pair_records(&codec, 8);
    let three: Vec<Record> =
        two.iter().map(|record| Record { texts: [&record.texts[..], &record.texts[..1]].concat(), ..record.clone() }).collect();
    for (records, source) in [(&two, PairSource::Direct), (&three, sampling(RankedBy::Tournament, ReferenceText::Best).source)] {
        assert_same_however_split(&policy, 1e-5, |passes| {
            let train = TrainOptions { passes: passes.clone(), ..config().train };
            let config = SlicConfig { source: source.clone(), delta: 4.0, train, ..config() };
            pass_pairs(&policy, records, &[7, 6, 5, 4, 3, 2, 1, 0], &config, Some(Seed::root(0))).expect("run").loss
        });
    }
}

#[test]
fn it_turns_preferences_that_the_policy_had_the_other_way_round_and_then_stops() {
    let (stage, events) = (Stage::new(), RecordedEvents::default());
    let init = tiny_checkpoint(&stage);
    let items = disliked_pairs(&init, 12);
    let mut config = SlicConfig { delta: 2.0, imitation_weight: 0.0, ..config() };
    config.train.epochs = 60;
    learn_from(&config, &init, Feedback::Preferences(&items), &stage.context(&events)).expect("learned");
    let accuracy = events.scalars("slic/validation_accuracy");
    assert_eq!(accuracy.last().expect("validated").1, 1.0, "{accuracy:?}");
    let active: Vec<f64> = events.scalars("slic/active").into_iter().map(|(_, share)| share).collect();
    let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
    let (early, late) = (mean(&active[..3]), mean(&active[active.len() - 6..]));
    assert!(early > 0.3 && late < 0.5 * early, "from {early} to {late}");
}

#[test]
fn it_ranks_its_own_answers_and_comes_to_prefer_what_the_reward_model_likes() {
    for (ranked_by, reference_text) in [(RankedBy::Tournament, ReferenceText::Best), (RankedBy::Draws, ReferenceText::Chosen)] {
        let (stage, events) = (Stage::new(), RecordedEvents::default());
        let mut config = sampling(ranked_by, reference_text);
        config.train.epochs = 8;
        learn_from_prompts(&config, 12, &tiny_checkpoint(&stage), &mut LikesE, &stage.context(&events)).expect("learned");
        let accuracy: Vec<f64> = events.scalars("slic/accuracy").into_iter().map(|(_, value)| value).collect();
        let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
        let (early, late) = (mean(&accuracy[..4]), mean(&accuracy[accuracy.len() - 4..]));
        assert!(late > 0.9 && late > early, "from {early} to {late}");
    }
    let (stage, events) = (Stage::new(), RecordedEvents::default());
    let config = sampling(RankedBy::Tournament, ReferenceText::Best);
    let error = learn_from_prompts(&config, 4, &tiny_checkpoint(&stage), &mut Constant, &stage.context(&events));
    assert_eq!(error.expect_err("nothing to rank").kind(), ErrorKind::InvalidData);
}

#[test]
fn a_stopped_or_killed_run_continues_to_the_same_bytes_also_with_an_adapter() {
    let base = Stage::new();
    let init = lively_checkpoint(&base);
    assert_resumes_exactly_also_with_an_adapter(
        "slic/loss",
        config(),
        |c| &mut c.train,
        &init,
        Feedback::Preferences(&pairs(10)),
    );
    let mut config = sampling(RankedBy::Draws, ReferenceText::Best);
    config.train.save_every = 2;
    let init = tiny_checkpoint(&base);
    assert_resumes_exactly("slic/loss", 3, |ctx| learn_from_prompts(&config, 8, &init, &mut LikesE, ctx));
}

#[test]
fn options_out_of_range_are_located_and_requirements_follow_the_source() {
    let mut wrong = SlicConfig { delta: 0.0, ..sampling(RankedBy::Draws, ReferenceText::Best) };
    if let PairSource::SampleRank(own) = &mut wrong.source {
        own.sampling.n = 1;
    }
    let paths: Vec<String> = wrong.problems().into_iter().map(|problem| problem.path).collect();
    assert_eq!(paths, ["delta", "source.sample_rank.sampling.n"]);
    let written: SlicConfig =
        serde_json::from_value(serde_json::json!({ "source": { "sample_rank": { "ranked_by": "draws" } } })).expect("options");
    let build = BuildContext::new(farmhand_core::Device::Cpu, std::path::Path::new("."));
    let requires = written.build(&build).expect("built").requires();
    assert!(requires.reward_model && requires.feedback == FeedbackKind::Prompts);
}
