//! Kahneman-Tversky optimisation: learns from answers that are good or bad each on its own, without pairs.
//!
//! Ethayarajh et al. 2024, <https://arxiv.org/abs/2402.01306>, equation 8. With d = log π(y|x) − log π_ref(y|x), summed over the
//! answer's tokens, a desirable answer costs `λ_D (1 − σ(β (d − z)))` and an undesirable one `λ_U (1 − σ(β (z − d)))`; the batch loss is
//! the mean. The reference point z is the policy's divergence from the reference, `max(0, mean d(x, y'))` over the optimiser step,
//! with y' an answer to another instruction; no gradient flows through it.
//!
//! The paper shifts the answers of a micro-batch by one for y'. Here each answer gets another instruction's answer once, by the seed,
//! so that z does not depend on how a step is split and the reference is asked once.
//!
//! * `answers`: labelled answers as records.
//! * `loss`: what an answer costs.

mod answers;
mod loss;

use std::path::{Path, PathBuf};

use farmhand_core::{
    BuildContext, Checkpoint, FeedbackKind, Learner, LearnerConfig, LearnerInputs, Problem, Requirements, Result, RunContext,
    Seed, register,
};
use farmhand_models::{LanguageModel, OptimConfig, save_checkpoint};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use self::answers::{Answer, Answers, labelled_answers, warn_of_imbalance};
use self::loss::RunningMean;
pub use self::loss::{BcoDelta, LabelLoss};
use crate::training::{Ranges, Reference, Task, TextLogProbs, TextPass, TrainOptions, Training, shuffled_steps, start_training};

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
    /// Over what the reference point of `bco` is averaged.
    pub bco_delta: BcoDelta,
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
            bco_delta: BcoDelta::RunningMean,
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
        let dry_run =
            |rows: &[usize]| pass_answers(&policy, &train, rows, config, RunningMean::default(), Some(ctx.seed)).map(drop);
        let mut training = Training::start(task, &policy, policy.trained(), &train.records, plan, &config.train, ctx, dry_run)?
            .keeping(&policy, &codec)?;
        let mut delta: RunningMean = training.carried()?;
        while let Some(step) = training.next_step()? {
            let pass = pass_answers(&policy, &train, &step.picked, config, delta, Some(step.seed))?;
            training.apply(&step, pass.loss)?;
            delta = pass.delta;
            training.carry(&delta);
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
                let pass = pass_answers(&policy, held_out, &all, config, delta, None)?;
                training.log(&step, &[("validation_loss", pass.loss), ("validation_accuracy", pass.accuracy)]);
            }
        }
        save_checkpoint(&policy, &codec, "kto", ctx)
    }
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
    /// BCO's reference point over the steps so far.
    delta: RunningMean,
}

/// Runs the picked answers through the policy; with the seed of an optimiser step, adds the gradient of their mean loss. `delta` is
/// BCO's reference point over earlier steps, to which an optimiser step adds its own.
fn pass_answers(
    policy: &LanguageModel,
    answers: &Answers,
    picked: &[usize],
    config: &KtoConfig,
    delta: RunningMean,
    train: Option<Seed>,
) -> Result<Pass> {
    let passes = &config.train.passes;
    let of_step = reference_point(policy, answers, picked, config)?;
    let runs = config.loss == LabelLoss::Bco && config.bco_delta == BcoDelta::RunningMean;
    let delta = if runs && train.is_some() { delta.and(of_step) } else { delta };
    let point = delta.mean().filter(|_| runs).unwrap_or(of_step);
    let weight = |desirable: bool| if desirable { config.desirable_weight } else { config.undesirable_weight };
    let n = picked.len() as f64;
    let pass = TextPass::new(policy, &answers.records, passes);
    let (loss, [desirable, undesirable, right]) = pass.run(picked, train, |texts| {
        let log_ratios = log_ratios(texts, &answers.reference);
        let is_desirable = texts.of_texts(|i| f64::from(u8::from(answers.desirable[texts.places[i].0])));
        let weights = texts.of_texts(|i| weight(answers.desirable[texts.places[i].0]));
        let losses = config.loss.losses(&log_ratios, &is_desirable, point, config.beta) * weights;
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
        delta,
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

#[cfg(test)]
mod tests {
    use farmhand_core::{Feedback, NoEvents, RecordedEvents};
    use farmhand_models::TextCodec;

    use super::*;
    use crate::testing::{
        Stage, assert_resumes_exactly, assert_resumes_exactly_also_with_an_adapter, assert_same_however_split, disliked_pairs,
        fast_optim, learn_from, likelihood_margins, pairs, tiny_checkpoint,
    };

    pub(super) fn config() -> KtoConfig {
        let optim = fast_optim(3e-3);
        let train = TrainOptions { epochs: 6, batch_size: 4, save_every: 4, optim, ..TrainOptions::default() };
        KtoConfig { learn_from: LabelSource::Pairs, train, ..KtoConfig::default() }
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
        let pass = pass_answers(&policy, &answers, &all, &config(), RunningMean::default(), None).expect("run");
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
                let pass = pass_answers(
                    &policy,
                    &answers,
                    &[7, 6, 5, 4, 3, 2, 1, 0],
                    &config,
                    RunningMean::default(),
                    Some(Seed::root(0)),
                )
                .expect("run");
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
    fn a_stopped_or_killed_run_continues_to_the_same_bytes_also_with_an_adapter() {
        let base = Stage::new();
        let init = tiny_checkpoint(&base);
        assert_resumes_exactly_also_with_an_adapter(
            "kto/loss",
            config(),
            |c| &mut c.train,
            &init,
            Feedback::Preferences(&pairs(10)),
        );
        for bco_delta in [BcoDelta::RunningMean, BcoDelta::Step] {
            let bco = KtoConfig { loss: LabelLoss::Bco, bco_delta, ..config() };
            assert_resumes_exactly("kto/reference_point", 9, |ctx| {
                learn_from(&bco, &init, Feedback::Preferences(&pairs(10)), ctx)
            });
        }
        let mut wrong = KtoConfig { beta: 0.0, desirable_weight: 0.0, ..config() };
        wrong.train.batch_size = 1;
        let paths: Vec<String> = wrong.problems().into_iter().map(|problem| problem.path).collect();
        assert_eq!(paths, ["beta", "desirable_weight", "batch_size"]);
    }
}
