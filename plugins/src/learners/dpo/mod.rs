//! Direct preference optimisation: fits the policy to preference pairs without a reward model.
//!
//! Rafailov et al. 2023, <https://arxiv.org/abs/2305.18290>, equation 7: `−ln σ(β h)` with
//! `h = [log π(y_w|x) − log π_ref(y_w|x)] − [log π(y_l|x) − log π_ref(y_l|x)]`, log-probabilities summed over the response
//! and its end-of-sequence token. The other losses on the same log-ratios are links, see [`PairwiseLink`].
//!
//! What else the field trains on the same log-ratios is an option: other divergences to the reference (f-DPO), tokens past the
//! shorter answer's length discounted (LD-DPO), pairs weighed by how likely the policy finds them (WPO), several links at once
//! (MPO), the likelihood of the chosen answers on top.
//!
//! The reference's log-probabilities are computed once, before training; then the reference is gone from memory. They are
//! kept for other runs, see [`Reference::sums`]. With the policy at the reference the logistic loss is ln 2.

use std::path::{Path, PathBuf};

use farmhand_core::{
    BuildContext, Checkpoint, Error, FeedbackKind, Learner, LearnerConfig, LearnerInputs, Problem, Requirements, Result,
    RunContext, Seed, register,
};
use farmhand_models::{LanguageModel, OptimConfig, save_checkpoint};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Tensor;

use crate::rl::implicit_reward::{Divergence, PolicyWeighting, policy_weights};
use crate::rl::pairwise::{LogRatios, PairwiseLink};
use crate::rl::reduction::Reduction;
use crate::training::{
    PairPass, Ranges, Record, Reference, Task, TextLogProbs, TextNll, TextPass, TrainOptions, Training, admit_pairs,
    discounted_sums, margin_and_accuracy, pair_log_ratios, reference_sums, run_pairs, shuffled_steps, start_training,
};

register! {
    kind: Learner, name: "dpo", config: DpoConfig,
    summary: "direct preference optimisation and the other losses on pairwise log-ratios", paper: "https://arxiv.org/abs/2305.18290",
    presets: {
        "mpo": "mixed preference optimisation (Wang et al. 2024): 0.8 logistic, 0.2 binary classifier, 1 likelihood" => DpoConfig::mpo(),
    },
}

/// Options of `[learner.dpo]`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub struct DpoConfig {
    /// Strength β of the pull towards the reference policy, > 0.
    pub beta: f64,
    /// The loss of a pair as a function of its log-ratios.
    pub link: PairwiseLink,
    /// Weight of `link`, > 0; matters only beside other terms.
    pub link_weight: f64,
    /// Further links, whose weighted losses are added.
    pub more_links: Vec<WeightedLink>,
    /// The divergence to the reference, for links of the difference h (f-DPO, Wang et al. 2023).
    pub divergence: Divergence,
    /// What tokens past the length of the pair's shorter answer count, in [0, 1]; 1 leaves sums as they are (LD-DPO, Liu et al. 2024).
    pub ld_alpha: f64,
    /// How much a pair counts by how likely the policy finds its answers (WPO, Zhou et al. 2024).
    pub weighting: PolicyWeighting,
    /// Count the reference's log-probabilities as 0.
    pub reference_free: bool,
    /// Keep the reference's log-probabilities in the shared cache folder, where other runs on the same pairs find them.
    pub reference_cache: bool,
    /// Weight of the chosen answers' negative log-likelihood added to the loss, ≥ 0.
    pub nll_weight: f64,
    /// How that likelihood becomes one number per step; only with `nll_weight` above 0.
    pub nll_reduction: Reduction,
    /// Records are pairs.
    #[serde(flatten)]
    pub train: TrainOptions,
}

/// One more loss on the same pairs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WeightedLink {
    /// The loss of a pair as a function of its log-ratios.
    pub link: PairwiseLink,
    /// Its weight, > 0.
    pub weight: f64,
}

impl Default for DpoConfig {
    fn default() -> Self {
        Self {
            beta: 0.1,
            link: PairwiseLink::Logistic,
            link_weight: 1.0,
            more_links: Vec::new(),
            divergence: Divergence::ReverseKl,
            ld_alpha: 1.0,
            weighting: PolicyWeighting::Off,
            reference_free: false,
            reference_cache: true,
            nll_weight: 0.0,
            nll_reduction: Reduction::TokenMean,
            train: TrainOptions {
                epochs: 2,
                batch_size: 64,
                optim: OptimConfig { lr: 1e-6, ..OptimConfig::default() },
                ..TrainOptions::default()
            },
        }
    }
}

