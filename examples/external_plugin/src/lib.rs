//! Length-regularised direct preference optimisation: a longer answer must not win by its length alone.
//!
//! Park, Rafailov, Ermon and Finn 2024, <https://arxiv.org/abs/2403.19159>. Every token of an answer costs α of its reward. The
//! policy that is best under `r(x, y) − α |y|` has the implicit reward `β ln π(y|x)/π_ref(y|x) + α |y|`, so that a pair's loss is
//! `−ln σ(β h + α (|y_w| − |y_l|))` with `h = [log π(y_w|x) − log π_ref(y_w|x)] − [log π(y_l|x) − log π_ref(y_l|x)]`, log-probabilities
//! and lengths over the response and its end-of-sequence token. With α = 0 it is `dpo`.

use std::path::{Path, PathBuf};

use farmhand_core::{
    BuildContext, Checkpoint, FeedbackKind, Learner, LearnerConfig, LearnerInputs, Problem, Requirements, Result, RunContext,
    Seed, register,
};
use farmhand_models::{LanguageModel, OptimConfig, save_checkpoint};
use farmhand_plugins::rl::pairwise::LogRatios;
use farmhand_plugins::training::{
    PairPass, Ranges, Record, Reference, Task, TextNll, TextPass, TrainOptions, Training, admit_pairs, margin_and_accuracy,
    pair_log_ratios, reference_sums, run_pairs, shuffled_steps, start_training,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Tensor;

// ANCHOR: register
register! {
    kind: Learner, name: "r_dpo", config: RDpoConfig,
    summary: "direct preference optimisation in which every token of an answer costs something",
    paper: "https://arxiv.org/abs/2403.19159",
}
// ANCHOR_END: register

// ANCHOR: options
/// Options of `[learner.r_dpo]`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub struct RDpoConfig {
    /// Strength β of the pull towards the reference policy, > 0.
    pub beta: f64,
    /// Cost α of a token of an answer, in units of β times a log-ratio, ≥ 0; 0 is `dpo`.
    pub length_weight: f64,
    /// Records are pairs.
    #[serde(flatten)]
    pub train: TrainOptions,
}

impl Default for RDpoConfig {
    fn default() -> Self {
        let optim = OptimConfig { lr: 1e-6, ..OptimConfig::default() };
        Self {
            beta: 0.1,
            length_weight: 0.01,
            train: TrainOptions { epochs: 2, batch_size: 64, optim, ..TrainOptions::default() },
        }
    }
}
// ANCHOR_END: options

// ANCHOR: config
#[typetag::serde(name = "r_dpo")]
impl LearnerConfig for RDpoConfig {
    fn build(&self, ctx: &BuildContext<'_>) -> Result<Box<dyn Learner>> {
        Ok(Box::new(RDpo { config: self.clone(), cache_dir: ctx.cache_dir.map(Path::to_owned) }))
    }

    fn problems(&self) -> Vec<Problem> {
        Ranges::new()
            .positive("beta", self.beta)
            .not_negative("length_weight", self.length_weight)
            .train(&self.train, Self::default().train.batch_size)
            .problems()
    }
}
// ANCHOR_END: config

struct RDpo {
    config: RDpoConfig,
    /// Where reference log-probabilities are kept for other runs.
    cache_dir: Option<PathBuf>,
}

// ANCHOR: learn
impl Learner for RDpo {
    fn requires(&self) -> Requirements {
        Requirements::policy_from(FeedbackKind::Preferences)
    }

    fn learn(&mut self, inputs: LearnerInputs<'_>, ctx: &RunContext<'_>) -> Result<Checkpoint> {
        let Self { config, cache_dir } = self;
        let (codec, policy) = config.train.passes.load(inputs.init, ctx)?;
        let [train, held_out] = admit_pairs(&inputs, &codec, &config.train, policy.config().max_positions(), ctx)?;
        // The reference is asked once, before the policy moves.
        let (train, held_out) = {
            let mut reference = Reference::new(inputs.init, inputs.reference, &policy)?;
            let mut pairs = |records| Pairs::new(records, &mut reference, config, cache_dir.as_deref(), ctx);
            (pairs(train)?, pairs(held_out)?)
        };
        let policy = start_training(policy, &config.train.passes, inputs.init, ctx.seed.child("lora", 0))?;

        let task = Task { learner: "r_dpo", role: "policy", doing: "preference optimisation", records: "preference pairs" };
        let plan = shuffled_steps(&train.records, &config.train, ctx);
        let dry_run = |rows: &[usize]| pass_pairs(&policy, &train, rows, config, Some(ctx.seed)).map(drop);
        let mut training = Training::start(task, &policy, policy.trained(), &train.records, plan, &config.train, ctx, dry_run)?
            .keeping(&policy, &codec)?;
        while let Some(step) = training.next_step()? {
            let pass = pass_pairs(&policy, &train, &step.picked, config, Some(step.seed))?;
            training.apply(&step, pass.loss)?;
            let [_, margin, accuracy, chosen, rejected] = pass.means;
            training.log(&step, &[("margin", margin), ("accuracy", accuracy)]);
            training.log(&step, &[("chosen_log_ratio", chosen), ("rejected_log_ratio", rejected)]);
            if !held_out.records.is_empty() && training.validates_after(&step) {
                let all: Vec<usize> = (0..held_out.records.len()).collect();
                let pass = pass_pairs(&policy, &held_out, &all, config, None)?;
                training.log(&step, &[("validation_loss", pass.loss), ("validation_accuracy", pass.means[2])]);
            }
        }
        save_checkpoint(&policy, &codec, "r_dpo", ctx)
    }
}
// ANCHOR_END: learn

