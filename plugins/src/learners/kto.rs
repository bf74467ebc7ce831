//! Kahneman-Tversky optimisation: learns from answers that are good or bad each on its own, without pairs.
//!
//! Ethayarajh et al. 2024, <https://arxiv.org/abs/2402.01306>, equation 8. With d = log π(y|x) − log π_ref(y|x), summed over the
//! answer's tokens, a desirable answer costs `λ_D (1 − σ(β (d − z)))` and an undesirable one `λ_U (1 − σ(β (z − d)))`; the batch loss is
//! the mean. The reference point z is the policy's divergence from the reference, `max(0, mean d(x, y'))` over the optimiser step,
//! with y' an answer to another instruction; no gradient flows through it.
//!
//! The paper shifts the answers of a micro-batch by one for y'. Here each answer gets another instruction's answer once, by the seed,
//! so that z does not depend on how a step is split and the reference is asked once.

use std::path::{Path, PathBuf};

use farmhand_core::types::{FinishReason, Instruction, LabelledCompletion, PreferencePair};
use farmhand_core::{
    BuildContext, Checkpoint, Error, Feedback, FeedbackKind, Learner, LearnerConfig, LearnerInputs, Problem, Requirements,
    Result, RunContext, Seed, register,
};
use farmhand_models::{Ending, LanguageModel, OptimConfig, TextCodec, save_checkpoint};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::training::{
    Ranges, Record, Reference, Task, TextLogProbs, TextPass, TokenLimit, TrainOptions, Training, admit, shuffled_steps,
    start_training,
};

register! {
    kind: Learner, name: "kto", config: KtoConfig,
    summary: "Kahneman-Tversky optimisation on answers labelled good or bad", paper: "https://arxiv.org/abs/2402.01306",
}

/// Where labelled answers come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LabelSource {
    /// From labelled answers.
    #[default]
    Labelled,
    /// From preference pairs taken apart: chosen answers are desirable, rejected ones undesirable.
    Pairs,
}

/// The loss of a labelled answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LabelLoss {
    /// `1 − σ(β (d − z))` and `1 − σ(β (z − d))`: the paper's.
    #[default]
    Kto,
    /// `1 − σ(β d)` and `σ(β d)`: APO-zero without pairs (D'Oosterlinck et al. 2024); no reference point.
    ApoZero,
    /// `−ln σ(β d − δ)` and `−ln σ(δ − β d)`: the binary classifier of BCO (Jung et al. 2024), with δ half-way between the step's mean
    /// rewards β d of desirable and undesirable answers; the paper's δ is a running mean of these.
    Bco,
}

/// Options of `[learner.kto]`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub struct KtoConfig {
    /// Where labelled answers come from.
    pub learn_from: LabelSource,
    /// Strength β of the pull towards the reference policy, > 0.
    pub beta: f64,
    /// The loss of an answer.
    pub loss: LabelLoss,
    /// Weight λ_D of desirable answers, > 0. The paper keeps λ_D n_D / (λ_U n_U) between 1 and 4/3.
    pub desirable_weight: f64,
    /// Weight λ_U of undesirable answers, > 0.
    pub undesirable_weight: f64,
    /// Keep the reference's log-probabilities in the shared cache folder, where other runs on the same answers find them.
    pub reference_cache: bool,
    /// Records are answers; pairs taken apart are two each.
    #[serde(flatten)]
    pub train: TrainOptions,
}

impl Default for KtoConfig {
    fn default() -> Self {
        let optim = OptimConfig { lr: 1e-6, ..OptimConfig::default() };
        Self {
            learn_from: LabelSource::Labelled,
            beta: 0.1,
            loss: LabelLoss::Kto,
            desirable_weight: 1.0,
            undesirable_weight: 1.0,
            reference_cache: true,
            train: TrainOptions { epochs: 1, batch_size: 32, optim, ..TrainOptions::default() },
        }
    }
}

#[typetag::serde(name = "kto")]
impl LearnerConfig for KtoConfig {
    fn build(&self, ctx: &BuildContext<'_>) -> Result<Box<dyn Learner>> {
        Ok(Box::new(Kto { config: self.clone(), cache_dir: ctx.cache_dir.map(Path::to_owned) }))
    }

