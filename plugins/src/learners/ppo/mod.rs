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
//! * `value_start`: where the value model comes from.

mod config;
mod sampling;
mod update;
mod value_start;

use std::time::Instant;

use farmhand_core::types::Instruction;
use farmhand_core::{
    BuildContext, Checkpoint, Error, FeedbackKind, Learner, LearnerConfig, LearnerInputs, Problem, Requirements, Result,
    RewardModel, RunContext, register,
};
use farmhand_models::{
    AdamW, EncodedText, HeldModel, ModelConfig, PassSize, Storage, TextCodec, load_train_state, save_checkpoint,
    save_train_state, tch_device,
};
use serde::{Deserialize, Serialize};

pub use self::config::{PpoConfig, ValueInit};
use self::sampling::Sampler;
use self::update::{targets, update};
use self::value_start::starting_value_model;
use crate::training::{MemoryNeeds, Record, TokenLimit, Trainee, admit, held, is_same_model, load_reference, start_training};

register! {
    kind: Learner, name: "ppo", config: PpoConfig,
    summary: "proximal policy optimisation against a reward model, as in AlpacaFarm", paper: "https://arxiv.org/abs/1707.06347",
    presets: { "alpaca_farm": "AlpacaFarm's set-up for simulated feedback" => PpoConfig::alpaca_farm() },
}

#[typetag::serde(name = "ppo")]
impl LearnerConfig for PpoConfig {
    fn build(&self, _: &BuildContext<'_>) -> Result<Box<dyn Learner>> {
        Ok(Box::new(Ppo(self.clone())))
    }

    fn problems(&self) -> Vec<Problem> {
        PpoConfig::problems(self)
    }
}

struct Ppo(PpoConfig);

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
        let Self(config) = self;
        let instructions = inputs.feedback.prompts()?;
        let reward_model = inputs.reward_model.ok_or_else(|| Error::missing_input("`ppo` needs a reward model"))?;
        let device = tch_device(ctx.device)?;
        let (codec, policy) = config.passes.load(inputs.init, ctx)?;
        let reference = match inputs.reference {
            Some(checkpoint) if !is_same_model(checkpoint, inputs.init)? => load_reference(checkpoint, &policy)?,
            // An adapter leaves the policy's own weights as they are.
            _ if config.passes.lora.is_some() => policy.without_adapter(),
            _ => policy.copy()?,
        };
        let value = starting_value_model(config, inputs.init, &policy, reward_model, ctx.seed)?;
        // The value model may be another model with a shorter context.
        let context = policy.config().max_positions().min(value.body.config().max_positions());
        let prompts = fitting_prompts(instructions, context, &codec, config, ctx)?;
        let policy = start_training(policy, &config.passes, inputs.init, ctx.seed.child("lora", 0))?;

        let (policy_parameters, value_parameters) = (policy.trained(), value.trained());
        let n_steps = config.n_optimiser_steps();
        let mut optim = AdamW::new(&policy_parameters, &config.optim, n_steps);
        let mut value_optim = AdamW::new(&value_parameters, &config.value_optim, n_steps);
        let models = [("policy", policy_parameters.as_slice()), ("value", value_parameters.as_slice())];
        let resumed = load_train_state(ctx, &models, &mut [("policy", &mut optim), ("value", &mut value_optim)])?;
        let (start, mut carried) = match resumed {
            Some((step, extra)) => (step, carried_from(extra)?),
            None => (0, Carried { kl_weight: config.kl_weight }),
        };
        let save = |step: u64, optim: &AdamW, value_optim: &AdamW, carried: Carried| {
            let extra = serde_json::to_value(carried).expect("numbers are JSON");
            save_train_state(ctx, step, &models, &[("policy", optim), ("value", value_optim)], &extra)
        };

        let sampler = Sampler {
            config,
            codec: &codec,
            instructions,
            prompts: &prompts,
            policy: &policy,
            reference: &reference,
            value: &value,
        };
        expected_memory(&sampler, reward_model)?.announce("ppo", start, device, ctx)?;
        let n_rollouts = config.rollout_size as u64;
        let mut progress = ctx.progress("proximal policy optimisation", Some(config.steps * n_rollouts), "responses");
        progress.advance(start * n_rollouts);
        for step in start..config.steps {
            if ctx.cancel.is_cancelled() {
                save(step, &optim, &value_optim, carried)?;
                return Err(Error::cancelled());
            }
            if step > start && step % config.save_every == 0 {
                save(step, &optim, &value_optim, carried)?;
            }

            let started = Instant::now();
            let round = match sampler.roll_out(step, reward_model, ctx) {
                // Nothing has moved since the step began.
                Err(error) if error.is_cancelled() => {
                    save(step, &optim, &value_optim, carried)?;
                    return Err(error);
                }
                other => other?,
            };
            let sampled_secs = round.rollout_secs.max(1e-9);
            let scored_secs = started.elapsed().as_secs_f64() - round.rollout_secs;
            let targets = targets(&round.batch, config, carried.kl_weight);
            let started = Instant::now();
            let update = update(&sampler, &round, &targets, step, &mut optim, &mut value_optim, ctx)?;
            let trained_secs = started.elapsed().as_secs_f64().max(1e-9);

            let n_sampled: usize = round.batch.lengths.iter().sum();
            for (name, number) in [
                ("ppo/reward", round.mean_score),
                ("ppo/kl", targets.kl),
                ("ppo/kl_weight", carried.kl_weight),
                ("ppo/token_reward", targets.token_reward),
                ("ppo/entropy", round.entropy),
                ("ppo/response_length", n_sampled as f64 / n_rollouts as f64),
                ("ppo/ended", round.ended),
                ("ppo/policy_loss", update.policy_loss),
                ("ppo/value_loss", update.value_loss),
                ("ppo/clip_fraction", update.clip_fraction),
                ("ppo/value_clip_fraction", update.value_clip_fraction),
                ("ppo/approx_kl", update.approx_kl),
                ("ppo/explained_variance", update.explained_variance),
                ("ppo/grad_norm", update.grad_norm),
                ("ppo/value_grad_norm", update.value_grad_norm),
                ("ppo/lr", update.lr),
                ("ppo/rollout_secs", round.rollout_secs),
                ("ppo/score_secs", scored_secs),
                ("ppo/update_secs", trained_secs),
                ("ppo/sampled_tokens_per_sec", n_sampled as f64 / sampled_secs),
                ("ppo/trained_tokens_per_sec", update.n_tokens as f64 / trained_secs),
            ] {
                ctx.scalar(name, step, number);
            }
            carried.kl_weight = config.kl_control.next_weight(carried.kl_weight, targets.kl, config.rollout_size);
            progress.advance(n_rollouts);
        }
        save_checkpoint(&policy, &codec, "ppo", ctx)
    }
}

