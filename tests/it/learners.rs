//! Every registered learner learns on a tiny model from the kind of feedback it asks for, keeps its contract, and ends with
//! the same bytes when it is stopped in the middle and goes on. A new learner is tested here before its author writes a test.

use std::path::{Path, PathBuf};

use farmhand::core::component::components;
use farmhand::core::run::StageDir;
use farmhand::core::types::{
    Completion, Demonstration, FinishReason, Instruction, LabelledCompletion, PreferencePair, RankedList, RatedCompletion,
    ScoredCompletion,
};
use farmhand::core::{
    AnnotatorSpec, BuildContext, CancelFlag, Checkpoint, ComponentKind, Device, Event, EventSink, FeedbackKind, LearnerInputs,
    LearnerSpec, PollingExecutor, RewardModelSpec, RunContext, Seed,
};
use farmhand::pipeline::{OwnedFeedback, learn};
use farmhand_models::{LanguageModel, LlamaOptions, ModelConfig, PromptFormat, TextCodec, train_bpe, write_checkpoint};
use serde_json::{Value, json};

use crate::command::files_below;

/// Options that keep a learner small, where it has them.
const SMALL: [(&str, f64); 16] = [
    ("epochs", 2.0),
    ("steps", 4.0),
    ("batch_size", 4.0),
    ("rollout_size", 4.0),
    ("prompts_per_step", 2.0),
    ("samples_per_prompt", 2.0),
    ("max_new_tokens", 6.0),
    ("inner_epochs", 1.0),
    ("rounds", 2.0),
    ("steps_per_round", 2.0),
    ("bins", 2.0),
    ("accepted", 2.0),
    ("sampling/n", 2.0),
    ("sampling/max_new_tokens", 6.0),
    ("save_every", 1.0),
    ("validate_every", 1.0),
];

/// Asks to stop at the `at`-th scalar.
struct StopAt<'a> {
    cancel: &'a CancelFlag,
    left: std::sync::atomic::AtomicI64,
}

impl EventSink for StopAt<'_> {
    fn emit(&self, event: Event) {
        let scalar = matches!(event, Event::Scalar { .. });
        if scalar && self.left.fetch_sub(1, std::sync::atomic::Ordering::SeqCst) == 1 {
            self.cancel.cancel();
        }
    }
}

/// Ten instructions.
pub(crate) fn instructions() -> Vec<Instruction> {
    (0..10).map(|i| Instruction::new(format!("Say number {i}."), None)).collect()
}

fn completion(instruction: Instruction, sample: u32) -> Completion {
    let output = format!("number {sample} it is");
    Completion { instruction, output, model: "test".into(), sample, finish: FinishReason::Stop, n_tokens: 4, log_prob: None }
}

fn feedback(kind: FeedbackKind) -> OwnedFeedback {
    let all = instructions().into_iter();
    match kind {
        FeedbackKind::Demonstrations => OwnedFeedback::Demonstrations(
            all.map(|instruction| Demonstration { output: "a number".into(), instruction }).collect(),
        ),
        FeedbackKind::Preferences => OwnedFeedback::Preferences(
            all.map(|instruction| PreferencePair {
                instruction,
                chosen: "the number".into(),
                rejected: "no".into(),
                p_chosen: None,
                margin: None,
            })
            .collect(),
        ),
        FeedbackKind::RankedLists => OwnedFeedback::RankedLists(
            all.map(|instruction| RankedList {
                instruction,
                outputs: vec!["the number".into(), "number".into(), "no".into()],
                scores: vec![1.0, 0.5, -1.0],
            })
            .collect(),
        ),
        FeedbackKind::Scored => OwnedFeedback::Scored(
            all.zip(0..)
                .map(|(instruction, i)| ScoredCompletion { completion: completion(instruction, i), score: f64::from(i) })
                .collect(),
        ),
        FeedbackKind::Labelled => OwnedFeedback::Labelled(
            all.zip(0..)
                .map(|(instruction, i)| LabelledCompletion { completion: completion(instruction, i), desirable: i % 2 == 0 })
                .collect(),
        ),
        FeedbackKind::Rated => OwnedFeedback::Rated(
            all.zip(0..)
                .map(|(instruction, i)| RatedCompletion {
                    completion: completion(instruction, i),
                    ratings: [("helpfulness".to_owned(), f64::from(i % 5)), ("verbosity".to_owned(), f64::from(i % 3))].into(),
                })
                .collect(),
        ),
        FeedbackKind::Prompts => OwnedFeedback::Prompts(all.collect()),
    }
}