    fn problems(&self) -> Vec<Problem> {
        let lonely = self.loss == LabelLoss::Kto && self.train.batch_size == 1;
        Ranges::new()
            .positive("beta", self.beta)
            .positive("desirable_weight", self.desirable_weight)
            .positive("undesirable_weight", self.undesirable_weight)
            .require("batch_size", !lonely, "2 or more, for the reference point is a mean over the step", "1")
            .train(&self.train, Self::default().train.batch_size)
            .problems()
    }
}

struct Kto {
    config: KtoConfig,
    /// Where reference log-probabilities are kept for other runs.
    cache_dir: Option<PathBuf>,
}

impl Learner for Kto {
    fn requires(&self) -> Requirements {
        Requirements::policy_from(match self.config.learn_from {
            LabelSource::Labelled => FeedbackKind::Labelled,
            LabelSource::Pairs => FeedbackKind::Preferences,
        })
    }

    fn learn(&mut self, inputs: LearnerInputs<'_>, ctx: &RunContext<'_>) -> Result<Checkpoint> {
        let Self { config, cache_dir } = self;
        let (codec, policy) = config.train.passes.load(inputs.init, ctx)?;

        let limit = config.train.token_limit(policy.config().max_positions());
        let answers = labelled_answers(inputs.feedback, config.learn_from)?;
        warn_of_imbalance(&answers, config, ctx)?;
        let (train, held_out) = {
            let mut reference = Reference::new(inputs.init, inputs.reference, &policy)?;
            let cache_dir = cache_dir.as_deref().filter(|_| config.reference_cache);
            let mut prepare =
                |answers: &[Answer<'_>], noun| Answers::new(answers, noun, &codec, limit, &mut reference, config, cache_dir, ctx);
            let held_out = match inputs.validation.map(|feedback| labelled_answers(feedback, config.learn_from)).transpose()? {
                Some(answers) if !answers.is_empty() => Some(prepare(&answers, "held-out labelled answers")?),
                _ => None,
            };
            (prepare(&answers, "labelled answers")?, held_out)
        };
        let policy = start_training(policy, &config.train.passes, inputs.init, ctx.seed.child("lora", 0))?;

        let task = Task { learner: "kto", role: "policy", doing: "preference optimisation", records: "labelled answers" };
        let plan = shuffled_steps(&train.records, &config.train, ctx);
        let dry_run = |rows: &[usize]| pass_answers(&policy, &train, rows, config, Some(ctx.seed)).map(drop);
        let mut training = Training::start(task, &policy, policy.trained(), &train.records, plan, &config.train, ctx, dry_run)?
            .keeping(&policy, &codec)?;
        while let Some(step) = training.next_step()? {
            let pass = pass_answers(&policy, &train, &step.picked, config, Some(step.seed))?;
            training.apply(&step, pass.loss)?;
            training.log(&step, &[("reference_point", pass.reference_point), ("n_desirable", pass.n_desirable)]);
            if let Some(reward) = pass.desirable_reward {
                training.log(&step, &[("desirable_reward", reward)]);
            }
            if let Some(reward) = pass.undesirable_reward {
                training.log(&step, &[("undesirable_reward", reward)]);
            }
            if let (Some(desirable), Some(undesirable)) = (pass.desirable_reward, pass.undesirable_reward) {
                training.log(&step, &[("margin", desirable - undesirable)]);
            }
            if let Some(held_out) = held_out.as_ref().filter(|_| training.validates_after(&step)) {
                let all: Vec<usize> = (0..held_out.records.len()).collect();
                let pass = pass_answers(&policy, held_out, &all, config, None)?;
                training.log(&step, &[("validation_loss", pass.loss), ("validation_accuracy", pass.accuracy)]);
            }
        }
        save_checkpoint(&policy, &codec, "kto", ctx)
    }
}

/// An answer and its label.
#[derive(Clone, Copy)]
struct Answer<'a> {
    instruction: &'a Instruction,
    output: &'a str,
    ending: Ending,
    desirable: bool,
}

impl<'a> Answer<'a> {
    fn of_pair(pair: &'a PreferencePair) -> [Self; 2] {
        let side = |output, desirable| Answer { instruction: &pair.instruction, output, ending: Ending::WithEos, desirable };
        [side(&pair.chosen, true), side(&pair.rejected, false)]
    }

