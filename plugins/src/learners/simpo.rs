//! Simple preference optimisation: the mean log-probability of an answer's tokens is its reward, and the chosen answer must be better
//! by a margin; no reference policy.
//!
//! Meng, Xia and Chen 2024, <https://arxiv.org/abs/2405.14734>, equation 6: `−ln σ(β (A_w − A_l) − γ)` with A the mean
//! log-probability of the answer's tokens, end-of-sequence token included. With `alpha` the reward of an answer is
//! `(1 − e^(−α A)) / α` in place of A (AlphaPO, Gupta et al. 2025, <https://arxiv.org/abs/2501.03884>); α → 0 is SimPO.

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
    kind: Learner, name: "simpo", config: SimpoConfig,
    summary: "simple preference optimisation: mean log-probabilities with a margin, no reference",
    paper: "https://arxiv.org/abs/2405.14734",
}

/// Options of `[learner.simpo]`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub struct SimpoConfig {
    /// Scale β of the reward, > 0; 2 to 2.5 in the paper, twenty times that of losses on sums.
    pub beta: f64,
    /// Margin γ by which the chosen answer must be better, after the scale, ≥ 0; the paper's γ/β is 0.3 to 0.8.
    pub gamma: f64,
    /// Shape α of the reward (AlphaPO), any finite number; 0 is the mean log-probability itself.
    pub alpha: f64,
    /// Share ε of labels taken to be wrong, in [0, 0.5): `−(1−ε) ln σ(u) − ε ln σ(−u)`.
    pub label_smoothing: f64,
    /// Weight of the chosen answers' negative log-likelihood added to the loss, ≥ 0; 0 in the paper, 1 in CPO-SimPO.
    pub nll_weight: f64,
    /// How that likelihood becomes one number per step; only with `nll_weight` above 0.
    pub nll_reduction: Reduction,
    /// Records are pairs.
    #[serde(flatten)]
    pub train: TrainOptions,
}

impl Default for SimpoConfig {
    fn default() -> Self {
        let optim = OptimConfig { lr: 1e-6, ..OptimConfig::default() };
        Self {
            beta: 2.0,
            gamma: 1.0,
            alpha: 0.0,
            label_smoothing: 0.0,
            nll_weight: 0.0,
            nll_reduction: Reduction::TokenMean,
            train: TrainOptions { epochs: 1, batch_size: 128, optim, ..TrainOptions::default() },
        }
    }
}

#[typetag::serde(name = "simpo")]
impl LearnerConfig for SimpoConfig {
    fn build(&self, _: &BuildContext<'_>) -> Result<Box<dyn Learner>> {
        Ok(Box::new(Simpo(self.clone())))
    }

    fn problems(&self) -> Vec<Problem> {
        let unused = self.nll_weight == 0.0 && self.nll_reduction != Reduction::default();
        Ranges::new()
            .positive("beta", self.beta)
            .not_negative("gamma", self.gamma)
            .require("alpha", self.alpha.is_finite(), "a finite number", self.alpha)
            .require("label_smoothing", (0.0..0.5).contains(&self.label_smoothing), "a number in [0, 0.5)", self.label_smoothing)
            .not_negative("nll_weight", self.nll_weight)
            .require("nll_reduction", !unused, "`nll_weight` > 0 when it is set", "`nll_weight = 0`")
            .train(&self.train, Self::default().train.batch_size)
            .problems()
    }
}

struct Simpo(SimpoConfig);

impl Learner for Simpo {
    fn requires(&self) -> Requirements {
        Requirements::policy_from(FeedbackKind::Preferences)
    }

