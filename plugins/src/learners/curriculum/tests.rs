//! What this learner must keep: golden values, invariances, a toy with a known end, exact resumption, refusals.

use farmhand_core::{Device, ErrorKind, NoEvents, RecordedEvents, RewardModelConfig};

use super::*;
use crate::reward_models::LengthConfig;
use crate::testing::{Stage, assert_resumes_exactly, disliked_pairs, learn_from, likelihood_margins, pairs, tiny_checkpoint};

fn config(learner: &str, options: &Value) -> CurriculumConfig {
    let mut options = options.clone();
    options["optim"] = json!({ "lr": 3e-3, "schedule": "constant", "warmup_ratio": 0.0 });
    options["save_every"] = json!(4);
    CurriculumConfig {
        learner: LearnerSpec::from_json(learner, &options.to_string()).expect("a learner"),
        difficulty: Difficulty::GivenOrder,
        epochs: 6,
        batch_size: 4,
        ..CurriculumConfig::default()
    }
}

#[test]
fn alpha_and_the_expected_loss_match_the_goldens() {
    for (t, golden) in [(0, 1.0), (1, 0.75), (2, 0.5), (4, 0.0)] {
        assert_eq!(alpha(PairSchedule::EasyToHard, t, 4), Some(golden));
        assert_eq!(alpha(PairSchedule::HardToEasy, t, 4), Some(1.0 - golden));
        assert_eq!(alpha(PairSchedule::Mixed, t, 4), Some(0.5));
    }
    let alpha = alpha(PairSchedule::EasyToHard, 1, 4).expect("pools");
    assert!((alpha * 0.658_760 + (1.0 - alpha) * std::f64::consts::LN_2 - 0.667_357).abs() < 1e-6);
}

#[test]
fn easy_pairs_give_way_to_hard_ones_step_by_step_and_pools_are_used_evenly() {
    let easiest_first: Vec<usize> = (0..400).rev().collect();
    let with =
        |schedule| CurriculumConfig { schedule, easy_share: 0.25, epochs: 10, batch_size: 100, ..CurriculumConfig::default() };
    let order = |schedule| curriculum(&easiest_first, &with(schedule), Seed::root(3));
    let rising = order(PairSchedule::EasyToHard);
    assert_eq!(rising.len(), 4000);
    let easy = |pairs: &[usize]| pairs.iter().filter(|pair| **pair >= 300).count();
    for (step, pairs) in rising.chunks(100).enumerate() {
        // Five standard deviations of a binomial of 100.
        let expected = 100.0 * (1.0 - step as f64 / 40.0);
        assert!((easy(pairs) as f64 - expected).abs() <= 25.0, "step {step}: {}", easy(pairs));
    }
    assert_eq!(easy(&rising[..100]), 100);
    let mut counts = vec![0; 400];
    rising.iter().for_each(|&pair| counts[pair] += 1);
    for pool in [&counts[..300], &counts[300..]] {
        let (least, most) = (pool.iter().min().expect("pairs"), pool.iter().max().expect("pairs"));
        assert!(most - least <= 1, "between {least} and {most} times");
    }
    assert!(easy(&order(PairSchedule::HardToEasy)[..400]) < easy(&order(PairSchedule::HardToEasy)[3600..]));
    assert_eq!(order(PairSchedule::Sorted)[..800], [&easiest_first[..], &easiest_first[..]].concat());
    assert_eq!(rising, order(PairSchedule::EasyToHard));
}

