//! What the tests of this crate share: a tiny model with its tokenizer, contexts, interruption.

mod splits;

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use farmhand_core::run::{StageDir, hash_path};
use farmhand_core::types::{
    Annotation, Comparison, Completion, Demonstration, FinishReason, Instruction, Preference, PreferencePair, RankedList,
    Response, ScoredCompletion,
};
use farmhand_core::{
    Annotator, BuildContext, CancelFlag, Checkpoint, Device, Error, ErrorKind, Event, EventSink, Feedback, LearnerConfig,
    LearnerInputs, NoEvents, PollingExecutor, RecordedEvents, Result, RewardModel, RewardModelConfig, RunContext, Seed,
};
use farmhand_models::{
    BatchLayout, Ending, LanguageModel, LlamaOptions, LoraConfig, ModelConfig, OptimConfig, PromptFormat, SafetensorsFile,
    Schedule, TextCodec, TokenBatch, Tokenizer, selected_log_probs_no_grad, train_bpe, write_checkpoint,
};
use tempfile::TempDir;

pub(crate) use self::splits::{
    SPLITS, assert_same_gradients, assert_same_however_split, assert_same_step_however_split, split_step, take_gradients,
};
use crate::reward_models::LikelihoodConfig;
use crate::training::{Record, TrainOptions};

/// A stage in a temporary folder.
pub(crate) struct Stage {
    dir: TempDir,
    pub(crate) stage: StageDir,
    pub(crate) cancel: CancelFlag,
}

impl Stage {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let stage = StageDir::create(dir.path().join("stage")).expect("a stage");
        Self { dir, stage, cancel: CancelFlag::new() }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn context<'a>(&'a self, events: &'a dyn EventSink) -> RunContext<'a> {
        RunContext {
            stage: &self.stage,
            seed: Seed::root(7),
            device: Device::Cpu,
            events,
            cancel: &self.cancel,
            executor: &PollingExecutor,
        }
    }
}

