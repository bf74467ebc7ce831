//! Self-play fine-tuning: the policy learns to tell demonstrations from its own answers, round after round.
//!
//! Chen et al. 2024, <https://arxiv.org/abs/2401.01335>, equation 4.7. In round t the policy π_t answers each demonstration's
//! instruction; the next policy minimises `−ln σ(β h)` with
//! `h = [log π(y|x) − log π_t(y|x)] − [log π(y'|x) − log π_t(y'|x)]`, y the demonstration, y' the policy's own answer,
//! log-probabilities summed over the response and its end-of-sequence token. It needs no judge and no preference, and stands still
//! where own answers cannot be told from demonstrations.
//!
//! It is direct preference optimisation in rounds, with a reference that moves along: π_t, not the initial policy. An answer that
//! was cut off has no end-of-sequence token to learn from. An answer that is the demonstration makes no pair. As in the paper, a
//! round also takes the answers of the round before.

use std::path::{Path, PathBuf};

use farmhand_core::types::{Completion, Demonstration, FinishReason, Instruction, SamplingParams};
use farmhand_core::{
    BuildContext, Checkpoint, Error, FeedbackKind, Learner, LearnerConfig, LearnerInputs, PolicySpec, Problem, Requirements,
    Result, RunContext, Seed, register,
};
use farmhand_models::{Ending, LanguageModel, OptimConfig, Schedule, save_checkpoint, selected_log_probs, sequence_sums};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::training::{
    Answerer, Ranges, Record, Reference, Rounds, Task, TrainOptions, Training, admit, record_batch, sample_answers,
    shuffled_steps, start_training,
};

register! {
    kind: Learner, name: "spin", config: SpinConfig,
    summary: "self-play fine-tuning: demonstrations against own answers, in rounds", paper: "https://arxiv.org/abs/2401.01335",
}

/// Options of `[learner.spin]`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub struct SpinConfig {
    /// Rounds of answering and training, ≥ 1. The paper has 4.
    pub rounds: u64,
    /// Strength β (the paper's λ) of the pull towards the policy that the round began with, > 0. The paper raises it to 5 in the
    /// last round.
    pub beta: f64,
    /// Whether a round also learns from the answers of the round before, with the same demonstrations, as the paper and its code do;
    /// answers of earlier rounds are gone.
    pub previous_answers: bool,
    /// The policy that answers; by default `causal_lm` with the round's weights.
    pub policy: PolicySpec,
    /// How it answers, one answer to each instruction. The paper samples at temperature 1.
    pub sampling: SamplingParams,
    /// Records are pairs; a round's learning rate follows a schedule of its own. The paper: 2 epochs (the
    /// released configurations: 3), batches of 64, 5e-7, from the third round on 1e-7, linear after 10 % of warm-up, with RMSprop.
    #[serde(flatten)]
    pub train: TrainOptions,
}

impl Default for SpinConfig {
    fn default() -> Self {
        let optim = OptimConfig { lr: 5e-7, schedule: Schedule::Linear, warmup_ratio: 0.1, ..OptimConfig::default() };
        Self {
            rounds: 4,
            beta: 0.1,
            previous_answers: true,
            policy: PolicySpec::from_json("causal_lm", "{}").expect("a component of this crate"),
            sampling: SamplingParams::default(),
            train: TrainOptions { epochs: 2, batch_size: 64, optim, ..TrainOptions::default() },
        }
    }
}

#[typetag::serde(name = "spin")]
impl LearnerConfig for SpinConfig {
    fn build(&self, ctx: &BuildContext<'_>) -> Result<Box<dyn Learner>> {
        Ok(Box::new(Spin { config: self.clone(), base_dir: ctx.base_dir.to_owned() }))
    }

    fn problems(&self) -> Vec<Problem> {
        Ranges::new()
            .rounds(self.rounds, &self.train.passes)
            .positive("beta", self.beta)
            .nested("policy", self.policy.problems())
            .nested("sampling", self.sampling.problems())
            .require("sampling.n", self.sampling.n == 1, "1: an answer to each demonstration", self.sampling.n)
            .train(&self.train, Self::default().train.batch_size)
            .problems()
    }
}

struct Spin {
    config: SpinConfig,
    /// Where relative paths in the policy's options start.
    base_dir: PathBuf,
}

const TASK: Task = Task { learner: "spin", role: "policy", doing: "self-play fine-tuning", records: "demonstrations" };

impl Learner for Spin {
    fn requires(&self) -> Requirements {
        Requirements::policy_from(FeedbackKind::Demonstrations)
    }

    fn learn(&mut self, inputs: LearnerInputs<'_>, ctx: &RunContext<'_>) -> Result<Checkpoint> {
        let Self { config, base_dir } = self;
        let demonstrations = inputs.feedback.demonstrations()?;
        let asked: Vec<Instruction> = demonstrations.iter().map(|shown| shown.instruction.clone()).collect();
        let mut rounds = Rounds::open(config.rounds, inputs.init, ctx)?;
        while let Some(round) = rounds.next_round()? {
            let events = rounds.later_steps(ctx)?;
            let ctx = &round.context(ctx);
            let who = Answerer { policy: &config.policy, checkpoint: &round.start, base_dir, models: inputs.models };
            let mut answers = sample_answers(who, &asked, &config.sampling, "answers", ctx)?;
            let n_new = answers.len();
            if let Some(before) = round.number.checked_sub(1).filter(|_| config.previous_answers) {
                answers.extend(read_answers(&rounds.path(before))?);
            }
            let pairs = unlike(demonstrations, &answers);
            let length: f64 = answers[..n_new].iter().map(|answer| f64::from(answer.n_tokens)).sum();
            ctx.scalar("spin/response_length", round.number, length / n_new.max(1) as f64);
            ctx.scalar("spin/identical", round.number, (answers.len() - pairs.len()) as f64);
            if pairs.is_empty() {
                ctx.events.warn(&format!("round {}: every answer is the demonstration, nothing is left to learn", round.number));
                round.adopt(&round.start)?;
            } else {
                learn_round(config, &round.start, &pairs, &RunContext { events: &events, ..*ctx })?;
                Rounds::note_steps(events.n_steps(), ctx)?;
            }
            rounds.finish(round)?;
        }
        rounds.result(ctx)
    }
}

