//! The divergence from the reference in the reward, as RLOO and PPO have it, instead of in the loss.
//!
//! `R = r − β Σ_t (log π(y_t) − log π_ref(y_t))` or with another estimator; advantages are then those of R.

use farmhand_core::{Result, RunContext};
use farmhand_models::{LanguageModel, TokenBatch, selected_log_probs_no_grad_at};

use super::config::GrpoConfig;
use crate::rl::reward_shaping::length_mask;
use crate::rl::rollout::{padded, row_sums};
use crate::training::{Record, Sampler};

/// The divergence of each response under the policy as it is from the reference, summed over its tokens, in nats.
///
/// # Errors
/// When a log-probability is not finite.
pub(super) fn divergences(
    config: &GrpoConfig,
    sampler: &Sampler<'_>,
    records: &[Record],
    reference: &LanguageModel,
    step: u64,
    ctx: &RunContext<'_>,
) -> Result<Vec<f64>> {
    let partition = sampler.partition(records, records.len(), step, 0, ctx);
    let under =
        |model: &LanguageModel, batch: &TokenBatch| selected_log_probs_no_grad_at(model, batch, config.rollouts.temperature).0;
    let both = |batch: &TokenBatch| [under(sampler.policy, batch), under(reference, batch)];
    let names = ["log-probability", "reference log-probability"];
    let [log_probs, reference] = sampler.measure(records, &partition, names, both)?;
    let lengths: Vec<usize> = records.iter().map(|record| record.texts[0].response().len()).collect();
    let mask = length_mask(&lengths, lengths.iter().copied().max().unwrap_or(0), log_probs.kind());
    Ok(row_sums(&padded(&config.kl_estimator.per_token(&log_probs, &reference), &mask)))
}

/// Rewards less the weighted divergences of their responses.
pub(super) fn penalised(rewards: &[f64], divergences: &[f64], weight: f64) -> Vec<f64> {
    rewards.iter().zip(divergences).map(|(reward, divergence)| reward - weight * divergence).collect()
}

#[cfg(test)]
mod tests {
    use farmhand_core::RecordedEvents;

    use super::*;
    use crate::rl::advantage::GroupAdvantage;
    use crate::rl::kl::{KlEstimator, KlPlacement};
    use crate::testing::{Stage, assert_resumes_exactly, fast_optim, learn_to_like_e, lively_checkpoint};
    use crate::training::RolloutOptions;

    #[test]
    fn advantages_of_penalised_rewards_match_the_golden() {
        let rewards = penalised(&[1.0, 0.2, -0.5, 0.2], &[0.4, -0.3, 0.0, 0.1], 0.05);
        // What RLOO gets: n / (n − 1) times the difference from the mean.
        let golden = [1.01, -0.01, -0.963_333, -0.036_667];
        let advantages = GroupAdvantage::GroupMean.of(&rewards, 4);
        assert!(advantages.iter().zip(golden).all(|(a, b)| (a * 4.0 / 3.0 - b).abs() < 1e-6), "{advantages:?}");
        assert_eq!(penalised(&[0.5], &[3.0], 0.0), [0.5]);
    }

    #[test]
    fn it_holds_the_policy_back_and_a_stopped_run_continues_to_the_same_bytes() {
        let base = Stage::new();
        let init = lively_checkpoint(&base);
        let config = |kl_weight, steps| {
            let rollouts = RolloutOptions {
                steps,
                prompts_per_step: 4,
                samples_per_prompt: 4,
                max_new_tokens: 8,
                save_every: 2,
                ..RolloutOptions::default()
            };
            let (kl_placement, kl_estimator) = (KlPlacement::Reward, KlEstimator::K1);
            GrpoConfig {
                rollouts,
                kl_weight,
                kl_placement,
                kl_estimator,
                batch_size: 8,
                optim: fast_optim(1e-2),
                ..GrpoConfig::default()
            }
        };
        assert_eq!(config(0.05, 6).problems(), []);
        let kl = |kl_weight| {
            let (stage, events) = (Stage::new(), RecordedEvents::default());
            learn_to_like_e(&config(kl_weight, 12), &init, &stage.context(&events)).expect("learned");
            let kl = events.scalars("grpo/kl");
            assert!(kl.len() == 12 && kl[0].1 == 0.0, "{kl:?}");
            kl[11].1
        };
        let (free, held) = (kl(1e-6), kl(5.0));
        assert!(held.abs() < 0.8 * free, "{free} without and {held} with a weight that counts");
        assert_resumes_exactly("grpo/reward", 3, |ctx| learn_to_like_e(&config(0.05, 6), &init, ctx));
    }
}
