//! Pairwise preference modelling: a language model that reads two answers and says which is better.
//!
//! RLHF Workflow's preference model (Dong et al. 2024, <https://arxiv.org/abs/2405.07863>, section 2.2): the model reads the
//! instruction and both answers and replies `A` or `B`; P(A ≻ B) is the softmax over the two replies' logits. It sees which of two
//! answers is better where a scalar reward cannot say it (preferences may go in a circle). The ranker of SLiC-HF and RSO is the
//! same with a text-to-text model. Training is imitation of the right reply, `−ln π(right | question)` over the whole vocabulary,
//! or over the two replies alone: `−ln σ(ln π(right) − ln π(wrong))`.
//!
//! The reward model and the annotator `preference_model` ask it in both orders and average.

use farmhand_core::types::PreferencePair;
use farmhand_core::{
    BuildContext, Checkpoint, Error, FeedbackKind, Learner, LearnerConfig, LearnerInputs, Problem, Requirements, Result,
    RunContext, Seed, register,
};
use farmhand_models::{
    LanguageModel, OptimConfig, TextCodec, save_checkpoint, selected_log_probs, selected_log_probs_no_grad, sequence_sums,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::reward_models::{PairReading, both_orders, p_first};
use crate::rl::pair_accuracy::{PairReport, ScoredPair};
use crate::training::{
    Ranges, Record, Task, TokenLimit, TrainOptions, Training, admit, record_batch, shuffled_steps, start_training,
};

register! {
    kind: Learner, name: "preference_modeling", config: PreferenceModelingConfig,
    summary: "a model that reads two answers and says which is better", paper: "https://arxiv.org/abs/2405.07863",
}

/// In which order the answers of a pair are shown in training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ShownOrders {
    /// Each pair once, its order drawn by its content.
    #[default]
    Random,
    /// Each pair in both orders: twice the records, no preference for a place.
    Both,
}

/// What the right reply competes with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReplyLoss {
    /// All tokens: imitation, as the paper trains.
    #[default]
    FullVocabulary,
    /// The other reply alone: nothing is learnt but which of the two it is.
    TwoReplies,
}

/// Options of `[learner.preference_modeling]`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub struct PreferenceModelingConfig {
    /// What the model replies when the first, and when the second answer is better; each one token of its tokenizer.
    pub labels: [String; 2],
    /// In which order answers are shown.
    pub orders: ShownOrders,
    /// What the right reply competes with.
    pub loss: ReplyLoss,
    /// Records are questions: a pair in one order. The paper: batches of 128, texts of 3072 tokens, a learning rate of 5e-6.
    #[serde(flatten)]
    pub train: TrainOptions,
}

impl Default for PreferenceModelingConfig {
    fn default() -> Self {
        let optim = OptimConfig { lr: 5e-6, ..OptimConfig::default() };
        Self {
            labels: PairReading::default().labels,
            orders: ShownOrders::Random,
            loss: ReplyLoss::FullVocabulary,
            train: TrainOptions { batch_size: 128, max_tokens: 1024, optim, ..TrainOptions::default() },
        }
    }
}

#[typetag::serde(name = "preference_modeling")]
impl LearnerConfig for PreferenceModelingConfig {
    fn build(&self, _: &BuildContext<'_>) -> Result<Box<dyn Learner>> {
        Ok(Box::new(PreferenceModeling(self.clone())))
    }

    fn problems(&self) -> Vec<Problem> {
        let [a, b] = &self.labels;
        Ranges::new()
            .require("labels", a != b && !a.is_empty() && !b.is_empty(), "two different texts", format!("`{a}` and `{b}`"))
            .train(&self.train, Self::default().train.batch_size)
            .problems()
    }
}

struct PreferenceModeling(PreferenceModelingConfig);

impl Learner for PreferenceModeling {
    fn requires(&self) -> Requirements {
        Requirements::policy_from(FeedbackKind::Preferences)
    }

