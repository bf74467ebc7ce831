//! What this learner must keep: golden values, invariances, a toy with a known end, exact resumption, refusals.

use std::path::Path;

use farmhand_core::{Device, Feedback, RecordedEvents};

use super::*;
use crate::testing::{Stage, assert_resumes_exactly, fast_optim, instructions, likelihood, scored, small_lora, tiny_checkpoint};

/// Answers rated on quality, and every other one on toxicity.
fn rated(qualities: &[f64]) -> Vec<RatedCompletion> {
    let rate = |(i, answer): (usize, farmhand_core::types::ScoredCompletion)| {
        let mut ratings = BTreeMap::from([("quality".to_owned(), answer.score)]);
        if i % 2 == 0 {
            ratings.insert("toxicity".to_owned(), 4.0 - answer.score);
        }
        RatedCompletion { completion: answer.completion, ratings }
    };
    scored(qualities).into_iter().enumerate().map(rate).collect()
}

fn config(bootstrap: Option<Bootstrap>) -> SteerlmConfig {
    let train = TrainOptions { epochs: 12, batch_size: 4, save_every: 5, optim: fast_optim(2e-2), ..TrainOptions::default() };
    SteerlmConfig { train, bootstrap, control: "say {}".into(), ..SteerlmConfig::default() }
}

