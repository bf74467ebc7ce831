//! Reward-weighted regression: imitation of scored answers, each as much as its score says.
//!
//! Peters and Schaal 2007; for language models the baseline of Hu et al. 2023, <https://arxiv.org/abs/2308.12050>:
//! `Σ_i w_i (−log π(y_i | x_i))` with `w = min(exp(r / β), clip)`, or with `w = B · softmax(r / β)` over the B answers of an optimiser
//! step. β is not published. Rewards are brought to mean 0 and standard deviation 1 over the pool first, for on a reward model's own
//! scale a few answers would outweigh all others; `standardise = false` takes them as they are.

use farmhand_core::types::ScoredCompletion;
use farmhand_core::{
    BuildContext, Checkpoint, Error, FeedbackKind, Learner, LearnerConfig, LearnerInputs, Problem, Requirements, Result,
    RunContext, register,
};
use farmhand_models::{OptimConfig, save_checkpoint};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::rl::reduction::Reduction;
use crate::rl::selection::{effective_sample_size, exponential_weights, softmax_weights, z_scores};
use crate::training::{
    Imitated, Ranges, Record, Task, TrainOptions, Training, admit, imitation_loss, imitation_step, scores_of, shuffled_steps,
    start_training,
};

register! {
    kind: Learner, name: "reward_weighted_regression", config: RewardWeightedRegressionConfig,
    summary: "imitation of scored answers weighted by the exponential of their score", paper: "https://arxiv.org/abs/2308.12050",
}

/// Options of `[learner.reward_weighted_regression]`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub struct RewardWeightedRegressionConfig {
    /// Temperature β of the weights, > 0, in the unit of the scores: small ones imitate the best answers alone.
    pub beta: f64,
    /// How scores become weights.
    pub weighting: Weighting,
    /// Bring the scores of all answers to mean 0 and (unbiased) standard deviation 1 first.
    pub standardise: bool,
    /// How token losses become one number per step. Counts of tokens and answers do not depend on weights.
    pub reduction: Reduction,
    /// Records are scored answers. The paper's steps take 128 of them, once.
    #[serde(flatten)]
    pub train: TrainOptions,
}

/// How scores become weights.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Weighting {
    /// `min(exp(r / β), clip)`.
    Exponential {
        /// The largest weight, > 0.
        clip: f64,
    },
    /// `B · softmax(r / β)` over the B answers of an optimiser step.
    StepSoftmax,
}

impl Default for RewardWeightedRegressionConfig {
    fn default() -> Self {
        let optim = OptimConfig { lr: 5e-6, ..OptimConfig::default() };
        Self {
            beta: 1.0,
            weighting: Weighting::Exponential { clip: 20.0 },
            standardise: true,
            reduction: Reduction::TokenMean,
            train: TrainOptions { optim, ..TrainOptions::default() },
        }
    }
}

#[typetag::serde(name = "reward_weighted_regression")]
impl LearnerConfig for RewardWeightedRegressionConfig {
    fn build(&self, _: &BuildContext<'_>) -> Result<Box<dyn Learner>> {
        Ok(Box::new(RewardWeightedRegression(self.clone())))
    }

    fn problems(&self) -> Vec<Problem> {
        let clip = match self.weighting {
            Weighting::Exponential { clip } => clip,
            Weighting::StepSoftmax => 1.0,
        };
        Ranges::new()
            .positive("beta", self.beta)
            .positive("weighting.exponential.clip", clip)
            .train(&self.train, Self::default().train.batch_size)
            .problems()
    }
}

struct RewardWeightedRegression(RewardWeightedRegressionConfig);

impl Learner for RewardWeightedRegression {
    fn requires(&self) -> Requirements {
        Requirements::policy_from(FeedbackKind::Scored)
    }

