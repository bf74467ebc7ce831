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

mod config;
mod sampling;
mod update;

use std::time::Instant;

use farmhand_core::types::Instruction;
use farmhand_core::{
    BuildContext, Checkpoint, CheckpointKind, Error, FeedbackKind, Learner, LearnerConfig, LearnerInputs, Problem, Requirements,
    Result, RewardModel, RunContext, register,
};
use farmhand_models::{
    AdamW, EncodedText, LanguageModel, ScalarHead, ScalarModel, TextCodec, load_train_state, save_checkpoint, save_train_state,
    tch_device,
};
use serde::{Deserialize, Serialize};

pub use self::config::{PpoConfig, ValueInit};
use self::sampling::Sampler;
use self::update::{targets, update};
use crate::training::{Record, TokenLimit, admit};

register! {
    kind: Learner, name: "ppo", config: PpoConfig,
    summary: "proximal policy optimisation against a reward model, as in AlpacaFarm", paper: "https://arxiv.org/abs/1707.06347",
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
        let codec = TextCodec::load(inputs.init, config.prompt)?;
        let policy = LanguageModel::load(inputs.init.path(), device)?;
        let prompts = fitting_prompts(instructions, &policy, &codec, config, ctx)?;
        let reference = match inputs.reference {
            Some(checkpoint) => LanguageModel::load(checkpoint.path(), device)?,
            None => policy.copy()?,
        };
        let value = starting_value_model(config.value_init, inputs.init, reward_model, device)?;
        policy.set_trainable(true);
        value.set_trainable(true);

        let value_parameters = value.parameters();
        let n_steps = config.n_optimiser_steps();
        let mut optim = AdamW::new(policy.parameters(), &config.optim, n_steps);
        let mut value_optim = AdamW::new(&value_parameters, &config.value_optim, n_steps);
        let models = [("policy", policy.parameters()), ("value", value_parameters.as_slice())];
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
        let mut progress = ctx.progress("proximal policy optimisation", Some(config.steps), "steps");
        progress.advance(start);
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
            let sampled_secs = started.elapsed().as_secs_f64().max(1e-9);
            let targets = targets(&round.batch, config, carried.kl_weight);
            let started = Instant::now();
            let update = update(&sampler, &round, &targets, step, &mut optim, &mut value_optim, ctx)?;
            let trained_secs = started.elapsed().as_secs_f64().max(1e-9);

            let n_sampled: usize = round.batch.lengths.iter().sum();
            let n_rollouts = round.batch.lengths.len();
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
                ("ppo/sampled_tokens_per_sec", n_sampled as f64 / sampled_secs),
                ("ppo/trained_tokens_per_sec", update.n_tokens as f64 / trained_secs),
            ] {
                ctx.scalar(name, step, number);
            }
            carried.kl_weight = config.kl_control.next_weight(carried.kl_weight, targets.kl, n_rollouts);
            progress.advance(1);
        }
        save_checkpoint(&policy, &codec, "ppo", ctx)
    }
}

/// The prompts of the instructions that leave room for a whole response.
fn fitting_prompts(
    instructions: &[Instruction],
    policy: &LanguageModel,
    codec: &TextCodec,
    config: &PpoConfig,
    ctx: &RunContext<'_>,
) -> Result<Vec<Record<1>>> {
    let (context, response) = (policy.config().max_positions(), config.max_new_tokens as usize);
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

/// The value model: a body from where `init` says, and a head that gives 0 everywhere.
fn starting_value_model(
    init: ValueInit,
    policy: &Checkpoint,
    reward_model: &dyn RewardModel,
    device: tch::Device,
) -> Result<ScalarModel> {
    let from_reward = match (init, reward_model.checkpoint()) {
        (ValueInit::Policy, _) | (ValueInit::Auto, None) => None,
        (ValueInit::RewardModel, None) => {
            return Err(Error::invalid_config(
                "`value_init = \"reward_model\"` needs a reward model with a checkpoint of its own",
            )
            .with_hint("use `value_init = \"policy\"`"));
        }
        (_, Some(checkpoint)) => match (init, reads_the_same_tokens(policy, checkpoint)?) {
            (_, true) => Some(checkpoint),
            (ValueInit::RewardModel, false) => {
                return Err(Error::invalid_config(
                    "`value_init = \"reward_model\"` needs a reward model with the policy's tokenizer",
                )
                .with_hint("use `value_init = \"policy\"`"));
            }
            (_, false) => None,
        },
    };
    let body = match from_reward {
        Some(checkpoint) if checkpoint.kind()? == CheckpointKind::RewardModel => {
            ScalarModel::load(checkpoint.path(), device)?.body
        }
        Some(checkpoint) => LanguageModel::load(checkpoint.path(), device)?,
        None => LanguageModel::load(policy.path(), device)?,
    };
    let head = ScalarHead::zeros(body.config().hidden_size(), device);
    Ok(ScalarModel::from_language_model(body, head))
}

/// Whether two checkpoints have the same tokenizer, byte for byte.
fn reads_the_same_tokens(a: &Checkpoint, b: &Checkpoint) -> Result<bool> {
    let read = |checkpoint: &Checkpoint| {
        let path = checkpoint.path().join("tokenizer.json");
        std::fs::read(&path).map_err(|error| Error::io("read", &path, error))
    };
    Ok(read(a)? == read(b)?)
}

fn carried_from(extra: serde_json::Value) -> Result<Carried> {
    serde_json::from_value(extra).map_err(|error| Error::invalid_data("the saved state is not one of `ppo`").with_source(error))
}