/// A model of one layer, written into a folder.
pub(crate) fn tiny_model(dir: &Path) -> Checkpoint {
    let texts = instructions().into_iter().map(|instruction| format!("{} the number it is no", instruction.text()));
    let tokenizer = train_bpe(texts, 280).expect("trained");
    let codec = TextCodec::new(tokenizer, PromptFormat::None).expect("a codec");
    let config = ModelConfig::tiny_llama(LlamaOptions {
        vocab_size: codec.tokenizer.vocab_size(),
        hidden_size: 16,
        intermediate_size: 32,
        n_layers: 1,
        n_heads: 2,
        n_kv_heads: 1,
        max_positions: 64,
        eos_token_id: Some(codec.tokenizer.eos_id()),
        ..LlamaOptions::default()
    });
    let model = LanguageModel::random(config, Seed::root(1), tch::Device::Cpu).expect("a model");
    write_checkpoint(dir, &model, &codec, "test").expect("written")
}

/// The component's defaults, made small.
pub(crate) fn small_options(defaults: &str) -> Value {
    let mut options: Value = serde_json::from_str(defaults).expect("JSON");
    for (key, value) in SMALL {
        if let Some(option) = options.pointer_mut(&format!("/{key}")) {
            *option = if option.is_f64() { json!(value) } else { json!(value as u64) };
        }
    }
    options
}

/// Runs a learner in `dir`; stops it at the `stop_at`-th scalar when that is given.
fn run(spec: &LearnerSpec, model: &Checkpoint, dir: &Path, stop_at: Option<i64>) -> farmhand::core::Result<Checkpoint> {
    let stage = StageDir::create(dir).expect("a folder").keeping_checkpoints(Some(1));
    let cancel = CancelFlag::new();
    let events = StopAt { cancel: &cancel, left: stop_at.unwrap_or(-1).into() };
    let executor = PollingExecutor;
    let ctx = RunContext {
        stage: &stage,
        seed: Seed::root(5),
        device: Device::Cpu,
        events: &events,
        cancel: &cancel,
        executor: &executor,
    };
    let build = BuildContext { policy: Some(model), ..BuildContext::new(Device::Cpu, dir) };
    let mut learner = spec.build(&build)?;
    let requires = learner.requires();
    let feedback = feedback(requires.feedback);
    let mut scorer = RewardModelSpec::from_json("length", "{}")?.build(&build)?;
    let annotator = AnnotatorSpec::from_json("pool", "{}")?.build(&build)?;
    let inputs = LearnerInputs {
        init: model,
        reference: None,
        feedback: feedback.borrow(),
        validation: None,
        reward_model: Some(&mut *scorer),
        annotator: Some(&*annotator),
        models: &farmhand::core::FoldersOnly,
    };
    learn(&mut *learner, spec.name(), inputs, &ctx)
}

#[test]
fn every_learner_learns_and_goes_on_after_a_stop_with_the_same_bytes() {
    tch::set_num_threads(1);
    let dir = tempfile::tempdir().expect("a folder");
    let model = tiny_model(&dir.path().join("model"));
    for info in components().into_iter().filter(|info| info.kind == ComponentKind::Learner) {
        let options = small_options(&(info.defaults)());
        let spec =
            LearnerSpec::from_json(info.name, &options.to_string()).unwrap_or_else(|error| panic!("{}: {error}", info.name));
        let (whole, stopped) =
            (dir.path().join(format!("{}-whole", info.name)), dir.path().join(format!("{}-stopped", info.name)));
        let checkpoint = run(&spec, &model, &whole, None).unwrap_or_else(|error| panic!("{}: {error}", info.name));
        let before = std::fs::read(model.path().join("model.safetensors")).expect("readable");
        let after = std::fs::read(checkpoint.path().join("model.safetensors")).expect("readable");
        assert_ne!(before, after, "learner `{}` changed nothing", info.name);

        let error = run(&spec, &model, &stopped, Some(2)).expect_err("stopped");
        assert!(error.is_cancelled(), "learner `{}` did not stop when asked: {error}", info.name);
        run(&spec, &model, &stopped, None).unwrap_or_else(|error| panic!("{}: {error}", info.name));
        let is_result = |(name, _): &(PathBuf, Vec<u8>)| ["checkpoint", "checkpoints"].iter().any(|dir| name.starts_with(dir));
        let results = |dir: &Path| files_below(dir).into_iter().filter(is_result).collect::<Vec<_>>();
        let (left, right) = (results(&whole), results(&stopped));
        assert_eq!(left.len(), right.len(), "learner `{}`: after a stop there are other files", info.name);
        for ((name, left), (_, right)) in left.iter().zip(&right) {
            assert!(left == right, "learner `{}`: `{}` differs after a stop", info.name, name.display());
        }
        // What scores or judges is no point of a curve.
        if !["reward_modeling", "attribute_regression", "preference_modeling"].contains(&info.name) {
            let kept = StageDir::create(&whole).and_then(|stage| stage.kept_checkpoints()).expect("listed");
            assert!(!kept.is_empty(), "learner `{}` kept no model on its way", info.name);
            assert!(kept.iter().all(|(_, dir)| Checkpoint::open(dir).is_ok_and(|model| model.kind().is_ok())), "{}", info.name);
        }
    }
}
