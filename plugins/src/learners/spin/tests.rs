//! What this learner must keep: golden values, invariances, a toy with a known end, exact resumption, refusals.

use farmhand_core::{Device, Feedback, RecordedEvents};
use farmhand_models::{BatchLayout, LoraConfig, TextCodec};

use super::*;
use crate::testing::{
    SPLITS, Stage, assert_resumes_exactly, assert_same_gradients, demonstrations, fast_optim, lively_checkpoint, small_lora,
    take_gradients, tiny_checkpoint,
};
use crate::training::PassOptions;

fn with(change: impl FnOnce(&mut SpinConfig)) -> SpinConfig {
    let optim = fast_optim(3e-3);
    let mut config = SpinConfig {
        rounds: 2,
        sampling: SamplingParams { max_new_tokens: 8, ..SamplingParams::default() },
        train: TrainOptions { epochs: 4, batch_size: 4, save_every: 3, optim, ..TrainOptions::default() },
        ..SpinConfig::default()
    };
    change(&mut config);
    config
}

fn learn(config: &SpinConfig, init: &Checkpoint, ctx: &RunContext<'_>) -> Result<Checkpoint> {
    let shown = demonstrations(8);
    let inputs = LearnerInputs {
        init,
        reference: None,
        feedback: Feedback::Demonstrations(&shown),
        validation: None,
        reward_model: None,
        annotator: None,
        models: &farmhand_core::FoldersOnly,
    };
    config.build(&BuildContext::new(Device::Cpu, Path::new(".")))?.learn(inputs, ctx)
}

#[test]
fn the_loss_matches_the_golden_and_is_ln_2_where_the_round_begins() {
    // Fixture A: log-ratios 0.4 and −0.3 at β = 0.1.
    assert!((losses(&Tensor::from_slice(&[0.1 * 0.7])).double_value(&[0]) - 0.658_760).abs() < 1e-6);
    let (stage, events) = (Stage::new(), RecordedEvents::default());
    learn(&with(|_| ()), &tiny_checkpoint(&stage), &stage.context(&events)).expect("learned");
    let loss = events.scalars("spin/loss");
    // Eight pairs in the first round, and those of the round before again in the second: 4 · 2 and 4 · 4 steps.
    assert_eq!(loss.iter().map(|(step, _)| *step).collect::<Vec<_>>(), (0..24).collect::<Vec<_>>());
    for first in [0, 8] {
        assert!((loss[first].1 - std::f64::consts::LN_2).abs() < 1e-5, "the reference is where the round began: {loss:?}");
    }
    assert_eq!(events.scalars("spin/identical").len(), 2);
}

#[test]
fn demonstrations_become_likelier_than_own_answers() {
    let (stage, events) = (Stage::new(), RecordedEvents::default());
    let config = with(|config| (config.rounds, config.previous_answers, config.train.epochs) = (3, false, 8));
    learn(&config, &tiny_checkpoint(&stage), &stage.context(&events)).expect("learned");
    let last = |name: &str| events.scalars(name).last().expect("logged").1;
    assert_eq!(last("spin/accuracy"), 1.0);
    assert!(last("spin/demonstration_log_ratio") > last("spin/answer_log_ratio"));
}

#[test]
fn a_stopped_or_killed_run_continues_to_the_same_bytes_also_with_an_adapter() {
    let base = Stage::new();
    let init = tiny_checkpoint(&base);
    // In the second round.
    assert_resumes_exactly("spin/loss", 15, |ctx| learn(&with(|_| ()), &init, ctx));
    let lively = lively_checkpoint(&base);
    let lora = with(|config| config.train.passes.lora = Some(small_lora()));
    assert_resumes_exactly("spin/loss", 15, |ctx| learn(&lora, &lively, ctx));
}