impl DpoConfig {
    /// Mixed preference optimisation, <https://arxiv.org/abs/2411.10442>.
    fn mpo() -> Self {
        let more_links = vec![WeightedLink { link: PairwiseLink::BcoPair, weight: 0.2 }];
        Self { link_weight: 0.8, more_links, nll_weight: 1.0, ..Self::default() }
    }

    /// All links with their weights.
    fn links(&self) -> impl Iterator<Item = WeightedLink> + '_ {
        std::iter::once(WeightedLink { link: self.link, weight: self.link_weight }).chain(self.more_links.iter().copied())
    }
}

#[typetag::serde(name = "dpo")]
impl LearnerConfig for DpoConfig {
    fn build(&self, ctx: &BuildContext<'_>) -> Result<Box<dyn Learner>> {
        Ok(Box::new(Dpo { config: self.clone(), cache_dir: ctx.cache_dir.map(Path::to_owned) }))
    }

    fn problems(&self) -> Vec<Problem> {
        let unused = self.nll_weight == 0.0 && self.nll_reduction != Reduction::default();
        let without_effect = self.divergence != Divergence::ReverseKl && !self.links().any(|term| term.link.takes_divergence());
        let without_zero = self.reference_free && self.links().any(|term| term.link.needs_reference());
        // Log-ratios per token are as much smaller as answers are long.
        let too_weak = self.beta < 1.0 && self.links().any(|term| term.link == PairwiseLink::LogisticPerToken);
        let mut ranges = Ranges::new()
            .positive("beta", self.beta)
            .require("beta", !too_weak, "1 or more with `logistic_per_token` (open-instruct takes 5)", self.beta)
            .require("reference_free", !without_zero, "`false` with links of single log-ratios", "`true`")
            .nested("link", self.link.problems())
            .positive("link_weight", self.link_weight)
            .nested("divergence", self.divergence.problems())
            .require("divergence", !without_effect, "`reverse_kl` with links of single log-ratios", "another one")
            .fraction("ld_alpha", self.ld_alpha)
            .not_negative("nll_weight", self.nll_weight)
            .require("nll_reduction", !unused, "`nll_weight` > 0 when it is set", "`nll_weight = 0`")
            .train(&self.train, Self::default().train.batch_size);
        for (i, more) in self.more_links.iter().enumerate() {
            let place = format!("more_links[{i}]");
            ranges =
                ranges.nested(&format!("{place}.link"), more.link.problems()).positive(&format!("{place}.weight"), more.weight);
        }
        ranges.problems()
    }
}

struct Dpo {
    config: DpoConfig,
    /// Where reference log-probabilities are kept for other runs.
    cache_dir: Option<PathBuf>,
}

impl Learner for Dpo {
    fn requires(&self) -> Requirements {
        Requirements::policy_from(FeedbackKind::Preferences)
    }

    fn learn(&mut self, inputs: LearnerInputs<'_>, ctx: &RunContext<'_>) -> Result<Checkpoint> {
        let Self { config, cache_dir } = self;
        let (codec, policy) = config.train.passes.load(inputs.init, ctx)?;

        let [train, held_out] = admit_pairs(&inputs, &codec, &config.train, policy.config().max_positions(), ctx)?;
        if config.links().any(|term| matches!(term.link, PairwiseLink::RewardAware { .. })) {
            check_margins(&train, ctx)?;
        }
        let (train, held_out) = {
            let mut reference = Reference::new(inputs.init, inputs.reference, &policy)?;
            let cache_dir = cache_dir.as_deref().filter(|_| config.reference_cache);
            let mut pairs = |records| Pairs::new(records, &mut reference, config, cache_dir, ctx);
            (pairs(train)?, pairs(held_out)?)
        };
        let policy = start_training(policy, &config.train.passes, inputs.init, ctx.seed.child("lora", 0))?;

        let task = Task { learner: "dpo", role: "policy", doing: "preference optimisation", records: "preference pairs" };
        let plan = shuffled_steps(&train.records, &config.train, ctx);
        let dry_run = |rows: &[usize]| pass_pairs(&policy, &train, rows, config, Some(ctx.seed)).map(drop);
        let mut training = Training::start(task, &policy, policy.trained(), &train.records, plan, &config.train, ctx, dry_run)?
            .keeping(&policy, &codec)?;
        while let Some(step) = training.next_step()? {
            let pass = pass_pairs(&policy, &train, &step.picked, config, Some(step.seed))?;
            training.apply(&step, pass.loss)?;
            let [_, margin, accuracy, chosen, rejected, weight] = pass.means;
            training.log(&step, &[("margin", margin), ("accuracy", accuracy)]);
            training.log(&step, &[("chosen_log_ratio", chosen), ("rejected_log_ratio", rejected)]);
            if config.nll_weight > 0.0 {
                training.log(&step, &[("nll", pass.nll)]);
            }
            if config.weighting != PolicyWeighting::Off {
                training.log(&step, &[("pair_weight", weight)]);
            }
            if !held_out.records.is_empty() && training.validates_after(&step) {
                let all: Vec<usize> = (0..held_out.records.len()).collect();
                let pass = pass_pairs(&policy, &held_out, &all, config, None)?;
                let [_, margin, accuracy, ..] = pass.means;
                training.log(&step, &[("validation_loss", pass.loss), ("validation_accuracy", accuracy)]);
                training.log(&step, &[("validation_margin", margin)]);
            }
        }
        save_checkpoint(&policy, &codec, "dpo", ctx)
    }
}