#[test]
fn difficulty_comes_from_the_pair_or_the_reward_model_and_what_is_missing_is_told() {
    let (stage, events) = (Stage::new(), RecordedEvents::default());
    let ctx = stage.context(&events);
    assert_eq!(known([Some(0.5), None, Some(2.0)].into_iter(), "margin", &ctx).expect("some")[1], f64::NEG_INFINITY);
    assert!(format!("{:?}", events.take()).contains("1 of 3 preference pairs have no `margin`"));
    assert_eq!(known([None, None].into_iter(), "margin", &ctx).expect_err("none").kind(), ErrorKind::InvalidData);
    assert_eq!(easiest_first(&[0.5, 2.0, 0.5, f64::NEG_INFINITY]), [1, 0, 2, 3]);
    let items = pairs(3);
    let build = BuildContext::new(Device::Cpu, std::path::Path::new("."));
    let mut length = LengthConfig::default().build(&build).expect("built");
    let gaps = reward_gaps(&items, &mut *length, &ctx).expect("scored");
    let longer = |pair: &PreferencePair| pair.chosen.len() as f64 - pair.rejected.len() as f64;
    assert!(gaps.iter().zip(&items).all(|(gap, pair)| (gap - 0.01 * longer(pair)).abs() < 1e-9), "{gaps:?}");
    // They are kept, and not asked for again.
    assert_eq!(reward_gaps(&items, &mut *length, &ctx).expect("read"), gaps);
    assert_eq!((n_easy(2, 0.9), n_easy(10, 0.01), n_easy(10, 0.5)), (1, 1, 5));
}

#[test]
fn the_learner_inside_learns_all_pairs_and_same_answers_are_left_out() {
    for (learner, options) in [("dpo", json!({})), ("simpo", json!({})), ("kto", json!({ "learn_from": "pairs" }))] {
        let (stage, events) = (Stage::new(), RecordedEvents::default());
        let init = tiny_checkpoint(&stage);
        let mut items = disliked_pairs(&init, 12);
        items[11].rejected = items[11].chosen.clone();
        let config = CurriculumConfig { epochs: 30, ..config(learner, &options) };
        assert!(config.problems().is_empty(), "{:?}", config.problems());
        let learned = learn_from(&config, &init, Feedback::Preferences(&items), &stage.context(&events)).expect("learned");
        let margins = likelihood_margins(&learned, &items[..11]);
        assert!(margins.iter().filter(|margin| **margin > 0.0).count() >= 9, "{learner}: {margins:?}");
        let n_steps = if learner == "kto" { 2 * 11 * 30 / 4 } else { (11usize * 30).div_ceil(4) };
        assert_eq!(events.scalars(&format!("{learner}/loss")).len(), n_steps);
        assert!(format!("{:?}", events.take()).contains("1 of 12 preference pairs have the same answer twice"));
    }
}

#[test]
fn a_stopped_or_killed_run_continues_to_the_same_bytes() {
    let base = Stage::new();
    let init = tiny_checkpoint(&base);
    let config = config("dpo", &json!({}));
    assert_resumes_exactly("dpo/loss", 9, |ctx| learn_from(&config, &init, Feedback::Preferences(&pairs(10)), ctx));
}

#[test]
fn learners_without_an_order_or_on_other_feedback_are_refused() {
    let build = BuildContext::new(Device::Cpu, std::path::Path::new("."));
    let refused = config("sft", &json!({})).build(&build).err().expect("another kind of feedback");
    assert_eq!(refused.kind(), ErrorKind::InvalidConfig);
    let ppo =
        CurriculumConfig { learner: LearnerSpec::from_json("ppo", "{}").expect("a learner"), ..CurriculumConfig::default() };
    assert_eq!(ppo.problems()[0].path, "learner");
    let by_tokens = config("dpo", &json!({ "batch_tokens": 100 }));
    assert!(by_tokens.problems().iter().any(|problem| problem.message.contains("batch_tokens")));
    let wrong = CurriculumConfig { easy_share: 1.0, batch_size: 0, ..config("dpo", &json!({})) };
    let paths: Vec<String> = wrong.problems().into_iter().map(|problem| problem.path).collect();
    assert_eq!(paths, ["easy_share", "batch_size"]);
    let stage = Stage::new();
    let gap = CurriculumConfig { difficulty: Difficulty::RewardGap, ..config("dpo", &json!({})) };
    assert!(gap.build(&build).expect("built").requires().reward_model);
    let items = pairs(4);
    let error = learn_from(&gap, &tiny_checkpoint(&stage), Feedback::Preferences(&items), &stage.context(&NoEvents));
    assert_eq!(error.expect_err("no reward model").kind(), ErrorKind::MissingInput);
}
