//! Odds ratio preference optimisation: imitation of the chosen answer and a push away from the rejected one in one loss, without a
//! reference policy and without a stage of supervised fine-tuning before.
//!
//! Hong, Lee and Thorne 2024, <https://arxiv.org/abs/2403.07691>, equations 6 and 7. With A the mean log-probability of an answer's
//! tokens and odds = e^A / (1 − e^A): `L = NLL(y_w) + λ · (−ln σ(ln odds(y_w) − ln odds(y_l)))`. The likelihood is that of the
//! answer and its end-of-sequence token; TRL and the authors' code also count the prompt's tokens, which here never get a loss.

use farmhand_core::{
    BuildContext, Checkpoint, FeedbackKind, Learner, LearnerConfig, LearnerInputs, Problem, Requirements, Result, RunContext,
    Seed, register,
};
use farmhand_models::{LanguageModel, OptimConfig, save_checkpoint};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Tensor;

use crate::rl::reduction::Reduction;
use crate::training::{
    PairPass, Ranges, Record, Task, TextNll, TextPass, TrainOptions, Training, admit_pairs, margin_and_accuracy, run_pairs,
    shuffled_steps, start_training,
};

register! {
    kind: Learner, name: "orpo", config: OrpoConfig,
    summary: "odds ratio preference optimisation: imitation and preference in one loss, no reference",
    paper: "https://arxiv.org/abs/2403.07691",
}

/// Options of `[learner.orpo]`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub struct OrpoConfig {
    /// Weight λ of the odds ratio, ≥ 0; 0 is imitation alone.
    pub lambda: f64,
    /// How the chosen answers' token losses become one number per step; the paper's is `seq_mean`, TRL's `token_mean`.
    pub nll_reduction: Reduction,
    /// Records are pairs. The authors' script for Mistral-ORPO-β takes 32 a step, 5 epochs, λ = 0.1 and a learning rate of 5e-6 that
    /// falls with the root of the steps after 200 of warm-up; TRL's example has 8e-6.
    #[serde(flatten)]
    pub train: TrainOptions,
}

impl Default for OrpoConfig {
    fn default() -> Self {
        let optim = OptimConfig { lr: 5e-6, ..OptimConfig::default() };
        Self {
            lambda: 0.1,
            nll_reduction: Reduction::SeqMean,
            train: TrainOptions { epochs: 5, batch_size: 32, optim, ..TrainOptions::default() },
        }
    }
}

#[typetag::serde(name = "orpo")]
impl LearnerConfig for OrpoConfig {
    fn build(&self, _: &BuildContext<'_>) -> Result<Box<dyn Learner>> {
        Ok(Box::new(Orpo(self.clone())))
    }

    fn problems(&self) -> Vec<Problem> {
        Ranges::new().not_negative("lambda", self.lambda).train(&self.train, Self::default().train.batch_size).problems()
    }
}

struct Orpo(OrpoConfig);

impl Learner for Orpo {
    fn requires(&self) -> Requirements {
        Requirements::policy_from(FeedbackKind::Preferences)
    }

    fn learn(&mut self, inputs: LearnerInputs<'_>, ctx: &RunContext<'_>) -> Result<Checkpoint> {
        let Self(config) = self;
        let (codec, policy) = config.train.passes.load(inputs.init, ctx)?;
        let policy = start_training(policy, &config.train.passes, inputs.init, ctx.seed.child("lora", 0))?;
        let [train, held_out] = admit_pairs(&inputs, &codec, &config.train, policy.config().max_positions(), ctx)?;

        let task = Task { learner: "orpo", role: "policy", doing: "preference optimisation", records: "preference pairs" };
        let plan = shuffled_steps(&train, &config.train, ctx);
        let dry_run = |rows: &[usize]| pass_pairs(&policy, &train, rows, config, Some(ctx.seed)).map(drop);
        let mut training = Training::start(task, &policy, policy.trained(), &train, plan, &config.train, ctx, dry_run)?
            .keeping(&policy, &codec)?;
        while let Some(step) = training.next_step()? {
            let pass = pass_pairs(&policy, &train, &step.picked, config, Some(step.seed))?;
            training.apply(&step, pass.loss)?;
            let [odds_loss, log_odds_ratio, accuracy, chosen, rejected] = pass.means;
            training.log(&step, &[("nll", pass.nll), ("odds_loss", odds_loss), ("log_odds_ratio", log_odds_ratio)]);
            training.log(&step, &[("accuracy", accuracy), ("chosen_log_prob", chosen), ("rejected_log_prob", rejected)]);
            if !held_out.is_empty() && training.validates_after(&step) {
                let all: Vec<usize> = (0..held_out.len()).collect();
                let pass = pass_pairs(&policy, &held_out, &all, config, None)?;
                training.log(&step, &[("validation_loss", pass.loss), ("validation_accuracy", pass.means[2])]);
            }
        }
        save_checkpoint(&policy, &codec, "orpo", ctx)
    }
}

/// Runs the picked pairs through the policy; with the seed of an optimiser step, adds the gradient of their loss. Gives the weighted
/// loss of the odds ratio, the log odds ratio, the share of pairs in which it is positive, and both mean log-probabilities.
fn pass_pairs(
    policy: &LanguageModel,
    records: &[Record],
    picked: &[usize],
    config: &OrpoConfig,
    train: Option<Seed>,
) -> Result<PairPass<5>> {
    let nll = TextNll::of_chosen(1.0, config.nll_reduction, &config.train);
    run_pairs(&TextPass::new(policy, records, &config.train.passes), picked, nll, train, |texts| {
        let means = texts.means();
        let [chosen, rejected] = [0, 1].map(|text| texts.nth(&means, text));
        let ratio = log_odds_ratio(&chosen, &rejected);
        let [margin, accuracy] = margin_and_accuracy(&ratio);
        [-ratio.log_sigmoid() * config.lambda, margin, accuracy, chosen, rejected]
    })
}

