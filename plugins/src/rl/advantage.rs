//! From rewards to advantages: how much better than expected a token or a response was.
//!
//! * With a value model: generalised advantage estimation (Schulman et al. 2015, <https://arxiv.org/abs/1506.02438>, equation 16):
//!   δ_t = r_t + γ V_{t+1} − V_t and A_t = δ_t + γ λ A_{t+1}, with value and advantage 0 after the last cell.
//! * Without one: a response is compared with the others to its prompt (a *group*), or with the greedy response. Groups lie one
//!   after the other, each with the same number of responses.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Tensor;

/// Advantages and returns (`advantages + values`), `[rollouts, tokens]` like `rewards` and `values`.
///
/// Every cell counts; give 0 in the rewards and values of padding to end each rollout at its last token. Nothing
/// here carries a gradient when the inputs do not.
pub fn gae(rewards: &Tensor, values: &Tensor, gamma: f64, lambda: f64) -> (Tensor, Tensor) {
    let width = rewards.size()[1];
    let mut advantage = rewards.select(1, 0).zeros_like();
    let mut next_value = advantage.shallow_clone();
    let mut columns = Vec::with_capacity(width as usize);
    for t in (0..width).rev() {
        let value = values.select(1, t);
        let delta = rewards.select(1, t) + next_value * gamma - &value;
        advantage = delta + advantage * (gamma * lambda);
        columns.push(advantage.shallow_clone());
        next_value = value;
    }
    columns.reverse();
    let advantages = if columns.is_empty() { rewards.zeros_like() } else { Tensor::stack(&columns, 1) };
    let returns = &advantages + values;
    (advantages, returns)
}

/// What is left of each token's reward to the end of its response, `[rollouts, tokens]` like `rewards`: `R_t = r_t + γ R_{t+1}`.
/// Padded cells must be 0.
pub fn discounted_returns(rewards: &Tensor, gamma: f64) -> Tensor {
    gae(rewards, &rewards.zeros_like(), gamma, 1.0).0
}

/// How the rewards of a prompt's responses become one advantage each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum GroupAdvantage {
    /// `(r − mean) / (deviation + 1e-4)` with the sample deviation of the group: GRPO.
    #[default]
    GroupNorm,
    /// `r − mean` of the group: Dr. GRPO, for the deviation favours prompts that are nearly solved or nearly hopeless.
    GroupMean,
    /// `(r − mean) / (deviation + 1e-4)` with the mean of the group and the sample deviation of all responses of the round.
    BatchNorm,
}

/// What is added to a deviation before it divides.
const DEVIATION_FLOOR: f64 = 1e-4;

impl GroupAdvantage {
    /// The advantages of `rewards`, `group` responses a prompt.
    pub fn of(self, rewards: &[f64], group: usize) -> Vec<f64> {
        let whole = sample_deviation(rewards);
        let of_group = |rewards: &[f64]| {
            let scale = match self {
                Self::GroupNorm => 1.0 / (sample_deviation(rewards) + DEVIATION_FLOOR),
                Self::GroupMean => 1.0,
                Self::BatchNorm => 1.0 / (whole + DEVIATION_FLOOR),
            };
            let mean = mean(rewards);
            rewards.iter().map(|reward| (reward - mean) * scale).collect::<Vec<f64>>()
        };
        rewards.chunks(group.max(1)).flat_map(of_group).collect()
    }
}

/// The reward less the mean reward of the other responses of its group, of which there are at least two: the baseline of RLOO.
/// It is `n / (n − 1)` times [`GroupAdvantage::GroupMean`].
pub fn leave_one_out(rewards: &[f64], group: usize) -> Vec<f64> {
    let of_group = |rewards: &[f64]| {
        let (sum, others) = (rewards.iter().sum::<f64>(), (rewards.len() as f64 - 1.0).max(1.0));
        rewards.iter().map(|reward| reward - (sum - reward) / others).collect::<Vec<f64>>()
    };
    rewards.chunks(group.max(1)).flat_map(of_group).collect()
}

/// Whether all rewards of a group are the same number, so that it says nothing about which response is better.
pub fn is_level(group: &[f64]) -> bool {
    group.windows(2).all(|pair| pair[0] == pair[1])
}

/// How the divergence enters a return that begins at a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum KlReturn {
    /// The token's own divergence alone.
    #[default]
    OneStep,
    /// That of the token and of all after it; it wants about a tenth of the weight.
    FullStep,
}

