//! Direct preference optimisation: fits the policy to preference pairs without a reward model.
//!
//! Rafailov et al. 2023, <https://arxiv.org/abs/2305.18290>, equation 7: `−ln σ(β h)` with
//! `h = [log π(y_w|x) − log π_ref(y_w|x)] − [log π(y_l|x) − log π_ref(y_l|x)]`, log-probabilities summed over the response
//! and its end-of-sequence token. The other losses on the same log-ratios are links, see [`PairwiseLink`].
//!
//! The reference's log-probabilities are computed once, before training; then the reference is gone from memory. They are
//! kept for other runs, see [`Reference::sums`]. With the policy at the reference the logistic loss is ln 2.

mod pairs;

use std::path::{Path, PathBuf};

use farmhand_core::types::PreferencePair;
use farmhand_core::{
    BuildContext, Checkpoint, FeedbackKind, Learner, LearnerConfig, LearnerInputs, Problem, Requirements, Result, RunContext,
    register,
};
use farmhand_models::{Ending, OptimConfig, save_checkpoint};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::pairs::{Pairs, run_pairs};
use crate::rl::pairwise::PairwiseLink;
use crate::rl::reduction::Reduction;
use crate::training::{Ranges, Record, Reference, Task, TrainOptions, Training, admit, shuffled_steps, start_training};