/// Pairs with the log-probabilities of the frozen reference.
struct Pairs {
    records: Vec<Record>,
    /// Sums over the chosen and the rejected answer's tokens, in nats, one entry a record.
    reference: Vec<Vec<f32>>,
}

impl Pairs {
    /// Asks the reference; zeros when the loss is reference-free.
    fn new(
        records: Vec<Record>,
        reference: &mut Reference<'_>,
        config: &DpoConfig,
        cache_dir: Option<&Path>,
        ctx: &RunContext<'_>,
    ) -> Result<Self> {
        let reference = match config.reference_free {
            true => vec![vec![0.0; 2]; records.len()],
            false => reference_sums(&records, reference, config.ld_alpha, config.train.passes.layout, cache_dir, ctx)?,
        };
        Ok(Self { records, reference })
    }
}

/// Runs the picked pairs through the policy; with the seed of an optimiser step, adds the gradient of their loss. Gives the loss
/// of the links, the implicit reward margin β h, the share of pairs in which it is positive, both log-ratios, and the weight.
fn pass_pairs(
    policy: &LanguageModel,
    pairs: &Pairs,
    picked: &[usize],
    config: &DpoConfig,
    train: Option<Seed>,
) -> Result<PairPass<6>> {
    let pass = TextPass {
        whole_step: config.links().any(|term| term.link.compares_pairs()),
        log_squares: config.weighting == PolicyWeighting::SampledAlignment,
        ..TextPass::new(policy, &pairs.records, &config.train.passes)
    };
    let nll = TextNll::of_chosen(config.nll_weight, config.nll_reduction, &config.train);
    run_pairs(&pass, picked, nll, train, |texts| {
        let sums = discounted_sums(texts, &pairs.records, config.ld_alpha);
        let ratios = pair_log_ratios(texts, &sums, &pairs.records, &pairs.reference);
        let ratios = LogRatios { divergence: config.divergence, ..ratios };
        let [margin, accuracy] = margin_and_accuracy(&(&ratios.chosen - &ratios.rejected));
        let mut losses = ratios.chosen.zeros_like();
        for WeightedLink { link, weight } in config.links() {
            losses += link.losses(&ratios, config.beta) * weight;
        }
        let weights = pair_weights(texts, config.weighting);
        [losses * &weights, margin * config.beta, accuracy, ratios.chosen, ratios.rejected, weights]
    })
}

/// How much each pair counts, `[pairs]`.
fn pair_weights(texts: &TextLogProbs, weighting: PolicyWeighting) -> Tensor {
    let terms = match (weighting, &texts.log_squares) {
        (PolicyWeighting::SampledAlignment, Some(log_squares)) => texts.tokens.detach() - log_squares,
        (PolicyWeighting::Off, _) => texts.tokens.zeros_like(),
        _ => texts.tokens.detach(),
    };
    let weights = policy_weights(&(texts.sums_of(&terms) / texts.counts()));
    texts.nth(&weights, 0) * texts.nth(&weights, 1)
}

/// A link that follows margins needs some.
fn check_margins(records: &[Record], ctx: &RunContext<'_>) -> Result<()> {
    let n_without = records.iter().filter(|record| record.margin == 0.0).count();
    if n_without == records.len() {
        return Err(Error::invalid_data("the link `reward_aware` follows the pairs' margins, but no pair has one")
            .with_hint("use pairs with a `margin`, or another `link`"));
    }
    if n_without > 0 {
        let n = records.len();
        ctx.events
            .warn(&format!("{n_without} of {n} preference pairs have no margin; `reward_aware` takes their answers as equal"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
