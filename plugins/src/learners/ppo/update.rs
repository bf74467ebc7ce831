//! From one round of experience to new weights.

use farmhand_core::{Error, Result, RunContext};
use farmhand_models::{AdamW, backward, selected_log_probs_at};
use tch::{Kind, Tensor};

use super::PpoConfig;
use super::sampling::{Round, Sampler};
use crate::rl::advantage::gae;
use crate::rl::masked::{masked_mean, masked_variance, zero_masked};
use crate::rl::policy_gradient::{clipped_policy_loss, clipped_value_loss};
use crate::rl::reduction::StepTotals;
use crate::rl::reward_shaping::token_rewards;
use crate::rl::rollout::RolloutBatch;

/// What the losses of a round need, `[rollouts, tokens]`, on the CPU, without gradient.
pub(super) struct Targets {
    pub(super) advantages: Tensor,
    pub(super) returns: Tensor,
    /// Mean divergence from the reference per response, in nats.
    pub(super) kl: f64,
    /// Mean reward per token, the divergence subtracted, before whitening.
    pub(super) token_reward: f64,
}

/// Shapes rewards and estimates advantages.
pub(super) fn targets(batch: &RolloutBatch, config: &PpoConfig, kl_weight: f64) -> Targets {
    let mask = &batch.mask;
    let kl = zero_masked(&config.kl_estimator.per_token(&batch.log_probs, &batch.reference_log_probs), mask);
    let rewards = token_rewards(&batch.scores, &kl, &batch.lengths, kl_weight);
    let token_reward = masked_mean(&rewards, mask).double_value(&[]);
    let whitened = config.whiten_rewards.apply(&rewards, mask, true);
    let (advantages, returns) = gae(&whitened, &batch.values, config.gamma, config.lambda);
    Targets {
        advantages: config.whiten_advantages.apply(&advantages, mask, false),
        returns,
        kl: kl.sum(Kind::Double).double_value(&[]) / batch.lengths.len() as f64,
        token_reward,
    }
}

/// What a round's optimiser steps did: means over their tokens, or over the steps.
#[derive(Default)]
pub(super) struct Update {
    pub(super) policy_loss: f64,
    pub(super) value_loss: f64,
    pub(super) clip_fraction: f64,
    pub(super) value_clip_fraction: f64,
    pub(super) approx_kl: f64,
    pub(super) grad_norm: f64,
    pub(super) value_grad_norm: f64,
    /// The learning rate of the last optimiser step.
    pub(super) lr: f64,
    /// The share of the returns' variance that the old values explain; at most 1.
    pub(super) explained_variance: f64,
    /// Tokens passed through the models, prompts included.
    pub(super) n_tokens: usize,
}

/// All optimiser steps of round `step`.
pub(super) fn update(
    sampler: &Sampler<'_>,
    round: &Round,
    targets: &Targets,
    step: u64,
    optim: &mut AdamW,
    value_optim: &mut AdamW,
    ctx: &RunContext<'_>,
) -> Result<Update> {
    let (config, batch) = (sampler.config, &round.batch);
    let lengths: Vec<usize> = round.texts.iter().map(|text| text.ids.len()).collect();
    let mut update = Update { explained_variance: explained_variance(batch, &targets.returns), ..Update::default() };
    let partitions = (0..config.inner_epochs).flat_map(|epoch| sampler.partition(&round.texts, step, epoch, ctx));
    let mut n_steps = 0.0;
    for micro_batches in partitions {
        n_steps += 1.0;
        let rows: Vec<usize> = micro_batches.concat();
        let response_lengths: Vec<usize> = rows.iter().map(|&row| batch.lengths[row]).collect();
        let totals = StepTotals::of(&response_lengths).with_width(config.max_new_tokens as usize);
        let (mut policy_loss, mut value_loss) = (0.0, 0.0);
        for rows in micro_batches {
            let losses = micro_step(sampler, round, targets, &rows, totals)?;
            policy_loss += losses.policy;
            value_loss += losses.value;
            update.clip_fraction += losses.clipped / totals.n_tokens as f64;
            update.value_clip_fraction += losses.value_clipped / totals.n_tokens as f64;
            update.approx_kl += losses.approx_kl / totals.n_tokens as f64;
            update.n_tokens += rows.iter().map(|&row| lengths[row]).sum::<usize>();
        }
        let place = || {
            let ids: Vec<String> = rows.iter().take(8).map(|&row| format!("`{}`", round.ids[row])).collect();
            format!("step {step}, responses to instructions {}{}", ids.join(", "), if rows.len() > 8 { " and more" } else { "" })
        };
        if !(policy_loss.is_finite() && value_loss.is_finite()) {
            let message = format!("the policy loss is {policy_loss} and the value loss {value_loss} at {}", place());
            return Err(Error::non_finite(message).with_hint("lower `optim.lr` or `value_optim.lr`"));
        }
        let report = optim.step().map_err(|error| error.context(place()))?;
        let value_report = value_optim.step().map_err(|error| error.context("the value model").context(place()))?;
        update.policy_loss += policy_loss;
        update.value_loss += value_loss;
        update.grad_norm += report.grad_norm;
        update.value_grad_norm += value_report.grad_norm;
        update.lr = report.lr;
    }
    for mean in [
        &mut update.policy_loss,
        &mut update.value_loss,
        &mut update.clip_fraction,
        &mut update.value_clip_fraction,
        &mut update.approx_kl,
        &mut update.grad_norm,
        &mut update.value_grad_norm,
    ] {
        *mean /= n_steps;
    }
    Ok(update)
}

