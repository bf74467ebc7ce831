//! Logistic regression with an L1 penalty, solved to the optimum.
//!
//! Minimises |w|₁ + C · Σᵢ sᵢ · [−yᵢ log σ(w·fᵢ) − (1 − yᵢ) log σ(−w·fᵢ)] over w, without an intercept; yᵢ in [0, 1] may be graded.
//! The method is proximal Newton (Lee, Sun and Saunders, 2014): each step minimises the second-order model plus the penalty by
//! coordinate descent and is shortened until the objective falls. With a handful of features it takes about ten steps to the
//! last digits, where liblinear, which scikit-learn and so AlpacaEval uses, stops at a tolerance of 1e-4.

/// Newton steps at most; ten are usual, and the penalty keeps separable data finite.
const MOST_STEPS: usize = 200;
/// Rounds of coordinate descent inside a step, at most.
const MOST_ROUNDS: usize = 10_000;
/// Halvings of a step at most.
const MOST_HALVINGS: i32 = 60;
/// From a step this small against the weights on, Newton's method converges by itself, and the objective's last digits, lost in
/// rounding, would only hold it up.
const SMALL_STEP: f64 = 1e-5;

/// The rows to fit.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rows {
    /// Features of a row.
    n_features: usize,
    /// `[rows, features]`, row by row.
    features: Vec<f64>,
    /// The probability to be predicted, in [0, 1]: `[rows]`.
    targets: Vec<f64>,
    /// How much a row counts, > 0: `[rows]`.
    weights: Vec<f64>,
}

impl Rows {
    /// No rows yet, of so many features each.
    pub fn new(n_features: usize) -> Self {
        Self { n_features, ..Self::default() }
    }

    /// Adds a row.
    ///
    /// # Panics
    /// When `features` are not as many as those of the other rows.
    pub fn push(&mut self, features: &[f64], target: f64, weight: f64) {
        assert_eq!(features.len(), self.n_features, "features of a row");
        self.features.extend_from_slice(features);
        self.targets.push(target);
        self.weights.push(weight);
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.targets.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.targets.is_empty()
    }

    /// Features of a row.
    pub fn n_features(&self) -> usize {
        self.n_features
    }

    /// The rows that `keep` wants, by their number.
    #[must_use]
    pub fn filtered(&self, mut keep: impl FnMut(usize) -> bool) -> Self {
        let mut rows = Self::new(self.n_features);
        for i in (0..self.len()).filter(|i| keep(*i)) {
            rows.push(self.row(i), self.targets[i], self.weights[i]);
        }
        rows
    }

    fn row(&self, i: usize) -> &[f64] {
        &self.features[i * self.n_features..(i + 1) * self.n_features]
    }

    /// Σ of weight × log loss under `w`, in nats.
    pub fn weighted_loss(&self, w: &[f64]) -> f64 {
        let loss = |i: usize| self.weights[i] * log_loss(dot(w, self.row(i)), self.targets[i]);
        (0..self.len()).map(loss).sum()
    }

    /// What is minimised: |w|₁ + C × [`Rows::weighted_loss`].
    pub fn objective(&self, c: f64, w: &[f64]) -> f64 {
        w.iter().map(|weight| weight.abs()).sum::<f64>() + c * self.weighted_loss(w)
    }

    /// The weights at the optimum for `c` > 0: `[features]`, starting from `start`.
    pub fn fit(&self, c: f64, start: &[f64]) -> Vec<f64> {
        let mut w = start.to_vec();
        let mut here = self.survey(c, &w);
        let mut last_size = f64::INFINITY;
        for _ in 0..MOST_STEPS {
            let step = penalised_step(&w, &here.gradient, &here.hessian);
            let size = step.iter().fold(0.0_f64, |size, d| size.max(d.abs()));
            let scale = w.iter().fold(1.0_f64, |scale, w| scale.max(w.abs()));
            let is_close = size <= SMALL_STEP * scale;
            // Steps that no longer shrink are rounding.
            if size == 0.0 || (is_close && size >= last_size) {
                break;
            }
            last_size = if is_close { size } else { f64::INFINITY };
            if is_close {
                w = ahead(&w, &step, 1.0);
                here = self.survey(c, &w);
            } else {
                match self.shortened(c, &w, &step, &here) {
                    Some(there) => (w, here) = there,
                    None => break,
                }
            }
        }
        w
    }