    fn learn(&mut self, inputs: LearnerInputs<'_>, ctx: &RunContext<'_>) -> Result<Checkpoint> {
        let Self(config) = self;
        let (codec, policy) = config.train.passes.load(inputs.init, ctx)?;
        let policy = start_training(policy, &config.train.passes, inputs.init, ctx.seed.child("lora", 0))?;
        let [train, held_out] = admit_pairs(&inputs, &codec, &config.train, policy.config().max_positions(), ctx)?;

        let task = Task { learner: "simpo", role: "policy", doing: "preference optimisation", records: "preference pairs" };
        let plan = shuffled_steps(&train, &config.train, ctx);
        let dry_run = |rows: &[usize]| pass_pairs(&policy, &train, rows, config, Some(ctx.seed)).map(drop);
        let mut training = Training::start(task, &policy, policy.trained(), &train, plan, &config.train, ctx, dry_run)?
            .keeping(&policy, &codec)?;
        while let Some(step) = training.next_step()? {
            let pass = pass_pairs(&policy, &train, &step.picked, config, Some(step.seed))?;
            training.apply(&step, pass.loss)?;
            let [_, margin, accuracy, chosen, rejected] = pass.means;
            training.log(&step, &[("margin", margin), ("accuracy", accuracy)]);
            training.log(&step, &[("chosen_log_prob", chosen), ("rejected_log_prob", rejected)]);
            if config.nll_weight > 0.0 {
                training.log(&step, &[("nll", pass.nll)]);
            }
            if !held_out.is_empty() && training.validates_after(&step) {
                let all: Vec<usize> = (0..held_out.len()).collect();
                let pass = pass_pairs(&policy, &held_out, &all, config, None)?;
                training.log(&step, &[("validation_loss", pass.loss), ("validation_accuracy", pass.means[2])]);
            }
        }
        save_checkpoint(&policy, &codec, "simpo", ctx)
    }
}

/// Runs the picked pairs through the policy; with the seed of an optimiser step, adds the gradient of their loss. Gives the
/// preference loss, the difference of the rewards β r, the share of pairs in which it is positive, and both mean
/// log-probabilities.
fn pass_pairs(
    policy: &LanguageModel,
    records: &[Record],
    picked: &[usize],
    config: &SimpoConfig,
    train: Option<Seed>,
) -> Result<PairPass<5>> {
    let nll = TextNll::of_chosen(config.nll_weight, config.nll_reduction, &config.train);
    run_pairs(&TextPass::new(policy, records, &config.train.passes), picked, nll, train, |texts| {
        let means = texts.means();
        let [chosen, rejected] = [0, 1].map(|text| texts.nth(&means, text));
        let margins = reward_margins(&chosen, &rejected, config.beta, config.alpha);
        let [margin, accuracy] = margin_and_accuracy(&margins);
        [losses(&margins, config.gamma, config.label_smoothing), margin, accuracy, chosen, rejected]
    })
}

/// β (r_w − r_l) from the mean log-probabilities of the answers, `[pairs]`, differentiable.
fn reward_margins(chosen: &Tensor, rejected: &Tensor, beta: f64, alpha: f64) -> Tensor {
    let reward = |mean: &Tensor| match alpha.abs() < 1e-6 {
        true => mean.shallow_clone(),
        // An answer of probability next to nothing would overflow.
        false => -(mean * -alpha).clamp_max(80.0).expm1() / alpha,
    };
    (reward(chosen) - reward(rejected)) * beta
}

/// The loss of each pair from the difference of its rewards, `[pairs]`.
fn losses(margins: &Tensor, gamma: f64, label_smoothing: f64) -> Tensor {
    let u = margins - gamma;
    -(u.log_sigmoid() * (1.0 - label_smoothing)) - (-u).log_sigmoid() * label_smoothing
}

#[cfg(test)]
mod tests {
    use farmhand_core::Feedback;
    use farmhand_models::TextCodec;
    use tch::Kind;

    use super::*;
    use crate::rl::pairwise::{LogRatios, PairwiseLink};
    use crate::testing::{
        Stage, assert_resumes_exactly_also_with_an_adapter, assert_same_however_split, assert_turns_preferences, fast_optim,
        pair_records, pairs, tiny_checkpoint,
    };

    fn config() -> SimpoConfig {
        let optim = fast_optim(3e-3);
        let train = TrainOptions { epochs: 6, batch_size: 4, save_every: 4, optim, ..TrainOptions::default() };
        SimpoConfig { train, ..SimpoConfig::default() }
    }

    fn values(chosen: &[f64], rejected: &[f64], (beta, gamma, alpha, smoothing): (f64, f64, f64, f64)) -> Vec<f64> {
        let margins = reward_margins(&Tensor::from_slice(chosen), &Tensor::from_slice(rejected), beta, alpha);
        Vec::try_from(losses(&margins, gamma, smoothing)).expect("numbers")
    }

    /// Means of TRL's four pairs of eight and ten tokens.
    fn four_pairs() -> [[f64; 4]; 2] {
        [[-12.0, -20.5, -7.25, -33.0].map(|sum: f64| sum / 8.0), [-14.0, -18.0, -9.75, -33.25].map(|sum: f64| sum / 10.0)]
    }

