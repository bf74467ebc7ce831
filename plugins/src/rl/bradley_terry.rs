//! The loss of a reward model on a better and a worse answer.
//!
//! Bradley-Terry, as in Ouyang et al. 2022, <https://arxiv.org/abs/2203.02155>, equation 1; margins after Llama 2 (Touvron et
//! al. 2023, section 3.2.2), centring after Eisenstein et al. 2023.

use tch::Tensor;

/// The loss of each pair, `[pairs]`, from the rewards of its two answers `[pairs]` and its margin `[pairs]`:
/// `−(1−ε) ln σ(Δ) − ε ln σ(−Δ) + c (r_w + r_l)²` with `Δ = r_w − r_l − m`.
pub fn preference_losses(chosen: &Tensor, rejected: &Tensor, margins: &Tensor, label_smoothing: f64, centring: f64) -> Tensor {
    let delta = chosen - rejected - margins;
    let smoothed = -(delta.log_sigmoid() * (1.0 - label_smoothing)) - (-delta).log_sigmoid() * label_smoothing;
    if centring == 0.0 { smoothed } else { smoothed + (chosen + rejected).square() * centring }
}

#[cfg(test)]
mod tests {
    use tch::Kind;

    use super::*;

    fn mean_loss(chosen: &[f64], rejected: &[f64], margins: &[f64], label_smoothing: f64, centring: f64) -> f64 {
        let [chosen, rejected, margins] = [chosen, rejected, margins].map(Tensor::from_slice);
        preference_losses(&chosen, &rejected, &margins, label_smoothing, centring).mean(Kind::Double).double_value(&[])
    }

    #[test]
    fn the_loss_matches_the_goldens_with_margin_and_centring() {
        for (margin, golden) in
            [(0.0, 0.403_186), (1.0 / 3.0, 0.526_526), (2.0 / 3.0, 0.676_619), (1.0, 0.854_355), (3.0, 2.395_545)]
        {
            assert!((mean_loss(&[1.2], &[0.5], &[margin], 0.0, 0.0) - golden).abs() < 1e-6, "{margin}");
        }
        let (chosen, rejected) = ([1.2, -0.3, 0.5], [0.2, 0.4, 0.5]);
        assert!((mean_loss(&chosen, &rejected, &[0.0; 3], 0.0, 0.0) - 0.703_198_31).abs() < 1e-6);
        assert!((mean_loss(&chosen, &rejected, &[0.5, 0.0, 0.1], 0.0, 0.0) - 0.773_886_56).abs() < 1e-6);
        assert!((mean_loss(&chosen, &rejected, &[0.0; 3], 0.0, 0.01) - 0.713_098_31).abs() < 1e-6);
        // All pairs of three answers scored 1.0, 0.2, -0.5, averaged.
        assert!((mean_loss(&[1.0, 1.0, 0.2], &[0.2, -0.5, -0.5], &[0.0; 3], 0.0, 0.0) - 0.325_233).abs() < 1e-6);
        // ε = 0.1: 0.9 · 0.403186 + 0.1 · (0.403186 + 0.7).
        assert!((mean_loss(&[1.2], &[0.5], &[0.0], 0.1, 0.0) - 0.473_186).abs() < 1e-6);
    }

    #[test]
    fn the_gradient_matches_finite_differences() {
        let at = |chosen: f64| mean_loss(&[chosen], &[0.4], &[0.2], 0.1, 0.05);
        let leaf = Tensor::from_slice(&[0.7]).set_requires_grad(true);
        preference_losses(&leaf, &Tensor::from_slice(&[0.4]), &Tensor::from_slice(&[0.2]), 0.1, 0.05)
            .sum(Kind::Double)
            .backward();
        let slope = (at(0.7 + 1e-6) - at(0.7 - 1e-6)) / 2e-6;
        assert!((slope - leaf.grad().double_value(&[0])).abs() < 1e-6);
    }
}