    /// The weights after as much of the step as makes the objective fall by a part of what the slope promises, and what is there.
    fn shortened(&self, c: f64, w: &[f64], step: &[f64], here: &Survey) -> Option<(Vec<f64>, Survey)> {
        let penalty = |w: &[f64]| w.iter().map(|w| w.abs()).sum::<f64>();
        let fall = dot(&here.gradient, step) + penalty(&ahead(w, step, 1.0)) - penalty(w);
        let lengths = (0..MOST_HALVINGS).map(|halvings| 0.5_f64.powi(halvings));
        let mut tried = lengths.map(|t| {
            let there = ahead(w, step, t);
            let found = self.survey(c, &there);
            (t, there, found)
        });
        tried.find(|(t, _, found)| found.objective <= here.objective + 1e-4 * t * fall).map(|(_, there, found)| (there, found))
    }

    /// The gradient of C × the weighted loss of row `i`: `[features]`.
    pub(super) fn gradient_of_row(&self, i: usize, c: f64, w: &[f64]) -> Vec<f64> {
        let slope = c * self.weights[i] * (sigmoid(dot(w, self.row(i))) - self.targets[i]);
        self.row(i).iter().map(|f| slope * f).collect()
    }

    /// The Hessian of C × the weighted loss over the features `of`: `[of, of]`, row by row.
    pub(super) fn hessian_of(&self, c: f64, w: &[f64], of: &[usize]) -> Vec<f64> {
        let hessian = self.survey(c, w).hessian;
        of.iter().flat_map(|j| of.iter().map(|k| hessian[j * self.n_features + k]).collect::<Vec<_>>()).collect()
    }

    /// Everything about a point, in one pass over the rows.
    fn survey(&self, c: f64, w: &[f64]) -> Survey {
        let p = self.n_features;
        let (mut loss, mut gradient, mut hessian) = (0.0, vec![0.0; p], vec![0.0; p * p]);
        let rows = self.features.chunks_exact(p.max(1)).zip(&self.targets).zip(&self.weights);
        for ((row, target), weight) in rows {
            let z = dot(w, row);
            let e = (-z.abs()).exp();
            let q = if z >= 0.0 { 1.0 } else { e } / (1.0 + e);
            loss += weight * (z.max(0.0) + e.ln_1p() - target * z);
            let slope = c * weight * (q - target);
            let curvature = c * weight * q * (1.0 - q);
            for (j, f) in row.iter().enumerate() {
                gradient[j] += slope * f;
                let along = curvature * f;
                for (sum, other) in hessian[j * p..=j * p + j].iter_mut().zip(row) {
                    *sum += along * other;
                }
            }
        }
        for j in 0..p {
            for k in 0..j {
                hessian[k * p + j] = hessian[j * p + k];
            }
        }
        let penalty = w.iter().map(|weight| weight.abs()).sum::<f64>();
        Survey { objective: penalty + c * loss, gradient, hessian }
    }
}

/// What is known of a point.
#[derive(Debug, Clone)]
struct Survey {
    /// The penalty and C × the weighted loss.
    objective: f64,
    /// Of C × the weighted loss: `[features]`.
    gradient: Vec<f64>,
    /// Of C × the weighted loss: `[features, features]`.
    hessian: Vec<f64>,
}

/// The step d that minimises g·d + ½ d·H·d + |w + d|₁, by coordinate descent.
fn penalised_step(w: &[f64], gradient: &[f64], hessian: &[f64]) -> Vec<f64> {
    let p = w.len();
    let mut step = vec![0.0; p];
    for _ in 0..MOST_ROUNDS {
        let mut largest = 0.0_f64;
        for j in 0..p {
            let curvature = hessian[j * p + j];
            let slope = gradient[j] + dot(&hessian[j * p..(j + 1) * p], &step);
            let here = w[j] + step[j];
            // A feature that is zero everywhere has no curvature and no slope; the penalty takes its weight to zero.
            let there = if curvature > 0.0 { shrink(here - slope / curvature, 1.0 / curvature) } else { 0.0 };
            largest = largest.max((there - here).abs());
            step[j] = there - w[j];
        }
        let scale = w.iter().zip(&step).fold(1.0_f64, |scale, (w, d)| scale.max((w + d).abs()));
        if largest <= 1e-16 * scale {
            break;
        }
    }
    step
}

/// The point that lies `t` of the step away.
fn ahead(w: &[f64], step: &[f64], t: f64) -> Vec<f64> {
    w.iter().zip(step).map(|(w, d)| w + t * d).collect()
}