/// Pairs with the log-probabilities of the frozen reference.
struct Pairs {
    records: Vec<Record>,
    /// Sums over the chosen and the rejected answer's tokens, in nats, one entry a record.
    reference: Vec<Vec<f32>>,
}

impl Pairs {
    fn new(
        records: Vec<Record>,
        reference: &mut Reference<'_>,
        config: &RDpoConfig,
        cache_dir: Option<&Path>,
        ctx: &RunContext<'_>,
    ) -> Result<Self> {
        let reference = reference_sums(&records, reference, 1.0, config.train.passes.layout, cache_dir, ctx)?;
        Ok(Self { records, reference })
    }
}

// ANCHOR: pass
/// Runs the picked pairs through the policy; with the seed of an optimiser step, adds the gradient of their loss. Gives the loss,
/// the implicit reward margin β h, the share of pairs in which it is positive, and both log-ratios.
fn pass_pairs(
    policy: &LanguageModel,
    pairs: &Pairs,
    picked: &[usize],
    config: &RDpoConfig,
    train: Option<Seed>,
) -> Result<PairPass<5>> {
    let pass = TextPass::new(policy, &pairs.records, &config.train.passes);
    run_pairs(&pass, picked, TextNll::off(), train, |texts| {
        let ratios = pair_log_ratios(texts, &texts.sums(), &pairs.records, &pairs.reference);
        let [margin, accuracy] = margin_and_accuracy(&(&ratios.chosen - &ratios.rejected));
        let losses = losses(&ratios, config.beta, config.length_weight);
        [losses, margin * config.beta, accuracy, ratios.chosen, ratios.rejected]
    })
}
// ANCHOR_END: pass

// ANCHOR: loss
/// The loss of each pair, `[pairs]`, differentiable: `−ln σ(β h + α (|y_w| − |y_l|))`.
fn losses(ratios: &LogRatios, beta: f64, length_weight: f64) -> Tensor {
    let margin = (&ratios.chosen - &ratios.rejected) * beta;
    let longer = (&ratios.chosen_lengths - &ratios.rejected_lengths) * length_weight;
    -(margin + longer).log_sigmoid()
}
// ANCHOR_END: loss

// ANCHOR: export
#[cfg(feature = "plugin")]
farmhand_core::export_plugin!();
// ANCHOR_END: export

// ANCHOR: tests
#[cfg(test)]
mod tests {
    use farmhand_plugins::rl::pairwise::PairwiseLink;
    use tch::Kind;

    use super::*;

    /// Pairs of eight and ten tokens with these log-ratios.
    fn ratios(chosen: &[f64], rejected: &[f64]) -> LogRatios {
        let [w, l] = [chosen, rejected].map(Tensor::from_slice);
        let (zero, lengths) = (w.zeros_like(), [8.0, 10.0].map(|length: f64| w.ones_like() * length));
        LogRatios::new([&w, &l], [&zero, &zero], [&lengths[0], &lengths[1]])
    }

    fn values(tensor: Tensor) -> Vec<f64> {
        Vec::try_from(tensor).expect("numbers")
    }

    #[test]
    fn the_loss_matches_the_goldens() {
        // numpy: u = 0.1 * (d_w - d_l) + 0.05 * (8 - 10); np.log1p(np.exp(-u))
        let (chosen, rejected) = ([1.0, 0.5, 0.75, -1.5], [-0.5, 1.5, -1.25, 0.25]);
        let got = values(losses(&ratios(&chosen, &rejected), 0.1, 0.05));
        let golden = [0.668_459_648, 0.798_138_869, 0.644_396_660, 0.840_070_667];
        assert!(got.iter().zip(golden).all(|(a, b)| (a - b).abs() < 1e-8), "{got:?}");
    }

    #[test]
    fn without_a_cost_of_length_it_is_dpo() {
        let ratios = ratios(&[1.0, -2.5], &[0.5, 3.0]);
        assert_eq!(values(losses(&ratios, 0.3, 0.0)), values(PairwiseLink::Logistic.losses(&ratios, 0.3)));
    }

    #[test]
    fn a_longer_chosen_answer_is_pushed_less() {
        let push = |length_weight: f64, lengths: [f64; 2]| {
            let chosen = Tensor::from_slice(&[0.0]).set_requires_grad(true);
            let [zero, w, l] = [0.0, lengths[0], lengths[1]].map(|number| Tensor::from_slice(&[number]));
            let ratios = LogRatios::new([&chosen, &zero], [&zero, &zero], [&w, &l]);
            losses(&ratios, 0.1, length_weight).sum(Kind::Double).backward();
            -chosen.grad().double_value(&[0])
        };
        // At the reference DPO pushes every pair alike, by β/2.
        assert!((push(0.0, [30.0, 10.0]) - 0.05).abs() < 1e-12 && (push(0.02, [10.0, 10.0]) - 0.05).abs() < 1e-12);
        assert!(push(0.02, [30.0, 10.0]) < 0.05 && push(0.02, [10.0, 30.0]) > 0.05);
    }

    #[test]
    fn options_out_of_range_are_named() {
        let wrong = RDpoConfig { beta: 0.0, length_weight: -1.0, ..RDpoConfig::default() };
        let paths: Vec<String> = wrong.problems().into_iter().map(|problem| problem.path).collect();
        assert_eq!(paths, ["beta", "length_weight"]);
        assert!(RDpoConfig::default().problems().is_empty());
    }
}
// ANCHOR_END: tests
