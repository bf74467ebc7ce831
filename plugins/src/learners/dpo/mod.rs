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
use std::time::Instant;

use farmhand_core::types::PreferencePair;
use farmhand_core::{
    BuildContext, Checkpoint, Error, FeedbackKind, Learner, LearnerConfig, LearnerInputs, Problem, Requirements, Result,
    RunContext, register,
};
use farmhand_models::{
    AdamW, BatchLayout, Ending, FreezeConfig, LanguageModel, LoraConfig, OptimConfig, PromptFormat, TextCodec, load_train_state,
    save_checkpoint, save_train_state, tch_device, zero_gradients,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::pairs::{Pairs, run_pairs};
use crate::rl::pairwise::PairwiseLink;
use crate::rl::reduction::Reduction;
use crate::training::{
    MemoryNeeds, MicroBatching, Ranges, Record, Reference, TokenLimit, Trainee, admit, held, ids_of, items_before, plan_steps,
    start_training,
};

register! {
    kind: Learner, name: "dpo", config: DpoConfig,
    summary: "direct preference optimisation and the other losses on pairwise log-ratios", paper: "https://arxiv.org/abs/2305.18290",
}

/// Options of `[learner.dpo]`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
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
    /// Passes over the pairs, ≥ 1.
    pub epochs: u32,
    /// Pairs per optimiser step, ≥ 1.
    pub batch_size: usize,
    /// Tokens per optimiser step instead of `batch_size` pairs, a pair's prompt counted once, ≥ 1: a step takes pairs until the
    /// next one would exceed it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch_tokens: Option<usize>,
    /// Longest prompt and answer together, in tokens; pairs with a longer side are left out and counted. Never more than the
    /// model's context.
    pub max_tokens: usize,
    /// How instructions become text; by default as the checkpoint says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt: Option<PromptFormat>,
    /// Pairs per forward pass at most, ≥ 1; by default as many as `micro_batch_tokens` allows. Changes speed and memory, not
    /// the result.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub micro_batch_size: Option<usize>,
    /// Tokens per forward pass at most, ≥ 1: padding counts, an equal prompt counts once. By default 1024 on the CPU and 8192
    /// on a GPU. Changes speed and memory, not the result.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub micro_batch_tokens: Option<usize>,
    /// How texts lie in a forward pass. Changes speed and memory, not the result.
    pub layout: BatchLayout,
    /// Gradient checkpointing: of every so many blocks only the input is kept for the backward pass, which computes the rest
    /// again; 0 keeps everything. Less memory for more time; changes neither the loss nor the gradients.
    pub checkpoint_every: usize,
    /// Steps between saved states, ≥ 1.
    pub save_every: u64,
    /// Steps between evaluations on the held-out pairs, ≥ 1; the last step always evaluates.
    pub validate_every: u64,
    /// Train low-rank changes to the linear layers (LoRA) and none of the weights; by default the weights are trained.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora: Option<LoraConfig>,
    /// Weights that stay as they are; not together with `lora`.
    #[serde(skip_serializing_if = "FreezeConfig::is_empty")]
    pub freeze: FreezeConfig,
    /// The optimiser.
    pub optim: OptimConfig,
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
            epochs: 2,
            batch_size: 64,
            batch_tokens: None,
            max_tokens: 512,
            prompt: None,
            micro_batch_size: None,
            micro_batch_tokens: None,
            layout: BatchLayout::Packed,
            checkpoint_every: 0,
            save_every: 50,
            validate_every: 50,
            lora: None,
            freeze: FreezeConfig::default(),
            optim: OptimConfig { lr: 1e-6, ..OptimConfig::default() },
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
            .at_least_one("epochs", self.epochs as usize)
            .batch(self.batch_size, Self::default().batch_size, self.batch_tokens)
            .at_least_one("max_tokens", self.max_tokens)
            .at_least_one("micro_batch_size", self.micro_batch_size.unwrap_or(1))
            .at_least_one("micro_batch_tokens", self.micro_batch_tokens.unwrap_or(1))
            .at_least_one("save_every", self.save_every as usize)
            .at_least_one("validate_every", self.validate_every as usize)
            .trained_part(self.lora.as_ref(), &self.freeze)
            .nested("optim", self.optim.problems())
            .problems()
    }
}

