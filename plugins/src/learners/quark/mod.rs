//! Quark, quantised reward conditioning: unlearn what scores low by learning to tell it apart.
//!
//! Lu et al. 2022, <https://arxiv.org/abs/2205.13636>. A pool of scored answers begins with those of the policy as it is. Then, again
//! and again: the whole pool is divided into K bins of equal size by score; the policy is trained on answers drawn uniformly over
//! the bins, each behind the control c_k of its bin; and it answers more instructions behind the control of the best bin, into the
//! pool. The loss of a token is
//!
//! `−log π(y_t | c_k, x, y_<t) + β KL_t − α H_t`
//!
//! with the divergence of the distributions π(· | c_k, x, y_<t) and π₀(· | x, y_<t) over the whole vocabulary, and the entropy of
//! the former. The reference π₀ never sees a control; nor does a control receive loss. In use, the model is asked for the best
//! (policy `conditioned`).
//!
//! AlpacaFarm's version (preset `alpaca_farm`) trains on the best bin of the newest answers alone, without controls.
//!
//! Differences from the authors' code: controls are lines of text instead of new tokens, so that no logits have to be left out of
//! the divergence, and no embeddings are new. AlpacaFarm's version pads prompts on the left; here padding is never seen.
//!
//! * `config`: the options.
//! * `exploration`: answers, scores, the pool and its bins.
//! * `objective`: the loss.

mod config;
mod exploration;
mod objective;

use std::time::Instant;

use farmhand_core::{
    BuildContext, Checkpoint, Error, FeedbackKind, Learner, LearnerConfig, LearnerInputs, Problem, Requirements, Result,
    RunContext, register,
};
use farmhand_models::{AdamW, HeldModel, LanguageModel, PassSize, load_train_state, save_checkpoint, save_train_state};

pub use self::config::{KlDirection, Pool, QuarkConfig, TrainedBins};
use self::exploration::{Bins, Explorer, Prompts, log_explored};
use self::objective::{StepRecords, accumulate};
use crate::training::{
    Controls, KeptCheckpoints, MemoryNeeds, Trainee, held, ids_of, is_same_model, load_reference, start_training,
};

register! {
    kind: Learner, name: "quark", config: QuarkConfig,
    summary: "quantised reward conditioning: imitation of own answers behind the control of their reward bin",
    paper: "https://arxiv.org/abs/2205.13636",
    presets: { "alpaca_farm": "AlpacaFarm's set-up: the best bin of the newest answers" => QuarkConfig::alpaca_farm() },
}

#[typetag::serde(name = "quark")]
impl LearnerConfig for QuarkConfig {
    fn build(&self, _: &BuildContext<'_>) -> Result<Box<dyn Learner>> {
        Ok(Box::new(Quark(self.clone())))
    }

    fn problems(&self) -> Vec<Problem> {
        QuarkConfig::problems(self)
    }
}

struct Quark(QuarkConfig);

impl Learner for Quark {
    fn requires(&self) -> Requirements {
        Requirements::policy_from(FeedbackKind::Prompts).with_reward_model()
    }

