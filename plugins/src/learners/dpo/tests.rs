//! What this learner must keep: golden values, invariances, a toy with a known end, exact resumption, refusals.

use farmhand_core::types::PreferencePair;
use farmhand_core::{ErrorKind, Feedback, RecordedEvents};

use super::*;
use crate::testing::{
    Stage, assert_resumes_exactly, assert_same_bytes, assert_same_however_split, assert_turns_preferences, fast_optim,
    learn_from, lively_checkpoint, moved, pair_records, pairs, small_lora, tiny_checkpoint,
};

fn with(change: impl FnOnce(&mut TrainOptions)) -> DpoConfig {
    let optim = fast_optim(3e-3);
    let train = TrainOptions { epochs: 6, batch_size: 4, save_every: 4, optim, ..TrainOptions::default() };
    let mut config = DpoConfig { train, ..DpoConfig::default() };
    change(&mut config.train);
    config
}

fn config() -> DpoConfig {
    with(|_| ())
}

fn learn(config: &DpoConfig, init: &Checkpoint, pairs: &[PreferencePair], ctx: &RunContext<'_>) -> Result<Checkpoint> {
    learn_from(config, init, Feedback::Preferences(pairs), ctx)
}

fn model(init: &Checkpoint) -> (LanguageModel, Vec<Record>) {
    let policy = LanguageModel::load(init.path(), tch::Device::Cpu).expect("loaded");
    policy.set_trainable(true);
    let records = pair_records(&farmhand_models::TextCodec::load(init, None).expect("a codec"), 8);
    (policy, records)
}

#[test]
fn the_loss_is_ln_2_at_the_reference_and_every_log_ratio_zero() {
    let stage = Stage::new();
    let init = tiny_checkpoint(&stage);
    let ((policy, records), ctx) = (model(&init), stage.context(&farmhand_core::NoEvents));
    let mut reference = Reference::new(&init, None, &policy).expect("fits");
    let free = DpoConfig { reference_free: true, ..DpoConfig::default() };
    let pairs = Pairs::new(records.clone(), &mut reference, &free, None, &ctx).expect("nothing to compute");
    assert_eq!(pairs.reference, vec![vec![0.0; 2]; 8]);
    for ld_alpha in [1.0, 0.3] {
        let config = DpoConfig { ld_alpha, ..DpoConfig::default() };
        let pairs = Pairs::new(records.clone(), &mut reference, &config, None, &ctx).expect("computed");
        let pass = pass_pairs(&policy, &pairs, &[0, 1, 2, 3, 4, 5, 6, 7], &config, None).expect("run");
        let [loss, _, _, chosen, rejected, weight] = pass.means;
        assert!((loss - std::f64::consts::LN_2).abs() < 1e-6 && chosen.abs() < 1e-5 && rejected.abs() < 1e-5);
        assert_eq!((pass.nll, weight), (0.0, 1.0));
    }
}

#[test]
fn loss_and_gradients_do_not_depend_on_layout_and_micro_batches() {
    let stage = Stage::new();
    let (policy, mut records) = model(&tiny_checkpoint(&stage));
    records.iter_mut().zip(0..).for_each(|(record, i)| record.margin = f64::from(i) * 0.3);
    // A reference unlike the policy, so that the pairs weigh differently.
    let reference = (0..8).map(|i| vec![-8.0 - i as f32, -9.0 + 0.5 * i as f32]).collect();
    let pairs = Pairs { records, reference };
    let aot = PairwiseLink::Aot { label_smoothing: 0.1 };
    for config in [
        DpoConfig { nll_weight: 0.3, ..config() },
        DpoConfig { link: PairwiseLink::LogisticPerToken, nll_reduction: Reduction::SeqMean, nll_weight: 0.3, ..config() },
        DpoConfig { weighting: PolicyWeighting::SampledAlignment, ..config() },
        DpoConfig { weighting: PolicyWeighting::Likelihood, divergence: Divergence::JensenShannon, ..config() },
        DpoConfig { ld_alpha: 0.4, link: PairwiseLink::RewardAware { scale: 2.0 }, ..config() },
        DpoConfig { more_links: vec![WeightedLink { link: aot, weight: 0.5 }], ld_alpha: 0.4, ..config() },
        DpoConfig { link: PairwiseLink::AotUnpaired { label_smoothing: 0.0 }, nll_weight: 0.2, ..config() },
    ] {
        assert_same_however_split(&policy, 1e-5, |passes| {
            let train = TrainOptions { passes: passes.clone(), ..config.train.clone() };
            let config = DpoConfig { train, ..config.clone() };
            pass_pairs(&policy, &pairs, &[7, 6, 5, 4, 3, 2, 1, 0], &config, Some(Seed::root(0))).expect("run").loss
        });
    }
}

