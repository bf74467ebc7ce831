//! How well a reward model tells better answers from worse ones, on pairs that it was not trained on.
//!
//! With Δ the reward of the chosen minus the rejected answer, the model's probability that the chosen one is better is p = σ(Δ)
//! (Bradley-Terry). Accuracy is the share of Δ > 0 with Wilson's 95 % interval, an equal reward counting half; the Brier score is
//! the mean of (1 − p)²; the calibration error compares confidence max(p, 1−p) with accuracy in ten bins of equal width (Guo et
//! al. 2017, <https://arxiv.org/abs/1706.04599>), so that it does not depend on which answer of a pair is called the first.

/// A pair as the model sees it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScoredPair {
    /// Reward of the chosen minus the rejected answer.
    pub difference: f64,
    /// Length of the chosen minus the rejected answer, in any one unit.
    pub length_difference: f64,
    /// How much better the judge found the chosen answer; none when it did not say.
    pub margin: Option<f64>,
}

/// What some pairs tell about a reward model.
#[derive(Debug, Clone, PartialEq)]
pub struct PairReport {
    /// Numbers by name, in a fixed order. Shares are in [0, 1]; numbers of a group without pairs are left out.
    ///
    /// `accuracy`, `accuracy_low` and `accuracy_high` (its interval), `brier`, `calibration_error`, `mean_difference`;
    /// `accuracy_chosen_longer`, `accuracy_chosen_shorter`; `accuracy_small_margin`, `accuracy_large_margin`: pairs below, and
    /// from the median margin on.
    pub numbers: Vec<(&'static str, f64)>,
    /// How many pairs there were.
    pub n: usize,
}

impl PairReport {
    /// Measures; `None` without pairs.
    pub fn of(pairs: &[ScoredPair]) -> Option<Self> {
        let accuracy = accuracy_of(pairs)?;
        let n = pairs.len() as f64;
        let [low, high] = wilson_interval(accuracy, n);
        let brier = pairs.iter().map(|pair| sigmoid(-pair.difference).powi(2)).sum::<f64>() / n;
        let mut numbers = vec![
            ("accuracy", accuracy),
            ("accuracy_low", low),
            ("accuracy_high", high),
            ("brier", brier),
            ("calibration_error", calibration_error(pairs)),
            ("mean_difference", pairs.iter().map(|pair| pair.difference).sum::<f64>() / n),
        ];
        let mut group = |name, belongs: &dyn Fn(&ScoredPair) -> bool| {
            let some: Vec<ScoredPair> = pairs.iter().copied().filter(belongs).collect();
            numbers.extend(accuracy_of(&some).map(|accuracy| (name, accuracy)));
        };
        group("accuracy_chosen_longer", &|pair| pair.length_difference > 0.0);
        group("accuracy_chosen_shorter", &|pair| pair.length_difference < 0.0);
        if let Some(median) = median_margin(pairs) {
            group("accuracy_small_margin", &|pair| pair.margin.is_some_and(|margin| margin < median));
            group("accuracy_large_margin", &|pair| pair.margin.is_some_and(|margin| margin >= median));
        }
        Some(Self { numbers, n: pairs.len() })
    }

    /// The number of that name.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.numbers.iter().find(|(known, _)| *known == name).map(|(_, number)| *number)
    }
}

/// 1 for a right verdict, 0 for a wrong one, ½ for none.
fn correct(pair: &ScoredPair) -> f64 {
    if pair.difference > 0.0 {
        1.0
    } else if pair.difference < 0.0 {
        0.0
    } else {
        0.5
    }
}

