//! Proximal policy optimisation against a reward model: AlpacaFarm's algorithm.
//!
//! Schulman et al. 2017, <https://arxiv.org/abs/1707.06347>; for language models Stiennon et al. 2020,
//! <https://arxiv.org/abs/2009.01325>. Each round samples responses y to instructions x and rewards their tokens with
//! `−β kl_t`, the divergence from the reference policy, plus the reward model's score at the last token; estimates
//! advantages with a separate value model ([`crate::rl::advantage`]); and takes a few optimiser steps on
//! `max(−A ρ, −A clip(ρ, 1 ± ε))` with `ρ = π(y_t) / π_old(y_t)`, and on the clipped value loss
//! ([`crate::rl::policy_gradient`]).
//!
//! Means run over real tokens by default. AlpacaFarm's means and whitening over padded cells, its clamped divergence and
//! its other choices are options; [`PpoConfig::alpaca_farm`] sets them all.
//!
//! * `config`: the options.
//! * `sampling`: responses, scores, log-probabilities, values.
//! * `update`: rewards, advantages, optimiser steps.
//! * `pretraining`: texts that the policy goes on learning.
//! * `value_start`: where the value model comes from.

mod config;
mod pretraining;
mod sampling;
mod update;
mod value_start;

use std::path::PathBuf;
use std::time::Instant;

use farmhand_core::{
    BuildContext, Checkpoint, Error, FeedbackKind, Learner, LearnerConfig, LearnerInputs, Problem, Requirements, Result,
    RunContext, register,
};
use farmhand_models::save_checkpoint;
use serde::{Deserialize, Serialize};

pub use self::config::{PpoConfig, ValueInit};
pub use self::pretraining::PretrainingMix;
use self::pretraining::PretrainingTexts;
use self::sampling::Actors;
use self::update::{dry_run, targets, update};
use self::value_start::starting_value_model;
use crate::training::{
    OnPolicy, OnPolicyTask, Sampler, TrainedPart, fitting_prompts, held, held_beside, standing_reference, start_training,
};

register! {
    kind: Learner, name: "ppo", config: PpoConfig,
    summary: "proximal policy optimisation against a reward model, as in AlpacaFarm", paper: "https://arxiv.org/abs/1707.06347",
    presets: {
        "alpaca_farm": "AlpacaFarm's set-up for simulated feedback" => PpoConfig::alpaca_farm(),
        "instruct_gpt": "InstructGPT's, without its pre-training texts, which `pretraining.file` names" => PpoConfig::instruct_gpt(),
    },
}

#[typetag::serde(name = "ppo")]
impl LearnerConfig for PpoConfig {
    fn build(&self, ctx: &BuildContext<'_>) -> Result<Box<dyn Learner>> {
        Ok(Box::new(Ppo { config: self.clone(), base_dir: ctx.base_dir.to_owned() }))
    }

    fn problems(&self) -> Vec<Problem> {
        PpoConfig::problems(self)
    }
}

struct Ppo {
    config: PpoConfig,
    /// Where the path of pre-training texts starts.
    base_dir: PathBuf,
}

/// What a round leaves for the next one besides weights and optimisers.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Carried {
    kl_weight: f64,
}

impl Learner for Ppo {
    fn requires(&self) -> Requirements {
        Requirements::policy_from(FeedbackKind::Prompts).with_reward_model()
    }