    fn of_labelled(item: &'a LabelledCompletion) -> Self {
        let completion = &item.completion;
        // An answer that the limit cut off did not end.
        let ending = if completion.finish == FinishReason::Length { Ending::Open } else { Ending::WithEos };
        Self { instruction: &completion.instruction, output: &completion.output, ending, desirable: item.desirable }
    }
}

fn labelled_answers(feedback: Feedback<'_>, source: LabelSource) -> Result<Vec<Answer<'_>>> {
    Ok(match source {
        LabelSource::Labelled => feedback.labelled()?.iter().map(Answer::of_labelled).collect(),
        LabelSource::Pairs => feedback.preferences()?.iter().flat_map(Answer::of_pair).collect(),
    })
}

/// Both labels must be there; far apart in number, the rarer one hardly counts.
fn warn_of_imbalance(answers: &[Answer<'_>], config: &KtoConfig, ctx: &RunContext<'_>) -> Result<()> {
    let n_desirable = answers.iter().filter(|answer| answer.desirable).count();
    let n_undesirable = answers.len() - n_desirable;
    if config.loss == LabelLoss::Bco && (n_desirable == 0 || n_undesirable == 0) {
        return Err(Error::invalid_data(format!(
            "{n_desirable} desirable and {n_undesirable} undesirable answers: `bco` tells them apart"
        ))
        .with_hint("use answers with both labels, or `loss = \"kto\"`"));
    }
    let balance = config.desirable_weight * n_desirable as f64 / (config.undesirable_weight * n_undesirable as f64);
    if !(0.99..=1.34).contains(&balance) {
        ctx.events.warn(&format!(
            "{n_desirable} desirable and {n_undesirable} undesirable answers count {balance:.2} to 1 with their weights; the paper \
             keeps this between 1 and 4/3 by `desirable_weight` and `undesirable_weight`"
        ));
    }
    Ok(())
}

/// Answers with the log-probabilities of the frozen reference.
struct Answers {
    records: Vec<Record>,
    /// One entry a record: summed over the answer's tokens, in nats.
    reference: Vec<Vec<f32>>,
    /// One entry a record.
    desirable: Vec<bool>,
    /// Each record's instruction with the answer to another one, where one fits.
    mismatched: Vec<Record>,
    mismatched_reference: Vec<Vec<f32>>,
    /// The place of each record's in `mismatched`.
    mismatch_of: Vec<Option<usize>>,
}

impl Answers {
    #[expect(clippy::too_many_arguments, reason = "called twice, a few lines above")]
    fn new(
        answers: &[Answer<'_>],
        noun: &str,
        codec: &TextCodec,
        limit: TokenLimit,
        reference: &mut Reference<'_>,
        config: &KtoConfig,
        cache_dir: Option<&Path>,
        ctx: &RunContext<'_>,
    ) -> Result<Self> {
        let encode = |answer: &Answer<'_>| -> Result<Record> {
            let text = codec.encode(answer.instruction, answer.output, answer.ending)?;
            Ok(Record::new(&answer.instruction.id, [text]))
        };
        let records = admit(answers, noun, limit, true, ctx, encode)?;
        let desirable = records.iter().map(|record| answers[record.index].desirable).collect();
        let (mut mismatched, mut mismatch_of) = (Vec::new(), vec![None; records.len()]);
        if config.loss == LabelLoss::Kto {
            for (row, other) in mismatches(&records, limit.max_tokens.min(limit.context), ctx.seed.child("mismatch", 0)) {
                let text = codec.encode_tokens(records[row].texts[0].prompt(), records[other].texts[0].response());
                mismatch_of[row] = Some(mismatched.len());
                mismatched.push(Record::new(&records[row].id, [text]));
            }
            if mismatched.is_empty() {
                return Err(Error::invalid_data(format!(
                    "no {noun} fit another instruction, so that there is no reference point"
                ))
                .with_hint("answers to two instructions or more are needed; `loss = \"apo_zero\"` has no reference point"));
            }
            if mismatched.len() < records.len() {
                let n = records.len() - mismatched.len();
                ctx.events.warn(&format!(
                    "for {n} of {} {noun} no other answer fits; they are not in the reference point",
                    records.len()
                ));
            }
        }
        let mut ask = |records: &[Record]| reference.sums(records, 1.0, config.train.passes.layout, cache_dir, ctx);
        let (reference, mismatched_reference) = (ask(&records)?, ask(&mismatched)?);
        Ok(Self { records, reference, desirable, mismatched, mismatched_reference, mismatch_of })
    }
}

/// For each record another one whose instruction is different and whose answer fits after its own prompt: the next such one in an
/// order that the seed gives. Records without any are left out.
fn mismatches(records: &[Record], max_tokens: usize, seed: Seed) -> Vec<(usize, usize)> {
    let order = seed.rng().permutation(records.len());
    let fits = |row: usize, other: usize| {
        let n_tokens = records[row].texts[0].prompt().len() + records[other].texts[0].response().len();
        records[row].id != records[other].id && n_tokens <= max_tokens
    };
    let found = |place: usize| {
        let row = order[place];
        let others = order[place + 1..].iter().chain(&order[..place]).copied();
        others.into_iter().find(|&other| fits(row, other)).map(|other| (row, other))
    };
    let mut pairs: Vec<(usize, usize)> = (0..order.len()).filter_map(found).collect();
    pairs.sort_unstable();
    pairs
}

/// What some answers tell.
struct Pass {
    loss: f64,
    /// z in nats, or δ in units of reward.
    reference_point: f64,
    n_desirable: f64,
    /// Mean implicit reward β d; none where there is no such answer.
    desirable_reward: Option<f64>,
    undesirable_reward: Option<f64>,
    /// Share of answers on the right side of the reference point; on it counts half.
    accuracy: f64,
}

/// Runs the picked answers through the policy; with the seed of an optimiser step, adds the gradient of their mean loss.
fn pass_answers(
    policy: &LanguageModel,
    answers: &Answers,
    picked: &[usize],
    config: &KtoConfig,
    train: Option<Seed>,
) -> Result<Pass> {
    let passes = &config.train.passes;
    let point = reference_point(policy, answers, picked, config)?;
    let weight = |desirable: bool| if desirable { config.desirable_weight } else { config.undesirable_weight };
    let n = picked.len() as f64;
    let pass = TextPass::new(policy, &answers.records, passes);
    let (loss, [desirable, undesirable, right]) = pass.run(picked, train, |texts| {
        let log_ratios = log_ratios(texts, &answers.reference);
        let is_desirable = texts.of_texts(|i| f64::from(u8::from(answers.desirable[texts.places[i].0])));
        let weights = texts.of_texts(|i| weight(answers.desirable[texts.places[i].0]));
        let losses = losses(&log_ratios, &is_desirable, point, config) * weights;
        let rewards = log_ratios.detach() * config.beta;
        let above = if config.loss == LabelLoss::Bco { &rewards - point } else { &rewards - point * config.beta };
        let right = ((above * (&is_desirable * 2.0 - 1.0)).sign() + 1.0) * 0.5;
        let sum = |values: Tensor| values.sum(Kind::Double);
        let of_undesirable = &rewards * (1.0 - &is_desirable);
        (losses.sum(Kind::Float) / n, [sum(rewards * is_desirable), sum(of_undesirable), sum(right) / n])
    })?;
    let n_desirable = picked.iter().filter(|&&row| answers.desirable[row]).count() as f64;
    let mean = |sum: f64, n: f64| (n > 0.0).then(|| sum / n);
    Ok(Pass {
        loss,
        reference_point: point,
        n_desirable,
        desirable_reward: mean(desirable, n_desirable),
        undesirable_reward: mean(undesirable, n - n_desirable),
        accuracy: right,
    })
}

/// z or δ of a step, from the policy as it is, without an adapter's dropout and without gradient.
fn reference_point(policy: &LanguageModel, answers: &Answers, picked: &[usize], config: &KtoConfig) -> Result<f64> {
    let passes = &config.train.passes;
    match config.loss {
        LabelLoss::ApoZero => Ok(0.0),
        LabelLoss::Kto => {
            let rows: Vec<usize> = picked.iter().filter_map(|&row| answers.mismatch_of[row]).collect();
            let pass = TextPass::new(policy, &answers.mismatched, passes);
            let (sum, []) =
                pass.run(&rows, None, |texts| (log_ratios(texts, &answers.mismatched_reference).sum(Kind::Double), []))?;
            Ok((sum / rows.len().max(1) as f64).max(0.0))
        }
        LabelLoss::Bco => {
            let pass = TextPass::new(policy, &answers.records, passes);
            let (all, [desirable]) = pass.run(picked, None, |texts| {
                let log_ratios = log_ratios(texts, &answers.reference);
                let is_desirable = texts.of_texts(|i| f64::from(u8::from(answers.desirable[texts.places[i].0])));
                (log_ratios.sum(Kind::Double), [(log_ratios * is_desirable).sum(Kind::Double)])
            })?;
            let n_desirable = picked.iter().filter(|&&row| answers.desirable[row]).count();
            let sides = [(desirable, n_desirable), (all - desirable, picked.len() - n_desirable)];
            let means: Vec<f64> = sides.iter().filter(|(_, n)| *n > 0).map(|(sum, n)| sum / *n as f64).collect();
            Ok(config.beta * means.iter().sum::<f64>() / means.len().max(1) as f64)
        }
    }
}

/// d of each answer, `[answers]`.
fn log_ratios(texts: &TextLogProbs, reference: &[Vec<f32>]) -> Tensor {
    texts.sums() - texts.of_texts(|i| f64::from(reference[texts.places[i].0][texts.places[i].1]))
}

/// The loss of each answer without its weight, from the log-ratios and 1 or 0 for desirable or not, both `[answers]`.
fn losses(log_ratios: &Tensor, is_desirable: &Tensor, point: f64, config: &KtoConfig) -> Tensor {
    let side = is_desirable * 2.0 - 1.0;
    match config.loss {
        LabelLoss::Kto => 1.0 - ((log_ratios - point) * config.beta * side).sigmoid(),
        LabelLoss::ApoZero => 1.0 - (log_ratios * config.beta * side).sigmoid(),
        LabelLoss::Bco => -((log_ratios * config.beta - point) * side).log_sigmoid(),
    }
}

#[cfg(test)]
mod tests {
    use farmhand_core::types::Completion;
    use farmhand_core::{ErrorKind, NoEvents, RecordedEvents};
    use farmhand_models::EncodedText;

    use super::*;
    use crate::testing::{
        Stage, assert_resumes_exactly, assert_same_however_split, disliked_pairs, fast_optim, learn_from, likelihood_margins,
        pairs, small_lora, tiny_checkpoint,
    };

    fn config() -> KtoConfig {
        let optim = fast_optim(3e-3);
        let train = TrainOptions { epochs: 6, batch_size: 4, save_every: 4, optim, ..TrainOptions::default() };
        KtoConfig { learn_from: LabelSource::Pairs, train, ..KtoConfig::default() }
    }

    fn values(loss: LabelLoss, log_ratios: &[f64], desirable: f64, point: f64) -> Vec<f64> {
        let ratios = Tensor::from_slice(log_ratios);
        Vec::try_from(losses(&ratios, &(ratios.ones_like() * desirable), point, &KtoConfig { loss, ..config() }))
            .expect("numbers")
    }

    fn assert_close(got: &[f64], golden: &[f64]) {
        assert!(got.iter().zip(golden).all(|(a, b)| (a - b).abs() < 1e-6), "{got:?}, not {golden:?}");
    }

    #[test]
    fn the_losses_match_the_goldens() {
        // Fixture A: d = 0.4 desirable, −0.3 undesirable.
        for (z, golden) in [(0.05, [0.491_251, 0.491_251]), (0.2, [0.495, 0.487_503])] {
            assert_close(&values(LabelLoss::Kto, &[0.4], 1.0, z), &golden[..1]);
            assert_close(&values(LabelLoss::Kto, &[-0.3], 0.0, z), &golden[1..]);
        }
        let [w, l] = [values(LabelLoss::Kto, &[0.4], 1.0, 0.15)[0], values(LabelLoss::Kto, &[-0.3], 0.0, 0.15)[0]];
        assert_close(&[(w + l) / 2.0, (1.33 * w + l) / 2.0], &[0.491_251, 0.572_720]);
        // TRL's table.
        let (chosen, rejected) = ([1.0, 0.5, 0.75, -1.5], [-0.5, 1.5, -1.25, -2.25]);
        assert_close(&values(LabelLoss::Kto, &chosen, 1.0, 0.375), &[0.484_380_08, 0.496_875_04, 0.490_626_10, 0.546_738_15]);
        assert_close(&values(LabelLoss::Kto, &rejected, 0.0, 0.375), &[0.478_138_95, 0.528_095_37, 0.459_464_16, 0.434_749_25]);
        assert_close(&values(LabelLoss::ApoZero, &chosen, 1.0, 0.0), &[0.475_020_81, 0.487_502_60, 0.481_258_78, 0.537_429_85]);
        assert_close(&values(LabelLoss::ApoZero, &rejected, 0.0, 0.0), &[0.487_502_60, 0.537_429_85, 0.468_790_63, 0.443_986_11]);
        assert_close(
            &values(LabelLoss::Bco, &chosen, 1.0, -0.021_875),
            &[0.634_065_22, 0.657_855_29, 0.645_882_32, 0.759_260_28],
        );
        assert_close(
            &values(LabelLoss::Bco, &rejected, 0.0, -0.021_875),
            &[0.679_183_55, 0.782_772_77, 0.642_913_44, 0.596_733_31],
        );
    }

    #[test]
    fn gradients_match_finite_differences() {
        for loss in [LabelLoss::Kto, LabelLoss::ApoZero, LabelLoss::Bco] {
            for desirable in [1.0, 0.0] {
                let leaf = Tensor::from_slice(&[0.7]).set_requires_grad(true);
                losses(&leaf, &(leaf.detach().ones_like() * desirable), 0.2, &KtoConfig { loss, ..config() })
                    .sum(Kind::Double)
                    .backward();
                let at = |d: f64| values(loss, &[d], desirable, 0.2)[0];
                let slope = (at(0.7 + 1e-6) - at(0.7 - 1e-6)) / 2e-6;
                assert!((slope - leaf.grad().double_value(&[0])).abs() < 1e-7, "{loss:?}");
            }
        }
    }

    #[test]
    fn a_mismatch_is_another_instructions_answer_that_fits() {
        let record = |id: &str, prompt: usize, response: usize| {
            Record::new(id, [EncodedText { ids: vec![7; prompt + response], response_start: prompt }])
        };
        let records = [record("a", 3, 2), record("a", 3, 4), record("b", 5, 3), record("c", 2, 9)];
        let found = mismatches(&records, 9, Seed::root(1));
        assert_eq!(found, mismatches(&records, 9, Seed::root(1)));
        assert_eq!(found.iter().map(|(row, _)| *row).collect::<Vec<_>>(), [0, 1, 2, 3]);
        for (row, other) in found {
            assert!(records[row].id != records[other].id && other != 3, "{row} got {other}");
        }
        assert!(mismatches(&records[..2], 9, Seed::root(1)).is_empty(), "one instruction has no other");
    }

    fn prepared(stage: &Stage, init: &Checkpoint, config: &KtoConfig) -> (LanguageModel, Answers) {
        let policy = LanguageModel::load(init.path(), tch::Device::Cpu).expect("loaded");
        let codec = TextCodec::load(init, None).expect("a codec");
        let items = pairs(4);
        let answers = labelled_answers(Feedback::Preferences(&items), LabelSource::Pairs).expect("pairs");
        let mut reference = Reference::new(init, None, &policy).expect("fits");
        let limit = config.train.token_limit(96);
        let ctx = stage.context(&NoEvents);
        let answers = Answers::new(&answers, "answers", &codec, limit, &mut reference, config, None, &ctx).expect("prepared");
        policy.set_trainable(true);
        (policy, answers)
    }

    #[test]
    fn at_the_reference_every_answer_costs_a_half_and_z_is_0() {
        let stage = Stage::new();
        let init = tiny_checkpoint(&stage);
        let (policy, answers) = prepared(&stage, &init, &config());
        let all: Vec<usize> = (0..8).collect();
        let pass = pass_answers(&policy, &answers, &all, &config(), None).expect("run");
        assert!((pass.loss - 0.5).abs() < 1e-6 && pass.reference_point < 1e-5, "{} {}", pass.loss, pass.reference_point);
    }

    #[test]
    fn loss_and_gradients_do_not_depend_on_layout_and_micro_batches() {
        let stage = Stage::new();
        let init = tiny_checkpoint(&stage);
        for loss in [LabelLoss::Kto, LabelLoss::Bco] {
            let config = KtoConfig { loss, desirable_weight: 1.3, ..config() };
            let (policy, mut answers) = prepared(&stage, &init, &config);
            // A reference unlike the policy, so that answers weigh differently and z is above 0.
            answers.reference.iter_mut().zip(0u8..).for_each(|(sums, i)| sums[0] -= 0.7 * f32::from(i));
            answers.mismatched_reference.iter_mut().for_each(|sums| sums[0] -= 2.0);
            assert_same_however_split(&policy, 1e-5, |passes| {
                let train = TrainOptions { passes: passes.clone(), ..config.train.clone() };
                let config = KtoConfig { train, ..config.clone() };
                let pass = pass_answers(&policy, &answers, &[7, 6, 5, 4, 3, 2, 1, 0], &config, Some(Seed::root(0))).expect("run");
                assert!(loss == LabelLoss::Bco || (pass.reference_point - 2.0).abs() < 1e-4);
                pass.loss
            });
        }
    }

    #[test]
    fn it_turns_preferences_that_the_policy_had_the_other_way_round() {
        for loss in [LabelLoss::Kto, LabelLoss::Bco] {
            let (stage, events) = (Stage::new(), RecordedEvents::default());
            let init = tiny_checkpoint(&stage);
            let items = disliked_pairs(&init, 12);
            let mut config = KtoConfig { loss, ..config() };
            config.train.epochs = 20;
            let learned = learn_from(&config, &init, Feedback::Preferences(&items), &stage.context(&events)).expect("learned");
            let margins = likelihood_margins(&learned, &items);
            assert!(margins.iter().filter(|margin| **margin > 0.0).count() >= 11, "{margins:?}");
            assert!(events.scalars("kto/margin").last().expect("logged").1 > 0.1);
        }
    }

    #[test]
    fn labelled_answers_are_taken_as_they_ended_and_one_sided_labels_are_told() {
        let stage = Stage::new();
        let init = tiny_checkpoint(&stage);
        let label = |(i, pair): (usize, PreferencePair)| LabelledCompletion {
            completion: Completion {
                instruction: pair.instruction,
                output: pair.chosen,
                model: "test".into(),
                sample: 0,
                finish: if i == 0 { FinishReason::Length } else { FinishReason::Stop },
                n_tokens: 1,
                log_prob: None,
            },
            desirable: true,
        };
        let items: Vec<LabelledCompletion> = pairs(6).into_iter().enumerate().map(label).collect();
        let answers = labelled_answers(Feedback::Labelled(&items), LabelSource::Labelled).expect("labelled");
        assert_eq!((answers[0].ending, answers[1].ending), (Ending::Open, Ending::WithEos));
        let events = RecordedEvents::default();
        let all_good = KtoConfig { learn_from: LabelSource::Labelled, ..config() };
        learn_from(&all_good, &init, Feedback::Labelled(&items), &stage.context(&events)).expect("learned");
        assert!(format!("{:?}", events.take()).contains("6 desirable and 0 undesirable answers"));
        let bco = KtoConfig { loss: LabelLoss::Bco, ..all_good };
        let error = learn_from(&bco, &init, Feedback::Labelled(&items), &stage.context(&NoEvents)).expect_err("one label");
        assert_eq!(error.kind(), ErrorKind::InvalidData);
    }

    #[test]
    fn a_stopped_or_killed_run_continues_to_the_same_bytes_also_with_an_adapter() {
        let base = Stage::new();
        let init = tiny_checkpoint(&base);
        for lora in [None, Some(small_lora())] {
            let mut config = config();
            config.train.passes.lora = lora;
            assert_resumes_exactly("kto/loss", 9, |ctx| learn_from(&config, &init, Feedback::Preferences(&pairs(10)), ctx));
        }
        let mut wrong = KtoConfig { beta: 0.0, desirable_weight: 0.0, ..config() };
        wrong.train.batch_size = 1;
        let paths: Vec<String> = wrong.problems().into_iter().map(|problem| problem.path).collect();
        assert_eq!(paths, ["beta", "desirable_weight", "batch_size"]);
    }
}
