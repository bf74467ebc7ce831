//! Contrastive preference optimisation: the loss of direct preference optimisation with a uniform reference, and imitation of the
//! chosen answer, which holds the policy in place instead.
//!
//! Xu et al. 2024, <https://arxiv.org/abs/2401.08417>: `−ln σ(β (S_w − S_l)) + α · NLL(y_w)` with S the
//! log-probability of the answer summed over its tokens, end-of-sequence token included.

use farmhand_core::{
    BuildContext, Checkpoint, FeedbackKind, Learner, LearnerConfig, LearnerInputs, Problem, Requirements, Result, RunContext,
    Seed, register,
};
use farmhand_models::{LanguageModel, OptimConfig, save_checkpoint};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::rl::pairwise::{LengthScale, LogRatios, PairwiseLink};
use crate::rl::reduction::Reduction;
use crate::training::{
    PairPass, Ranges, Record, Task, TextNll, TextPass, TrainOptions, Training, admit_pairs, margin_and_accuracy, run_pairs,
    shuffled_steps, start_training,
};

register! {
    kind: Learner, name: "cpo", config: CpoConfig,
    summary: "contrastive preference optimisation: pairs without a reference, and imitation of the chosen answer",
    paper: "https://arxiv.org/abs/2401.08417",
}

/// The preference loss of `cpo`.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum CpoLoss {
    /// `−ln σ(β (S_w − S_l))`: the paper's.
    #[default]
    Logistic,
    /// `−(1−ε) ln σ(β (S_w − S_l)) − ε ln σ(−β (S_w − S_l))`.
    Conservative {
        /// Share of wrong labels ε, in [0, 0.5).
        label_smoothing: f64,
    },
    /// `max(0, 1 − β (S_w − S_l))`.
    Hinge,
    /// `(A_w − A_l − 1/(2β))²` with A the mean log-probability of an answer's tokens.
    Ipo,
}

impl CpoLoss {
    /// The link whose log-ratios have a reference of 0.
    fn link(self) -> PairwiseLink {
        match self {
            Self::Logistic => PairwiseLink::Logistic,
            Self::Conservative { label_smoothing } => PairwiseLink::Conservative { label_smoothing },
            Self::Hinge => PairwiseLink::Hinge,
            Self::Ipo => PairwiseLink::Ipo { log_ratios: LengthScale::Mean },
        }
    }
}

/// Options of `[learner.cpo]`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub struct CpoConfig {
    /// Scale β of the log-probabilities, > 0.
    pub beta: f64,
    /// The preference loss.
    pub loss: CpoLoss,
    /// Weight α of the chosen answers' negative log-likelihood, ≥ 0; 0 leaves the policy without a hold.
    pub nll_weight: f64,
    /// How that likelihood becomes one number per step; only with `nll_weight` above 0.
    pub nll_reduction: Reduction,
    /// Records are pairs.
    #[serde(flatten)]
    pub train: TrainOptions,
}

impl Default for CpoConfig {
    fn default() -> Self {
        let optim = OptimConfig { lr: 1e-6, ..OptimConfig::default() };
        Self {
            beta: 0.1,
            loss: CpoLoss::Logistic,
            nll_weight: 1.0,
            nll_reduction: Reduction::TokenMean,
            train: TrainOptions { epochs: 1, batch_size: 128, optim, ..TrainOptions::default() },
        }
    }
}

#[typetag::serde(name = "cpo")]
impl LearnerConfig for CpoConfig {
    fn build(&self, _: &BuildContext<'_>) -> Result<Box<dyn Learner>> {
        Ok(Box::new(Cpo(self.clone())))
    }

    fn problems(&self) -> Vec<Problem> {
        let unused = self.nll_weight == 0.0 && self.nll_reduction != Reduction::default();
        Ranges::new()
            .positive("beta", self.beta)
            .nested("loss", self.loss.link().problems())
            .not_negative("nll_weight", self.nll_weight)
            .require("nll_reduction", !unused, "`nll_weight` > 0 when it is set", "`nll_weight = 0`")
            .train(&self.train, Self::default().train.batch_size)
            .problems()
    }
}

struct Cpo(CpoConfig);

impl Learner for Cpo {
    fn requires(&self) -> Requirements {
        Requirements::policy_from(FeedbackKind::Preferences)
    }

    fn learn(&mut self, inputs: LearnerInputs<'_>, ctx: &RunContext<'_>) -> Result<Checkpoint> {
        let Self(config) = self;
        let (codec, policy) = config.train.passes.load(inputs.init, ctx)?;
        let policy = start_training(policy, &config.train.passes, inputs.init, ctx.seed.child("lora", 0))?;
        let [train, held_out] = admit_pairs(&inputs, &codec, &config.train, policy.config().max_positions(), ctx)?;

        let task = Task { learner: "cpo", role: "policy", doing: "preference optimisation", records: "preference pairs" };
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
        save_checkpoint(&policy, &codec, "cpo", ctx)
    }
}