/// One micro-batch's part of an optimiser step: reduced losses, and sums over tokens.
struct MicroLosses {
    policy: f64,
    value: f64,
    clipped: f64,
    value_clipped: f64,
    approx_kl: f64,
}

/// Adds the gradients of one micro-batch to policy and value model.
fn micro_step(
    sampler: &Sampler<'_>,
    round: &Round,
    targets: &Targets,
    rows: &[usize],
    totals: StepTotals,
) -> Result<MicroLosses> {
    let (config, batch) = (sampler.config, &round.batch);
    let tokens = sampler.batch_of(&round.texts, rows)?;
    let lengths = tokens.response_lengths();
    let device = sampler.policy.device();
    let flat = |block: &Tensor| batch.flat_rows(block, rows).to_device(device);
    let sum = |values: &Tensor| values.sum(Kind::Double).double_value(&[]);

    let selected = selected_log_probs_at(sampler.policy, &tokens, config.temperature);
    let policy = clipped_policy_loss(&selected.values, &flat(&batch.log_probs), &flat(&targets.advantages), config.clip);
    let policy_loss = config.reduction.reduce(&policy.losses, &lengths, totals);
    selected.backward(&policy_loss);

    let values = sampler.value.response_values(&tokens);
    let clip = (config.value_clip > 0.0).then_some(config.value_clip);
    let value = clipped_value_loss(&values, &flat(&batch.values), &flat(&targets.returns), clip);
    let value_loss = config.reduction.reduce(&value.losses, &lengths, totals);
    backward(&(&value_loss * config.value_weight));

    Ok(MicroLosses {
        policy: policy_loss.double_value(&[]),
        value: value_loss.double_value(&[]),
        clipped: sum(&policy.clipped),
        value_clipped: sum(&value.clipped),
        approx_kl: sum(&policy.approx_kl),
    })
}