register! {
    kind: Learner, name: "dpo", config: DpoConfig,
    summary: "direct preference optimisation and the other losses on pairwise log-ratios", paper: "https://arxiv.org/abs/2305.18290",
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

impl Default for DpoConfig {
    fn default() -> Self {
        Self {
            beta: 0.1,
            link: PairwiseLink::Logistic,
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

#[typetag::serde(name = "dpo")]
impl LearnerConfig for DpoConfig {
    fn build(&self, ctx: &BuildContext<'_>) -> Result<Box<dyn Learner>> {
        Ok(Box::new(Dpo { config: self.clone(), cache_dir: ctx.cache_dir.map(Path::to_owned) }))
    }

    fn problems(&self) -> Vec<Problem> {
        let unused = self.nll_weight == 0.0 && self.nll_reduction != Reduction::default();
        Ranges::new()
            .positive("beta", self.beta)
            .nested("link", self.link.problems())
            .not_negative("nll_weight", self.nll_weight)
            .require("nll_reduction", !unused, "`nll_weight` > 0 when it is set", "`nll_weight = 0`")
            .train(&self.train, Self::default().train.batch_size)
            .problems()
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

        let limit = config.train.token_limit(policy.config().max_positions());
        let encode = |pair: &PreferencePair| -> Result<Record> {
            let side = |answer: &str| codec.encode(&pair.instruction, answer, Ending::WithEos);
            Ok(Record::new(&pair.instruction.id, [side(&pair.chosen)?, side(&pair.rejected)?]))
        };
        let train = admit(inputs.feedback.preferences()?, "preference pairs", limit, true, ctx, encode)?;
        let held_out = match inputs.validation.map(|feedback| feedback.preferences()).transpose()? {
            Some(pairs) if !pairs.is_empty() => admit(pairs, "held-out preference pairs", limit, true, ctx, encode)?,
            _ => Vec::new(),
        };

        let (train, held_out) = {
            let mut reference = Reference::new(inputs.init, inputs.reference, &policy)?;
            let cache_dir = cache_dir.as_deref().filter(|_| config.reference_cache);
            let mut pairs = |records| Pairs::new(records, &mut reference, config, cache_dir, ctx);
            (pairs(train)?, pairs(held_out)?)
        };
        let policy = start_training(policy, &config.train.passes, inputs.init, ctx.seed.child("lora", 0))?;

        let task = Task { learner: "dpo", role: "policy", doing: "preference optimisation", records: "preference pairs" };
        let plan = shuffled_steps(&train.records, &config.train, ctx);
        let dry_run = |rows: &[usize]| run_pairs(&policy, &train, rows, config, Some(ctx.seed)).map(drop);
        let mut training = Training::start(task, &policy, policy.trained(), &train.records, plan, &config.train, ctx, dry_run)?;
        while let Some(step) = training.next_step()? {
            let pass = run_pairs(&policy, &train, &step.picked, config, Some(step.seed))?;
            training.apply(&step, pass.loss)?;
            training.log(&step, &[("margin", pass.margin), ("accuracy", pass.accuracy)]);
            training.log(&step, &[("chosen_log_ratio", pass.chosen), ("rejected_log_ratio", pass.rejected)]);
            if config.nll_weight > 0.0 {
                training.log(&step, &[("nll", pass.nll)]);
            }
            if !held_out.records.is_empty() && training.validates_after(&step) {
                let all: Vec<usize> = (0..held_out.records.len()).collect();
                let pass = run_pairs(&policy, &held_out, &all, config, None)?;
                training.log(&step, &[("validation_loss", pass.loss), ("validation_accuracy", pass.accuracy)]);
                training.log(&step, &[("validation_margin", pass.margin)]);
            }
        }
        save_checkpoint(&policy, &codec, "dpo", ctx)
    }
}

#[cfg(test)]
mod tests {
    use farmhand_core::types::Response;
    use farmhand_core::{Device, ErrorKind, Feedback, RecordedEvents, RewardModelConfig};

    use super::*;
    use crate::reward_models::LikelihoodConfig;
    use crate::testing::{
        Stage, assert_resumes_exactly, assert_same_bytes, fast_optim, lively_checkpoint, moved, pairs, small_lora,
        tiny_checkpoint,
    };

    fn with(change: impl FnOnce(&mut TrainOptions)) -> DpoConfig {
        let mut config = DpoConfig::default();
        config.train =
            TrainOptions { epochs: 6, batch_size: 4, save_every: 4, optim: fast_optim(3e-3), ..TrainOptions::default() };
        change(&mut config.train);
        config
    }

    fn config() -> DpoConfig {
        with(|_| ())
    }

    fn learn(config: &DpoConfig, init: &Checkpoint, pairs: &[PreferencePair], ctx: &RunContext<'_>) -> Result<Checkpoint> {
        let feedback = Feedback::Preferences(pairs);
        let inputs =
            LearnerInputs { init, reference: None, feedback, validation: Some(feedback), reward_model: None, annotator: None };
        config.build(&BuildContext::new(Device::Cpu, Path::new(".")))?.learn(inputs, ctx)
    }

    /// Log-probabilities of the chosen and the rejected answer of each pair under a policy.
    fn likelihoods(policy: &Checkpoint, pairs: &[PreferencePair]) -> Vec<[f64; 2]> {
        let stage = Stage::new();
        let mut build = BuildContext::new(Device::Cpu, Path::new("."));
        build.policy = Some(policy);
        let mut model = LikelihoodConfig::default().build(&build).expect("built");
        let sides: Vec<Response<'_>> = pairs
            .iter()
            .flat_map(|pair| [&pair.chosen, &pair.rejected].map(|output| Response { instruction: &pair.instruction, output }))
            .collect();
        let scores = model.score(&sides, &stage.context(&farmhand_core::NoEvents)).expect("scored");
        scores.chunks(2).map(|pair| [pair[0], pair[1]]).collect()
    }

    #[test]
    fn it_flips_preferences_that_the_policy_had_the_other_way_round() {
        let stage = Stage::new();
        let init = tiny_checkpoint(&stage);
        // Prefer whatever the policy finds less likely.
        let mut items = pairs(12);
        let before = likelihoods(&init, &items);
        for (pair, [chosen, rejected]) in items.iter_mut().zip(before) {
            if chosen > rejected {
                std::mem::swap(&mut pair.chosen, &mut pair.rejected);
            }
        }
        assert!(likelihoods(&init, &items).iter().all(|[chosen, rejected]| chosen < rejected));
        let events = RecordedEvents::default();
        let config = with(|train| train.epochs = 20);
        let learned = learn(&config, &init, &items, &stage.context(&events)).expect("learned");
        assert!((events.scalars("dpo/loss")[0].1 - std::f64::consts::LN_2).abs() < 1e-6);
        let accuracy = events.scalars("dpo/validation_accuracy");
        assert_eq!(accuracy.last().expect("validated").1, 1.0);
        let after = likelihoods(&learned, &items);
        let flipped = after.iter().filter(|[chosen, rejected]| chosen > rejected).count();
        assert!(flipped >= 11, "{flipped} of 12 flipped: {after:?}");
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
            let inputs =
                LearnerInputs { init: &init, reference, feedback, validation: None, reward_model: None, annotator: None };
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
            ..config()
        };
        let paths: Vec<String> = config.problems().into_iter().map(|problem| problem.path).collect();
        assert_eq!(paths, ["beta", "link.robust.label_smoothing", "nll_reduction"]);
    }

    #[test]
    fn another_kind_of_feedback_is_refused() {
        let stage = Stage::new();
        let inputs = LearnerInputs {
            init: &tiny_checkpoint(&stage),
            reference: None,
            feedback: Feedback::Prompts(&[]),
            validation: None,
            reward_model: None,
            annotator: None,
        };
        let error = Dpo { config: config(), cache_dir: None }
            .learn(inputs, &stage.context(&farmhand_core::NoEvents))
            .expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::MissingInput);
    }
}