/// Runs the picked pairs through the policy; with the seed of an optimiser step, adds the gradient of their loss. Gives the
/// preference loss, β (S_w − S_l), the share of pairs in which it is positive, and both log-probabilities.
fn pass_pairs(
    policy: &LanguageModel,
    records: &[Record],
    picked: &[usize],
    config: &CpoConfig,
    train: Option<Seed>,
) -> Result<PairPass<5>> {
    let nll = TextNll::of_chosen(config.nll_weight, config.nll_reduction, &config.train);
    run_pairs(&TextPass::new(policy, records, &config.train.passes), picked, nll, train, |texts| {
        let (sums, counts) = (texts.sums(), texts.counts());
        let [chosen, rejected] = [0, 1].map(|text| texts.nth(&sums, text));
        let [lengths_w, lengths_l] = [0, 1].map(|text| texts.nth(&counts, text));
        let uniform = chosen.detach().zeros_like();
        let ratios = LogRatios::new([&chosen, &rejected], [&uniform, &uniform], [&lengths_w, &lengths_l]);
        let [margin, accuracy] = margin_and_accuracy(&(&chosen - &rejected));
        [config.loss.link().losses(&ratios, config.beta), margin * config.beta, accuracy, chosen, rejected]
    })
}

#[cfg(test)]
mod tests {
    use farmhand_core::Feedback;
    use farmhand_models::TextCodec;
    use tch::Tensor;

    use super::*;
    use crate::testing::{
        Stage, assert_resumes_exactly_also_with_an_adapter, assert_same_however_split, assert_turns_preferences, fast_optim,
        pair_records, pairs, tiny_checkpoint,
    };

    fn config() -> CpoConfig {
        let optim = fast_optim(3e-3);
        let train = TrainOptions { epochs: 6, batch_size: 4, save_every: 4, optim, ..TrainOptions::default() };
        CpoConfig { train, ..CpoConfig::default() }
    }

    fn values(loss: CpoLoss, chosen: &[f64], rejected: &[f64], lengths: [f64; 2]) -> Vec<f64> {
        let [w, l] = [chosen, rejected].map(Tensor::from_slice);
        let (zero, lengths) = (w.zeros_like(), lengths.map(|length| w.ones_like() * length));
        let ratios = LogRatios::new([&w, &l], [&zero, &zero], [&lengths[0], &lengths[1]]);
        Vec::try_from(loss.link().losses(&ratios, 0.1)).expect("numbers")
    }

    #[test]
    fn the_losses_match_the_goldens() {
        // Fixture A: sums −1.8 and −3.1 of three and four tokens.
        let preference = values(CpoLoss::Logistic, &[-1.8], &[-3.1], [3.0, 4.0])[0];
        assert!((preference - 0.630_258).abs() < 1e-6 && (preference + 1.8 / 3.0 - 1.230_258).abs() < 1e-6);
        let (chosen, rejected) = ([-12.0, -20.5, -7.25, -33.0], [-14.0, -18.0, -9.75, -33.25]);
        let golden = [0.598_138_87, 0.825_939_42, 0.575_939_42, 0.680_725_30];
        let got = values(CpoLoss::Logistic, &chosen, &rejected, [8.0, 10.0]);
        assert!(got.iter().zip(golden).all(|(a, b)| (a - b).abs() < 1e-6), "{got:?}");
        // By hand: 1 − 0.1 · 1.3, and (−0.6 + 0.775 − 5)².
        assert!((values(CpoLoss::Hinge, &[-1.8], &[-3.1], [3.0, 4.0])[0] - 0.87).abs() < 1e-9);
        assert!((values(CpoLoss::Ipo, &[-1.8], &[-3.1], [3.0, 4.0])[0] - 4.825 * 4.825).abs() < 1e-9);
        let smoothed = CpoLoss::Conservative { label_smoothing: 0.1 };
        assert!((values(smoothed, &[-1.8], &[-3.1], [3.0, 4.0])[0] - (preference + 0.1 * 0.13)).abs() < 1e-6);
    }

    #[test]
    fn loss_and_gradients_do_not_depend_on_layout_and_micro_batches() {
        let stage = Stage::new();
        let init = tiny_checkpoint(&stage);
        let policy = LanguageModel::load(init.path(), tch::Device::Cpu).expect("loaded");
        policy.set_trainable(true);
        let records = pair_records(&TextCodec::load(&init, None).expect("a codec"), 8);
        for (loss, nll_weight) in [(CpoLoss::Logistic, 1.0), (CpoLoss::Ipo, 0.0), (CpoLoss::Hinge, 0.3)] {
            assert_same_however_split(&policy, 1e-5, |passes| {
                let train = TrainOptions { passes: passes.clone(), ..config().train };
                let config = CpoConfig { nll_weight, loss, train, ..config() };
                pass_pairs(&policy, &records, &[7, 6, 5, 4, 3, 2, 1, 0], &config, Some(Seed::root(0))).expect("run").loss
            });
        }
    }

    #[test]
    fn it_turns_preferences_that_the_policy_had_the_other_way_round() {
        let mut config = CpoConfig { nll_weight: 0.02, ..config() };
        config.train.epochs = 30;
        assert_turns_preferences(&config, "cpo");
    }

    #[test]
    fn a_stopped_or_killed_run_continues_to_the_same_bytes_also_with_an_adapter() {
        let base = Stage::new();
        let init = tiny_checkpoint(&base);
        assert_resumes_exactly_also_with_an_adapter(
            "cpo/loss",
            config(),
            |c| &mut c.train,
            &init,
            Feedback::Preferences(&pairs(10)),
        );
        let smoothed = CpoLoss::Conservative { label_smoothing: 0.5 };
        let wrong = CpoConfig { beta: 0.0, loss: smoothed, nll_weight: 0.0, nll_reduction: Reduction::SeqSum, ..config() };
        let paths: Vec<String> = wrong.problems().into_iter().map(|problem| problem.path).collect();
        assert_eq!(paths, ["beta", "loss.conservative.label_smoothing", "nll_reduction"]);
    }
}