    fn learn(&mut self, inputs: LearnerInputs<'_>, ctx: &RunContext<'_>) -> Result<Checkpoint> {
        let Self(config) = self;
        let instructions = inputs.feedback.prompts()?;
        let reward_model = inputs.reward_model.ok_or_else(|| Error::missing_input("`quark` needs a reward model"))?;
        let (codec, policy) = config.passes.load(inputs.init, ctx)?;
        let reference = match inputs.reference {
            Some(checkpoint) if !is_same_model(checkpoint, inputs.init)? => load_reference(checkpoint, &policy)?,
            // An adapter leaves the policy's own weights as they are.
            _ if config.passes.lora.is_some() => policy.without_adapter(),
            _ => policy.copy()?,
        };
        reference.set_precision(policy.precision());
        let controls = Controls::of_values(&config.control, (0..config.bins).map(|bin| bin.to_string()).collect());
        let prompts = Prompts::of(instructions, policy.config(), &codec, config, &controls, ctx)?;
        let policy = start_training(policy, &config.passes, inputs.init, ctx.seed.child("lora", 0))?;
        let explorer = Explorer { config, codec: &codec, instructions, prompts: &prompts };

        let trained = policy.trained();
        let mut optim = AdamW::new(&trained, &config.optim, config.steps);
        let models = [("policy", trained.as_slice())];
        let resumed = load_train_state(ctx, &models, &mut [("policy", &mut optim)])?;
        let start = resumed.map_or(0, |(step, _)| step);
        let save =
            |step: u64, optim: &AdamW| save_train_state(ctx, step, &models, &[("policy", optim)], &serde_json::Value::Null);
        expected_memory(config, &policy, &reference, &prompts).announce("quark", start, policy.device(), ctx)?;

        // The pool as it was when the state was saved.
        let mut bins = None;
        for round in 0..start.div_ceil(config.steps_per_round) {
            let explored = explorer.explore(round, &policy, &mut *reward_model, ctx)?;
            bins = Some(Bins::with(bins, explored, config)?);
        }
        let mut progress = ctx.progress("quantised reward conditioning", Some(config.steps), "steps");
        progress.advance(start);
        let kept = KeptCheckpoints::of(&policy, &codec, "quark", start, ctx)?;
        for step in start..config.steps {
            kept.after(step)?;
            if ctx.cancel.is_cancelled() {
                save(step, &optim)?;
                return Err(Error::cancelled());
            }
            if step > start && step % config.save_every == 0 {
                save(step, &optim)?;
            }
            if step % config.steps_per_round == 0 {
                let explored = match explorer.explore(step / config.steps_per_round, &policy, &mut *reward_model, ctx) {
                    // Nothing has moved since the step began.
                    Err(error) if error.is_cancelled() => {
                        save(step, &optim)?;
                        return Err(error);
                    }
                    other => other?,
                };
                log_explored(&explored, step, ctx);
                let sorted = Bins::with(bins, explored, config)?;
                ctx.scalar("quark/pool", step, sorted.pool.len() as f64);
                ctx.scalar("quark/best_bin_from", step, sorted.best_from());
                bins = Some(sorted);
            }
            let Some(sorted) = &bins else { return Err(Error::broken_contract("the pool of `quark` is empty")) };

            let started = Instant::now();
            let seed = ctx.seed.child("step", step);
            let records = StepRecords::new(&sorted.draw(config, seed), sorted, &prompts, config);
            let terms = accumulate(&policy, &reference, &records, config, seed)?;
            let place = || {
                let all: Vec<usize> = (0..records.policy.len()).collect();
                format!("step {step}, answers to {}", ids_of(&records.policy, &all))
            };
            if !terms.loss.is_finite() {
                return Err(Error::non_finite(format!("the loss is {} at {}", terms.loss, place())).with_hint("lower `optim.lr`"));
            }
            let report = optim.step().map_err(|error| error.context(place()))?;
            for (name, number) in [
                ("quark/loss", terms.loss),
                ("quark/nll", terms.nll),
                ("quark/kl", terms.kl),
                ("quark/entropy", terms.entropy),
                ("quark/grad_norm", report.grad_norm),
                ("quark/lr", report.lr),
                ("quark/tokens_per_sec", records.n_tokens() as f64 / started.elapsed().as_secs_f64().max(1e-9)),
            ] {
                ctx.scalar(name, step, number);
            }
            progress.advance(1);
        }
        let checkpoint = save_checkpoint(&policy, &codec, "quark", ctx)?;
        if config.train_on == TrainedBins::AllConditioned {
            controls.save(ctx)?;
        }
        Ok(checkpoint)
    }
}

/// What the models and the largest possible passes take: every answer as long as it may be.
fn expected_memory(config: &QuarkConfig, policy: &LanguageModel, reference: &LanguageModel, prompts: &[Prompts]) -> MemoryNeeds {
    let answer = config.max_new_tokens as usize;
    let longest = prompts.iter().map(Prompts::longest).max().unwrap_or(0) + answer;
    let micro = config.passes.micro_batching(policy.device());
    let rows = (micro.max_tokens / longest.max(1)).clamp(1, config.batch_size.min(micro.max_records).max(1));
    let pass = PassSize { tokens: rows * longest, predicted: rows * answer };
    let passes = Trainee {
        first: pass,
        later: (rows < config.batch_size).then_some(pass),
        checkpoint_every: config.passes.checkpoint_every,
    };
    // An adapter's reference shares the policy's weights.
    let frozen: Vec<HeldModel> = config.passes.lora.is_none().then(|| held("reference", reference)).into_iter().collect();
    let generated = config.generation_batch.min(config.rollout_size);
    MemoryNeeds::imitation_of_samples(held("policy", policy), frozen, passes, generated, longest)
}

