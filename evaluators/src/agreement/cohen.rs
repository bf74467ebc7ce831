//! Cohen's κ of two raters: agreement beyond what two raters with these habits would have by chance.
//!
//! Cohen, 1960, <https://doi.org/10.1177/001316446002000104>; with weights, 1968, <https://doi.org/10.1037/h0026256>.
//! κ = 1 − Σ wᵢⱼ oᵢⱼ / Σ wᵢⱼ eᵢⱼ with the observed shares o, those expected of independent raters e, and disagreement weights w.

use super::ratings::Ratings;

/// How much a disagreement counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weights {
    /// Any two different values, 1.
    None,
    /// The distance of the two values.
    Linear,
    /// Its square.
    Quadratic,
}

impl Weights {
    fn of(self, a: f64, b: f64) -> f64 {
        match self {
            Self::None => f64::from(u8::from(a != b)),
            Self::Linear => (a - b).abs(),
            Self::Quadratic => (a - b).powi(2),
        }
    }
}

/// κ of pairs of values, at most 1; `None` without pairs, or when both raters always say the same one thing, for then chance
/// explains everything.
pub fn kappa(pairs: &[(f64, f64)], weights: Weights) -> Option<f64> {
    let n = pairs.len() as f64;
    let observed: f64 = pairs.iter().map(|(a, b)| weights.of(*a, *b)).sum::<f64>() / n;
    let values = Ratings { raters: Vec::new(), values: pairs.iter().map(|(a, b)| vec![Some(*a), Some(*b)]).collect() };
    let categories = values.categories();
    let share = |take: fn(&(f64, f64)) -> f64, value: f64| pairs.iter().filter(|pair| take(pair) == value).count() as f64 / n;
    let (first, second): (Vec<f64>, Vec<f64>) =
        categories.iter().map(|value| (share(|pair| pair.0, *value), share(|pair| pair.1, *value))).unzip();
    let mut expected = 0.0;
    for (a, p_a) in categories.iter().zip(&first) {
        for (b, p_b) in categories.iter().zip(&second) {
            expected += weights.of(*a, *b) * p_a * p_b;
        }
    }
    (expected > 0.0).then(|| 1.0 - observed / expected)
}

#[cfg(test)]
mod tests {
    use super::*;

    const X: [u8; 60] = [
        0, 3, 1, 0, 3, 3, 3, 3, 1, 3, 1, 2, 0, 3, 2, 0, 0, 0, 2, 1, 2, 3, 3, 2, 0, 1, 1, 1, 1, 0, 1, 0, 3, 0, 3, 1, 2, 3, 3, 0,
        2, 3, 0, 1, 3, 1, 3, 3, 2, 3, 0, 1, 1, 1, 3, 0, 3, 2, 0, 3,
    ];
    const Y: [u8; 60] = [
        1, 3, 0, 1, 2, 2, 2, 3, 1, 3, 0, 1, 0, 2, 2, 1, 1, 0, 2, 1, 2, 3, 3, 3, 1, 0, 2, 1, 0, 0, 2, 0, 2, 1, 2, 0, 1, 2, 2, 0,
        3, 2, 1, 1, 3, 1, 2, 3, 2, 3, 0, 1, 2, 0, 3, 1, 2, 3, 0, 3,
    ];

    #[test]
    fn scikit_learn_says_the_same() {
        // sklearn 1.9.1: cohen_kappa_score(x, y, weights=…)
        let pairs: Vec<(f64, f64)> = X.iter().zip(&Y).map(|(x, y)| (f64::from(*x), f64::from(*y))).collect();
        for (weights, expected) in [
            (Weights::None, 0.27472527472527475),
            (Weights::Linear, 0.5680628272251309),
            (Weights::Quadratic, 0.7854356306892067),
        ] {
            assert!((kappa(&pairs, weights).expect("pairs") - expected).abs() < 1e-14, "{weights:?}");
        }
    }

    #[test]
    fn fifty_proposals_by_hand() {
        // 20 both yes, 15 both no, 5 and 10 apart: p_o = 0.7, p_e = 0.5 · 0.6 + 0.5 · 0.4 = 0.5.
        let cells = [(1.0, 1.0, 20), (1.0, 0.0, 5), (0.0, 1.0, 10), (0.0, 0.0, 15)];
        let pairs: Vec<(f64, f64)> = cells.iter().flat_map(|(a, b, n)| std::iter::repeat_n((*a, *b), *n)).collect();
        assert!((kappa(&pairs, Weights::None).expect("pairs") - 0.4).abs() < 1e-15);
    }

    #[test]
    fn nothing_and_one_value_have_no_kappa() {
        assert_eq!(kappa(&[], Weights::None), None);
        assert_eq!(kappa(&[(1.0, 1.0), (1.0, 1.0)], Weights::None), None);
        assert_eq!(kappa(&[(1.0, 1.0), (2.0, 2.0)], Weights::Linear), Some(1.0));
    }
}
