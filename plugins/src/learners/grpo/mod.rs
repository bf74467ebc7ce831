//! Group relative policy optimisation: responses to one prompt are compared with each other instead of with a value model.
//!
//! Shao et al. 2024, <https://arxiv.org/abs/2402.03300>, equation 3 (outcome supervision). Each round samples a group of
//! responses y_i to each prompt, scores them with the reward model, and takes optimiser steps on
//! `max(−A_i ρ, −A_i clip(ρ, 1 − ε_low, 1 + ε_high)) + β k3` per token, with `A_i = (r_i − mean) / (deviation + 1e-4)` over the group
//! and `ρ = π(y_t) / π_old(y_t)`; the mean over each response's tokens, then over responses.
//!
//! Papers since then differ from this in one term each, which are options here: the advantage
//! ([`crate::rl::advantage::GroupAdvantage`]), the ratio ([`crate::rl::policy_gradient::Importance`]), the clip bounds, the
//! reduction, where the divergence counts, what happens to groups without a difference and to responses that are too long. Their combinations are presets:
//! Dr. GRPO, DAPO, GSPO, CISPO.

mod config;
mod divergence;

use farmhand_core::{
    BuildContext, Checkpoint, Error, FeedbackKind, Learner, LearnerConfig, LearnerInputs, Problem, Requirements, Result,
    RewardModel, RunContext, register,
};
use farmhand_models::{LanguageModel, TokenBatch, save_checkpoint, selected_log_probs_no_grad_at};
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

pub use self::config::{EqualRewards, GrpoConfig};
use self::divergence::{divergences, penalised};
use crate::rl::advantage::{is_level, per_token};
use crate::rl::kl::KlPlacement;
use crate::rl::policy_gradient::ratios;
use crate::rl::reward_shaping::{length_mask, overlong_penalty};
use crate::rl::rollout::{flat_rows, padded};
use crate::training::{
    MicroBatch, MicroLoss, OnPolicy, OnPolicyModels, OnPolicyTask, Partition, Record, Sampled, Sampler, update_policy,
};

register! {
    kind: Learner, name: "grpo", config: GrpoConfig,
    summary: "group relative policy optimisation, and Dr. GRPO, DAPO, GSPO and CISPO", paper: "https://arxiv.org/abs/2402.03300",
    presets: {
        "dr_grpo": "Dr. GRPO: no division by deviation and length" => GrpoConfig::dr_grpo(),
        "dapo": "DAPO: higher clip, token mean, dynamic sampling, overlong penalty" => GrpoConfig::dapo(),
        "gspo": "GSPO: the ratio of the whole response" => GrpoConfig::gspo(),
        "cispo": "CISPO: clipped weights instead of clipped gradients" => GrpoConfig::cispo(),
    },
}

#[typetag::serde(name = "grpo")]
impl LearnerConfig for GrpoConfig {
    fn build(&self, _: &BuildContext<'_>) -> Result<Box<dyn Learner>> {
        Ok(Box::new(Grpo(self.clone())))
    }

    fn problems(&self) -> Vec<Problem> {
        GrpoConfig::problems(self)
    }
}

struct Grpo(GrpoConfig);

/// What a round leaves for the next one besides weights and optimiser.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Carried {
    /// Prompts drawn so far; more than rounds times prompts where groups are refilled.
    drawn: u64,
}

impl Learner for Grpo {
    fn requires(&self) -> Requirements {
        Requirements::policy_from(FeedbackKind::Prompts).with_reward_model()
    }