    fn learn(&mut self, inputs: LearnerInputs<'_>, ctx: &RunContext<'_>) -> Result<Checkpoint> {
        let Self { config, base_dir } = self;
        let instructions = inputs.feedback.prompts()?;
        let reward_model = inputs.reward_model.ok_or_else(|| Error::missing_input("`ppo` needs a reward model"))?;
        let (codec, policy) = config.passes.load(inputs.init, ctx)?;
        let reference = standing_reference(inputs.init, inputs.reference, &policy, &config.passes)?;
        let value = starting_value_model(config, inputs.init, &policy, reward_model, ctx.seed)?;
        // The value model may be another model with a shorter context.
        let context = policy.config().max_positions().min(value.body.config().max_positions());
        let options = config.rollouts();
        let prompts = fitting_prompts(instructions, context, &codec, &options, ctx)?;
        let policy = start_training(policy, &config.passes, inputs.init, ctx.seed.child("lora", 0))?;

        let sampler = Sampler {
            options: &options,
            passes: &config.passes,
            codec: &codec,
            instructions,
            prompts: &prompts,
            policy: &policy,
        };
        let load = |mix| PretrainingTexts::load(mix, (&codec, context), &config.passes, base_dir, ctx);
        let pretraining = config.pretraining.as_ref().map(load).transpose()?;
        let actors = Actors { config, sampler, reference: &reference, value: &value, pretraining: pretraining.as_ref() };
        let n_steps = config.n_optimiser_steps();
        let parts = vec![
            TrainedPart::new("policy", policy.trained(), &config.optim, n_steps),
            TrainedPart::new("value", value.trained(), &config.value_optim, n_steps),
        ];
        let task = OnPolicyTask { learner: "ppo", doing: "proximal policy optimisation" };
        let (largest, is_one_of_many) = sampler.largest_pass(1, config.batch_size.min(config.rollout_size));
        let needs = {
            let trained = vec![held("policy", &policy), held_beside("value model", &value.body, &[&policy])];
            let frozen = vec![held_beside("reference", &reference, &[&policy])];
            sampler.memory_needs(trained, frozen, &largest, is_one_of_many, Some(&*reward_model))?
        };
        let carried = Carried { kl_weight: config.kl_weight };
        let mut training =
            OnPolicy::start(task, &options, parts, carried, &needs, ctx, || dry_run(&actors, &largest))?.keeping(&sampler)?;
        while let Some(step) = training.next_step()? {
            let round = training.keep(actors.roll_out(step, reward_model, ctx))?;
            let kl_weight = training.carried.kl_weight;
            let targets = targets(&round, config, kl_weight);
            let started = Instant::now();
            let update = update(&actors, &round, &targets, step, &mut training.parts, ctx)?;
            let trained_secs = started.elapsed().as_secs_f64().max(1e-9);

            let n_sampled: usize = round.batch.lengths.iter().sum();
            training.log(&[
                ("reward", round.mean_score),
                ("kl", targets.kl),
                ("kl_weight", kl_weight),
                ("token_reward", targets.token_reward),
                ("entropy", round.entropy),
                ("response_length", n_sampled as f64 / round.batch.len() as f64),
                ("ended", round.ended),
                ("policy_loss", update.policy_loss),
                ("value_loss", update.value_loss),
                ("clip_fraction", update.clip_fraction),
                ("value_clip_fraction", update.value_clip_fraction),
                ("approx_kl", update.approx_kl),
                ("explained_variance", update.explained_variance),
                ("grad_norm", update.grad_norm),
                ("value_grad_norm", update.value_grad_norm),
                ("lr", update.lr),
                ("rollout_secs", round.rollout_secs),
                ("score_secs", round.score_secs),
                ("update_secs", trained_secs),
                ("sampled_tokens_per_sec", n_sampled as f64 / round.rollout_secs.max(1e-9)),
                ("trained_tokens_per_sec", update.n_tokens as f64 / trained_secs),
            ]);
            if pretraining.is_some() {
                training.log(&[("pretraining_nll", update.pretraining_nll)]);
            }
            training.carried.kl_weight = config.kl_control.next_weight(kl_weight, targets.kl, config.rollout_size);
            training.end_step();
        }
        training.finish()?;
        save_checkpoint(&policy, &codec, "ppo", ctx)
    }
}

#[cfg(test)]
mod tests {
    use farmhand_core::{ErrorKind, Feedback, RecordedEvents};
    use farmhand_models::LoraConfig;