/// The returns of ReMax, `[rollouts, tokens]`: `γ^(T−t) A − weight · kl` at token t = 0 … T − 1 of a response of T tokens, so that
/// already the last token is discounted once; kl as `kl_return` says, not discounted.
///
/// `advantages` `[rollouts]`, each a response's score less its greedy response's; `kl` `[rollouts, tokens]`, 0 where padded.
pub fn greedy_baseline_returns(
    advantages: &[f64],
    kl: &Tensor,
    lengths: &[usize],
    gamma: f64,
    weight: f64,
    kl_return: KlReturn,
) -> Tensor {
    let width = kl.size()[1];
    let row = |(advantage, &length): (&f64, &usize)| -> Vec<f64> {
        let discounted = |t: i64| if t < length as i64 { advantage * gamma.powi((length as i64 - t) as i32) } else { 0.0 };
        (0..width).map(discounted).collect()
    };
    let cells: Vec<f64> = advantages.iter().zip(lengths).flat_map(row).collect();
    let discounted = Tensor::from_slice(&cells).view([lengths.len() as i64, width]).to_kind(kl.kind()).to_device(kl.device());
    let kl = match kl_return {
        KlReturn::OneStep => kl.shallow_clone(),
        KlReturn::FullStep => discounted_returns(kl, 1.0),
    };
    discounted - kl * weight
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// The deviation of a sample, dividing by the number of values less one; 0 of a single value.
fn sample_deviation(values: &[f64]) -> f64 {
    let mean = mean(values);
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (squares / (values.len() as f64 - 1.0).max(1.0)).sqrt()
}

/// One number a response, as `[rollouts, tokens]` over the real cells of `mask`, 0 elsewhere.
pub fn per_token(numbers: &[f64], mask: &Tensor) -> Tensor {
    let column = Tensor::from_slice(numbers).to_kind(mask.kind()).to_device(mask.device()).unsqueeze(1);
    column * mask
}

#[cfg(test)]
mod tests {
    use tch::Kind;

    use super::*;
    use crate::rl::kl::KlEstimator;
    use crate::rl::masked::{Whitening, zero_masked};
    use crate::rl::reward_shaping::{length_mask, token_rewards};

    fn block(values: &[f64], rows: i64) -> Tensor {
        Tensor::from_slice(values).view([rows, -1])
    }

    fn assert_close(got: &Tensor, expected: &[f64]) {
        let got = Vec::<f64>::try_from(got.reshape(-1)).expect("numbers");
        assert!(got.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-9), "{got:?} is not {expected:?}");
    }

    #[test]
    fn gae_matches_the_golden() {
        let (advantages, returns) = gae(&block(&[0.0, 0.0, 1.0], 1), &block(&[0.2, 0.4, 0.6], 1), 1.0, 0.95);
        assert_close(&advantages, &[0.751, 0.58, 0.4]);
        assert_close(&returns, &[0.951, 0.98, 1.0]);
    }

    /// The group of fixture C.
    const C: [f64; 4] = [1.0, 0.2, -0.5, 0.2];
    const THREE_GROUPS: [f64; 12] = [1.0, 0.0, 0.5, 0.5, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 2.0];

    fn assert_numbers(got: &[f64], expected: &[f64]) {
        assert_eq!(got.len(), expected.len());
        assert!(got.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{got:?} is not {expected:?}");
    }

    #[test]
    fn group_advantages_match_the_goldens() {
        assert_numbers(&GroupAdvantage::GroupNorm.of(&C, 4), &[1.263_960, -0.040_773, -1.182_414, -0.040_773]);
        assert_numbers(&GroupAdvantage::GroupMean.of(&C, 4), &[0.775, -0.025, -0.725, -0.025]);
        assert_numbers(&leave_one_out(&C, 4), &[1.033_333, -0.033_333, -0.966_667, -0.033_333]);
        // Fixture C with divergences and weight 0.05 in the reward.
        let rewards: Vec<f64> = C.iter().zip([0.4, -0.3, 0.0, 0.1]).map(|(reward, kl)| reward - 0.05 * kl).collect();
        assert_numbers(&leave_one_out(&rewards, 4), &[1.01, -0.01, -0.963_333, -0.036_667]);
        // TRL's three groups: 0.5 / 0.4082483, equal rewards, one far ahead.
        let (a, b) = (1.224_444_93, 0.499_95);
        let norm = [a, -a, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -b, -b, -b, 1.499_849_99];
        assert_numbers(&GroupAdvantage::GroupNorm.of(&THREE_GROUPS, 4), &norm);
        let c = 0.812_271_85;
        let batch = [c, -c, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -c, -c, -c, 2.436_815_55];
        assert_numbers(&GroupAdvantage::BatchNorm.of(&THREE_GROUPS, 4), &batch);
        let d = 0.666_666_67;
        let others = [d, -d, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -d, -d, -d, 2.0];
        assert_numbers(&leave_one_out(&THREE_GROUPS, 4), &others);
    }

    #[test]
    fn groups_with_equal_rewards_and_of_one_response_are_finite_and_without_advantage() {
        for advantage in [GroupAdvantage::GroupNorm, GroupAdvantage::GroupMean, GroupAdvantage::BatchNorm] {
            assert_eq!(advantage.of(&[0.3; 6], 3), [0.0; 6]);
            assert_eq!(advantage.of(&[0.7], 1), [0.0]);
        }
        assert!(is_level(&[0.3; 3]) && is_level(&[1.0]) && !is_level(&[0.3, 0.3, 0.3 + 1e-12]));
    }

    #[test]
    fn remax_returns_match_the_goldens() {
        let kl = block(&[0.2, 0.1, 0.1, 0.0], 1);
        let returns = |kl_return| greedy_baseline_returns(&[0.6], &kl, &[3], 0.99, 0.05, kl_return);
        let one_step = returns(KlReturn::OneStep);
        assert!((&one_step - block(&[0.572_179, 0.583_060, 0.589, 0.0], 1)).abs().max().double_value(&[]) < 1e-6);
        let full_step = returns(KlReturn::FullStep);
        assert!((&full_step - block(&[0.562_179, 0.578_060, 0.589, 0.0], 1)).abs().max().double_value(&[]) < 1e-6);
        let log_probs = block(&[-0.5, -1.0, -0.3, 0.0], 1);
        let loss = |returns: Tensor| -(returns * &log_probs).sum(Kind::Double).double_value(&[]) / 3.0;
        assert!((loss(one_step) - 0.348_617).abs() < 1e-6);
        assert!((loss(full_step) - 0.345_283).abs() < 1e-6);
    }

    #[test]
    fn reinforce_plus_plus_returns_and_their_whitening_match_the_goldens() {
        // Fixture D's old log-probabilities, fixture A's reference, scores 1 and -0.5, weight 0.01.
        let old = block(&[-0.9, -1.0, -0.2, 0.0, -0.6, -0.4, -1.2, -0.9], 2);
        let reference = block(&[-0.7, -1.1, -0.4, 0.0, -0.8, -0.5, -1.0, -0.5], 2);
        let mask = length_mask(&[3, 4], 4, Kind::Double);
        let kl = zero_masked(&KlEstimator::K1.per_token(&old, &reference), &mask);
        let rewards = token_rewards(&Tensor::from_slice(&[1.0, -0.5]), &kl, &[3, 4], 0.01);
        let returns = discounted_returns(&rewards, 1.0);
        assert_close_to(&returns, &[0.999, 0.997, 0.998, 0.0, -0.497, -0.495, -0.494, -0.496], 1e-9);
        let whitened = Whitening::TokensPopulation.apply(&returns, &mask, false);
        let golden = [1.156_052, 1.153_346, 1.154_699, 0.0, -0.868_054, -0.865_348, -0.863_995, -0.866_701];
        assert_close_to(&whitened, &golden, 1e-6);
    }

    fn assert_close_to(got: &Tensor, expected: &[f64], tolerance: f64) {
        let got = Vec::<f64>::try_from(got.reshape(-1)).expect("numbers");
        assert!(got.iter().zip(expected).all(|(a, b)| (a - b).abs() < tolerance), "{got:?} is not {expected:?}");
    }

    #[test]
    fn with_lambda_one_the_advantage_is_return_minus_value() {
        let rewards = block(&[0.1, -0.3, 0.7, 0.2, 1.0, -0.5], 2);
        let values = block(&[0.4, 0.1, -0.2, 0.3, 0.0, 0.9], 2);
        let gamma = 0.9;
        let (advantages, _) = gae(&rewards, &values, gamma, 1.0);
        for row in 0..2 {
            for t in 0..3 {
                let discounted: f64 = (t..3).map(|u| gamma.powi((u - t) as i32) * rewards.double_value(&[row, u])).sum();
                let expected = discounted - values.double_value(&[row, t]);
                assert!((advantages.double_value(&[row, t]) - expected).abs() < 1e-12);
            }
        }
    }

    #[test]
    fn zeroed_padding_changes_no_real_cell() {
        let (short, _) = gae(&block(&[0.5, 1.0], 1), &block(&[0.3, -0.2], 1), 0.99, 0.9);
        let (padded, _) = gae(&block(&[0.5, 1.0, 0.0, 0.0], 1), &block(&[0.3, -0.2, 0.0, 0.0], 1), 0.99, 0.9);
        assert_close(&padded.narrow(1, 0, 2), &Vec::<f64>::try_from(short.reshape(-1)).expect("numbers"));
    }
}