#[test]
fn loss_and_gradients_do_not_depend_on_layout_and_micro_batches() {
    let stage = Stage::new();
    let init = tiny_checkpoint(&stage);
    let codec = TextCodec::load(&init, None).expect("a codec");
    let policy = LanguageModel::load(init.path(), tch::Device::Cpu).expect("loaded");
    policy.set_trainable(true);
    let encode = |shown: &Demonstration| {
        let text = |output: &str, ending| codec.encode(&shown.instruction, output, ending).expect("encoded");
        Record::new(&shown.instruction.id, [text(&shown.output, Ending::WithEos), text("the mat", Ending::Open)])
    };
    let records: Vec<Record> = demonstrations(8).iter().map(encode).collect();
    let reference: Vec<Vec<f32>> = (0..8).map(|i| vec![-8.0 - i as f32, -9.0 + 0.5 * i as f32]).collect();
    let gradients = |layout, size, tokens| {
        let (micro_batch_size, micro_batch_tokens) = (Some(size), Some(tokens));
        let passes = PassOptions { layout, micro_batch_size, micro_batch_tokens, ..PassOptions::default() };
        let config = with(|config| config.train.passes = passes);
        let pass = run_pairs(&policy, &records, &reference, &[7, 6, 5, 4, 3, 2, 1, 0], &config, Seed::root(0)).expect("run");
        (pass.loss, take_gradients(policy.parameters()))
    };
    let (loss, expected) = gradients(BatchLayout::Padded, 8, 4096);
    for (layout, size, tokens) in SPLITS {
        let (same_loss, same) = gradients(layout, size, tokens);
        assert!((loss - same_loss).abs() < 1e-6);
        assert_same_gradients(&same, &expected, 1e-6);
    }
}

#[test]
fn answers_that_are_the_demonstration_make_no_pair_and_none_at_all_ends_the_round() {
    let shown = demonstrations(2);
    let answer = |i: usize, output: &str| Completion {
        instruction: shown[i].instruction.clone(),
        output: output.to_owned(),
        model: "test".to_owned(),
        sample: 0,
        finish: FinishReason::Stop,
        n_tokens: 1,
        log_prob: None,
    };
    let answers = [answer(0, "something"), answer(1, &shown[1].output), answer(0, &shown[0].output), answer(1, "else")];
    let outputs: Vec<_> = unlike(&shown, &answers).into_iter().map(|(a, b)| (a.output.as_str(), b.output.as_str())).collect();
    assert_eq!(outputs, [(shown[0].output.as_str(), "something"), (shown[1].output.as_str(), "else")]);

    // A policy that says what is shown: greedy answers are the demonstrations.
    let (stage, events) = (Stage::new(), RecordedEvents::default());
    let (init, ctx) = (tiny_checkpoint(&stage), stage.context(&events));
    let sampling = SamplingParams { temperature: 0.0, max_new_tokens: 8, ..SamplingParams::default() };
    let who = Answerer {
        policy: &SpinConfig::default().policy,
        checkpoint: &init,
        base_dir: Path::new("."),
        models: &farmhand_core::FoldersOnly,
    };
    let asked: Vec<Instruction> = shown.iter().map(|shown| shown.instruction.clone()).collect();
    let said = sample_answers(who, &asked, &sampling, "said", &ctx).expect("answered");
    let shown: Vec<Demonstration> =
        said.into_iter().map(|answer| Demonstration { instruction: answer.instruction, output: answer.output }).collect();
    let inputs = LearnerInputs {
        init: &init,
        reference: None,
        feedback: Feedback::Demonstrations(&shown),
        validation: None,
        reward_model: None,
        annotator: None,
        models: &farmhand_core::FoldersOnly,
    };
    let mut spin = Spin { config: with(|config| config.sampling = sampling), base_dir: ".".into() };
    let made = spin.learn(inputs, &ctx).expect("nothing to learn");
    let bytes = |checkpoint: &Checkpoint| std::fs::read(checkpoint.path().join("model.safetensors")).expect("read");
    assert!(bytes(&made) == bytes(&init));
    assert!(format!("{:?}", events.take()).contains("every answer is the demonstration"));
}

#[test]
fn options_that_make_no_sense_are_refused() {
    assert_eq!(SpinConfig::default().problems(), []);
    let mut config = with(|config| {
        config.train.passes.lora = Some(LoraConfig { output: farmhand_models::AdapterOutput::Adapter, ..small_lora() })
    });
    config.sampling.n = 2;
    let paths: Vec<String> = config.problems().into_iter().map(|problem| problem.path).collect();
    assert_eq!(paths, ["lora.output", "sampling.n"]);
}