fn bootstrap() -> Bootstrap {
    let length = RewardModelSpec::from_json("length", r#"{"scale": 0.2}"#).expect("built in");
    Bootstrap {
        attribute_models: [("quality".to_owned(), length)].into(),
        sampling: SamplingParams { max_new_tokens: 6, top_k: 50, ..SamplingParams::default() },
        ..Bootstrap::default()
    }
}

fn learn(config: &SteerlmConfig, rated: &[RatedCompletion], init: &Checkpoint, ctx: &RunContext<'_>) -> Result<Checkpoint> {
    let feedback = Feedback::Rated(rated);
    let validation = Some(feedback);
    let inputs = LearnerInputs {
        init,
        reference: None,
        feedback,
        validation,
        reward_model: None,
        annotator: None,
        models: &farmhand_core::FoldersOnly,
    };
    config.build(&BuildContext::new(Device::Cpu, Path::new(".")))?.learn(inputs, ctx)
}

#[test]
fn ratings_are_rounded_half_to_even_within_the_scale_and_written_in_order() {
    let answers = rated(&[4.0, 4.0, 0.0, 3.0]);
    let labels = Labels::of(&answers, &config(None)).expect("rated");
    // The authors' annotation.
    let ratings = [3.4, 2.5, 0.6, 5.2, -0.3];
    assert_eq!(ratings.map(|rating| labels.value(rating)), [3, 2, 1, 4, 0]);
    let all: Vec<String> = answers.iter().map(|answer| labels.written(&answer.ratings)).collect();
    assert_eq!(all, ["quality:4,toxicity:0", "quality:4", "quality:0,toxicity:4", "quality:3"]);
    assert_eq!(labels.wanted, [("quality:4".to_owned(), 1), ("quality:4,toxicity:0".to_owned(), 1)]);
    let ordered = SteerlmConfig { attributes: vec!["toxicity".into(), "quality".into()], ..config(None) };
    let labels = Labels::of(&answers, &ordered).expect("rated");
    assert_eq!(labels.written(&answers[0].ratings), "toxicity:0,quality:4");
    let kind = SteerlmConfig { leading: Some("toxicity".into()), ..ordered };
    assert_eq!(Labels::of(&answers, &kind).expect("rated").wanted, [("toxicity:4,quality:0".to_owned(), 1)]);
}

#[test]
fn the_attributes_decide_which_answer_is_given() {
    let (stage, events) = (Stage::new(), RecordedEvents::default());
    let mut answers = rated(&(0..12).map(|i| f64::from(i % 2) * 4.0).collect::<Vec<_>>());
    // A good and a bad answer to each of six questions.
    let questions = instructions(6);
    for (i, answer) in answers.iter_mut().enumerate() {
        answer.completion.instruction = questions[i / 2].clone();
        answer.completion.output = if answer.ratings["quality"] > 2.0 { "good" } else { "bad" }.to_owned();
        answer.ratings.remove("toxicity");
    }
    let config = SteerlmConfig { train: TrainOptions { epochs: 50, ..config(None).train }, ..config(None) };
    let learned = learn(&config, &answers, &tiny_checkpoint(&stage), &stage.context(&events)).expect("learned");
    let controls = Controls::load(learned.path()).expect("saved");
    assert_eq!(controls.best(), "quality:4");
    let margin = |value: &str| {
        let instruction = controls.apply(&answers[3].completion.instruction, value);
        likelihood(&learned, &instruction, "good") - likelihood(&learned, &instruction, "bad")
    };
    assert!(margin("quality:4") > 2.0 && margin("quality:0") < -2.0, "{} {}", margin("quality:4"), margin("quality:0"));
}

#[test]
fn a_second_round_adds_own_answers_with_the_attribute_models_ratings() {
    let (stage, events) = (Stage::new(), RecordedEvents::default());
    let answers = rated(&[4.0, 1.0, 0.0, 3.0, 2.0, 4.0]);
    let learned =
        learn(&config(Some(bootstrap())), &answers, &tiny_checkpoint(&stage), &stage.context(&events)).expect("learned");
    // 6 answers in steps of 4 and 12 epochs, then 12 answers.
    assert_eq!(events.scalars("steerlm/loss").len(), 12 * 2 + 12 * 3);
    assert_eq!(events.scalars("steerlm/quality").len(), 1);
    let own = std::fs::read_to_string(stage.stage.path().join("rounds/01/rated.jsonl")).expect("kept");
    assert_eq!(own.lines().count(), 6);
    assert!(!own.contains("say quality"), "the plain question is kept");
    assert_eq!(Controls::load(learned.path()).expect("saved").best(), "quality:4");
}

#[test]
fn a_second_round_by_weights_moves_the_policy_towards_answers_with_the_wanted_attributes() {
    let (stage, events) = (Stage::new(), RecordedEvents::default());
    let init = tiny_checkpoint(&stage);
    let answers = rated(&[4.0, 1.0, 0.0, 3.0, 2.0, 4.0]);
    let mut config = config(Some(Bootstrap {
        sampling: SamplingParams { n: 4, max_new_tokens: 6, ..SamplingParams::default() },
        update: BootstrapUpdate::Posterior { std: 0.5 },
        ..bootstrap()
    }));
    config.train.optim = fast_optim(5e-3);
    learn(&config, &answers, &init, &stage.context(&events)).expect("learned");
    let distance = events.scalars("steerlm/distance");
    assert_eq!(distance.len(), 12 * 2);
    let mean = |steps: &[(u64, f64)]| steps.iter().map(|(_, distance)| distance).sum::<f64>() / steps.len() as f64;
    assert!(mean(&distance[20..]) < 0.8 * mean(&distance[..4]), "{distance:?}");
    assert_resumes_exactly("steerlm/loss", 32, |ctx| learn(&config, &answers, &init, ctx));
}

#[test]
fn nothing_to_steer_by_and_options_that_make_no_sense_are_refused() {
    let error = Labels::of(&rated(&[2.0; 4]), &config(None)).err().expect("constant");
    assert!(error.message().contains("all 4 answers have the value 2 of `quality`"), "{error}");
    let unknown = SteerlmConfig { leading: Some("wit".into()), ..config(None) };
    let error = Labels::of(&rated(&[1.0, 2.0]), &unknown).err().expect("unknown");
    assert!(error.message().contains("no answer is rated on `wit`"), "{error}");
    let mut unrated = rated(&[1.0, 2.0]);
    unrated.iter_mut().for_each(|answer| answer.ratings.clear());
    assert!(Labels::of(&unrated, &config(None)).err().expect("none").message().contains("no answer is rated"));
    let wrong = SteerlmConfig {
        attributes: vec!["a:b".into()],
        leading: Some("quality".into()),
        highest: 0.0,
        bootstrap: Some(Bootstrap::default()),
        ..config(None)
    };
    let paths = |config: &SteerlmConfig| config.problems().into_iter().map(|problem| problem.path).collect::<Vec<_>>();
    assert_eq!(paths(&wrong), ["attributes", "leading", "highest", "bootstrap.attribute_models"]);
    let alone = Bootstrap { update: BootstrapUpdate::Posterior { std: 0.0 }, ..bootstrap() };
    assert_eq!(paths(&config(Some(alone))), ["bootstrap.update.posterior.std", "bootstrap.sampling.n"]);
    assert!(config(Some(bootstrap())).problems().is_empty());
}

#[test]
fn answers_without_ratings_get_no_control_and_are_counted() {
    let (stage, events) = (Stage::new(), RecordedEvents::default());
    let mut answers = rated(&[4.0, 0.0, 3.0]);
    answers[1].ratings.clear();
    learn(&config(None), &answers, &tiny_checkpoint(&stage), &stage.context(&events)).expect("learned");
    assert!(format!("{:?}", events.take()).contains("1 of 3 answers have none of the attributes"));
}

#[test]
fn a_stopped_or_killed_run_continues_to_the_same_bytes_also_with_an_adapter() {
    let base = Stage::new();
    let init = tiny_checkpoint(&base);
    let answers = rated(&[4.0, 1.0, 0.0, 3.0, 2.0, 4.0]);
    let mut with_lora = config(None);
    with_lora.train.passes.lora = Some(small_lora());
    for (config, step) in [(config(Some(bootstrap())), 40), (with_lora, 12)] {
        assert_resumes_exactly("steerlm/loss", step, |ctx| learn(&config, &answers, &init, ctx));
    }
}
