//! What this learner must keep: golden values, invariances, a toy with a known end, exact resumption, refusals.

use farmhand_core::{ErrorKind, NoEvents, RecordedEvents};
use farmhand_models::{BatchLayout, LoraConfig};

use super::*;
use crate::rl::policy_gradient::Importance;
use crate::rl::reduction::Reduction;
use crate::testing::{
    Constant, SPLITS, Stage, assert_resumes_exactly, assert_same_gradients, fast_optim, first_and_last, instructions,
    learn_from_prompts, learn_to_like_e, lively_checkpoint, moved, small_lora, take_gradients, tiny_checkpoint,
};
use crate::training::{PassOptions, RolloutOptions, micro_step, step_totals};

fn config() -> GrpoConfig {
    small(GrpoConfig::default())
}

fn small(config: GrpoConfig) -> GrpoConfig {
    let rollouts = RolloutOptions {
        steps: 6,
        prompts_per_step: 2,
        samples_per_prompt: 4,
        max_new_tokens: 8,
        save_every: 2,
        ..config.rollouts
    };
    let overlong_margin = config.overlong_margin.min(2);
    GrpoConfig { rollouts, batch_size: 4, overlong_margin, optim: fast_optim(3e-3), ..config }
}

#[test]
fn every_preset_finds_the_answers_that_the_reward_model_likes() {
    let stage = Stage::new();
    let init = tiny_checkpoint(&stage);
    for preset in [
        GrpoConfig::default(),
        GrpoConfig::dr_grpo(),
        GrpoConfig::dapo(),
        GrpoConfig::gspo(),
        GrpoConfig::cispo(),
        GrpoConfig { ratio: Importance::Sapo { positive: 1.0, negative: 1.05 }, dual_clip: None, ..GrpoConfig::default() },
    ] {
        let config = small(preset);
        let rollouts = RolloutOptions { steps: 30, prompts_per_step: 8, ..config.rollouts };
        let config = GrpoConfig { rollouts, batch_size: 16, inner_epochs: 2, optim: fast_optim(2e-2), ..config };
        let (run, events) = (Stage::new(), RecordedEvents::default());
        learn_to_like_e(&config, &init, &run.context(&events)).expect("learned");
        let (first, last) = first_and_last(&events, "grpo/reward", 4);
        assert!(first < 0.3 && last > 0.6, "{:?}: {first} to {last}", config.ratio);
    }
}

#[test]
fn the_ratio_is_exactly_1_and_the_divergence_0_at_the_first_optimiser_step() {
    let (stage, events) = (Stage::new(), RecordedEvents::default());
    let passes = PassOptions { micro_batch_size: Some(3), ..PassOptions::default() };
    let config = GrpoConfig { batch_size: 8, passes, ..config() };
    learn_to_like_e(&config, &tiny_checkpoint(&stage), &stage.context(&events)).expect("learned");
    for name in ["grpo/approx_kl", "grpo/clip_fraction"] {
        let values = events.scalars(name);
        assert!(values.len() == 6 && values.iter().all(|(_, value)| *value == 0.0), "{name}: {values:?}");
    }
    let kl = events.scalars("grpo/kl");
    assert!(kl[0].1 == 0.0 && kl[5].1 > 0.0, "{kl:?}");
    // The surrogate of a whole group is 0 where all its responses weigh the same.
    assert!(events.scalars("grpo/loss")[0].1.abs() < 1e-6);
}

#[test]
fn a_round_of_one_step_gives_the_same_bytes_whether_or_not_its_log_probabilities_are_measured_first() {
    let base = Stage::new();
    let init = tiny_checkpoint(&base);
    let (stage, instructions) = (Stage::new(), instructions(6));
    let ctx = stage.context(&NoEvents);
    let config = GrpoConfig { batch_size: 8, ..config() };
    let options = (&config.rollouts, &config.passes);
    let models = OnPolicyModels::load(&init, None, true, &instructions, options, &ctx).expect("loaded");
    let sampler = models.sampler(&instructions, &config.rollouts, &config.passes);
    let records = sampler.sample(0, 2, &ctx).expect("sampled").records;
    let partition = sampler.partition(&records, 8, 0, 0, &ctx);
    let gradients = |config: &GrpoConfig| {
        let measured = Measured::new(config, &sampler, &records, &partition, models.reference.as_ref()).expect("measured");
        let advantages = per_token(&[1.0, -0.5, 0.3, 0.0, 2.0, -1.0, 0.1, 0.7], &measured.mask);
        let totals = step_totals(&sampler, &records, &[0, 1, 2, 3, 4, 5, 6, 7]);
        let mut loss = |micro: &MicroBatch<'_>| token_loss(config, &measured, &advantages, micro);
        for rows in &partition[0] {
            drop(micro_step(&sampler, &records, rows, totals, 8, &mut loss).expect("run"));
        }
        (measured.log_probs.is_some(), take_gradients(&models.policy.trained()))
    };
    let (is_measured, one) = gradients(&config);
    let (is_measured_before_two, two) = gradients(&GrpoConfig { inner_epochs: 2, ..config.clone() });
    assert!(!is_measured && is_measured_before_two);
    assert!(one.iter().zip(&two).all(|(one, two)| one == two));
}

