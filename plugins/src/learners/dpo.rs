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
mod tests {
    use farmhand_core::types::PreferencePair;
    use farmhand_core::{ErrorKind, Feedback, RecordedEvents};

    use super::*;
    use crate::testing::{
        Stage, assert_resumes_exactly, assert_same_bytes, assert_same_however_split, assert_turns_preferences, fast_optim,
        learn_from, lively_checkpoint, moved, pair_records, pairs, small_lora, tiny_checkpoint,
    };

    fn with(change: impl FnOnce(&mut TrainOptions)) -> DpoConfig {
        let optim = fast_optim(3e-3);
        let train = TrainOptions { epochs: 6, batch_size: 4, save_every: 4, optim, ..TrainOptions::default() };
        let mut config = DpoConfig { train, ..DpoConfig::default() };
        change(&mut config.train);
        config
    }

    fn config() -> DpoConfig {
        with(|_| ())
    }

    fn learn(config: &DpoConfig, init: &Checkpoint, pairs: &[PreferencePair], ctx: &RunContext<'_>) -> Result<Checkpoint> {
        learn_from(config, init, Feedback::Preferences(pairs), ctx)
    }

    fn model(init: &Checkpoint) -> (LanguageModel, Vec<Record>) {
        let policy = LanguageModel::load(init.path(), tch::Device::Cpu).expect("loaded");
        policy.set_trainable(true);
        let records = pair_records(&farmhand_models::TextCodec::load(init, None).expect("a codec"), 8);
        (policy, records)
    }

    #[test]
    fn the_loss_is_ln_2_at_the_reference_and_every_log_ratio_zero() {
        let stage = Stage::new();
        let init = tiny_checkpoint(&stage);
        let ((policy, records), ctx) = (model(&init), stage.context(&farmhand_core::NoEvents));
        let mut reference = Reference::new(&init, None, &policy).expect("fits");
        let free = DpoConfig { reference_free: true, ..DpoConfig::default() };
        let pairs = Pairs::new(records.clone(), &mut reference, &free, None, &ctx).expect("nothing to compute");
        assert_eq!(pairs.reference, vec![vec![0.0; 2]; 8]);
        for ld_alpha in [1.0, 0.3] {
            let config = DpoConfig { ld_alpha, ..DpoConfig::default() };
            let pairs = Pairs::new(records.clone(), &mut reference, &config, None, &ctx).expect("computed");
            let pass = pass_pairs(&policy, &pairs, &[0, 1, 2, 3, 4, 5, 6, 7], &config, None).expect("run");
            let [loss, _, _, chosen, rejected, weight] = pass.means;
            assert!((loss - std::f64::consts::LN_2).abs() < 1e-6 && chosen.abs() < 1e-5 && rejected.abs() < 1e-5);
            assert_eq!((pass.nll, weight), (0.0, 1.0));
        }
    }

    #[test]
    fn loss_and_gradients_do_not_depend_on_layout_and_micro_batches() {
        let stage = Stage::new();
        let (policy, mut records) = model(&tiny_checkpoint(&stage));
        records.iter_mut().zip(0..).for_each(|(record, i)| record.margin = f64::from(i) * 0.3);
        // A reference unlike the policy, so that the pairs weigh differently.
        let reference = (0..8).map(|i| vec![-8.0 - i as f32, -9.0 + 0.5 * i as f32]).collect();
        let pairs = Pairs { records, reference };
        let aot = PairwiseLink::Aot { label_smoothing: 0.1 };
        for config in [
            DpoConfig { nll_weight: 0.3, ..config() },
            DpoConfig { link: PairwiseLink::LogisticPerToken, nll_reduction: Reduction::SeqMean, nll_weight: 0.3, ..config() },
            DpoConfig { weighting: PolicyWeighting::SampledAlignment, ..config() },
            DpoConfig { weighting: PolicyWeighting::Likelihood, divergence: Divergence::JensenShannon, ..config() },
            DpoConfig { ld_alpha: 0.4, link: PairwiseLink::RewardAware { scale: 2.0 }, ..config() },
            DpoConfig { more_links: vec![WeightedLink { link: aot, weight: 0.5 }], ld_alpha: 0.4, ..config() },
            DpoConfig { link: PairwiseLink::AotUnpaired { label_smoothing: 0.0 }, nll_weight: 0.2, ..config() },
        ] {
            assert_same_however_split(&policy, 1e-5, |passes| {
                let train = TrainOptions { passes: passes.clone(), ..config.train.clone() };
                let config = DpoConfig { train, ..config.clone() };
                pass_pairs(&policy, &pairs, &[7, 6, 5, 4, 3, 2, 1, 0], &config, Some(Seed::root(0))).expect("run").loss
            });
        }
    }