    use super::*;
    use crate::rl::kl::KlControl;
    use crate::rl::masked::Whitening;
    use crate::rl::reduction::Reduction;
    use crate::testing::{
        Constant, Stage, assert_resumes_exactly, assert_same_bytes, fast_optim, learn_from_prompts, learn_to_like_e,
        lively_checkpoint, moved, small_lora, tiny_checkpoint,
    };
    use crate::training::PassOptions;

    fn config() -> PpoConfig {
        PpoConfig {
            steps: 6,
            rollout_size: 8,
            batch_size: 4,
            max_new_tokens: 8,
            kl_weight: 0.01,
            save_every: 2,
            optim: fast_optim(3e-3),
            value_optim: fast_optim(3e-3),
            ..PpoConfig::default()
        }
    }

    fn learn(config: &PpoConfig, init: &Checkpoint, ctx: &RunContext<'_>) -> Result<Checkpoint> {
        learn_to_like_e(config, init, ctx)
    }

    #[test]
    fn it_finds_the_answers_that_the_reward_model_likes() {
        let stage = Stage::new();
        let events = RecordedEvents::default();
        let config = PpoConfig { steps: 30, rollout_size: 32, batch_size: 16, optim: fast_optim(2e-2), ..config() };
        learn(&config, &tiny_checkpoint(&stage), &stage.context(&events)).expect("learned");
        let rewards: Vec<f64> = events.scalars("ppo/reward").into_iter().map(|(_, reward)| reward).collect();
        assert!(rewards[0] < 0.2, "{rewards:?}");
        assert!(rewards[25..].iter().sum::<f64>() / 5.0 > 0.8, "{rewards:?}");
        let kl = events.scalars("ppo/kl");
        assert_eq!(kl[0].1, 0.0, "the first round samples from the reference itself");
        assert!(kl[29].1 > 1.0);
        let values = events.scalars("ppo/explained_variance");
        assert!(values.iter().all(|(_, value)| *value <= 1.0));
    }

    #[test]
    fn the_probability_ratio_is_exactly_1_at_the_first_optimiser_step() {
        let stage = Stage::new();
        let events = RecordedEvents::default();
        let passes = PassOptions { micro_batch_size: Some(3), ..PassOptions::default() };
        let one_step = PpoConfig { inner_epochs: 1, batch_size: 8, passes, ..config() };
        learn(&one_step, &tiny_checkpoint(&stage), &stage.context(&events)).expect("learned");
        for name in ["ppo/approx_kl", "ppo/clip_fraction", "ppo/value_clip_fraction"] {
            let values = events.scalars(name);
            assert_eq!(values.len(), 6);
            assert!(values.iter().all(|(_, value)| *value == 0.0), "{name}: {values:?}");
        }
    }

    #[test]
    fn adapters_move_towards_what_the_reward_model_likes_and_a_stopped_run_continues_to_the_same_bytes() {
        let base = Stage::new();
        let init = lively_checkpoint(&base);
        let lora = Some(LoraConfig { dropout: 0.0, ..small_lora() });
        let (stage, events) = (Stage::new(), RecordedEvents::default());
        let config = PpoConfig { passes: PassOptions { lora, ..PassOptions::default() }, ..config() };
        let longer = PpoConfig { steps: 30, rollout_size: 32, batch_size: 16, optim: fast_optim(5e-2), ..config.clone() };
        let learned = learn(&longer, &init, &stage.context(&events)).expect("learned");
        let rewards: Vec<f64> = events.scalars("ppo/reward").into_iter().map(|(_, reward)| reward).collect();
        assert!(rewards[25..].iter().sum::<f64>() > 2.0 * rewards[..5].iter().sum::<f64>(), "{rewards:?}");
        let kl = events.scalars("ppo/kl");
        assert!(kl[0].1 == 0.0 && kl[29].1 > 0.1, "the reference is the policy without its adapter: {kl:?}");
        assert!(moved(&init, &learned).iter().all(|name| name.ends_with("_proj.weight")));
        assert_resumes_exactly("ppo/reward", 3, |ctx| learn(&config, &init, ctx));
    }

