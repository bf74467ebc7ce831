//! How well a length-controlled win rate is known.

use super::{Design, Instance};

/// The standard error that follows from the influences of the instances: √(n / (n − 1) · Σ ψᵢ²).
pub(super) fn std_error(influences: &[f64]) -> f64 {
    let n = influences.len() as f64;
    (influences.iter().map(|influence| influence * influence).sum::<f64>() * n / (n - 1.0)).sqrt()
}

/// How far each instance moves the mean prediction θ when the instances are drawn anew and the weights are fitted anew, at the
/// same C: `[instances]`.
///
/// The influence of an instance: (qᵢ − θ) / n for its place in the mean, and −G·H⁻¹·ψᵢ for its pull on the weights, with G
/// the gradient of θ, H the Hessian of C × the loss and ψᵢ the instance's own gradient, over the weights that are not zero (van
/// der Vaart, 1998, section 5.3). The regulariser's rows are taken as given. `None` for a single instance, or where H has no
/// inverse.
pub(super) fn influences(design: &Design, c: f64, w: &[f64], instances: &[Instance], predictions: &[f64]) -> Option<Vec<f64>> {
    let n = instances.len() as f64;
    if instances.len() < 2 {
        return None;
    }
    let active: Vec<usize> = (0..w.len()).filter(|j| w[*j] != 0.0).collect();
    let place = usize::from(design.has_difficulty);
    // The gradient of θ: the prediction sees difficulty and model, and nothing of length and covariates.
    let gradient = |j: usize| {
        let of = |(instance, q): (&Instance, &f64)| {
            let feature = if j == 1 + place { 1.0 } else { instance.difficulty.unwrap_or(0.0) };
            q * (1.0 - q) * feature
        };
        let is_seen = j == 1 + place || (design.has_difficulty && j == 1);
        if is_seen { instances.iter().zip(predictions).map(of).sum::<f64>() / n } else { 0.0 }
    };
    let g: Vec<f64> = active.iter().map(|j| gradient(*j)).collect();
    let pull = solve(design.rows.hessian_of(c, w, &active), g)?;
    let mean = predictions.iter().sum::<f64>() / n;
    let mut row = design.first_instance;
    let of_instance = |(instance, q): (&Instance, &f64)| {
        let mut influence = (q - mean) / n;
        if instance.p_win.is_some() {
            let psi = design.rows.gradient_of_row(row, c, w);
            influence -= active.iter().zip(&pull).map(|(j, pull)| pull * psi[*j]).sum::<f64>();
            row += 1;
        }
        influence
    };
    Some(instances.iter().zip(predictions).map(of_instance).collect())
}

/// x with A·x = b for a symmetric positive definite A, `[n, n]` row by row, by Cholesky's decomposition.
pub(super) fn solve(mut a: Vec<f64>, mut b: Vec<f64>) -> Option<Vec<f64>> {
    let n = b.len();
    for j in 0..n {
        for k in 0..j {
            let factor = a[j * n + k];
            for i in j..n {
                a[i * n + j] -= factor * a[i * n + k];
            }
        }
        let pivot = a[j * n + j];
        if !(pivot > 0.0 && pivot.is_finite()) {
            return None;
        }
        let root = pivot.sqrt();
        for i in j..n {
            a[i * n + j] /= root;
        }
    }
    for i in 0..n {
        let known: f64 = (0..i).map(|k| a[i * n + k] * b[k]).sum();
        b[i] = (b[i] - known) / a[i * n + i];
    }
    for i in (0..n).rev() {
        let known: f64 = (i + 1..n).map(|k| a[k * n + i] * b[k]).sum();
        b[i] = (b[i] - known) / a[i * n + i];
    }
    Some(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_system_is_solved() {
        let x = solve(vec![4.0, 2.0, 0.5, 2.0, 5.0, 1.0, 0.5, 1.0, 3.0], vec![1.0, -2.0, 0.25]).expect("positive definite");
        let back = [4.0 * x[0] + 2.0 * x[1] + 0.5 * x[2], 2.0 * x[0] + 5.0 * x[1] + x[2], 0.5 * x[0] + x[1] + 3.0 * x[2]];
        assert!(back.iter().zip([1.0, -2.0, 0.25]).all(|(got, b)| (got - b).abs() < 1e-14), "{back:?}");
        assert_eq!(solve(vec![1.0, 1.0, 1.0, 1.0], vec![1.0, 0.0]), None);
        assert_eq!(solve(Vec::new(), Vec::new()), Some(Vec::new()));
    }
}