    #[test]
    fn a_step_that_compares_pairs_resumes_although_it_takes_two_passes() {
        let base = Stage::new();
        let init = tiny_checkpoint(&base);
        let mut config = with(|train| train.passes.micro_batch_size = Some(2));
        config.link = PairwiseLink::AotUnpaired { label_smoothing: 0.0 };
        assert_resumes_exactly("dpo/loss", 9, |ctx| learn(&config, &init, &pairs(10), ctx));
    }

    #[test]
    fn a_link_that_follows_margins_refuses_pairs_without_any() {
        let stage = Stage::new();
        let config = DpoConfig { link: PairwiseLink::RewardAware { scale: 1.0 }, ..config() };
        let (events, mut items) = (RecordedEvents::default(), pairs(8));
        let error = learn(&config, &tiny_checkpoint(&stage), &items, &stage.context(&events)).expect_err("no margins");
        assert_eq!(error.kind(), ErrorKind::InvalidData);
        items[3].margin = Some(1.0);
        let stage = Stage::new();
        learn(&config, &tiny_checkpoint(&stage), &items, &stage.context(&events)).expect("learned");
        assert!(format!("{:?}", events.take()).contains("7 of 8 preference pairs have no margin"));
    }

    #[test]
    fn it_turns_preferences_that_the_policy_had_the_other_way_round() {
        assert_turns_preferences(&with(|train| train.epochs = 20), "dpo");
    }

    #[test]
    fn a_step_at_learning_rate_0_reports_ln_2_and_changes_nothing() {
        let stage = Stage::new();
        let events = RecordedEvents::default();
        let init = tiny_checkpoint(&stage);
        let learned =
            learn(&with(|train| train.optim = fast_optim(0.0)), &init, &pairs(8), &stage.context(&events)).expect("learned");
        let losses = events.scalars("dpo/loss");
        assert_eq!(losses.len(), 12);
        assert!(losses.iter().all(|(_, loss)| (loss - std::f64::consts::LN_2).abs() < 1e-6), "{losses:?}");
        let bytes = |checkpoint: &Checkpoint| std::fs::read(checkpoint.path().join("model.safetensors")).expect("read");
        assert!(bytes(&learned) == bytes(&init));
    }

    #[test]
    fn an_adapter_learns_from_the_policy_as_its_reference_and_a_stopped_run_continues_to_the_same_bytes() {
        let base = Stage::new();
        let init = lively_checkpoint(&base);
        let config = with(|train| (train.passes.lora, train.optim) = (Some(small_lora()), fast_optim(1e-2)));
        let stage = Stage::new();
        let events = RecordedEvents::default();
        let learned = learn(&config, &init, &pairs(10), &stage.context(&events)).expect("learned");
        let accuracy = events.scalars("dpo/validation_accuracy");
        assert!(accuracy.last().expect("validated").1 > 0.9, "{accuracy:?}");
        assert!(moved(&init, &learned).iter().all(|name| name.ends_with("_proj.weight")));
        assert_resumes_exactly("dpo/loss", 9, |ctx| learn(&config, &init, &pairs(10), ctx));
    }

    #[test]
    fn a_reference_that_is_the_start_changes_nothing() {
        let base = Stage::new();
        let init = tiny_checkpoint(&base);
        let items = pairs(8);
        let run = |reference: Option<&Checkpoint>| {
            let stage = Stage::new();
            let feedback = Feedback::Preferences(&items);
            let inputs = LearnerInputs {
                init: &init,
                reference,
                feedback,
                validation: None,
                reward_model: None,
                annotator: None,
                models: &farmhand_core::FoldersOnly,
            };
            let events = RecordedEvents::default();
            Dpo { config: config(), cache_dir: None }.learn(inputs, &stage.context(&events)).expect("learned");
            events.scalars("dpo/loss")
        };
        assert_eq!(run(Some(&init)), run(None));
    }