#[test]
fn a_step_that_compares_pairs_resumes_although_it_takes_two_passes() {
    let base = Stage::new();
    let init = tiny_checkpoint(&base);
    let mut config = with(|train| train.passes.micro_batch_size = Some(2));
    config.link = PairwiseLink::AotUnpaired { label_smoothing: 0.0 };
    assert_resumes_exactly("dpo/loss", 9, |ctx| learn(&config, &init, &pairs(10), ctx));
}

#[test]
fn a_link_that_follows_margins_refuses_pairs_without_any() {
    let stage = Stage::new();
    let config = DpoConfig { link: PairwiseLink::RewardAware { scale: 1.0 }, ..config() };
    let (events, mut items) = (RecordedEvents::default(), pairs(8));
    let error = learn(&config, &tiny_checkpoint(&stage), &items, &stage.context(&events)).expect_err("no margins");
    assert_eq!(error.kind(), ErrorKind::InvalidData);
    items[3].margin = Some(1.0);
    let stage = Stage::new();
    learn(&config, &tiny_checkpoint(&stage), &items, &stage.context(&events)).expect("learned");
    assert!(format!("{:?}", events.take()).contains("7 of 8 preference pairs have no margin"));
}

#[test]
fn it_turns_preferences_that_the_policy_had_the_other_way_round() {
    assert_turns_preferences(&with(|train| train.epochs = 20), "dpo");
}

#[test]
fn a_step_at_learning_rate_0_reports_ln_2_and_changes_nothing() {
    let stage = Stage::new();
    let events = RecordedEvents::default();
    let init = tiny_checkpoint(&stage);
    let learned =
        learn(&with(|train| train.optim = fast_optim(0.0)), &init, &pairs(8), &stage.context(&events)).expect("learned");
    let losses = events.scalars("dpo/loss");
    assert_eq!(losses.len(), 12);
    assert!(losses.iter().all(|(_, loss)| (loss - std::f64::consts::LN_2).abs() < 1e-6), "{losses:?}");
    let bytes = |checkpoint: &Checkpoint| std::fs::read(checkpoint.path().join("model.safetensors")).expect("read");
    assert!(bytes(&learned) == bytes(&init));
}

#[test]
fn an_adapter_learns_from_the_policy_as_its_reference_and_a_stopped_run_continues_to_the_same_bytes() {
    let base = Stage::new();
    let init = lively_checkpoint(&base);
    let config = with(|train| (train.passes.lora, train.optim) = (Some(small_lora()), fast_optim(1e-2)));
    let stage = Stage::new();
    let events = RecordedEvents::default();
    let learned = learn(&config, &init, &pairs(10), &stage.context(&events)).expect("learned");
    let accuracy = events.scalars("dpo/validation_accuracy");
    assert!(accuracy.last().expect("validated").1 > 0.9, "{accuracy:?}");
    assert!(moved(&init, &learned).iter().all(|name| name.ends_with("_proj.weight")));
    assert_resumes_exactly("dpo/loss", 9, |ctx| learn(&config, &init, &pairs(10), ctx));
}

#[test]
fn a_reference_that_is_the_start_changes_nothing() {
    let base = Stage::new();
    let init = tiny_checkpoint(&base);
    let items = pairs(8);
    let run = |reference: Option<&Checkpoint>| {
        let stage = Stage::new();
        let feedback = Feedback::Preferences(&items);
        let inputs = LearnerInputs {
            init: &init,
            reference,
            feedback,
            validation: None,
            reward_model: None,
            annotator: None,
            models: &farmhand_core::FoldersOnly,
        };
        let events = RecordedEvents::default();
        Dpo { config: config(), cache_dir: None }.learn(inputs, &stage.context(&events)).expect("learned");
        events.scalars("dpo/loss")
    };
    assert_eq!(run(Some(&init)), run(None));
}