fn accuracy_of(pairs: &[ScoredPair]) -> Option<f64> {
    (!pairs.is_empty()).then(|| pairs.iter().map(correct).sum::<f64>() / pairs.len() as f64)
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// Wilson's 95 % interval of a share among `n`.
fn wilson_interval(share: f64, n: f64) -> [f64; 2] {
    const Z: f64 = 1.959_963_984_540_054;
    let centre = (share + Z * Z / (2.0 * n)) / (1.0 + Z * Z / n);
    let half = Z / (1.0 + Z * Z / n) * (share * (1.0 - share) / n + Z * Z / (4.0 * n * n)).sqrt();
    [centre - half, centre + half]
}

fn calibration_error(pairs: &[ScoredPair]) -> f64 {
    const BINS: usize = 10;
    let mut bins = [(0.0, 0.0); BINS];
    for pair in pairs {
        let confidence = sigmoid(pair.difference.abs());
        // Confidence lies in [½, 1].
        let bin = (((confidence - 0.5) * 2.0 * BINS as f64) as usize).min(BINS - 1);
        bins[bin].0 += confidence;
        bins[bin].1 += correct(pair);
    }
    bins.iter().map(|(confidence, correct)| (confidence - correct).abs()).sum::<f64>() / pairs.len() as f64
}

/// The upper median of the margins that are known, where they differ.
fn median_margin(pairs: &[ScoredPair]) -> Option<f64> {
    let mut margins: Vec<f64> = pairs.iter().filter_map(|pair| pair.margin).collect();
    margins.sort_by(f64::total_cmp);
    // Of many equal margins the median may be the lowest; then the split is above it.
    let above = margins.iter().copied().find(|margin| *margin > margins[0])?;
    Some(above.max(margins[margins.len() / 2]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(difference: f64, length_difference: f64, margin: Option<f64>) -> ScoredPair {
        ScoredPair { difference, length_difference, margin }
    }

    #[test]
    fn the_numbers_are_those_by_hand() {
        let ln3 = 3.0_f64.ln();
        // σ(ln 3) = 0.75, σ(−ln 3) = 0.25; three right of four.
        let pairs =
            [pair(ln3, 5.0, Some(1.0)), pair(ln3, -2.0, Some(1.0)), pair(ln3, 0.0, Some(3.0)), pair(-ln3, -4.0, Some(2.0))];
        let report = PairReport::of(&pairs).expect("four pairs");
        let near = |name: &str, expected: f64| {
            let got = report.get(name).expect(name);
            assert!((got - expected).abs() < 1e-9, "{name}: {got}, not {expected}");
        };
        near("accuracy", 0.75);
        near("brier", (3.0 * 0.0625 + 0.5625) / 4.0);
        // Confidence 0.75 in every pair, accuracy 0.75: calibrated.
        near("calibration_error", 0.0);
        near("mean_difference", ln3 / 2.0);
        near("accuracy_chosen_longer", 1.0);
        near("accuracy_chosen_shorter", 0.5);
        near("accuracy_small_margin", 1.0);
        near("accuracy_large_margin", 0.5);
        // Wilson for 3 of 4.
        near("accuracy_low", 0.300_641_842_582_4);
        near("accuracy_high", 0.954_412_739_190_3);
        assert_eq!(PairReport::of(&[]), None);
    }

    #[test]
    fn equal_rewards_count_half_and_unknown_groups_are_left_out() {
        let report = PairReport::of(&[pair(0.0, 1.0, None), pair(0.0, 2.0, Some(1.0))]).expect("pairs");
        assert_eq!(report.get("accuracy"), Some(0.5));
        assert_eq!(report.get("brier"), Some(0.25));
        assert_eq!(report.get("calibration_error"), Some(0.0));
        assert_eq!(report.get("accuracy_chosen_shorter"), None);
        assert_eq!(report.get("accuracy_small_margin"), None, "all margins are the same");
    }

    #[test]
    fn a_model_that_is_too_sure_is_told_so() {
        let pairs: Vec<_> = (0..10).map(|i| pair(if i < 6 { 20.0 } else { -20.0 }, 0.0, None)).collect();
        let report = PairReport::of(&pairs).expect("pairs");
        assert!((report.get("calibration_error").expect("there") - 0.4).abs() < 1e-6);
        assert!((report.get("brier").expect("there") - 0.4).abs() < 1e-6);
    }
}