    #[test]
    fn gradient_checkpointing_changes_no_byte_and_no_resumption() {
        let base = Stage::new();
        let init = tiny_checkpoint(&base);
        let saving = with(|train| train.passes.checkpoint_every = 1);
        let run = |config: &DpoConfig, ctx: &RunContext<'_>| learn(config, &init, &pairs(10), ctx);
        assert_same_bytes(&[config(), saving.clone()], run);
        assert_resumes_exactly("dpo/loss", 9, |ctx| run(&saving, ctx));
    }

    #[test]
    fn a_run_that_finds_the_reference_log_probs_gives_the_same_bytes_and_resumes() {
        let base = Stage::new();
        let (init, cache) = (tiny_checkpoint(&base), base.path().join("cache"));
        let run = |cache_dir: &Option<PathBuf>, ctx: &RunContext<'_>| {
            let pairs = pairs(10);
            let inputs = LearnerInputs {
                init: &init,
                reference: None,
                feedback: Feedback::Preferences(&pairs),
                validation: None,
                reward_model: None,
                annotator: None,
                models: &farmhand_core::FoldersOnly,
            };
            Dpo { config: config(), cache_dir: cache_dir.clone() }.learn(inputs, ctx)
        };
        assert_same_bytes(&[None, Some(cache.clone()), Some(cache.clone())], run);
        assert_resumes_exactly("dpo/loss", 9, |ctx| run(&Some(cache.clone()), ctx));
        assert_eq!(std::fs::read_dir(cache.join("log-probs")).expect("there").count(), 2, "a file and its lock");
    }

    #[test]
    fn a_stopped_or_killed_run_continues_to_the_same_bytes() {
        let base = Stage::new();
        let init = tiny_checkpoint(&base);
        assert_resumes_exactly("dpo/loss", 9, |ctx| learn(&config(), &init, &pairs(10), ctx));
        let by_tokens = with(|train| (train.batch_size, train.batch_tokens) = (64, Some(60)));
        assert_resumes_exactly("dpo/loss", 9, |ctx| learn(&by_tokens, &init, &pairs(10), ctx));
    }

    #[test]
    fn options_out_of_range_and_without_effect_are_located() {
        assert!(config().problems().is_empty());
        let config = DpoConfig {
            beta: 0.0,
            link: PairwiseLink::Robust { label_smoothing: 0.7 },
            nll_reduction: Reduction::SeqSum,
            more_links: vec![WeightedLink { link: PairwiseLink::Hinge, weight: 0.0 }],
            ..config()
        };
        let paths: Vec<String> = config.problems().into_iter().map(|problem| problem.path).collect();
        assert_eq!(paths, ["beta", "link.robust.label_smoothing", "nll_reduction", "more_links[0].weight"]);
        let unseen = DpoConfig { link: PairwiseLink::ApoZero, divergence: Divergence::ForwardKl, ..DpoConfig::default() };
        assert_eq!(unseen.problems()[0].path, "divergence");
        let free = DpoConfig { link: PairwiseLink::NcaPair, reference_free: true, ..DpoConfig::default() };
        assert_eq!(free.problems()[0].path, "reference_free");
        let weak = DpoConfig { link: PairwiseLink::LogisticPerToken, ..DpoConfig::default() };
        assert!(weak.problems()[0].path == "beta" && DpoConfig { beta: 5.0, ..weak }.problems().is_empty());
        let preset: DpoConfig = serde_json::from_str(&serde_json::to_string(&DpoConfig::mpo()).expect("JSON")).expect("options");
        assert!(preset.problems().is_empty() && preset.links().count() == 2);
    }

    #[test]
    fn another_kind_of_feedback_is_refused() {
        let stage = Stage::new();
        let init = tiny_checkpoint(&stage);
        let error = learn_from(&config(), &init, Feedback::Prompts(&[]), &stage.context(&farmhand_core::NoEvents));
        assert_eq!(error.expect_err("refused").kind(), ErrorKind::MissingInput);
    }
}