    fn learn(&mut self, inputs: LearnerInputs<'_>, ctx: &RunContext<'_>) -> Result<Checkpoint> {
        let Self(config) = self;
        let instructions = inputs.feedback.prompts()?;
        let reward_model = inputs.reward_model.ok_or_else(|| Error::missing_input("`grpo` needs a reward model"))?;
        let with_reference = config.kl_weight > 0.0;
        let options = (&config.rollouts, &config.passes);
        let models = OnPolicyModels::load(inputs.init, inputs.reference, with_reference, instructions, options, ctx)?;
        let reference = models.reference.as_ref();
        let sampler = models.sampler(instructions, &config.rollouts, &config.passes);

        let task = OnPolicyTask { learner: "grpo", doing: "group relative policy optimisation" };
        let batch_size = config.batch_size.min(config.rollouts.n_responses());
        let optim = (&config.optim, config.rollouts.n_optimiser_steps(config.batch_size, config.inner_epochs));
        let carried = Carried { drawn: 0 };
        let mut training =
            OnPolicy::start_policy(task, &sampler, reference, Some(&*reward_model), (1, batch_size), optim, carried, ctx)?;
        while let Some(step) = training.next_step()? {
            let mut round = training.keep(collect(config, &sampler, training.carried.drawn, reward_model, ctx))?;
            training.carried.drawn = round.drawn;
            training.log(&[
                ("reward", round.reward),
                ("reward_deviation", round.deviation),
                ("zero_advantage_groups", round.level_groups),
                ("trained_responses", round.trained.len() as f64),
                ("score_secs", round.score_secs),
            ]);
            training.log(&round.sampled.scalars());
            if let Some(reference) = reference.filter(|_| config.kl_placement == KlPlacement::Reward) {
                let kl = training.keep(divergences(config, &sampler, &round.sampled.records, reference, step, ctx))?;
                training.log(&[("kl", kl.iter().sum::<f64>() / kl.len() as f64)]);
                let rewards = penalised(&round.rewards, &kl, config.kl_weight);
                round.advantages = config.advantage.of(&rewards, config.rollouts.samples_per_prompt);
            }
            if round.trained.is_empty() || (round.level_groups == 1.0 && !with_reference) {
                training.idle("no response has an advantage over the others to its prompt");
                training.end_step();
                continue;
            }

            let records = round.sampled.only(&round.trained).records;
            let advantages: Vec<f64> = round.trained.iter().map(|&row| round.advantages[row]).collect();
            let partition = |epoch| sampler.partition(&records, config.batch_size, step, epoch, ctx);
            let in_loss = reference.filter(|_| config.kl_placement == KlPlacement::Loss);
            let measured = Measured::new(config, &sampler, &records, &partition(0), in_loss)?;
            let advantages = per_token(&advantages, &measured.mask);
            let partitions = (0..config.inner_epochs).map(partition);
            let loss = |micro: &MicroBatch<'_>| token_loss(config, &measured, &advantages, micro);
            let optim = &mut training.parts[0].optim;
            let update = update_policy(&sampler, &records, partitions, &format!("step {step}"), optim, loss)?;
            training.log(&update.scalars());
            training.end_step();
        }
        training.finish()?;
        save_checkpoint(&models.policy, &models.codec, "grpo", ctx)
    }
}

/// A round's groups of scored responses.
struct Round {
    sampled: Sampled,
    /// Scores with their penalty for length.
    rewards: Vec<f64>,
    advantages: Vec<f64>,
    /// The responses to train on, as places in `sampled`.
    trained: Vec<usize>,
    /// Mean score and mean deviation of a group's rewards, over all groups that were sampled.
    reward: f64,
    deviation: f64,
    /// The share of groups whose rewards are all the same.
    level_groups: f64,
    score_secs: f64,
    /// Prompts drawn up to and with this round.
    drawn: u64,
}

/// Samples and scores the groups of a round, from draw `drawn` on; again in place of groups that are left out, where the options
/// say so.
fn collect(
    config: &GrpoConfig,
    sampler: &Sampler<'_>,
    mut drawn: u64,
    reward_model: &mut dyn RewardModel,
    ctx: &RunContext<'_>,
) -> Result<Round> {
    let (n_prompts, group) = (config.rollouts.prompts_per_step, config.rollouts.samples_per_prompt);
    let mut more = match config.equal_rewards {
        EqualRewards::Refill { rounds } => rounds,
        _ => 0,
    };
    let (mut all, mut plain, mut rewards): (Option<Sampled>, Vec<f64>, Vec<f64>) = (None, Vec::new(), Vec::new());
    let (mut missing, mut score_secs) = (n_prompts, 0.0);
    loop {
        let sampled = sampler.sample(drawn, missing, ctx)?;
        drawn += missing as u64;
        let scores = sampler.score(&sampled, reward_model, ctx)?;
        let (longest, margin) = (config.rollouts.max_new_tokens as usize, config.overlong_margin as usize);
        let penalty = |length: usize| if margin > 0 { overlong_penalty(length, longest, margin) } else { 0.0 };
        rewards.extend(scores.rewards.iter().zip(sampled.lengths()).map(|(reward, length)| reward + penalty(length)));
        plain.extend(&scores.plain);
        score_secs += scores.secs;
        match &mut all {
            Some(all) => all.append(sampled),
            none => *none = Some(sampled),
        }
        let uneven = rewards.chunks(group).filter(|group| !is_level(group)).count();
        missing = n_prompts.saturating_sub(uneven);
        if more == 0 || missing == 0 {
            break;
        }
        more -= 1;
    }
    let sampled = all.expect("a round samples at least once");
    let is_left_out = |row: usize| {
        let of_group = &rewards[row / group * group..][..group];
        (config.equal_rewards != EqualRewards::Keep && is_level(of_group)) || (config.skip_cut_off && !sampled.ended[row])
    };
    let groups: Vec<&[f64]> = rewards.chunks(group).collect();
    let deviation = |group: &&[f64]| {
        let mean = group.iter().sum::<f64>() / group.len() as f64;
        (group.iter().map(|reward| (reward - mean).powi(2)).sum::<f64>() / group.len() as f64).sqrt()
    };
    Ok(Round {
        advantages: config.advantage.of(&rewards, group),
        trained: (0..rewards.len()).filter(|&row| !is_left_out(row)).collect(),
        reward: plain.iter().sum::<f64>() / plain.len() as f64,
        deviation: groups.iter().map(deviation).sum::<f64>() / groups.len() as f64,
        level_groups: groups.iter().filter(|group| is_level(group)).count() as f64 / groups.len() as f64,
        rewards,
        sampled,
        score_secs,
        drawn,
    })
}

