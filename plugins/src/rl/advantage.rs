//! Generalised advantage estimation over padded rollouts.
//!
//! Schulman et al. 2015, <https://arxiv.org/abs/1506.02438>, equation 16: δ_t = r_t + γ V_{t+1} − V_t and
//! A_t = δ_t + γ λ A_{t+1}, with value and advantage 0 after the last cell.

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

#[cfg(test)]
mod tests {
    use super::*;

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