/// `value` moved towards zero by `by`, and no further.
fn shrink(value: f64, by: f64) -> f64 {
    value.signum() * (value.abs() - by).max(0.0)
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// 1 / (1 + e^−z), exact to the last digits at both ends.
pub fn sigmoid(z: f64) -> f64 {
    if z >= 0.0 { 1.0 / (1.0 + (-z).exp()) } else { z.exp() / (1.0 + z.exp()) }
}

/// The log loss of the logit `z` against the probability `y`, in nats: log(1 + e^z) − y z.
fn log_loss(z: f64, y: f64) -> f64 {
    z.max(0.0) + (-z.abs()).exp().ln_1p() - y * z
}

#[cfg(test)]
mod tests {
    use farmhand_core::Seed;

    use super::*;

    fn random_rows(n: usize, true_w: &[f64], seed: u64) -> Rows {
        let mut rng = Seed::root(seed).rng();
        let mut rows = Rows::new(true_w.len());
        for _ in 0..n {
            let features: Vec<f64> = true_w.iter().map(|_| rng.normal()).collect();
            let target = if rng.bernoulli(sigmoid(dot(true_w, &features))) { 1.0 } else { 0.0 };
            rows.push(&features, target, 0.5 + rng.uniform());
        }
        rows
    }

    /// How far `w` is from satisfying the conditions of an optimum, against the size of the gradient's parts.
    fn violation(rows: &Rows, c: f64, w: &[f64]) -> f64 {
        let gradient = rows.survey(c, w).gradient;
        let part = |(g, w): (&f64, &f64)| if *w == 0.0 { (g.abs() - 1.0).max(0.0) } else { (g + w.signum()).abs() };
        gradient.iter().zip(w).map(part).fold(0.0, f64::max) / (1.0 + c * rows.len() as f64)
    }

    #[test]
    fn one_feature_has_the_optimum_of_a_formula() {
        // All features 1: the gradient is C·n·(σ(w) − ȳ) and the optimum has σ(w) = ȳ − 1 / (C·n) for a positive w.
        let mut rows = Rows::new(1);
        (0..10).for_each(|i| rows.push(&[1.0], if i < 8 { 1.0 } else { 0.0 }, 1.0));
        let w = rows.fit(2.0, &[0.0])[0];
        assert!((sigmoid(w) - (0.8 - 1.0 / 20.0)).abs() < 1e-14, "{w}");
        // A strong penalty leaves nothing: |gradient at 0| = C·n·0.3 < 1.
        assert_eq!(rows.fit(0.3, &[0.7]), [0.0]);
    }

    #[test]
    fn the_conditions_of_an_optimum_hold_from_any_start() {
        for (seed, c) in [(1, 1e-4), (2, 1e-2), (3, 0.3), (4, 10.0), (5, 1e4)] {
            let rows = random_rows(400, &[1.5, -0.4, 0.0, 0.1], seed);
            let w = rows.fit(c, &[0.0; 4]);
            assert!(violation(&rows, c, &w) < 1e-13, "C {c}: {}", violation(&rows, c, &w));
            let other = rows.fit(c, &[3.0, 3.0, -3.0, 0.5]);
            assert!(w.iter().zip(&other).all(|(a, b)| (a - b).abs() < 1e-9), "{w:?} {other:?}");
        }
    }

    #[test]
    fn separable_data_and_idle_features_stay_finite() {
        let mut rows = Rows::new(2);
        (-5..=5).filter(|x| *x != 0).for_each(|x| rows.push(&[f64::from(x), 0.0], if x > 0 { 1.0 } else { 0.0 }, 1.0));
        let w = rows.fit(1e4, &[0.0, 2.0]);
        assert!(w[0].is_finite() && w[0] > 1.0 && w[1] == 0.0, "{w:?}");
        let twins = random_rows(200, &[1.0], 9);
        let mut doubled = Rows::new(2);
        (0..200).for_each(|i| doubled.push(&[twins.row(i)[0]; 2], twins.targets[i], twins.weights[i]));
        let (one, two) = (twins.fit(1.0, &[0.0]), doubled.fit(1.0, &[0.0, 0.0]));
        assert!((one[0] - two[0] - two[1]).abs() < 1e-9, "{one:?} {two:?}");
    }

    #[test]
    fn a_weight_of_two_is_a_row_twice() {
        let (mut heavy, mut twice) = (Rows::new(1), Rows::new(1));
        for (x, y) in [(0.5, 0.25), (-1.0, 1.0), (2.0, 0.9)] {
            heavy.push(&[x], y, 2.0);
            (0..2).for_each(|_| twice.push(&[x], y, 1.0));
        }
        assert!((heavy.fit(1.0, &[0.0])[0] - twice.fit(1.0, &[0.0])[0]).abs() < 1e-12);
    }
}