    #[test]
    fn the_losses_match_the_goldens() {
        assert!((values(&[-0.6], &[-0.775], (2.0, 1.0, 0.0, 0.0))[0] - 1.070_055).abs() < 1e-6);
        let [chosen, rejected] = four_pairs();
        for (options, golden) in [
            ((2.0, 0.5, 0.0, 0.0), [1.103_186_05, 2.148_980_54, 0.890_733_81, 2.215_519_52]),
            ((2.5, 0.5, 0.25, 0.0), [1.212_346_31, 3.815_809_59, 0.844_372_55, 5.587_572_88]),
        ] {
            let got = values(&chosen, &rejected, options);
            assert!(got.iter().zip(golden).all(|(a, b)| (a - b).abs() < 1e-6), "{got:?}");
        }
        // Without a margin it is the logistic link per token with a reference of 0; with ε = ½ it does not care which is better.
        let [w, l] = four_pairs().map(|means| Tensor::from_slice(&means));
        let (one, zero) = (w.ones_like(), w.zeros_like());
        let link = PairwiseLink::LogisticPerToken.losses(&LogRatios::new([&w, &l], [&zero, &zero], [&one, &one]), 2.0);
        let same = Vec::<f64>::try_from(link).expect("numbers");
        assert!(values(&chosen, &rejected, (2.0, 0.0, 0.0, 0.0)).iter().zip(same).all(|(a, b)| (a - b).abs() < 1e-12));
        let even = |a: &[f64], b: &[f64]| values(a, b, (2.0, 0.0, 0.0, 0.5));
        assert!(even(&chosen, &rejected).iter().zip(even(&rejected, &chosen)).all(|(a, b)| (a - b).abs() < 1e-12));
    }

    #[test]
    fn the_gradient_matches_finite_differences_for_every_shape() {
        for alpha in [0.0, 0.25, -0.5] {
            let options = (2.0, 0.5, alpha, 0.1);
            let leaf = Tensor::from_slice(&[-1.3]).set_requires_grad(true);
            losses(&reward_margins(&leaf, &Tensor::from_slice(&[-0.9]), 2.0, alpha), 0.5, 0.1).sum(Kind::Double).backward();
            let slope = (values(&[-1.3 + 1e-6], &[-0.9], options)[0] - values(&[-1.3 - 1e-6], &[-0.9], options)[0]) / 2e-6;
            assert!((slope - leaf.grad().double_value(&[0])).abs() < 1e-6, "alpha {alpha}");
        }
        assert!(values(&[-2000.0], &[-0.1], (2.0, 0.5, 0.25, 0.0))[0].is_finite());
    }

    #[test]
    fn loss_and_gradients_do_not_depend_on_layout_and_micro_batches() {
        let stage = Stage::new();
        let init = tiny_checkpoint(&stage);
        let policy = LanguageModel::load(init.path(), tch::Device::Cpu).expect("loaded");
        policy.set_trainable(true);
        let records = pair_records(&TextCodec::load(&init, None).expect("a codec"), 8);
        for (nll_weight, alpha) in [(0.0, 0.0), (0.5, 0.25)] {
            assert_same_however_split(&policy, 1e-5, |passes| {
                let train = TrainOptions { passes: passes.clone(), ..config().train };
                let config = SimpoConfig { nll_weight, alpha, train, ..config() };
                pass_pairs(&policy, &records, &[7, 6, 5, 4, 3, 2, 1, 0], &config, Some(Seed::root(0))).expect("run").loss
            });
        }
    }

    #[test]
    fn it_turns_preferences_that_the_policy_had_the_other_way_round() {
        let mut config = config();
        config.train.epochs = 20;
        assert_turns_preferences(&config, "simpo");
    }

    #[test]
    fn a_stopped_or_killed_run_continues_to_the_same_bytes_also_with_an_adapter() {
        let base = Stage::new();
        let init = tiny_checkpoint(&base);
        assert_resumes_exactly_also_with_an_adapter(
            "simpo/loss",
            config(),
            |c| &mut c.train,
            &init,
            Feedback::Preferences(&pairs(10)),
        );
        let wrong = SimpoConfig { beta: 0.0, gamma: -1.0, nll_reduction: Reduction::SeqSum, ..config() };
        let paths: Vec<String> = wrong.problems().into_iter().map(|problem| problem.path).collect();
        assert_eq!(paths, ["beta", "gamma", "nll_reduction"]);
    }
}