    fn learn(&mut self, inputs: LearnerInputs<'_>, ctx: &RunContext<'_>) -> Result<Checkpoint> {
        let Self(config) = self;
        let pool = inputs.feedback.scored()?;
        let scores = config.scores(pool)?;
        let (codec, model) = config.train.passes.load(inputs.init, ctx)?;
        let model = start_training(model, &config.train.passes, inputs.init, ctx.seed.child("lora", 0))?;

        let limit = config.train.token_limit(model.config().max_positions());
        let encode = |answer: &ScoredCompletion| -> Result<Record> {
            let answer = Imitated::sampled(&answer.completion);
            let text = codec.encode(&answer.instruction, &answer.output, answer.ending)?;
            Ok(Record::new(&answer.instruction.id, [text]))
        };
        let records = admit(pool, "scored answers", limit, true, ctx, encode)?;
        let held_out = match inputs.validation.map(|feedback| feedback.scored()).transpose()? {
            Some(answers) if !answers.is_empty() => admit(answers, "held-out scored answers", limit, true, ctx, encode)?,
            _ => Vec::new(),
        };

        // Weights stand at the places of their records; only those of a step's own records are looked at.
        let pass = |picked: &[usize], seed| {
            let mut weights = vec![0.0; records.len()];
            let of_step: Vec<f64> = picked.iter().map(|&i| scores[records[i].index]).collect();
            let of_step = config.weights(&of_step);
            picked.iter().zip(&of_step).for_each(|(&i, &weight)| weights[i] = weight);
            let loss = imitation_step(&model, &records, Some(&weights), picked, config.reduction, &config.train, seed)?;
            Ok::<_, Error>((loss, effective_sample_size(&of_step) / of_step.len() as f64))
        };
        let task = Task {
            learner: "reward_weighted_regression",
            role: "policy",
            doing: "reward-weighted regression",
            records: "scored answers",
        };
        let plan = shuffled_steps(&records, &config.train, ctx);
        let dry_run = |rows: &[usize]| pass(rows, ctx.seed).map(drop);
        let mut training = Training::start(task, &model, model.trained(), &records, plan, &config.train, ctx, dry_run)?
            .keeping(&model, &codec)?;
        while let Some(step) = training.next_step()? {
            let (loss, effective_share) = pass(&step.picked, step.seed)?;
            training.apply(&step, loss)?;
            training.log(&step, &[("effective_share", effective_share)]);
            if !held_out.is_empty() && (training.ends_epoch(&step) || training.validates_after(&step)) {
                training.log(&step, &[("validation_loss", imitation_loss(&model, &held_out, &config.train)?)]);
            }
        }
        save_checkpoint(&model, &codec, "reward_weighted_regression", ctx)
    }
}

impl RewardWeightedRegressionConfig {
    /// The scores of a pool, as weights are made of them.
    fn scores(&self, pool: &[ScoredCompletion]) -> Result<Vec<f64>> {
        let scores = scores_of(pool);
        if !self.standardise || scores.is_empty() {
            return Ok(scores);
        }
        z_scores(&scores).ok_or_else(|| {
            let message = format!("all {} answers have the same score: they cannot be weighted by it", scores.len());
            Error::invalid_data(message).with_hint("score the answers with a reward model that tells them apart")
        })
    }

