//! From one round of experience to new weights.

use farmhand_core::{Error, Result, RunContext};
use farmhand_models::{backward, selected_log_probs_at};
use tch::{Kind, Tensor};

use super::PpoConfig;
use super::sampling::{Actors, Round};
use crate::rl::advantage::gae;
use crate::rl::masked::{masked_mean, masked_variance};
use crate::rl::policy_gradient::{clipped_policy_loss, clipped_value_loss};
use crate::rl::reduction::StepTotals;
use crate::rl::reward_shaping::token_rewards;
use crate::rl::rollout::row_sums;
use crate::training::{Record, TrainedPart, ids_of, record_batch, step_totals};

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
pub(super) fn targets(round: &Round, config: &PpoConfig, kl_weight: f64) -> Targets {
    let Round { batch, values, scores, .. } = round;
    let kl = batch.kl(config.kl_estimator);
    let rewards = token_rewards(scores, &kl, &batch.lengths, kl_weight);
    let token_reward = masked_mean(&rewards, &batch.mask).double_value(&[]);
    let whitened = config.whiten_rewards.apply(&rewards, &batch.mask, true);
    let (advantages, returns) = gae(&whitened, values, config.gamma, config.lambda);
    Targets {
        advantages: config.whiten_advantages.apply(&advantages, &batch.mask, false),
        returns,
        kl: row_sums(&kl).iter().sum::<f64>() / batch.len() as f64,
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
    /// The negative log-likelihood of the pre-training texts, where there are some.
    pub(super) pretraining_nll: f64,
}

/// All optimiser steps of round `step`.
pub(super) fn update(
    actors: &Actors<'_>,
    round: &Round,
    targets: &Targets,
    step: u64,
    parts: &mut [TrainedPart],
    ctx: &RunContext<'_>,
) -> Result<Update> {
    let [policy, value] = parts else { unreachable!("a policy and a value model are trained") };
    let mut update = Update { explained_variance: explained_variance(round, &targets.returns), ..Update::default() };
    let partitions = (0..actors.config.inner_epochs).flat_map(|epoch| actors.partition(&round.records, step, epoch, ctx));
    let mut n_steps = 0.0;
    let mut n_trained = step * round.records.len() as u64 * u64::from(actors.config.inner_epochs);
    for micro_batches in partitions {
        n_steps += 1.0;
        let rows: Vec<usize> = micro_batches.concat();
        let totals = step_totals(&actors.sampler, &round.records, &rows);
        let (mut policy_loss, mut value_loss) = (0.0, 0.0);
        for rows in micro_batches {
            let losses = micro_step(actors, round, targets, &rows, totals)?;
            policy_loss += losses.policy;
            value_loss += losses.value;
            update.clip_fraction += losses.clipped / totals.n_tokens as f64;
            update.value_clip_fraction += losses.value_clipped / totals.n_tokens as f64;
            update.approx_kl += losses.approx_kl / totals.n_tokens as f64;
            update.n_tokens += rows.iter().map(|&row| round.records[row].n_tokens()).sum::<usize>();
        }
        if let Some(texts) = actors.pretraining {
            update.pretraining_nll += texts.step(actors.sampler.policy, n_trained, rows.len())?;
        }
        n_trained += rows.len() as u64;
        let place = || format!("step {step}, responses to instructions {}", ids_of(&round.records, &rows));
        if !(policy_loss.is_finite() && value_loss.is_finite()) {
            let message = format!("the policy loss is {policy_loss} and the value loss {value_loss} at {}", place());
            return Err(Error::non_finite(message).with_hint("lower `optim.lr` or `value_optim.lr`"));
        }
        let report = policy.optim.step().map_err(|error| error.context(place()))?;
        let value_report = value.optim.step().map_err(|error| error.context("the value model").context(place()))?;
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
        &mut update.pretraining_nll,
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
fn micro_step(actors: &Actors<'_>, round: &Round, targets: &Targets, rows: &[usize], totals: StepTotals) -> Result<MicroLosses> {
    let (config, batch, policy) = (actors.config, &round.batch, actors.sampler.policy);
    let device = policy.device();
    let tokens = record_batch(&round.records, rows, config.passes.layout, device, None)?;
    let lengths = tokens.response_lengths();
    let flat = |block: &Tensor| batch.flat_rows(block, rows).to_device(device);
    let sum = |values: &Tensor| values.sum(Kind::Double).double_value(&[]);

    let selected = selected_log_probs_at(policy, &tokens, config.temperature);
    let policy = clipped_policy_loss(&selected.values, &flat(&batch.log_probs), &flat(&targets.advantages), config.clip);
    let policy_loss = config.reduction.reduce(&policy.losses, &lengths, totals);
    selected.backward(&policy_loss);

    let values = actors.value.response_values(&tokens);
    let clip = (config.value_clip > 0.0).then_some(config.value_clip);
    let value = clipped_value_loss(&values, &flat(&round.values), &flat(&targets.returns), clip);
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

/// One forward and backward pass of policy and value model over the largest records there can be; what gradient it leaves is the
/// caller's to forget.
pub(super) fn dry_run(actors: &Actors<'_>, records: &[Record]) -> Result<()> {
    let (policy, passes) = (actors.sampler.policy, &actors.config.passes);
    let rows: Vec<usize> = (0..records.len()).collect();
    let tokens = record_batch(records, &rows, passes.layout, policy.device(), None)?;
    let selected = selected_log_probs_at(policy, &tokens, actors.config.temperature);
    let loss = selected.values.mean(Kind::Float);
    selected.backward(&loss);
    backward(&actors.value.response_values(&tokens).mean(Kind::Float));
    actors.pretraining.map_or(Ok(()), |texts| texts.dry_run(policy, records.len()))
}

fn explained_variance(round: &Round, returns: &Tensor) -> f64 {
    let mask = &round.batch.mask;
    let variance = masked_variance(returns, mask).double_value(&[]);
    let unexplained = masked_variance(&(returns - &round.values), mask).double_value(&[]);
    if variance > 0.0 { 1.0 - unexplained / variance } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use farmhand_core::types::Instruction;
    use farmhand_core::{NoEvents, RewardModel};
    use farmhand_models::{BatchLayout, LanguageModel, ScalarHead, ScalarModel, TextCodec};

    use super::*;
    use crate::reward_models::LengthConfig;
    use crate::rl::masked::Whitening;
    use crate::rl::reduction::Reduction;
    use crate::rl::rollout::{RolloutBatch, padded};
    use crate::testing::{SPLITS, Stage, assert_same_gradients, instructions, take_gradients, tiny_checkpoint};
    use crate::training::{PassOptions, Sampler, fitting_prompts};

    /// Everything a round needs, and a round of eight responses sampled with it.
    fn with_round(config: &PpoConfig, check: impl FnOnce(&Actors<'_>, &Round)) {
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
        let ctx = stage.context(&NoEvents);
        let prompts = fitting_prompts(&instructions, 96, &codec, &config.rollouts(), &ctx).expect("they fit");
        let options = config.rollouts();
        let sampler = Sampler {
            options: &options,
            passes: &config.passes,
            codec: &codec,
            instructions: &instructions,
            prompts: &prompts,
            policy: &policy,
        };
        let actors = Actors { config, sampler, reference: &reference, value: &value, pretraining: None };
        let build = farmhand_core::BuildContext::new(farmhand_core::Device::Cpu, std::path::Path::new("."));
        let mut length: Box<dyn RewardModel> =
            farmhand_core::RewardModelConfig::build(&LengthConfig::default(), &build).expect("built");
        check(&actors, &actors.roll_out(0, length.as_mut(), &ctx).expect("sampled"));
    }

    fn config() -> PpoConfig {
        PpoConfig { rollout_size: 8, batch_size: 8, max_new_tokens: 12, ..PpoConfig::default() }
    }

    #[test]
    fn losses_and_gradients_do_not_depend_on_layout_and_micro_batches() {
        for reduction in [Reduction::TokenMean, Reduction::SeqMean, Reduction::FixedNorm] {
            with_round(&PpoConfig { reduction, ..config() }, |actors, round| {
                let targets = targets(round, actors.config, 0.05);
                let totals = StepTotals::of(&round.batch.lengths).with_width(12);
                let rows: Vec<usize> = (0..8).collect();
                let gradients = |layout, size, tokens| {
                    let (micro_batch_size, micro_batch_tokens) = (Some(size), Some(tokens));
                    let passes = PassOptions { layout, micro_batch_size, micro_batch_tokens, ..PassOptions::default() };
                    let config = PpoConfig { passes, ..actors.config.clone() };
                    let actors = Actors { config: &config, ..*actors };
                    let mut losses = [0.0; 2];
                    for rows in config.passes.micro_batching(tch::Device::Cpu).groups(&round.records, &rows) {
                        let micro = micro_step(&actors, round, &targets, &rows, totals).expect("run");
                        losses = [losses[0] + micro.policy, losses[1] + micro.value];
                    }
                    (losses, take_gradients(actors.sampler.policy.parameters()), take_gradients(&actors.value.parameters()))
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
    fn the_alpaca_farm_preset_does_alpaca_farms_arithmetic_to_the_digit() {
        // numpy: i = 0..8, t = 0..4, m = t < lengths; logp = -(1 + .1i + .2t), ref = logp + .1 sin(i + 2t), V = .05i - .1t, score cos(i),
        // all times m. shaped = -.0067 clamp(logp - ref, 0), the score at the last token; w = (shaped - mean) / (std + 1e-8) + mean
        // over all cells; A_t = w_t + V_t+1 - V_t + A_t+1; returns A + V; A whitened without the mean.
        // New logp = logp + .3 cos(3i + t), new V = V + .4 sin(i + t); sums over real cells divided by all cells.
        let lengths = vec![4, 3, 2, 4, 4, 4, 4, 4];
        let flat = |f: fn(f64, f64) -> f64| {
            let row = |(i, &n): (usize, &usize)| (0..n).map(|t| f(i as f64, t as f64)).collect::<Vec<f64>>();
            Tensor::from_slice(&lengths.iter().enumerate().flat_map(row).collect::<Vec<f64>>())
        };
        let log_probs = flat(|i, t| -(1.0 + 0.1 * i + 0.2 * t));
        let reference = &log_probs + flat(|i, t| 0.1 * (i + 2.0 * t).sin());
        let config = PpoConfig { max_new_tokens: 4, ..PpoConfig::alpaca_farm() };
        let batch = RolloutBatch::new(config.width(&lengths), lengths.clone(), &log_probs, &reference);
        let round = Round {
            records: Vec::new(),
            values: padded(&flat(|i, t| 0.05 * i - 0.1 * t), &batch.mask),
            scores: Tensor::from_slice(&(0..8).map(|i| f64::from(i).cos()).collect::<Vec<f64>>()),
            batch,
            rollout_secs: 0.0,
            score_secs: 0.0,
            mean_score: 0.0,
            ended: 1.0,
            entropy: 0.0,
        };
        let targets = targets(&round, &config, config.kl_weight);
        let close = |got: f64, golden: f64| assert!((got - golden).abs() < 1e-6, "{got} is not {golden}");
        close(targets.kl, 0.120_125_28);
        close(targets.token_reward, 0.050_752_25);
        let rows = |block: &Tensor, golden: [f64; 12]| {
            let got = Vec::<f64>::try_from(block.narrow(0, 0, 3).reshape(-1)).expect("numbers");
            got.into_iter().zip(golden).for_each(|(got, golden)| close(got, golden));
        };
        let returns = [2.389_213_05, 2.467_620_34, 2.546_027_62, 2.625_806_35, 1.145_999_58, 1.224_406_87, 1.302_814_15];
        rows(
            &targets.returns,
            [&returns[..], &[-0.078_407_28, -1.440_561_25, -1.362_153_96, -0.156_814_57, -0.078_407_28]]
                .concat()
                .try_into()
                .expect("twelve"),
        );
        let advantages = [1.100_520_62, 1.193_821_54, 1.287_122_46, 1.381_140_59, 0.424_214_14, 0.517_515_06, 0.610_815_98];
        rows(
            &targets.advantages,
            [&advantages[..], &[-0.189_960_54, -0.954_617_13, -0.861_316_22, -0.230_964_87, -0.189_960_54]]
                .concat()
                .try_into()
                .expect("twelve"),
        );

        let all: Vec<usize> = (0..8).collect();
        let flat_of = |block: &Tensor| round.batch.flat_rows(block, &all);
        let totals = StepTotals::of(&lengths).with_width(config.max_new_tokens as usize);
        let new = &log_probs + flat(|i, t| 0.3 * (3.0 * i + t).cos());
        let policy = clipped_policy_loss(&new, &log_probs, &flat_of(&targets.advantages), config.clip);
        close(config.reduction.reduce(&policy.losses, &lengths, totals).double_value(&[]), 0.012_119_21);
        close(policy.clipped.mean(Kind::Double).double_value(&[]), 0.275_862_07);
        close(policy.approx_kl.mean(Kind::Double).double_value(&[]), 0.023_975_37);
        let old_values = flat_of(&round.values);
        let values = &old_values + flat(|i, t| 0.4 * (i + t).sin());
        let value = clipped_value_loss(&values, &old_values, &flat_of(&targets.returns), Some(config.value_clip));
        close(config.reduction.reduce(&value.losses, &lengths, totals).double_value(&[]), 1.737_074_17);
        assert_eq!(config.value_weight, 0.1);
    }

    #[test]
    fn the_score_is_at_the_last_token_and_returns_before_it_are_the_score_without_divergence() {
        let plain = PpoConfig { whiten_rewards: Whitening::Off, whiten_advantages: Whitening::Off, ..config() };
        with_round(&plain, |actors, round| {
            let targets = targets(round, actors.config, 0.05);
            assert_eq!(targets.kl, 0.0);
            for (row, &length) in round.batch.lengths.iter().enumerate() {
                for t in 0..length {
                    let score = round.scores.double_value(&[row as i64]);
                    assert!((targets.returns.double_value(&[row as i64, t as i64]) - score).abs() < 1e-5);
                }
            }
        });
    }

    #[test]
    fn padded_columns_exist_only_where_padding_counts() {
        with_round(&config(), |actors, round| {
            let longest = *round.batch.lengths.iter().max().expect("responses") as i64;
            assert_eq!(round.batch.mask.size(), [8, longest]);
            let all_cells = PpoConfig { whiten_rewards: Whitening::AllCells, ..config() };
            assert_eq!(all_cells.width(&round.batch.lengths), 12);
            let advantages = targets(round, actors.config, 0.05).advantages;
            let padding = &advantages * (round.batch.mask.ones_like() - &round.batch.mask);
            assert_eq!(padding.abs().sum(Kind::Double).double_value(&[]), 0.0);
        });
    }
}