/// Runs `work` with a context whose stage goes afterwards.
pub(crate) fn with_context<R>(events: &dyn EventSink, work: impl FnOnce(&RunContext<'_>) -> R) -> R {
    work(&Stage::new().context(events))
}

/// A tokenizer of about 300 tokens.
pub(crate) fn tokenizer() -> Tokenizer {
    let texts = ["say yes or no", "a good answer, a bad answer", "the cat sat on the mat", "count one two three four five six"];
    train_bpe(texts.iter().cycle().take(40).map(|text| (*text).to_owned()), 300).expect("trained")
}

/// A random model of a few thousand parameters, saved as a checkpoint that the stage's folder keeps.
pub(crate) fn tiny_checkpoint(stage: &Stage) -> Checkpoint {
    tiny_checkpoint_with(stage, "base", 96)
}

/// The same under a name of its own, with a context of `max_positions` tokens.
pub(crate) fn tiny_checkpoint_with(stage: &Stage, name: &str, max_positions: usize) -> Checkpoint {
    let tokenizer = tokenizer();
    let config = ModelConfig::tiny_llama(LlamaOptions {
        vocab_size: tokenizer.vocab_size(),
        hidden_size: 16,
        intermediate_size: 32,
        n_layers: 2,
        n_heads: 2,
        n_kv_heads: 1,
        max_positions,
        bos_token_id: tokenizer.bos_id(),
        eos_token_id: Some(tokenizer.eos_id()),
        pad_token_id: Some(tokenizer.pad_id()),
        ..LlamaOptions::default()
    });
    let model = LanguageModel::random(config, Seed::root(3), tch::Device::Cpu).expect("made");
    let codec = TextCodec::new(tokenizer, PromptFormat::None).expect("a codec");
    write_checkpoint(&stage.path().join(name), &model, &codec, "test").expect("saved")
}

/// The same with larger weights: what a random model says hardly depends on its blocks, so that an adapter of theirs could not
/// teach it anything.
pub(crate) fn lively_checkpoint(stage: &Stage) -> Checkpoint {
    let init = tiny_checkpoint(stage);
    let model = LanguageModel::load(init.path(), tch::Device::Cpu).expect("loaded");
    for (_, tensor) in model.parameters().iter().filter(|(_, tensor)| tensor.dim() == 2) {
        tch::no_grad(|| drop(tensor.shallow_clone().g_mul_scalar_(15.0)));
    }
    write_checkpoint(&stage.path().join("lively"), &model, &TextCodec::load(&init, None).expect("a codec"), "test")
        .expect("saved")
}

/// An optimiser that gets a tiny model somewhere in a few steps.
pub(crate) fn fast_optim(lr: f64) -> OptimConfig {
    OptimConfig { lr, schedule: Schedule::Constant, warmup_ratio: 0.0, ..OptimConfig::default() }
}

pub(crate) fn instructions(n: usize) -> Vec<Instruction> {
    let words = ["one", "two", "three", "four", "five", "six"];
    (0..n).map(|i| Instruction::new(format!("count {} {}", words[i % 6], words[i / 6 % 6]), None)).collect()
}

pub(crate) fn demonstrations(n: usize) -> Vec<Demonstration> {
    let answers = ["yes", "no, the cat sat", "one two", "a good answer"];
    let demonstration =
        |(i, instruction): (usize, Instruction)| Demonstration { instruction, output: answers[i % answers.len()].to_owned() };
    instructions(n).into_iter().enumerate().map(demonstration).collect()
}

pub(crate) fn pairs(n: usize) -> Vec<PreferencePair> {
    let endings = ["", " the mat", " one two three"];
    let pair = |(i, instruction): (usize, Instruction)| PreferencePair {
        instruction,
        chosen: format!("good{}", endings[i % 3]),
        rejected: format!("bad{}", endings[(i + 1) % 3]),
        p_chosen: None,
        margin: None,
    };
    instructions(n).into_iter().enumerate().map(pair).collect()
}

/// Answers to different instructions with these scores; no two answers are the same.
pub(crate) fn scored(scores: &[f64]) -> Vec<ScoredCompletion> {
    let endings = ["good", "bad", "the mat", "one two", "yes", "no"];
    let answer = |(i, (instruction, &score)): (usize, (Instruction, &f64))| {
        let output = format!("{} {}", endings[i % 6], ["cat", "sat", "say"][i / 6 % 3]);
        let (model, finish) = ("test".to_owned(), FinishReason::Stop);
        let completion = Completion { instruction, output, model, sample: 0, finish, n_tokens: 4, log_prob: None };
        ScoredCompletion { completion, score }
    };
    instructions(scores.len()).into_iter().zip(scores).enumerate().map(answer).collect()
}

/// The log-probability of a whole answer with its end, in nats.
pub(crate) fn likelihood(checkpoint: &Checkpoint, instruction: &Instruction, output: &str) -> f64 {
    let codec = TextCodec::load(checkpoint, None).expect("a codec");
    let model = LanguageModel::load(checkpoint.path(), tch::Device::Cpu).expect("loaded");
    let text = codec.encode(instruction, output, Ending::WithEos).expect("encoded");
    let batch = TokenBatch::new(&[&text], BatchLayout::Packed, tch::Device::Cpu).expect("made");
    selected_log_probs_no_grad(&model, &batch).0.sum(tch::Kind::Double).double_value(&[])
}

/// Likes the letter e: scores an answer with its share of the characters.
pub(crate) struct LikesE;

fn share_of_e(text: &str) -> f64 {
    text.chars().filter(|c| *c == 'e').count() as f64 / text.chars().count().max(1) as f64
}

impl RewardModel for LikesE {
    fn score(&mut self, items: &[Response<'_>], _: &RunContext<'_>) -> Result<Vec<f64>> {
        Ok(items.iter().map(|item| share_of_e(item.output)).collect())
    }
}

/// Likes everything alike.
pub(crate) struct Constant;

impl RewardModel for Constant {
    fn score(&mut self, items: &[Response<'_>], _: &RunContext<'_>) -> Result<Vec<f64>> {
        Ok(vec![0.25; items.len()])
    }
}

/// Prefers the answer with the larger share of the letter e; fails at some comparisons, which their ids give, or at all.
pub(crate) struct PrefersE {
    /// One comparison in so many fails; 0 for none, 1 for all.
    pub(crate) fails: u64,
}

#[async_trait::async_trait]
impl Annotator for PrefersE {
    fn id(&self) -> &str {
        "prefers_e"
    }

    async fn annotate(&self, comparisons: &[Comparison], _: &RunContext<'_>) -> Vec<Result<Annotation>> {
        let judge = |comparison: &Comparison| {
            let number = comparison.id.bytes().map(u64::from).sum::<u64>();
            if self.fails > 0 && number.is_multiple_of(self.fails) {
                return Err(Error::new(ErrorKind::RemoteService, "the judge is out"));
            }
            let [first, second] = [&comparison.output_1, &comparison.output_2].map(|text| share_of_e(text));
            let preference = match first.total_cmp(&second) {
                std::cmp::Ordering::Greater => Preference::First,
                std::cmp::Ordering::Less => Preference::Second,
                std::cmp::Ordering::Equal => Preference::Tie,
            };
            Ok(Annotation::new(self.id(), preference))
        };
        comparisons.iter().map(judge).collect()
    }
}

/// Lets a learner learn from ten instructions with [`LikesE`] and a [`PrefersE`] that never fails.
pub(crate) fn learn_to_like_e(config: &dyn LearnerConfig, init: &Checkpoint, ctx: &RunContext<'_>) -> Result<Checkpoint> {
    learn_from_prompts(config, 10, init, &mut LikesE, ctx)
}

/// Lets a learner that answers and scores itself learn from `n` instructions.
pub(crate) fn learn_from_prompts(
    config: &dyn LearnerConfig,
    n: usize,
    init: &Checkpoint,
    reward_model: &mut dyn RewardModel,
    ctx: &RunContext<'_>,
) -> Result<Checkpoint> {
    learn_from_judges(config, n, init, (reward_model, &PrefersE { fails: 0 }), ctx)
}

/// Lets a learner that answers itself and asks a reward model or an annotator learn from `n` instructions.
pub(crate) fn learn_from_judges(
    config: &dyn LearnerConfig,
    n: usize,
    init: &Checkpoint,
    (reward_model, annotator): (&mut dyn RewardModel, &dyn Annotator),
    ctx: &RunContext<'_>,
) -> Result<Checkpoint> {
    let instructions = instructions(n);
    let mut learner = config.build(&BuildContext::new(Device::Cpu, Path::new(".")))?;
    let requires = learner.requires();
    let inputs = LearnerInputs {
        init,
        reference: None,
        feedback: Feedback::Prompts(&instructions),
        validation: None,
        reward_model: if requires.reward_model { Some(reward_model) } else { None },
        annotator: requires.annotator.then_some(annotator),
        models: &farmhand_core::FoldersOnly,
    };
    learner.learn(inputs, ctx)
}

/// Means of the first and the last `n` values of a scalar.
pub(crate) fn first_and_last(events: &RecordedEvents, scalar: &str, n: usize) -> (f64, f64) {
    let values: Vec<f64> = events.scalars(scalar).into_iter().map(|(_, value)| value).collect();
    assert!(values.len() >= n, "{} values of {scalar}", values.len());
    let mean = |values: &[f64]| values.iter().sum::<f64>() / n as f64;
    (mean(&values[..n]), mean(&values[values.len() - n..]))
}

/// Lists of two, three and four answers in turn, with rewards; all of them in the order of one ranking.
pub(crate) fn ranked_lists(n: usize) -> Vec<RankedList> {
    let ranking = ["bad", "yes", "no, the cat sat", "good"];
    let list = |(i, instruction): (usize, Instruction)| {
        let k = 2 + i % 3;
        let outputs = ranking[i % (5 - k)..][..k].iter().map(|output| (*output).to_owned()).collect();
        RankedList { instruction, outputs, scores: (0..k).map(|place| 1.0 - 0.7 * place as f64).collect() }
    };
    instructions(n).into_iter().enumerate().map(list).collect()
}

/// A learner on ranked lists must come to find the answers of nearly all lists likely in their order.
pub(crate) fn assert_ranks(config: &dyn LearnerConfig, name: &str) {
    let (stage, events) = (Stage::new(), RecordedEvents::default());
    let (init, lists) = (tiny_checkpoint(&stage), ranked_lists(12));
    learn_from(config, &init, Feedback::RankedLists(&lists), &stage.context(&events)).expect("learned");
    let accuracy = events.scalars(&format!("{name}/validation_accuracy"));
    let (first, last) = (events.scalars(&format!("{name}/ranking_accuracy"))[0].1, accuracy.last().expect("validated").1);
    assert!(last > 0.95 && last > first, "from {first} to {last}");
}

/// [`pairs`] as records: the chosen answer, then the rejected one.
pub(crate) fn pair_records(codec: &TextCodec, n: usize) -> Vec<Record> {
    let record = |(index, pair): (usize, &PreferencePair)| {
        let side = |answer: &str| codec.encode(&pair.instruction, answer, Ending::WithEos).expect("encoded");
        Record { index, ..Record::new(&pair.instruction.id, [side(&pair.chosen), side(&pair.rejected)]) }
    };
    pairs(n).iter().enumerate().map(record).collect()
}

/// Asks to stop when a scalar of a step arrives, and copies the stage's folder as it is then: what a killed process would have
/// left.
struct Interrupter<'a> {
    stage: &'a Stage,
    scalar: &'a str,
    step: u64,
    killed: &'a Path,
    lock: Mutex<()>,
}

impl EventSink for Interrupter<'_> {
    fn emit(&self, event: Event) {
        let Event::Scalar { name, step, .. } = event else { return };
        if name == self.scalar && step == self.step {
            let _guard = self.lock.lock().expect("nobody panicked");
            copy_folder(self.stage.stage.path(), self.killed);
            self.stage.cancel.cancel();
        }
    }
}

fn copy_folder(from: &Path, to: &Path) {
    let Ok(entries) = std::fs::read_dir(from) else { return };
    std::fs::create_dir_all(to).expect("made");
    for entry in entries {
        let entry = entry.expect("an entry");
        let target: PathBuf = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            let _ = std::fs::copy(entry.path(), target).expect("copied");
        }
    }
}

