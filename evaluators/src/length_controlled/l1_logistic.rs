//! Logistic regression with an L1 penalty, solved to the optimum.
//!
//! Minimises |w|₁ + C · Σᵢ sᵢ · [−yᵢ log σ(w·fᵢ) − (1 − yᵢ) log σ(−w·fᵢ)] over w, without an intercept; yᵢ in [0, 1] may be graded.
//! The method is proximal Newton (Lee, Sun and Saunders, 2014): each step minimises the second-order model plus the penalty by
//! coordinate descent and is shortened until the objective falls. With a handful of features it takes about ten steps to the
//! last digits, where liblinear, which scikit-learn and so AlpacaEval uses, stops at a tolerance of 1e-4.

use super::uncertainty::solve;

/// Newton steps at most; ten are usual, and the penalty keeps separable data finite.
const MOST_STEPS: usize = 200;
/// Rounds of coordinate descent inside a step, at most.
const MOST_ROUNDS: usize = 10_000;
/// Halvings of a step at most.
const MOST_HALVINGS: i32 = 60;
/// From a step this small against the weights on, Newton's method converges by itself, and the objective's last digits, lost in
/// rounding, would only hold it up.
const SMALL_STEP: f64 = 1e-5;
/// A step that moves no logit by more than this needs no shortening. Where logits move by at most D, the loss stays below its
/// second-order model with the quadratic part 2·(e^D − D − 1) / D² times as large (Bach, 2010, *Self-concordant analysis for
/// logistic regression*, proposition 1), so that at D = 1 at least 28 % of the fall that the slope promises is certain.
const SAFE_MOVE: f64 = 1.0;
/// Features of a row at most.
pub const MOST_FEATURES: usize = 8;

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
    /// The largest absolute value of each feature: `[features]`.
    largest: Vec<f64>,
}

impl Rows {
    /// No rows yet, of so many features each.
    ///
    /// # Panics
    /// When there are no features, or more than [`MOST_FEATURES`].
    pub fn new(n_features: usize) -> Self {
        assert!((1..=MOST_FEATURES).contains(&n_features), "{n_features} features");
        Self { n_features, largest: vec![0.0; n_features], ..Self::default() }
    }

    /// Adds a row.
    ///
    /// # Panics
    /// When `features` are not as many as those of the other rows.
    pub fn push(&mut self, features: &[f64], target: f64, weight: f64) {
        assert_eq!(features.len(), self.n_features, "features of a row");
        self.features.extend_from_slice(features);
        self.largest.iter_mut().zip(features).for_each(|(largest, feature)| *largest = largest.max(feature.abs()));
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
        penalty(w) + c * self.weighted_loss(w)
    }

    /// The weights at the optimum for `c` > 0: `[features]`, starting from `start`.
    pub fn fit(&self, c: f64, start: &[f64]) -> Vec<f64> {
        let problem = Problem { parts: &[self], c };
        problem.descend(start, problem.survey(start), 0.0).weights
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

    /// Slope and curvature at a point, in one pass over the rows.
    fn survey(&self, c: f64, w: &[f64]) -> Survey {
        match self.n_features {
            1 => self.survey_of::<1>(c, w),
            2 => self.survey_of::<2>(c, w),
            3 => self.survey_of::<3>(c, w),
            4 => self.survey_of::<4>(c, w),
            5 => self.survey_of::<5>(c, w),
            6 => self.survey_of::<6>(c, w),
            7 => self.survey_of::<7>(c, w),
            _ => self.survey_of::<MOST_FEATURES>(c, w),
        }
    }

    /// [`Rows::survey`] with the number of features known, so that all sums stay in registers.
    fn survey_of<const P: usize>(&self, c: f64, w: &[f64]) -> Survey {
        let w: [f64; P] = std::array::from_fn(|j| w[j]);
        let (mut gradient, mut hessian) = ([0.0; P], [[0.0; P]; P]);
        let (rows, _) = self.features.as_chunks::<P>();
        for ((row, target), weight) in rows.iter().zip(&self.targets).zip(&self.weights) {
            let mut z = 0.0;
            for j in 0..P {
                z += w[j] * row[j];
            }
            let q = sigmoid(z);
            let (slope, curvature) = (weight * (q - target), weight * q * (1.0 - q));
            for j in 0..P {
                gradient[j] += slope * row[j];
                let along = curvature * row[j];
                for k in 0..=j {
                    hessian[j][k] += along * row[k];
                }
            }
        }
        let at = |place: usize| c * hessian[(place / P).max(place % P)][(place / P).min(place % P)];
        Survey { gradient: gradient.map(|sum| c * sum).to_vec(), hessian: (0..P * P).map(at).collect() }
    }
}

/// What is minimised over several sets of rows of the same features: |w|₁ + C × their weighted loss.
pub(super) struct Problem<'r> {
    /// The rows.
    pub(super) parts: &'r [&'r Rows],
    /// The strength C > 0.
    pub(super) c: f64,
}

/// Where a descent ended.
pub(super) struct Descent {
    /// The weights: `[features]`.
    pub(super) weights: Vec<f64>,
    /// The weights that were looked at last, one step before: `[features]`.
    pub(super) before: Vec<f64>,
}