impl DpoConfig {
    fn micro_batching(&self, device: tch::Device) -> MicroBatching {
        MicroBatching::new(self.layout, self.micro_batch_tokens, self.micro_batch_size, device)
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
        let codec = TextCodec::load(inputs.init, config.prompt)?;
        let policy = LanguageModel::load(inputs.init.path(), tch_device(ctx.device)?)?;

        let limit = TokenLimit { option: "max_tokens", max_tokens: config.max_tokens, context: policy.config().max_positions() };
        let encode = |pair: &PreferencePair| -> Result<Record<2>> {
            let side = |answer: &str| codec.encode(&pair.instruction, answer, Ending::WithEos);
            let texts = [side(&pair.chosen)?, side(&pair.rejected)?];
            Ok(Record { margin: pair.margin.unwrap_or(0.0), ..Record::new(&pair.instruction.id, texts) })
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
        let policy = start_training(policy, config.lora.as_ref(), &config.freeze, inputs.init, ctx.seed.child("lora", 0))?;
        let trained = policy.trained();
        policy.set_checkpointing(config.checkpoint_every);

        let plan = plan_steps(&train.records, config.batch_size, config.batch_tokens, config.epochs, ctx.seed.child("order", 0));
        let mut optim = AdamW::new(&trained, &config.optim, plan.n_steps());
        let resumed = load_train_state(ctx, &[("policy", &trained)], &mut [("policy", &mut optim)])?;
        let start = resumed.map_or(0, |(step, _)| step);
        let micro = config.micro_batching(policy.device());
        let passes = Trainee::of_plan(&micro, &train.records, &plan, start, config.checkpoint_every);
        MemoryNeeds::training(held("policy", &policy), passes).announce("dpo", start, policy.device(), ctx)?;
        let dry_run = |rows: &[usize]| run_pairs(&policy, &train, rows, config, Some(ctx.seed)).map(drop);
        micro.dry_run(&train.records, &plan, start, dry_run)?;
        zero_gradients(&trained);
        let mut progress = ctx.progress("preference optimisation", Some(items_before(&plan, plan.n_steps())), "pairs");
        progress.advance(items_before(&plan, start));

        for step in start..plan.n_steps() {
            let cancelled = ctx.cancel.is_cancelled();
            if cancelled || (step > start && step % config.save_every == 0) {
                save_train_state(ctx, step, &[("policy", &trained)], &[("policy", &optim)], &serde_json::Value::Null)?;
            }
            if cancelled {
                return Err(Error::cancelled());
            }

            let started = Instant::now();
            let picked = plan.items(step);
            let pass = run_pairs(&policy, &train, picked, config, Some(ctx.seed.child("step", step)))?;
            let place = || format!("step {step}, preference pairs {}", ids_of(&train.records, picked));
            if !pass.loss.is_finite() {
                return Err(Error::non_finite(format!("the loss is {} at {}", pass.loss, place())).with_hint("lower `optim.lr`"));
            }
            let report = optim.step().map_err(|error| error.context(place()))?;

            ctx.scalar("dpo/loss", step, pass.loss);
            ctx.scalar("dpo/margin", step, pass.margin);
            ctx.scalar("dpo/accuracy", step, pass.accuracy);
            ctx.scalar("dpo/chosen_log_ratio", step, pass.chosen);
            ctx.scalar("dpo/rejected_log_ratio", step, pass.rejected);
            if config.nll_weight > 0.0 {
                ctx.scalar("dpo/nll", step, pass.nll);
            }
            ctx.scalar("dpo/grad_norm", step, report.grad_norm);
            ctx.scalar("dpo/lr", step, report.lr);
            let n_tokens: usize = picked.iter().map(|&i| train.records[i].n_tokens()).sum();
            ctx.scalar("dpo/tokens_per_sec", step, n_tokens as f64 / started.elapsed().as_secs_f64().max(1e-9));
            let last = step + 1 == plan.n_steps();
            if !held_out.records.is_empty() && (last || (step + 1) % config.validate_every == 0) {
                let all: Vec<usize> = (0..held_out.records.len()).collect();
                let pass = run_pairs(&policy, &held_out, &all, config, None)?;
                ctx.scalar("dpo/validation_loss", step, pass.loss);
                ctx.scalar("dpo/validation_accuracy", step, pass.accuracy);
                ctx.scalar("dpo/validation_margin", step, pass.margin);
            }
            progress.advance(picked.len() as u64);
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

    fn config() -> DpoConfig {
        DpoConfig { epochs: 6, batch_size: 4, save_every: 4, optim: fast_optim(3e-3), ..DpoConfig::default() }
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
        let config = DpoConfig { epochs: 20, ..config() };
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
            learn(&DpoConfig { optim: fast_optim(0.0), ..config() }, &init, &pairs(8), &stage.context(&events)).expect("learned");
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
        let config = DpoConfig { lora: Some(small_lora()), optim: fast_optim(1e-2), ..config() };
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
        let saving = DpoConfig { checkpoint_every: 1, ..config() };
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
        let by_tokens = DpoConfig { batch_tokens: Some(60), ..DpoConfig { batch_size: 64, ..config() } };
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