/// `ln odds(y_w) − ln odds(y_l)` from the mean log-probabilities of the answers, `[pairs]`, differentiable.
fn log_odds_ratio(chosen: &Tensor, rejected: &Tensor) -> Tensor {
    // ln(1 − e^A) by expm1, which keeps its digits where A is near 0; at A = 0 the odds would be infinite.
    let log_odds = |mean: &Tensor| mean - (-mean.clamp_max(-1e-6).expm1()).log();
    log_odds(chosen) - log_odds(rejected)
}

#[cfg(test)]
mod tests {
    use farmhand_core::Feedback;
    use farmhand_models::TextCodec;
    use tch::Kind;

    use super::*;
    use crate::testing::{
        Stage, assert_resumes_exactly_also_with_an_adapter, assert_same_however_split, assert_turns_preferences, fast_optim,
        pair_records, pairs, tiny_checkpoint,
    };

    fn config() -> OrpoConfig {
        let optim = fast_optim(3e-3);
        let train = TrainOptions { epochs: 6, batch_size: 4, save_every: 4, optim, ..TrainOptions::default() };
        OrpoConfig { lambda: 1.0, train, ..OrpoConfig::default() }
    }

    fn loss(chosen: &[f64], rejected: &[f64]) -> Vec<f64> {
        let ratio = log_odds_ratio(&Tensor::from_slice(chosen), &Tensor::from_slice(rejected));
        Vec::try_from(-ratio.log_sigmoid()).expect("numbers")
    }

    #[test]
    fn the_loss_matches_the_goldens() {
        // Fixture A: means −0.6 and −0.775.
        let odds = loss(&[-0.6], &[-0.775])[0];
        assert!((odds - 0.531_986).abs() < 1e-6 && (0.6 + 0.1 * odds - 0.653_199).abs() < 1e-6);
        let ratio = log_odds_ratio(&Tensor::from_slice(&[-0.6]), &Tensor::from_slice(&[-0.775]));
        assert!((ratio.double_value(&[0]) - 0.353_380).abs() < 1e-6);
        // TRL's four pairs of eight and ten tokens.
        let chosen = [-12.0, -20.5, -7.25, -33.0].map(|sum: f64| sum / 8.0);
        let rejected = [-14.0, -18.0, -9.75, -33.25].map(|sum: f64| sum / 10.0);
        let golden = [0.760_616_3, 1.214_944_1, 0.638_332_9, 1.185_178_8];
        assert!(loss(&chosen, &rejected).iter().zip(golden).all(|(a, b)| (a - b).abs() < 1e-6));
        let ratios = log_odds_ratio(&Tensor::from_slice(&chosen), &Tensor::from_slice(&rejected));
        assert!((ratios.mean(Kind::Double).double_value(&[]) + 0.425_284_65).abs() < 1e-6);
    }

    #[test]
    fn the_gradient_matches_finite_differences_and_certain_answers_stay_finite() {
        for (w, l) in [(-0.6, -0.775), (-2.0, -0.1), (-0.01, -5.0)] {
            let leaf = Tensor::from_slice(&[w]).set_requires_grad(true);
            (-log_odds_ratio(&leaf, &Tensor::from_slice(&[l])).log_sigmoid()).sum(Kind::Double).backward();
            let slope = (loss(&[w + 1e-6], &[l])[0] - loss(&[w - 1e-6], &[l])[0]) / 2e-6;
            assert!((slope - leaf.grad().double_value(&[0])).abs() < 1e-5, "at {w}, {l}");
        }
        let certain = log_odds_ratio(&Tensor::from_slice(&[0f32, -1e-9]), &Tensor::from_slice(&[-1e-9f32, 0.0]));
        assert_eq!(certain.isfinite().all().int64_value(&[]), 1);
        assert!((loss(&[-0.4], &[-0.4])[0] - std::f64::consts::LN_2).abs() < 1e-12, "equal answers");
    }

    #[test]
    fn loss_and_gradients_do_not_depend_on_layout_and_micro_batches() {
        let stage = Stage::new();
        let init = tiny_checkpoint(&stage);
        let policy = LanguageModel::load(init.path(), tch::Device::Cpu).expect("loaded");
        policy.set_trainable(true);
        let records = pair_records(&TextCodec::load(&init, None).expect("a codec"), 8);
        for nll_reduction in [Reduction::SeqMean, Reduction::TokenMean] {
            assert_same_however_split(&policy, 1e-5, |passes| {
                let train = TrainOptions { passes: passes.clone(), ..config().train };
                let config = OrpoConfig { nll_reduction, train, ..config() };
                pass_pairs(&policy, &records, &[7, 6, 5, 4, 3, 2, 1, 0], &config, Some(Seed::root(0))).expect("run").loss
            });
        }
    }

    #[test]
    fn it_turns_preferences_that_the_policy_had_the_other_way_round() {
        let mut config = config();
        config.train.epochs = 20;
        assert_turns_preferences(&config, "orpo");
    }

    #[test]
    fn a_stopped_or_killed_run_continues_to_the_same_bytes_also_with_an_adapter() {
        let base = Stage::new();
        let init = tiny_checkpoint(&base);
        assert_resumes_exactly_also_with_an_adapter(
            "orpo/loss",
            config(),
            |c| &mut c.train,
            &init,
            Feedback::Preferences(&pairs(10)),
        );
        let paths = |config: OrpoConfig| config.problems().into_iter().map(|problem| problem.path).collect::<Vec<_>>();
        assert_eq!(paths(OrpoConfig { lambda: -1.0, ..config() }), ["lambda"]);
    }
}