impl Problem<'_> {
    /// Slope and curvature at a point.
    pub(super) fn survey(&self, w: &[f64]) -> Survey {
        let mut sum = Survey::nothing(w.len());
        self.parts.iter().for_each(|rows| sum.add(1.0, &rows.survey(self.c, w)));
        sum
    }

    fn objective(&self, w: &[f64]) -> f64 {
        penalty(w) + self.c * self.parts.iter().map(|rows| rows.weighted_loss(w)).sum::<f64>()
    }

    /// Goes from `start`, of which `here` is known, down to the optimum: until a step, measured against the weights, is at most
    /// `enough`, which leaves about its square; with 0 to the last digits.
    pub(super) fn descend(&self, start: &[f64], mut here: Survey, enough: f64) -> Descent {
        let (mut w, mut before) = (start.to_vec(), start.to_vec());
        let mut last_size = f64::INFINITY;
        for _ in 0..MOST_STEPS {
            let step = penalised_step(&w, &here.gradient, &here.hessian);
            let size = step.iter().fold(0.0_f64, |size, d| size.max(d.abs()));
            let scale = w.iter().fold(1.0_f64, |scale, w| scale.max(w.abs()));
            let is_close = size <= SMALL_STEP * scale;
            before.clone_from(&w);
            // Steps that no longer shrink are rounding.
            if size == 0.0 || (is_close && size >= last_size) {
                break;
            }
            last_size = if is_close { size } else { f64::INFINITY };
            let t = if is_close || self.largest_move(&step) <= SAFE_MOVE { Some(1.0) } else { self.shortened(&w, &step, &here) };
            let Some(t) = t else { break };
            w = ahead(&w, &step, t);
            if size <= enough * scale {
                break;
            }
            here = self.survey(&w);
        }
        Descent { weights: w, before }
    }

    /// No row's logit moves further than this.
    fn largest_move(&self, step: &[f64]) -> f64 {
        let of = |rows: &&Rows| step.iter().zip(&rows.largest).map(|(d, largest)| d.abs() * largest).sum::<f64>();
        self.parts.iter().map(of).fold(0.0, f64::max)
    }

    /// How much of the step makes the objective fall by a part of what the slope promises.
    fn shortened(&self, w: &[f64], step: &[f64], here: &Survey) -> Option<f64> {
        let fall = dot(&here.gradient, step) + penalty(&ahead(w, step, 1.0)) - penalty(w);
        let height = self.objective(w);
        let mut lengths = (0..MOST_HALVINGS).map(|halvings| 0.5_f64.powi(halvings));
        lengths.find(|t| self.objective(&ahead(w, step, *t)) <= height + 1e-4 * t * fall)
    }
}

/// Slope and curvature of C × the weighted loss at a point.
#[derive(Debug, Clone)]
pub(super) struct Survey {
    /// `[features]`.
    gradient: Vec<f64>,
    /// `[features, features]`.
    hessian: Vec<f64>,
}

impl Survey {
    /// That of no rows.
    pub(super) fn nothing(n_features: usize) -> Self {
        Self { gradient: vec![0.0; n_features], hessian: vec![0.0; n_features * n_features] }
    }

    /// Adds `times` the slope and curvature of other rows at the same point.
    pub(super) fn add(&mut self, times: f64, other: &Self) {
        self.gradient.iter_mut().zip(&other.gradient).for_each(|(sum, x)| *sum += times * x);
        self.hessian.iter_mut().zip(&other.hessian).for_each(|(sum, x)| *sum += times * x);
    }
}

/// The step d that minimises g·d + ½ d·H·d + |w + d|₁: coordinate descent until the signs of w + d stay, then the solution for
/// those signs where it keeps them.
fn penalised_step(w: &[f64], gradient: &[f64], hessian: &[f64]) -> Vec<f64> {
    let p = w.len();
    let mut step = vec![0.0; p];
    let mut last_signs = Vec::new();
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
        let there = ahead(w, &step, 1.0);
        let scale = there.iter().fold(1.0_f64, |scale, there| scale.max(there.abs()));
        if largest <= 1e-16 * scale {
            break;
        }
        let signs: Vec<f64> = there.iter().map(|x| if *x == 0.0 { 0.0 } else { x.signum() }).collect();
        if signs == last_signs
            && let Some(solved) = step_of_signs(w, gradient, hessian, &signs)
        {
            return solved;
        }
        last_signs = signs;
    }
    step
}

/// The step d that minimises the same where w + d has the given signs (0: is zero); `None` where that is not the minimum.
fn step_of_signs(w: &[f64], gradient: &[f64], hessian: &[f64], signs: &[f64]) -> Option<Vec<f64>> {
    let p = w.len();
    let row = |j: usize| &hessian[j * p..(j + 1) * p];
    let active: Vec<usize> = (0..p).filter(|j| signs[*j] != 0.0).collect();
    let curvature = active.iter().flat_map(|j| active.iter().map(|k| row(*j)[*k])).collect();
    let pull = active.iter().map(|j| dot(row(*j), w) - gradient[*j] - signs[*j]).collect();
    let mut there = vec![0.0; p];
    active.iter().zip(solve(curvature, pull)?).for_each(|(j, x)| there[*j] = x);
    let step: Vec<f64> = there.iter().zip(w).map(|(there, w)| there - w).collect();
    let is_kept = |j: usize| match signs[j] {
        0.0 => (gradient[j] + dot(row(j), &step)).abs() <= 1.0,
        sign => there[j] * sign > 0.0,
    };
    (0..p).all(is_kept).then_some(step)
}

/// |w|₁.
fn penalty(w: &[f64]) -> f64 {
    w.iter().map(|weight| weight.abs()).sum()
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
    let e = (-z.abs()).exp();
    if z >= 0.0 { 1.0 / (1.0 + e) } else { e / (1.0 + e) }
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
