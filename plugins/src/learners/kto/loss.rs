//! The losses of answers that are labelled good or bad.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Tensor;

/// The loss of a labelled answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LabelLoss {
    /// `1 − σ(β (d − z))` and `1 − σ(β (z − d))`: the paper's.
    #[default]
    Kto,
    /// `1 − σ(β d)` and `σ(β d)`: APO-zero without pairs (D'Oosterlinck et al. 2024); no reference point.
    ApoZero,
    /// `−ln σ(β d − δ)` and `−ln σ(δ − β d)`: the binary classifier of BCO (Jung et al. 2024), with δ half-way between the mean
    /// rewards β d of desirable and of undesirable answers.
    Bco,
}

/// Over what the reference point δ of BCO is averaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BcoDelta {
    /// Over all steps so far, this one included: the paper's.
    #[default]
    RunningMean,
    /// Over the step alone.
    Step,
}

/// A mean over steps.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub(super) struct RunningMean {
    n: u64,
    mean: f64,
}

impl RunningMean {
    /// With one more value.
    #[must_use]
    pub(super) fn and(self, value: f64) -> Self {
        let n = self.n + 1;
        Self { n, mean: self.mean + (value - self.mean) / n as f64 }
    }

    /// The mean; `None` before the first value.
    pub(super) fn mean(self) -> Option<f64> {
        (self.n > 0).then_some(self.mean)
    }
}

impl LabelLoss {
    /// The loss of each answer without its weight, from the log-ratios and 1 or 0 for desirable or not, both `[answers]`;
    /// `point` is z or δ.
    pub(super) fn losses(self, log_ratios: &Tensor, is_desirable: &Tensor, point: f64, beta: f64) -> Tensor {
        let side = is_desirable * 2.0 - 1.0;
        match self {
            Self::Kto => 1.0 - ((log_ratios - point) * beta * side).sigmoid(),
            Self::ApoZero => 1.0 - (log_ratios * beta * side).sigmoid(),
            Self::Bco => -((log_ratios * beta - point) * side).log_sigmoid(),
        }
    }
}

#[cfg(test)]
mod tests {
    use tch::Kind;

    use super::*;

    fn values(loss: LabelLoss, log_ratios: &[f64], desirable: f64, point: f64) -> Vec<f64> {
        let ratios = Tensor::from_slice(log_ratios);
        Vec::try_from(loss.losses(&ratios, &(ratios.ones_like() * desirable), point, 0.1)).expect("numbers")
    }

    fn assert_close(got: &[f64], golden: &[f64]) {
        assert!(got.iter().zip(golden).all(|(a, b)| (a - b).abs() < 1e-6), "{got:?}, not {golden:?}");
    }

    #[test]
    fn the_losses_match_the_goldens() {
        // Fixture A: d = 0.4 desirable, −0.3 undesirable.
        for (z, golden) in [(0.05, [0.491_251, 0.491_251]), (0.2, [0.495, 0.487_503])] {
            assert_close(&values(LabelLoss::Kto, &[0.4], 1.0, z), &golden[..1]);
            assert_close(&values(LabelLoss::Kto, &[-0.3], 0.0, z), &golden[1..]);
        }
        let [w, l] = [values(LabelLoss::Kto, &[0.4], 1.0, 0.15)[0], values(LabelLoss::Kto, &[-0.3], 0.0, 0.15)[0]];
        assert_close(&[(w + l) / 2.0, (1.33 * w + l) / 2.0], &[0.491_251, 0.572_720]);
        // TRL's table.
        let (chosen, rejected) = ([1.0, 0.5, 0.75, -1.5], [-0.5, 1.5, -1.25, -2.25]);
        assert_close(&values(LabelLoss::Kto, &chosen, 1.0, 0.375), &[0.484_380_08, 0.496_875_04, 0.490_626_10, 0.546_738_15]);
        assert_close(&values(LabelLoss::Kto, &rejected, 0.0, 0.375), &[0.478_138_95, 0.528_095_37, 0.459_464_16, 0.434_749_25]);
        assert_close(&values(LabelLoss::ApoZero, &chosen, 1.0, 0.0), &[0.475_020_81, 0.487_502_60, 0.481_258_78, 0.537_429_85]);
        assert_close(&values(LabelLoss::ApoZero, &rejected, 0.0, 0.0), &[0.487_502_60, 0.537_429_85, 0.468_790_63, 0.443_986_11]);
        assert_close(
            &values(LabelLoss::Bco, &chosen, 1.0, -0.021_875),
            &[0.634_065_22, 0.657_855_29, 0.645_882_32, 0.759_260_28],
        );
        assert_close(
            &values(LabelLoss::Bco, &rejected, 0.0, -0.021_875),
            &[0.679_183_55, 0.782_772_77, 0.642_913_44, 0.596_733_31],
        );
        // Pairs at the running mean of their rewards, as TRL had them: both answers of each together.
        let delta = RunningMean::default().and(-0.021_875).mean().expect("one step");
        let [w, l] = [values(LabelLoss::Bco, &chosen, 1.0, delta), values(LabelLoss::Bco, &rejected, 0.0, delta)];
        let pairs: Vec<f64> = w.iter().zip(l).map(|(w, l)| w + l).collect();
        assert_close(&pairs, &[1.313_248_78, 1.440_628_06, 1.288_795_76, 1.355_993_59]);
    }

    #[test]
    fn a_running_mean_is_the_mean_of_all_values_and_comes_back_from_a_saved_state() {
        assert_eq!(RunningMean::default().mean(), None);
        let mean = [0.5, -1.0, 2.0].into_iter().fold(RunningMean::default(), RunningMean::and);
        assert!((mean.mean().expect("three") - 0.5).abs() < 1e-12);
        let saved = serde_json::to_value(mean).expect("JSON");
        assert_eq!(serde_json::from_value::<RunningMean>(saved).expect("read"), mean);
    }

    #[test]
    fn gradients_match_finite_differences() {
        for loss in [LabelLoss::Kto, LabelLoss::ApoZero, LabelLoss::Bco] {
            for desirable in [1.0, 0.0] {
                let leaf = Tensor::from_slice(&[0.7]).set_requires_grad(true);
                loss.losses(&leaf, &(leaf.detach().ones_like() * desirable), 0.2, 0.1).sum(Kind::Double).backward();
                let at = |d: f64| values(loss, &[d], desirable, 0.2)[0];
                let slope = (at(0.7 + 1e-6) - at(0.7 - 1e-6)) / 2e-6;
                assert!((slope - leaf.grad().double_value(&[0])).abs() < 1e-7, "{loss:?}");
            }
        }
    }
}