#[test]
fn losses_and_gradients_do_not_depend_on_layout_and_micro_batches() {
    let stage = Stage::new();
    let (init, instructions) = (tiny_checkpoint(&stage), instructions(6));
    let ctx = stage.context(&NoEvents);
    for (ratio, reduction) in [
        (Importance::Token, Reduction::SeqMean),
        (Importance::Sequence, Reduction::TokenMean),
        (Importance::Cispo, Reduction::FixedNorm),
    ] {
        let gradients = |layout, size, tokens| {
            let (micro_batch_size, micro_batch_tokens) = (Some(size), Some(tokens));
            let passes = PassOptions { layout, micro_batch_size, micro_batch_tokens, ..PassOptions::default() };
            let config = GrpoConfig { passes, ratio, reduction, ..config() };
            let options = (&config.rollouts, &config.passes);
            let models = OnPolicyModels::load(&init, None, true, &instructions, options, &ctx).expect("loaded");
            let sampler = models.sampler(&instructions, &config.rollouts, &config.passes);
            let records = sampler.sample(0, 2, &ctx).expect("sampled").records;
            let two_steps = vec![vec![(0..4).collect::<Vec<usize>>()], vec![(4..8).collect()]];
            let mut measured =
                Measured::new(&config, &sampler, &records, &two_steps, models.reference.as_ref()).expect("measured");
            // A policy that has moved, away from another reference.
            measured.log_probs = measured.log_probs.map(|log_probs| log_probs + &measured.mask * 0.1);
            measured.reference = measured.reference.map(|reference| reference - &measured.mask * 0.3);
            assert!(measured.log_probs.is_some() && measured.reference.is_some());
            let advantages = per_token(&[1.0, -0.5, 0.3, 0.0, 2.0, -1.0, 0.1, 0.7], &measured.mask);
            let totals = step_totals(&sampler, &records, &[0, 1, 2, 3, 4, 5, 6, 7]);
            let mut loss = |micro: &MicroBatch<'_>| token_loss(&config, &measured, &advantages, micro);
            let mut total = 0.0;
            for rows in sampler.passes.micro_batching(tch::Device::Cpu).groups(&records, &[7, 6, 5, 4, 3, 2, 1, 0]) {
                let (told, _) = micro_step(&sampler, &records, &rows, totals, 8, &mut loss).expect("run");
                total += told.double_value(&[0]);
            }
            (total, take_gradients(&models.policy.trained()))
        };
        let (loss, expected) = gradients(BatchLayout::Padded, 8, 4096);
        for (layout, size, tokens) in SPLITS {
            let (same_loss, same) = gradients(layout, size, tokens);
            assert!((loss - same_loss).abs() < 1e-6 * loss.abs().max(1.0), "{loss} {same_loss}");
            assert_same_gradients(&same, &expected, 1e-5);
        }
    }
}

#[test]
fn a_stopped_or_killed_run_continues_to_the_same_bytes_also_with_refilled_groups_and_adapters() {
    let base = Stage::new();
    let init = lively_checkpoint(&base);
    assert_resumes_exactly("grpo/reward", 3, |ctx| learn_to_like_e(&config(), &init, ctx));
    let dapo = small(GrpoConfig::dapo());
    assert_resumes_exactly("grpo/reward", 3, |ctx| learn_to_like_e(&dapo, &init, ctx));
    let lora = Some(LoraConfig { dropout: 0.0, ..small_lora() });
    let adapted = GrpoConfig { passes: PassOptions { lora, ..PassOptions::default() }, ..config() };
    assert_resumes_exactly("grpo/reward", 3, |ctx| learn_to_like_e(&adapted, &init, ctx));
    let (stage, events) = (Stage::new(), RecordedEvents::default());
    let learned = learn_to_like_e(&adapted, &init, &stage.context(&events)).expect("learned");
    assert!(moved(&init, &learned).iter().all(|name| name.ends_with("_proj.weight")));
    let kl = events.scalars("grpo/kl");
    assert!(kl[0].1 < kl[5].1, "the reference is the policy without its adapter: {kl:?}");
}

#[test]
fn equal_rewards_teach_nothing_and_say_so_and_with_a_reference_only_hold_the_policy() {
    let stage = Stage::new();
    let init = tiny_checkpoint(&stage);
    for equal_rewards in [EqualRewards::Keep, EqualRewards::Drop, EqualRewards::Refill { rounds: 2 }] {
        let (run, events) = (Stage::new(), RecordedEvents::default());
        let config = GrpoConfig { equal_rewards, kl_weight: 0.0, ..config() };
        let error = learn_from_prompts(&config, 10, &init, &mut Constant, &run.context(&events)).expect_err("nothing");
        assert_eq!(error.kind(), ErrorKind::InvalidData);
        assert!(format!("{:?}", events.take()).contains("nothing is learned in step 0"));
    }
    let (run, events) = (Stage::new(), RecordedEvents::default());
    learn_from_prompts(&config(), 10, &init, &mut Constant, &run.context(&events)).expect("finite");
    let loss = events.scalars("grpo/loss");
    assert!(loss.len() == 6 && loss.iter().all(|(_, loss)| loss.abs() < 1e-9), "{loss:?}");
}

#[test]
fn responses_that_were_cut_off_are_left_out_when_asked() {
    let (stage, events) = (Stage::new(), RecordedEvents::default());
    let config = GrpoConfig { skip_cut_off: true, kl_weight: 0.0, ..config() };
    let result = learn_to_like_e(&config, &tiny_checkpoint(&stage), &stage.context(&events));
    let (trained, ended) = (events.scalars("grpo/trained_responses"), events.scalars("grpo/ended"));
    assert!(trained.iter().zip(&ended).all(|((_, n), (_, share))| (n - 8.0 * share).abs() < 1e-9), "{trained:?} {ended:?}");
    assert_eq!(result.is_ok(), trained.iter().any(|(_, n)| *n > 0.0) && !events.scalars("grpo/loss").is_empty());
}