#[cfg(test)]
mod tests {
    use farmhand_core::{ErrorKind, RecordedEvents};

    use super::*;
    use crate::rl::reduction::Reduction;
    use crate::testing::{
        Constant, LikesE, Stage, assert_resumes_exactly, fast_optim, learn_from_prompts, lively_checkpoint, moved, small_lora,
        tiny_checkpoint,
    };

    fn config() -> QuarkConfig {
        QuarkConfig {
            steps: 24,
            steps_per_round: 6,
            rollout_size: 24,
            bins: 3,
            control: "say {}".into(),
            batch_size: 12,
            max_new_tokens: 6,
            save_every: 5,
            optim: fast_optim(1e-2),
            ..QuarkConfig::default()
        }
    }

    #[test]
    fn answers_behind_the_best_control_get_better_and_the_model_keeps_its_controls() {
        let (stage, events) = (Stage::new(), RecordedEvents::default());
        let init = tiny_checkpoint(&stage);
        let learned = learn_from_prompts(&config(), 12, &init, &mut LikesE, &stage.context(&events)).expect("learned");
        let reward = events.scalars("quark/reward");
        assert_eq!(reward.iter().map(|(step, _)| *step).collect::<Vec<_>>(), [0, 6, 12, 18]);
        assert!(reward[3].1 > reward[0].1 + 0.05, "{reward:?}");
        assert_eq!(events.scalars("quark/pool").iter().map(|(_, n)| *n).collect::<Vec<_>>(), [24.0, 48.0, 72.0, 96.0]);
        assert_eq!(events.scalars("quark/loss").len(), 24);
        let controls = Controls::load(learned.path()).expect("saved");
        assert_eq!((controls.best(), controls.values().len()), ("0", 3));
    }

    #[test]
    fn alpaca_farms_version_learns_the_best_bin_without_controls() {
        let (stage, events) = (Stage::new(), RecordedEvents::default());
        let init = tiny_checkpoint(&stage);
        let small = config();
        let config = QuarkConfig {
            steps: 24,
            steps_per_round: 3,
            max_new_tokens: small.max_new_tokens,
            batch_size: small.batch_size,
            rollout_size: 48,
            optim: fast_optim(2e-2),
            ..QuarkConfig::alpaca_farm()
        };
        assert_eq!((config.reduction, config.bins), (Reduction::FixedNorm, 4));
        let learned = learn_from_prompts(&config, 12, &init, &mut LikesE, &stage.context(&events)).expect("learned");
        let reward = events.scalars("quark/reward");
        assert!(reward[7].1 > reward[0].1 + 0.05, "{reward:?}");
        assert!(events.scalars("quark/pool").iter().all(|(_, n)| *n == 48.0));
        assert!(Controls::load(learned.path()).is_err(), "it knows no controls");
    }

    #[test]
    fn a_pool_of_equal_scores_is_refused() {
        let (stage, events) = (Stage::new(), RecordedEvents::default());
        let init = tiny_checkpoint(&stage);
        let error = learn_from_prompts(&config(), 4, &init, &mut Constant, &stage.context(&events)).expect_err("no bins");
        assert_eq!(error.kind(), ErrorKind::InvalidData);
        assert!(error.message().contains("all 24 answers in the pool have the same score"), "{error}");
    }

    #[test]
    fn a_stopped_or_killed_run_continues_to_the_same_bytes_also_with_an_adapter() {
        let base = Stage::new();
        let init = lively_checkpoint(&base);
        let mut with_lora = config();
        with_lora.passes.lora = Some(small_lora());
        for config in [config(), with_lora] {
            let learn = |ctx: &RunContext<'_>| learn_from_prompts(&config, 12, &init, &mut LikesE, ctx);
            assert_resumes_exactly("quark/loss", 14, learn);
            if config.passes.lora.is_some() {
                let stage = Stage::new();
                let learned = learn(&stage.context(&farmhand_core::NoEvents)).expect("learned");
                let names = moved(&init, &learned);
                assert!(names.len() == 2 * 7 && names.iter().all(|name| name.ends_with("_proj.weight")), "{names:?}");
            }
        }
    }
}