    fn learn(&mut self, inputs: LearnerInputs<'_>, ctx: &RunContext<'_>) -> Result<Checkpoint> {
        let Self(config) = self;
        let (codec, model) = config.train.passes.load(inputs.init, ctx)?;
        let reading = PairReading { labels: config.labels.clone() };
        let limit = config.train.token_limit(model.config().max_positions());

        let pairs = inputs.feedback.preferences()?;
        let seed = ctx.seed.child("order shown", 0);
        let orders = |pair: &PreferencePair| match config.orders {
            ShownOrders::Both => vec![true, false],
            ShownOrders::Random => {
                let content = format!("{}\0{}\0{}", pair.instruction.id, pair.chosen, pair.rejected);
                vec![seed.child_text("chosen first", &content).rng().bernoulli(0.5)]
            }
        };
        let train: Vec<Question<'_>> =
            pairs.iter().flat_map(|pair| orders(pair).into_iter().map(move |first| (pair, first))).collect();
        let records = encode(&train, "preference pairs", &reading, &codec, limit, ctx)?;
        let held_out: Vec<Question<'_>> = match inputs.validation.map(|feedback| feedback.preferences()).transpose()? {
            Some(pairs) => pairs.iter().flat_map(|pair| [(pair, true), (pair, false)]).collect(),
            None => Vec::new(),
        };
        let held_out_records = match held_out.is_empty() {
            true => Vec::new(),
            false => encode(&held_out, "held-out preference pairs", &reading, &codec, limit, ctx)?,
        };

        let model = start_training(model, &config.train.passes, inputs.init, ctx.seed.child("lora", 0))?;
        let task = Task {
            learner: "preference_modeling",
            role: "preference model",
            doing: "preference modelling",
            records: "preference pairs",
        };
        let plan = shuffled_steps(&records, &config.train, ctx);
        let dry_run = |rows: &[usize]| run_questions(&model, &records, rows, config, Some(ctx.seed)).map(drop);
        let mut training = Training::start(task, &model, model.trained(), &records, plan, &config.train, ctx, dry_run)?;
        while let Some(step) = training.next_step()? {
            let pass = run_questions(&model, &records, &step.picked, config, Some(step.seed))?;
            training.apply(&step, pass.loss)?;
            training.log(&step, &[("accuracy", pass.accuracy), ("p_right", pass.p_right)]);
            if !held_out_records.is_empty() && training.validates_after(&step) {
                let all: Vec<usize> = (0..held_out_records.len()).collect();
                let pass = run_questions(&model, &held_out_records, &all, config, None)?;
                training.log(&step, &[("validation_loss", pass.loss)]);
                let report = both_orders_report(&held_out_records, &held_out, &pass.said);
                for (name, number) in report.iter().flat_map(|report| &report.numbers) {
                    training.log(&step, &[(&format!("validation_{name}"), *number)]);
                }
            }
        }
        let checkpoint = save_checkpoint(&model, &codec, "preference_modeling", ctx)?;
        reading.save(ctx)?;
        Ok(checkpoint)
    }
}

/// A pair, and whether its chosen answer is shown first.
type Question<'a> = (&'a PreferencePair, bool);