    #[test]
    fn gradient_checkpointing_changes_no_byte_and_no_resumption() {
        let base = Stage::new();
        let init = tiny_checkpoint(&base);
        let saving = PpoConfig { passes: PassOptions { checkpoint_every: 1, ..PassOptions::default() }, ..config() };
        let run = |config: &PpoConfig, ctx: &RunContext<'_>| learn(config, &init, ctx);
        assert_same_bytes(&[config(), saving.clone()], run);
        assert_resumes_exactly("ppo/reward", 3, |ctx| run(&saving, ctx));
    }

    #[test]
    fn a_stopped_or_killed_run_continues_to_the_same_bytes_with_its_value_model_and_kl_weight() {
        let base = Stage::new();
        let init = tiny_checkpoint(&base);
        let config = PpoConfig { kl_control: KlControl::AdaptiveGain { target: 0.01, gain: 0.5 }, ..config() };
        for scalar in ["ppo/reward", "ppo/kl_weight"] {
            assert_resumes_exactly(scalar, 3, |ctx| learn(&config, &init, ctx));
        }
    }

    #[test]
    fn the_alpaca_farm_preset_runs_at_a_small_scale() {
        let stage = Stage::new();
        let events = RecordedEvents::default();
        let preset = PpoConfig {
            steps: 2,
            rollout_size: 16,
            batch_size: 8,
            max_new_tokens: 6,
            value_init: ValueInit::Policy,
            ..PpoConfig::alpaca_farm()
        };
        assert_eq!((preset.reduction, preset.whiten_rewards), (Reduction::FixedNorm, Whitening::AllCells));
        learn(&preset, &tiny_checkpoint(&stage), &stage.context(&events)).expect("learned");
        assert!(events.scalars("ppo/kl").iter().all(|(_, kl)| *kl >= 0.0));
        assert_eq!(events.scalars("ppo/response_length").len(), 2);
    }

    #[test]
    fn equal_rewards_teach_nothing_and_everything_stays_finite() {
        let stage = Stage::new();
        let (init, events) = (tiny_checkpoint(&stage), RecordedEvents::default());
        learn_from_prompts(&config(), 10, &init, &mut Constant, &stage.context(&events)).expect("learned");
        for name in ["policy_loss", "value_loss", "grad_norm", "value_grad_norm", "kl", "explained_variance"] {
            let values = events.scalars(&format!("ppo/{name}"));
            assert!(values.len() == 6 && values.iter().all(|(_, value)| value.is_finite()), "{name}: {values:?}");
        }
        assert!(events.scalars("ppo/reward").iter().all(|(_, reward)| (reward - 0.25).abs() < 1e-6));
    }

    #[test]
    fn a_response_without_room_and_a_missing_reward_model_are_errors() {
        let stage = Stage::new();
        let init = tiny_checkpoint(&stage);
        let events = RecordedEvents::default();
        let error = learn(&PpoConfig { max_new_tokens: 96, ..config() }, &init, &stage.context(&events)).expect_err("no room");
        assert!(error.message().contains("`max_new_tokens` = 96") && error.message().contains("96 tokens"), "{error}");
        let error =
            learn(&PpoConfig { max_prompt_tokens: 2, ..config() }, &init, &stage.context(&events)).expect_err("all too long");
        assert!(error.message().contains("`max_prompt_tokens` of 2 tokens"), "{error}");
        let feedback = Feedback::Prompts(&[]);
        let inputs = LearnerInputs {
            init: &init,
            reference: None,
            feedback,
            validation: None,
            reward_model: None,
            annotator: None,
            models: &farmhand_core::FoldersOnly,
        };
        let error = Ppo { config: config(), base_dir: PathBuf::new() }
            .learn(inputs, &stage.context(&events))
            .expect_err("no reward model");
        assert_eq!(error.kind(), ErrorKind::MissingInput);
    }
}