/// What the models and the largest possible passes take: every response as long as it may be.
fn expected_memory(sampler: &Sampler<'_>, reward_model: &dyn RewardModel) -> Result<MemoryNeeds> {
    let Sampler { config, policy, reference, value, .. } = *sampler;
    let response = config.max_new_tokens as usize;
    let mut lengths: Vec<usize> = sampler.prompts.iter().map(|record| record.longest() + response).collect();
    lengths.sort_unstable_by(|a, b| b.cmp(a));
    let length = lengths.first().copied().unwrap_or(0);
    let in_a_step: Vec<usize> = lengths.into_iter().cycle().take(config.batch_size.min(config.rollout_size)).collect();
    let micro = config.passes.micro_batching(policy.device());
    let (mut tokens, mut n) = (0, 0);
    for text in in_a_step.iter().take(micro.max_records) {
        if n > 0 && tokens + text > micro.max_tokens {
            break;
        }
        (tokens, n) = (tokens + text, n + 1);
    }
    let pass = PassSize { tokens, predicted: n * response };
    let passes =
        Trainee { first: pass, later: (n < in_a_step.len()).then_some(pass), checkpoint_every: config.passes.checkpoint_every };
    // An adapter's reference shares the policy's weights.
    let mut frozen: Vec<_> = config.passes.lora.is_none().then(|| held("reference", reference)).into_iter().collect();
    if let Some(checkpoint) = reward_model.checkpoint() {
        frozen.push(HeldModel::frozen("reward model", &ModelConfig::load(checkpoint.path())?, false, Storage::F32));
    }
    let rows = config.generation_batch.min(config.rollout_size);
    Ok(MemoryNeeds::reinforcement(held("policy", policy), held("value model", &value.body), frozen, passes, rows, length))
}

/// The prompts of the instructions that leave room for a whole response in a context of `context` tokens.
fn fitting_prompts(
    instructions: &[Instruction],
    context: usize,
    codec: &TextCodec,
    config: &PpoConfig,
    ctx: &RunContext<'_>,
) -> Result<Vec<Record>> {
    let response = config.max_new_tokens as usize;
    if response >= context {
        return Err(Error::invalid_config(format!(
            "`max_new_tokens` = {response} leaves no room for a prompt in the model's context of {context} tokens"
        )));
    }
    let limit = TokenLimit { option: "max_prompt_tokens", max_tokens: config.max_prompt_tokens, context: context - response };
    admit(instructions, "instructions", limit, false, ctx, |instruction| {
        let ids = codec.prompt(instruction)?;
        Ok(Record::new(&instruction.id, [EncodedText { response_start: ids.len(), ids }]))
    })
}

fn carried_from(extra: serde_json::Value) -> Result<Carried> {
    serde_json::from_value(extra).map_err(|error| Error::invalid_data("the saved state is not one of `ppo`").with_source(error))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use farmhand_core::types::Response;
    use farmhand_core::{Device, ErrorKind, Feedback, RecordedEvents, RewardModel};
    use farmhand_models::LoraConfig;

    use super::*;
    use crate::rl::kl::KlControl;
    use crate::rl::masked::Whitening;
    use crate::rl::reduction::Reduction;
    use crate::testing::{
        Stage, assert_resumes_exactly, assert_same_bytes, fast_optim, instructions, lively_checkpoint, moved, small_lora,
        tiny_checkpoint,
    };
    use crate::training::PassOptions;

    /// Likes the letter e: its share of the answer's first characters.
    struct LikesE;

    impl RewardModel for LikesE {
        fn score(&mut self, items: &[Response<'_>], _: &RunContext<'_>) -> Result<Vec<f64>> {
            let share = |text: &str| text.chars().filter(|c| *c == 'e').count() as f64 / text.chars().count().max(1) as f64;
            Ok(items.iter().map(|item| share(item.output)).collect())
        }
    }

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
        let instructions = instructions(10);
        let inputs = LearnerInputs {
            init,
            reference: None,
            feedback: Feedback::Prompts(&instructions),
            validation: None,
            reward_model: Some(&mut LikesE),
            annotator: None,
        };
        config.build(&BuildContext::new(Device::Cpu, Path::new(".")))?.learn(inputs, ctx)
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
        let inputs =
            LearnerInputs { init: &init, reference: None, feedback, validation: None, reward_model: None, annotator: None };
        let error = Ppo(config()).learn(inputs, &stage.context(&events)).expect_err("no reward model");
        assert_eq!(error.kind(), ErrorKind::MissingInput);
    }
}