/// What the models say about the tokens of a round before the update, `[rollouts, tokens]`, on the CPU, without gradient.
struct Measured {
    /// 1 for response tokens, 0 for padding.
    mask: Tensor,
    /// Log-probabilities at sampling; none where the round is one optimiser step, for then they are the policy's own.
    log_probs: Option<Tensor>,
    /// Log-probabilities under the reference, where there is one.
    reference: Option<Tensor>,
}

impl Measured {
    fn new(
        config: &GrpoConfig,
        sampler: &Sampler<'_>,
        records: &[Record],
        first_pass: &Partition,
        reference: Option<&LanguageModel>,
    ) -> Result<Self> {
        let lengths: Vec<usize> = records.iter().map(|record| record.texts[0].response().len()).collect();
        let mask = length_mask(&lengths, lengths.iter().copied().max().unwrap_or(0), Kind::Float);
        let under = |model: &LanguageModel, name| -> Result<Tensor> {
            let log_probs = |batch: &TokenBatch| [selected_log_probs_no_grad_at(model, batch, config.rollouts.temperature).0];
            let [flat] = sampler.measure(records, first_pass, [name], log_probs)?;
            Ok(padded(&flat, &mask))
        };
        let is_one_step = config.inner_epochs == 1 && first_pass.len() == 1;
        let log_probs = (!is_one_step).then(|| under(sampler.policy, "log-probability")).transpose()?;
        let reference = reference.map(|reference| under(reference, "reference log-probability")).transpose()?;
        Ok(Self { log_probs, reference, mask })
    }
}

/// The loss of some responses, with `advantages` `[rollouts, tokens]`.
fn token_loss(config: &GrpoConfig, measured: &Measured, advantages: &Tensor, micro: &MicroBatch<'_>) -> MicroLoss {
    let flat = |block: &Tensor| flat_rows(block, &measured.mask, micro.rows).to_device(micro.log_probs.device());
    let mean = |values: &Tensor| values.sum(Kind::Double) / micro.totals.n_tokens as f64;
    let old = measured.log_probs.as_ref().map_or_else(|| micro.log_probs.detach(), flat);
    let policy = config.ratio.policy_loss(micro.log_probs, &old, &flat(advantages), &micro.lengths, config.clip());
    let mut numbers = vec![
        ("clip_fraction", mean(&policy.clipped)),
        ("approx_kl", mean(&policy.approx_kl)),
        ("entropy", mean(micro.entropies)),
    ];
    let mut losses = policy.losses;
    if let Some(reference) = &measured.reference {
        let mut kl = config.kl_estimator.per_token(micro.log_probs, &flat(reference));
        if config.kl_importance_weight {
            kl *= ratios(micro.log_probs, &old);
        }
        numbers.push(("kl", kl.detach().sum(Kind::Double) / micro.n_records as f64));
        losses += kl * config.kl_weight;
    }
    MicroLoss { loss: config.reduction.reduce(&losses, &micro.lengths, micro.totals), numbers }
}

#[cfg(test)]
mod tests;