#[test]
fn gradient_checkpointing_changes_no_byte_and_no_resumption() {
    let base = Stage::new();
    let init = tiny_checkpoint(&base);
    let saving = with(|train| train.passes.checkpoint_every = 1);
    let run = |config: &DpoConfig, ctx: &RunContext<'_>| learn(config, &init, &pairs(10), ctx);
    assert_same_bytes(&[config(), saving.clone()], run);
    assert_resumes_exactly("dpo/loss", 9, |ctx| run(&saving, ctx));
}

#[test]
fn a_run_that_finds_the_reference_log_probs_gives_the_same_bytes_and_resumes() {
    let base = Stage::new();
    let (init, cache) = (tiny_checkpoint(&base), base.path().join("cache"));
    let run = |cache_dir: &Option<PathBuf>, ctx: &RunContext<'_>| {
        let pairs = pairs(10);
        let inputs = LearnerInputs {
            init: &init,
            reference: None,
            feedback: Feedback::Preferences(&pairs),
            validation: None,
            reward_model: None,
            annotator: None,
            models: &farmhand_core::FoldersOnly,
        };
        Dpo { config: config(), cache_dir: cache_dir.clone() }.learn(inputs, ctx)
    };
    assert_same_bytes(&[None, Some(cache.clone()), Some(cache.clone())], run);
    assert_resumes_exactly("dpo/loss", 9, |ctx| run(&Some(cache.clone()), ctx));
    assert_eq!(std::fs::read_dir(cache.join("log-probs")).expect("there").count(), 2, "a file and its lock");
}

#[test]
fn a_stopped_or_killed_run_continues_to_the_same_bytes() {
    let base = Stage::new();
    let init = tiny_checkpoint(&base);
    assert_resumes_exactly("dpo/loss", 9, |ctx| learn(&config(), &init, &pairs(10), ctx));
    let by_tokens = with(|train| (train.batch_size, train.batch_tokens) = (64, Some(60)));
    assert_resumes_exactly("dpo/loss", 9, |ctx| learn(&by_tokens, &init, &pairs(10), ctx));
}

#[test]
fn options_out_of_range_and_without_effect_are_located() {
    assert!(config().problems().is_empty());
    let config = DpoConfig {
        beta: 0.0,
        link: PairwiseLink::Robust { label_smoothing: 0.7 },
        nll_reduction: Reduction::SeqSum,
        more_links: vec![WeightedLink { link: PairwiseLink::Hinge, weight: 0.0 }],
        ..config()
    };
    let paths: Vec<String> = config.problems().into_iter().map(|problem| problem.path).collect();
    assert_eq!(paths, ["beta", "link.robust.label_smoothing", "nll_reduction", "more_links[0].weight"]);
    let unseen = DpoConfig { link: PairwiseLink::ApoZero, divergence: Divergence::ForwardKl, ..DpoConfig::default() };
    assert_eq!(unseen.problems()[0].path, "divergence");
    let free = DpoConfig { link: PairwiseLink::NcaPair, reference_free: true, ..DpoConfig::default() };
    assert_eq!(free.problems()[0].path, "reference_free");
    let weak = DpoConfig { link: PairwiseLink::LogisticPerToken, ..DpoConfig::default() };
    assert!(weak.problems()[0].path == "beta" && DpoConfig { beta: 5.0, ..weak }.problems().is_empty());
    let preset: DpoConfig = serde_json::from_str(&serde_json::to_string(&DpoConfig::mpo()).expect("JSON")).expect("options");
    assert!(preset.problems().is_empty() && preset.links().count() == 2);
}

#[test]
fn another_kind_of_feedback_is_refused() {
    let stage = Stage::new();
    let init = tiny_checkpoint(&stage);
    let error = learn_from(&config(), &init, Feedback::Prompts(&[]), &stage.context(&farmhand_core::NoEvents));
    assert_eq!(error.expect_err("refused").kind(), ErrorKind::MissingInput);
}