/// The answers that an earlier round left in its folder.
fn read_answers(folder: &Path) -> Result<Vec<Completion>> {
    let path = folder.join("answers.jsonl");
    let text = std::fs::read_to_string(&path).map_err(|error| Error::io("read", &path, error))?;
    let read = |line: &str| {
        serde_json::from_str(line)
            .map_err(|error| Error::invalid_data(format!("`{}` holds no answers", path.display())).with_source(error))
    };
    text.lines().map(read).collect()
}

/// Each demonstration with the answers that are not the same text; the answers come in the order of the demonstrations, once or more.
fn unlike<'a>(demonstrations: &'a [Demonstration], answers: &'a [Completion]) -> Vec<(&'a Demonstration, &'a Completion)> {
    demonstrations.iter().cycle().zip(answers).filter(|(shown, answer)| shown.output != answer.output).collect()
}

/// One round: a policy that starts from `init`, with `init` as its reference.
fn learn_round(
    config: &SpinConfig,
    init: &Checkpoint,
    pairs: &[(&Demonstration, &Completion)],
    ctx: &RunContext<'_>,
) -> Result<Checkpoint> {
    let (codec, policy) = config.train.passes.load(init, ctx)?;
    let limit = config.train.token_limit(policy.config().max_positions());
    let records = admit(pairs, TASK.records, limit, true, ctx, |(shown, answer)| {
        let ending = if answer.finish == FinishReason::Length { Ending::Open } else { Ending::WithEos };
        let shown = codec.encode(&shown.instruction, &shown.output, Ending::WithEos)?;
        Ok(Record::new(&answer.instruction.id, [shown, codec.encode(&answer.instruction, &answer.output, ending)?]))
    })?;
    let reference = Reference::new(init, None, &policy)?.sums(&records, 1.0, config.train.passes.layout, None, ctx)?;
    let policy = start_training(policy, &config.train.passes, init, ctx.seed.child("lora", 0))?;

    let plan = shuffled_steps(&records, &config.train, ctx);
    let run = |rows: &[usize], seed| run_pairs(&policy, &records, &reference, rows, config, seed);
    let dry_run = |rows: &[usize]| run(rows, ctx.seed).map(drop);
    let mut training = Training::start(TASK, &policy, policy.trained(), &records, plan, &config.train, ctx, dry_run)?
        .keeping(&policy, &codec)?;
    while let Some(step) = training.next_step()? {
        let pass = run(&step.picked, step.seed)?;
        training.apply(&step, pass.loss)?;
        training.log(&step, &[("margin", pass.margin), ("accuracy", pass.accuracy)]);
        training.log(&step, &[("demonstration_log_ratio", pass.shown), ("answer_log_ratio", pass.own)]);
    }
    save_checkpoint(&policy, &codec, TASK.learner, ctx)
}

/// What some pairs tell; means over the pairs, log-ratios in nats.
struct Pass {
    loss: f64,
    /// β h.
    margin: f64,
    /// Share of pairs with a positive margin; a margin of 0 counts half.
    accuracy: f64,
    shown: f64,
    own: f64,
}

/// Runs the picked pairs through the policy, micro-batch by micro-batch, and adds the gradient of their mean loss. `reference` has the
/// summed log-probabilities of demonstration and own answer, in nats, an entry a record.
fn run_pairs(
    policy: &LanguageModel,
    records: &[Record],
    reference: &[Vec<f32>],
    picked: &[usize],
    config: &SpinConfig,
    seed: Seed,
) -> Result<Pass> {
    let n = picked.len() as f64;
    // The numbers of `Pass` in their order; read once, for a look makes the host wait for the device.
    let mut sums = Tensor::zeros([5], (Kind::Double, policy.device()));
    let passes = &config.train.passes;
    for rows in passes.micro_batching(policy.device()).groups(records, picked) {
        // All demonstrations, then all own answers.
        let batch = record_batch(records, &rows, passes.layout, policy.device(), Some(seed))?;
        let selected = selected_log_probs(policy, &batch);
        let values = sequence_sums(&selected.values, &batch);
        let log_ratio = |side: usize| {
            let reference: Vec<f32> = rows.iter().map(|&row| reference[row][side]).collect();
            values.narrow(0, (side * rows.len()) as i64, rows.len() as i64)
                - Tensor::from_slice(&reference).to_device(values.device())
        };
        let (shown, own) = (log_ratio(0), log_ratio(1));
        let margin = (&shown - &own) * config.beta;
        let losses = losses(&margin);
        let accuracy = (margin.sign() + 1.0) * 0.5;
        let numbers = [&losses, &margin, &accuracy, &shown, &own].map(|numbers| numbers.detach().sum(Kind::Double) / n);
        sums += Tensor::stack(&numbers, 0);
        selected.backward(&(losses.sum(Kind::Float) / n));
    }
    let [loss, margin, accuracy, shown, own] = [0, 1, 2, 3, 4].map(|i| sums.double_value(&[i]));
    Ok(Pass { loss, margin, accuracy, shown, own })
}

/// The logistic loss of each pair, `[pairs]`, from β h.
fn losses(margin: &Tensor) -> Tensor {
    -margin.log_sigmoid()
}

#[cfg(test)]
mod tests;