/// Questions with their replies, the right one first.
fn encode(
    questions: &[Question<'_>],
    noun: &str,
    reading: &PairReading,
    codec: &TextCodec,
    limit: TokenLimit,
    ctx: &RunContext<'_>,
) -> Result<Vec<Record>> {
    admit(questions, noun, limit, true, ctx, |&(pair, chosen_first)| {
        let shown = if chosen_first { [&pair.chosen, &pair.rejected] } else { [&pair.rejected, &pair.chosen] };
        let [first, second] = reading.encode(codec, &pair.instruction, shown[0], shown[1])?;
        Ok(Record::new(&pair.instruction.id, if chosen_first { [first, second] } else { [second, first] }))
    })
}

/// What some questions tell; means over them.
struct Pass {
    loss: f64,
    /// Share of questions in which the right reply is the likelier of the two; equal ones count half.
    accuracy: f64,
    /// Probability of the right reply among the two.
    p_right: f64,
    /// That of each question, in the order of `picked`; only of a pass without gradient.
    said: Vec<f64>,
}

/// Runs the picked questions through the model, micro-batch by micro-batch; with the seed of an optimiser step, adds the gradient
/// of their mean loss.
fn run_questions(
    model: &LanguageModel,
    records: &[Record],
    picked: &[usize],
    config: &PreferenceModelingConfig,
    train: Option<Seed>,
) -> Result<Pass> {
    let mut totals = Tensor::zeros([3], (Kind::Double, model.device()));
    let mut said = std::collections::BTreeMap::new();
    let passes = &config.train.passes;
    for rows in passes.micro_batching(model.device()).groups(records, picked) {
        let batch = record_batch(records, &rows, passes.layout, model.device(), train)?;
        let selected = train.map(|_| selected_log_probs(model, &batch));
        let values = match &selected {
            Some(selected) => selected.values.shallow_clone(),
            None => selected_log_probs_no_grad(model, &batch).0,
        };
        let (replies, n) = (sequence_sums(&values, &batch), rows.len() as i64);
        let (right, wrong) = (replies.narrow(0, 0, n), replies.narrow(0, n, n));
        let losses = reply_losses(&right, &wrong, config.loss);
        let difference = (&right - &wrong).detach();
        let sums = [losses.detach(), (difference.sign() + 1.0) * 0.5, difference.sigmoid()];
        totals += Tensor::stack(&sums.map(|numbers| numbers.sum(Kind::Double)), 0);
        match selected {
            Some(selected) => selected.backward(&(losses.sum(Kind::Float) / picked.len() as f64)),
            None => {
                let numbers = |values: Tensor| {
                    Vec::<f64>::try_from(values.to_kind(Kind::Double).to_device(tch::Device::Cpu))
                        .map_err(|error| Error::other(error.to_string()))
                };
                let (right, wrong) = (numbers(right)?, numbers(wrong)?);
                said.extend(rows.iter().zip(right.iter().zip(wrong)).map(|(&row, (&right, wrong))| (row, p_first(right, wrong))));
            }
        }
    }
    let [loss, accuracy, p_right] = [0, 1, 2].map(|i| totals.double_value(&[i]) / picked.len() as f64);
    Ok(Pass { loss, accuracy, p_right, said: picked.iter().filter_map(|row| said.get(row).copied()).collect() })
}

/// The loss of each question, `[questions]`, from the log-probabilities of its right and its wrong reply `[questions]`.
fn reply_losses(right: &Tensor, wrong: &Tensor, loss: ReplyLoss) -> Tensor {
    match loss {
        ReplyLoss::FullVocabulary => -right,
        ReplyLoss::TwoReplies => -(right - wrong).log_sigmoid(),
    }
}

/// How the pairs come out that were asked in both orders; `records` are questions of which neighbours may belong to one pair.
fn both_orders_report(records: &[Record], questions: &[Question<'_>], said: &[f64]) -> Option<PairReport> {
    let of_pair = |i: usize| {
        let (record, next) = (&records[i], records.get(i + 1)?);
        // Questions come in twos; one of them may have been too long.
        let is_pair = record.index % 2 == 0 && next.index == record.index + 1;
        let p_chosen = is_pair.then(|| both_orders(said[i], 1.0 - said[i + 1]))?.clamp(1e-12, 1.0 - 1e-12);
        let (pair, _) = questions[record.index];
        let length = |text: &str| text.chars().count() as f64;
        Some(ScoredPair {
            difference: (p_chosen / (1.0 - p_chosen)).ln(),
            length_difference: length(&pair.chosen) - length(&pair.rejected),
            margin: pair.margin,
        })
    };
    PairReport::of(&(0..records.len()).filter_map(of_pair).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests;
