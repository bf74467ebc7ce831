//! What a fit leaves behind: three weights a model, from which any two models can be compared.

use super::l1_logistic::sigmoid;

/// The weights of one model's fit, against a common reference.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ModelWeights {
    /// Of tanh(length difference / its standard deviation); negative when longer answers win.
    pub length: f64,
    /// Of the instruction's difficulty.
    pub difficulty: f64,
    /// Of the model itself.
    pub model: f64,
}

/// The probability, in [0, 1], that `model`'s answers beat `other`'s at equal length, over instructions of these difficulties:
/// the mean of σ((wₘ − wₒ) + (vₘ − vₒ) · d). The reference itself has all weights 0. Win rates of a over b and b over a add up
/// to 1. `None` without instructions.
pub fn win_rate_between(model: &ModelWeights, other: &ModelWeights, difficulties: &[f64]) -> Option<f64> {
    let (start, slope) = (model.model - other.model, model.difficulty - other.difficulty);
    let sum: f64 = difficulties.iter().map(|d| sigmoid(start + slope * d)).sum();
    (!difficulties.is_empty()).then(|| sum / difficulties.len() as f64)
}

/// Whether length control moves a win rate further than AlpacaEval finds believable; both in [0, 1].
pub fn is_extreme(raw: f64, controlled: f64) -> bool {
    controlled < (raw - raw / 4.0).min(raw - 0.1) || controlled > (raw + (1.0 - raw) / 4.0).max(raw + 0.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_models_are_symmetric_and_one_is_half_against_itself() {
        let a = ModelWeights { length: -1.0, difficulty: 0.8, model: 0.3 };
        let b = ModelWeights { length: -1.2, difficulty: 0.5, model: -0.4 };
        let difficulties = [-1.0, 0.0, 0.5, 2.0];
        let rate = |m, o| win_rate_between(m, o, &difficulties).expect("some");
        assert!((rate(&a, &b) + rate(&b, &a) - 1.0).abs() < 1e-15);
        assert_eq!(rate(&a, &a), 0.5);
        let by_hand = difficulties.iter().map(|d| sigmoid(0.3 + 0.8 * d)).sum::<f64>() / 4.0;
        assert!((rate(&a, &ModelWeights::default()) - by_hand).abs() < 1e-15);
        assert_eq!(win_rate_between(&a, &b, &[]), None);
    }

    #[test]
    fn moves_of_a_tenth_are_believed_and_large_ones_are_not() {
        for (raw, controlled, extreme) in
            [(0.5, 0.42, false), (0.5, 0.37, true), (0.1, 0.01, false), (0.2, 0.42, true), (0.9, 0.99, false)]
        {
            assert_eq!(is_extreme(raw, controlled), extreme, "{raw} {controlled}");
        }
    }
}
