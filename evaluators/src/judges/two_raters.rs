//! κ and α of two raters from how often they say what: first, tie, second.

/// How often (or with which expected weight) one rater says the row's and the other the column's: `[first, tie, second]` each.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Cells(pub [[f64; 3]; 3]);

/// 0 the first answer, 1 a tie, 2 the second.
pub fn side(p_second: f64) -> usize {
    match p_second {
        p if p < 0.5 => 0,
        p if p > 0.5 => 2,
        _ => 1,
    }
}

impl Cells {
    /// Adds a judge's verdict against the other's side; `p_flip` of the judge's verdicts are noise.
    pub fn add(&mut self, judge: f64, other: usize, p_flip: f64) {
        self.0[side(judge)][other] += 1.0 - 2.0 * p_flip;
        self.0[0][other] += p_flip;
        self.0[2][other] += p_flip;
    }

    /// Adds all of another's.
    pub fn merge(&mut self, other: &Self) {
        self.0.iter_mut().flatten().zip(other.0.iter().flatten()).for_each(|(one, more)| *one += more);
    }

    fn n(&self) -> f64 {
        self.0.iter().flatten().sum()
    }

    fn margins(&self) -> ([f64; 3], [f64; 3]) {
        let of_row = |i: usize| self.0[i].iter().sum();
        let of_column = |j: usize| self.0.iter().map(|row| row[j]).sum();
        (std::array::from_fn(of_row), std::array::from_fn(of_column))
    }

    fn agreed(&self) -> f64 {
        (0..3).map(|i| self.0[i][i]).sum()
    }

    /// Cohen's κ; `None` where it is not defined, see [`crate::agreement::cohen`].
    pub fn kappa(&self) -> Option<f64> {
        let n = self.n();
        let (rows, columns) = self.margins();
        let by_chance: f64 = rows.iter().zip(columns).map(|(a, b)| a / n * b / n).sum();
        (n > 0.0 && by_chance < 1.0).then(|| 1.0 - (1.0 - self.agreed() / n) / (1.0 - by_chance))
    }

    /// Krippendorff's nominal α; `None` where it is not defined, see [`crate::agreement::krippendorff`].
    pub fn alpha(&self) -> Option<f64> {
        let n = 2.0 * self.n();
        let (rows, columns) = self.margins();
        let same: f64 = rows.iter().zip(columns).map(|(a, b)| (a + b).powi(2)).sum();
        let expected = n * n - same;
        (n > 1.0 && expected > 0.0).then(|| 1.0 - (n - 1.0) * (n - 2.0 * self.agreed()) / expected)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agreement::{Ratings, cohen, krippendorff, label_noise};
    use farmhand_core::Seed;

    #[test]
    fn the_same_as_from_lists_of_values() {
        let mut rng = Seed::root(4).rng();
        let pairs: Vec<(usize, usize)> = (0..200).map(|_| (rng.below(3), rng.below(3).max(rng.below(2)))).collect();
        let mut cells = Cells::default();
        pairs.iter().for_each(|(a, b)| cells.add(*a as f64 / 2.0, *b, 0.0));
        let values: Vec<(f64, f64)> = pairs.iter().map(|(a, b)| (*a as f64, *b as f64)).collect();
        let kappa = cohen::kappa(&values, cohen::Weights::None).expect("defined");
        let ratings =
            Ratings { raters: vec![String::new(); 2], values: values.iter().map(|(a, b)| vec![Some(*a), Some(*b)]).collect() };
        let alpha = krippendorff::alpha(&ratings, krippendorff::Level::Nominal).expect("defined");
        assert!((cells.kappa().expect("defined") - kappa).abs() < 1e-12);
        assert!((cells.alpha().expect("defined") - alpha).abs() < 1e-12);
        assert_eq!((Cells::default().kappa(), Cells::default().alpha()), (None, None));
    }

    #[test]
    fn noise_in_expectation_is_noise_drawn() {
        let mut rng = Seed::root(9).rng();
        let (mut exact, mut drawn) = (Cells::default(), Cells::default());
        for i in 0..60_000 {
            let (judge, other) = ([0.0, 1.0, 1.0, 0.5][i % 4], [0, 2, 0, 2][i % 4]);
            exact.add(judge, other, 0.25);
            drawn.add(label_noise::flipped(1.0 + judge, 0.25, &mut rng) - 1.0, other, 0.0);
        }
        assert!((exact.kappa().expect("defined") - drawn.kappa().expect("defined")).abs() < 0.01);
        assert!((exact.n() - drawn.n()).abs() < 1e-6);
    }
}