    /// The weights of the answers of an optimiser step with these scores.
    fn weights(&self, scores: &[f64]) -> Vec<f64> {
        match self.weighting {
            Weighting::Exponential { clip } => exponential_weights(scores, self.beta, clip),
            Weighting::StepSoftmax => softmax_weights(scores, self.beta),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use farmhand_core::{Device, Feedback, RecordedEvents};

    use super::*;
    use crate::testing::{Stage, assert_resumes_exactly, fast_optim, likelihood, scored, small_lora, tiny_checkpoint};

    fn config(weighting: Weighting) -> RewardWeightedRegressionConfig {
        let train = TrainOptions { epochs: 12, batch_size: 3, save_every: 5, optim: fast_optim(1e-2), ..TrainOptions::default() };
        RewardWeightedRegressionConfig { weighting, train, ..RewardWeightedRegressionConfig::default() }
    }

    const WEIGHTINGS: [Weighting; 2] = [Weighting::Exponential { clip: 20.0 }, Weighting::StepSoftmax];

    fn learn(
        config: &RewardWeightedRegressionConfig,
        pool: &[ScoredCompletion],
        init: &Checkpoint,
        ctx: &RunContext<'_>,
    ) -> Result<Checkpoint> {
        let feedback = Feedback::Scored(pool);
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
    fn the_two_weightings_match_the_goldens() {
        let raw = |weighting| RewardWeightedRegressionConfig { standardise: false, ..config(weighting) };
        let (rewards, log_probs) = ([1.0, 0.2, -0.5], [-1.8, -3.1, -0.8]);
        for (weighting, golden) in [(Weighting::Exponential { clip: 20.0 }, 3.054_827), (Weighting::StepSoftmax, 2.015_848)] {
            let config = raw(weighting);
            let weights = config.weights(&config.scores(&scored(&rewards)).expect("scores"));
            let loss = weights.iter().zip(log_probs).map(|(weight, s)| -weight * s).sum::<f64>() / 3.0;
            assert!((loss - golden).abs() < 1e-6, "{weighting:?}: {loss}");
        }
        assert_eq!(raw(Weighting::Exponential { clip: 2.0 }).weights(&rewards)[0], 2.0);
    }

    #[test]
    fn the_two_answers_to_one_question_are_learnt_in_proportion_to_their_weights() {
        // Two equally long answers to the same question: with weights 4 : 1 the best policy gives them the odds 4 : 1.
        let mut pool = scored(&[4f64.ln(), 0.0]);
        pool[1].completion.instruction = pool[0].completion.instruction.clone();
        (pool[0].completion.output, pool[1].completion.output) = ("yes".into(), "no".into());
        for weighting in WEIGHTINGS {
            let (stage, events) = (Stage::new(), RecordedEvents::default());
            let mut config = RewardWeightedRegressionConfig { standardise: false, ..config(weighting) };
            (config.train.epochs, config.train.batch_size, config.reduction) = (300, 2, Reduction::SeqSum);
            let learned = learn(&config, &pool, &tiny_checkpoint(&stage), &stage.context(&events)).expect("learned");
            let log_odds = likelihood(&learned, &pool[0].completion.instruction, "yes")
                - likelihood(&learned, &pool[0].completion.instruction, "no");
            assert!((log_odds - 4f64.ln()).abs() < 0.1, "{weighting:?}: {log_odds}");
            let share = events.scalars("reward_weighted_regression/effective_share");
            assert!((share[0].1 - 25.0 / 34.0).abs() < 1e-9, "{share:?}");
        }
    }

    #[test]
    fn constant_scores_and_options_out_of_range_are_refused() {
        let (stage, events) = (Stage::new(), RecordedEvents::default());
        let init = tiny_checkpoint(&stage);
        let config = config(Weighting::StepSoftmax);
        let error = learn(&config, &scored(&[0.1; 3]), &init, &stage.context(&events)).expect_err("constant");
        assert!(error.message().contains("all 3 answers have the same score"), "{error}");
        let raw = RewardWeightedRegressionConfig { standardise: false, ..config };
        learn(&raw, &scored(&[0.1; 3]), &init, &Stage::new().context(&events)).expect("plain imitation");
        let weighting = Weighting::Exponential { clip: 0.0 };
        let wrong = RewardWeightedRegressionConfig { beta: 0.0, weighting, ..raw };
        let paths: Vec<String> = wrong.problems().into_iter().map(|problem| problem.path).collect();
        assert_eq!(paths, ["beta", "weighting.exponential.clip"]);
    }

    #[test]
    fn a_stopped_or_killed_run_continues_to_the_same_bytes_also_with_an_adapter() {
        let base = Stage::new();
        let init = tiny_checkpoint(&base);
        let pool = scored(&[2.0, -1.0, 1.5, -0.5, 1.0, -2.0]);
        let mut with_lora = config(Weighting::StepSoftmax);
        with_lora.train.passes.lora = Some(small_lora());
        for config in [config(Weighting::Exponential { clip: 20.0 }), with_lora] {
            let learn = |ctx: &RunContext<'_>| learn(&config, &pool, &init, ctx);
            assert_resumes_exactly("reward_weighted_regression/loss", 12, learn);
        }
    }
}