/// Runs a learner three times: straight through; stopped when `scalar` of `step` arrives and started again; killed there and
/// started again from what lay on the disk. All three must give the same bytes and, where they overlap, the same scalars.
pub(crate) fn assert_resumes_exactly(scalar: &str, step: u64, run: impl Fn(&RunContext<'_>) -> Result<Checkpoint>) {
    let straight = Stage::new();
    let events = RecordedEvents::default();
    let expected = hash_path(run(&straight.context(&events)).expect("learned").path()).expect("hashed");

    let (stopped, killed) = (Stage::new(), Stage::new());
    let interrupter = Interrupter { stage: &stopped, scalar, step, killed: killed.stage.path(), lock: Mutex::new(()) };
    let error = run(&stopped.context(&interrupter)).expect_err("stopped");
    assert_eq!(error.kind(), ErrorKind::Cancelled, "{error}");
    let stopped = Stage { cancel: CancelFlag::new(), ..stopped };
    for stage in [stopped, killed] {
        let saved = stage.stage.latest_state().expect("listed").is_some() || stage.stage.path().join("rounds").is_dir();
        assert!(saved, "nothing was saved before the interruption");
        let again = RecordedEvents::default();
        let checkpoint = run(&stage.context(&again)).expect("learned");
        assert_eq!(hash_path(checkpoint.path()).expect("hashed"), expected);
        let (all, rest) = (events.scalars(scalar), again.scalars(scalar));
        assert!(!rest.is_empty() && rest.len() < all.len(), "{} of {} steps were repeated", rest.len(), all.len());
        assert_eq!(rest, all[all.len() - rest.len()..]);
    }
}

/// [`assert_resumes_exactly`] at step 9, with all weights and with an adapter; `train` is where the options hold what learners
/// share.
pub(crate) fn assert_resumes_exactly_also_with_an_adapter<C: LearnerConfig>(
    scalar: &str,
    mut config: C,
    train: impl Fn(&mut C) -> &mut TrainOptions,
    init: &Checkpoint,
    feedback: Feedback<'_>,
) {
    for lora in [None, Some(small_lora())] {
        train(&mut config).passes.lora = lora;
        assert_resumes_exactly(scalar, 9, |ctx| learn_from(&config, init, feedback, ctx));
    }
}

/// Runs a learner with each of some options, which must give the same bytes.
pub(crate) fn assert_same_bytes<C>(options: &[C], run: impl Fn(&C, &RunContext<'_>) -> Result<Checkpoint>) {
    let bytes = |options: &C| hash_path(run(options, &Stage::new().context(&NoEvents)).expect("learned").path()).expect("hashed");
    let hashes: Vec<String> = options.iter().map(bytes).collect();
    assert!(hashes.windows(2).all(|pair| pair[0] == pair[1]), "{hashes:?}");
}

/// Lets a learner learn without reward model, annotator and reference; what it learns from is held out too.
pub(crate) fn learn_from(
    config: &dyn LearnerConfig,
    init: &Checkpoint,
    feedback: Feedback<'_>,
    ctx: &RunContext<'_>,
) -> Result<Checkpoint> {
    learn_and_validate(config, init, (feedback, feedback), ctx)
}

/// The same with other records held out: what it learns from, and those.
pub(crate) fn learn_and_validate(
    config: &dyn LearnerConfig,
    init: &Checkpoint,
    (feedback, held_out): (Feedback<'_>, Feedback<'_>),
    ctx: &RunContext<'_>,
) -> Result<Checkpoint> {
    let inputs = LearnerInputs {
        init,
        reference: None,
        feedback,
        validation: Some(held_out),
        reward_model: None,
        annotator: None,
        models: &farmhand_core::FoldersOnly,
    };
    config.build(&BuildContext::new(Device::Cpu, Path::new(".")))?.learn(inputs, ctx)
}

/// The mean log-probability of a token of the chosen minus one of the rejected answer of each pair under a policy, in nats.
pub(crate) fn likelihood_margins(policy: &Checkpoint, pairs: &[PreferencePair]) -> Vec<f64> {
    let stage = Stage::new();
    let build = BuildContext { policy: Some(policy), ..BuildContext::new(Device::Cpu, Path::new(".")) };
    let mut model = LikelihoodConfig::default().build(&build).expect("built");
    let answers: Vec<Response<'_>> = pairs
        .iter()
        .flat_map(|pair| [&pair.chosen, &pair.rejected].map(|output| Response { instruction: &pair.instruction, output }))
        .collect();
    let scores = model.score(&answers, &stage.context(&NoEvents)).expect("scored");
    scores.chunks(2).map(|pair| pair[0] - pair[1]).collect()
}

/// Pairs in which the better answer is the one that the policy finds less likely.
pub(crate) fn disliked_pairs(policy: &Checkpoint, n: usize) -> Vec<PreferencePair> {
    let mut items = pairs(n);
    for (margin, pair) in likelihood_margins(policy, &items).into_iter().zip(&mut items) {
        if margin > 0.0 {
            std::mem::swap(&mut pair.chosen, &mut pair.rejected);
        }
    }
    items
}

/// A learner on pairs must turn nearly all preferences that the tiny model has the other way round.
pub(crate) fn assert_turns_preferences(config: &dyn LearnerConfig, name: &str) {
    let (stage, events) = (Stage::new(), RecordedEvents::default());
    let init = tiny_checkpoint(&stage);
    let items = disliked_pairs(&init, 12);
    let learned = learn_from(config, &init, Feedback::Preferences(&items), &stage.context(&events)).expect("learned");
    let margins = likelihood_margins(&learned, &items);
    let turned = margins.iter().filter(|margin| **margin > 0.0).count();
    assert!(turned >= 11, "{turned} of 12 turned: {margins:?}");
    let accuracy = events.scalars(&format!("{name}/validation_accuracy"));
    assert_eq!(accuracy.last().expect("validated").1, 1.0, "{accuracy:?}");
}

/// The options of a small adapter with dropout.
pub(crate) fn small_lora() -> LoraConfig {
    LoraConfig { rank: 2, alpha: 8.0, dropout: 0.2, ..LoraConfig::default() }
}

/// The names of the weights in which two checkpoints of one architecture differ by a bit or more.
pub(crate) fn moved(from: &Checkpoint, to: &Checkpoint) -> Vec<String> {
    let read =
        |checkpoint: &Checkpoint| SafetensorsFile::open(&checkpoint.path().join("model.safetensors")).expect("a whole model");
    let (mut from, mut to) = (read(from), read(to));
    let bits = |file: &mut SafetensorsFile, name: &str| file.read(name).expect("there").view_dtype(tch::Kind::Int);
    from.names().into_iter().filter(|name| bits(&mut from, name) != bits(&mut to, name)).collect()
}