fn explained_variance(batch: &RolloutBatch, returns: &Tensor) -> f64 {
    let variance = masked_variance(returns, &batch.mask).double_value(&[]);
    let unexplained = masked_variance(&(returns - &batch.values), &batch.mask).double_value(&[]);
    if variance > 0.0 { 1.0 - unexplained / variance } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use farmhand_core::types::Instruction;
    use farmhand_core::{NoEvents, RewardModel};
    use farmhand_models::{BatchLayout, EncodedText, LanguageModel, ScalarHead, ScalarModel, TextCodec};

    use super::*;
    use crate::reward_models::LengthConfig;
    use crate::rl::masked::Whitening;
    use crate::rl::reduction::Reduction;
    use crate::testing::{SPLITS, Stage, assert_same_gradients, instructions, take_gradients, tiny_checkpoint};
    use crate::training::{PassOptions, Record};

    /// Everything a round needs, and a round of eight responses sampled with it.
    fn with_round(config: &PpoConfig, check: impl FnOnce(&Sampler<'_>, &Round)) {
        let stage = Stage::new();
        let init = tiny_checkpoint(&stage);
        let codec = TextCodec::load(&init, None).expect("a codec");
        let load = || LanguageModel::load(init.path(), tch::Device::Cpu).expect("loaded");
        let (policy, reference) = (load(), load());
        let head = ScalarHead::random(16, farmhand_core::Seed::root(5), tch::Device::Cpu);
        let value = ScalarModel::from_language_model(load(), head);
        policy.set_trainable(true);
        value.set_trainable(true);
        let instructions: Vec<Instruction> = instructions(8);
        let prompt = |(index, instruction): (usize, &Instruction)| {
            let ids = codec.prompt(instruction).expect("encoded");
            Record { index, ..Record::new(&instruction.id, [EncodedText { response_start: ids.len(), ids }]) }
        };
        let prompts: Vec<_> = instructions.iter().enumerate().map(prompt).collect();
        let sampler = Sampler {
            config,
            codec: &codec,
            instructions: &instructions,
            prompts: &prompts,
            policy: &policy,
            reference: &reference,
            value: &value,
        };
        let ctx = stage.context(&NoEvents);
        let build = farmhand_core::BuildContext::new(farmhand_core::Device::Cpu, std::path::Path::new("."));
        let mut length: Box<dyn RewardModel> =
            farmhand_core::RewardModelConfig::build(&LengthConfig::default(), &build).expect("built");
        check(&sampler, &sampler.roll_out(0, length.as_mut(), &ctx).expect("sampled"));
    }

    fn config() -> PpoConfig {
        PpoConfig { rollout_size: 8, batch_size: 8, max_new_tokens: 12, ..PpoConfig::default() }
    }

    #[test]
    fn losses_and_gradients_do_not_depend_on_layout_and_micro_batches() {
        for reduction in [Reduction::TokenMean, Reduction::SeqMean, Reduction::FixedNorm] {
            with_round(&PpoConfig { reduction, ..config() }, |sampler, round| {
                let targets = targets(&round.batch, sampler.config, 0.05);
                let totals = StepTotals::of(&round.batch.lengths).with_width(12);
                let rows: Vec<usize> = (0..8).collect();
                let gradients = |layout, size, tokens| {
                    let (micro_batch_size, micro_batch_tokens) = (Some(size), Some(tokens));
                    let passes = PassOptions { layout, micro_batch_size, micro_batch_tokens, ..PassOptions::default() };
                    let config = PpoConfig { passes, ..sampler.config.clone() };
                    let sampler = Sampler { config: &config, ..*sampler };
                    let texts = |row: usize| std::slice::from_ref(&round.texts[row]);
                    let mut losses = [0.0; 2];
                    for rows in config.passes.micro_batching(sampler.policy.device()).groups_of(&rows, texts) {
                        let micro = micro_step(&sampler, round, &targets, &rows, totals).expect("run");
                        losses = [losses[0] + micro.policy, losses[1] + micro.value];
                    }
                    (losses, take_gradients(sampler.policy.parameters()), take_gradients(&sampler.value.parameters()))
                };
                let (losses, policy, value) = gradients(BatchLayout::Padded, 8, 4096);
                for (layout, size, tokens) in SPLITS {
                    let (same_losses, same_policy, same_value) = gradients(layout, size, tokens);
                    assert!(losses.iter().zip(same_losses).all(|(loss, same)| (loss - same).abs() < 1e-6 * loss.abs().max(1.0)));
                    assert_same_gradients(&same_policy, &policy, 1e-6);
                    assert_same_gradients(&same_value, &value, 1e-6);
                }
            });
        }
    }

    #[test]
    fn the_score_is_at_the_last_token_and_returns_before_it_are_the_score_without_divergence() {
        let plain = PpoConfig { whiten_rewards: Whitening::Off, whiten_advantages: Whitening::Off, ..config() };
        with_round(&plain, |sampler, round| {
            let targets = targets(&round.batch, sampler.config, 0.05);
            assert_eq!(targets.kl, 0.0);
            for (row, &length) in round.batch.lengths.iter().enumerate() {
                for t in 0..length {
                    let score = round.batch.scores.double_value(&[row as i64]);
                    assert!((targets.returns.double_value(&[row as i64, t as i64]) - score).abs() < 1e-5);
                }
            }
        });
    }

    #[test]
    fn padded_columns_exist_only_where_padding_counts() {
        with_round(&config(), |sampler, round| {
            let longest = *round.batch.lengths.iter().max().expect("responses") as i64;
            assert_eq!(round.batch.mask.size(), [8, longest]);
            let all_cells = PpoConfig { whiten_rewards: Whitening::AllCells, ..config() };
            assert_eq!(all_cells.width(&round.batch.lengths), 12);
            let advantages = targets(&round.batch, sampler.config, 0.05).advantages;
            let padding = &advantages * (round.batch.mask.ones_like() - &round.batch.mask);
            assert_eq!(padding.abs().sum(Kind::Double).double_value(&[]), 0.0);
        });
    }
}
