//! Linear layers and matrix products: the operators that every model spends its time in.
//!
//! They are libtorch's own, which on x86 are MKL's. With AVX-512 allowed there (see `mkl.rs`) a training step of SmolLM2-135M
//! is 4 to 6 % faster than with oneDNN's kernels from the same library, and products too small for oneDNN are three times as
//! fast. The kernel depends on the processor and the sizes alone, so a machine always gives the same bits.

use tch::{Tensor, no_grad};

/// `x · weightᵀ + bias` for `x` `[.., in]`, `weight` `[out, in]` (any strides, so a transposed view will do) and `bias`
/// `[out]`; differentiable.
///
/// # Panics
/// When the shapes do not fit.
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Tensor {
    x.linear(weight, bias)
}

/// `a · bᵀ` for `a` `[m, k]` and `b` `[n, k]`, whatever their strides; not differentiable.
///
/// # Panics
/// When the shapes do not fit.
pub fn product(a: &Tensor, b: &Tensor) -> Tensor {
    no_grad(|| a.matmul(&b.tr()))
}

#[cfg(test)]
mod tests {
    use farmhand_core::Seed;
    use tch::Kind;

    use super::*;

    fn random(size: &[i64], seed: u64) -> Tensor {
        let mut rng = Seed::root(seed).rng();
        let n: i64 = size.iter().product();
        let values: Vec<f32> = (0..n).map(|_| rng.uniform() as f32 - 0.5).collect();
        Tensor::from_slice(&values).view(size)
    }

    /// The largest difference as a share of the largest number.
    fn distance(a: &Tensor, b: &Tensor) -> f64 {
        (a.to_kind(Kind::Double) - b).abs().max().double_value(&[]) / b.abs().max().double_value(&[])
    }

    /// What trains, and how the tensors lie.
    #[derive(Debug, Clone, Copy)]
    struct Case {
        n: i64,
        inputs: i64,
        outputs: i64,
        bias: bool,
        transposed: bool,
        strided: bool,
        trains: [bool; 3],
    }

    /// Output and the gradients of x, weight and bias.
    fn run(case: Case, kind: Kind, layer: impl Fn(&Tensor, &Tensor, Option<&Tensor>) -> Tensor) -> (Tensor, [Tensor; 3]) {
        let Case { n, inputs, outputs, .. } = case;
        let random = |size: &[i64], seed| random(size, seed).to_kind(kind);
        let x = random(&[n, inputs], 1).set_requires_grad(case.trains[0]);
        let shape = if case.transposed { [inputs, outputs] } else { [outputs, inputs] };
        let weight = random(&shape, 2).set_requires_grad(case.trains[1]);
        let bias = random(&[outputs], 3).set_requires_grad(case.trains[2]);
        let view = if case.transposed { weight.tr() } else { weight.shallow_clone() };
        let rows = if case.strided { x.tr().contiguous().tr() } else { x.shallow_clone() };
        let y = layer(&rows, &view, case.bias.then_some(&bias));
        let gradient = random(&[outputs, n], 4).tr();
        if y.requires_grad() {
            (&y * if case.strided { gradient } else { gradient.contiguous() }).sum(kind).backward();
        }
        (y, [x, weight, bias].map(|tensor| tensor.grad()))
    }

    #[test]
    fn values_and_gradients_are_those_of_the_formula_in_double_precision() {
        let all = [true; 3];
        let base = Case { n: 131, inputs: 129, outputs: 127, bias: true, transposed: false, strided: false, trains: all };
        let cases = [
            base,
            Case { bias: false, ..base },
            Case { transposed: true, ..base },
            Case { strided: true, ..base },
            Case { transposed: true, strided: true, bias: false, ..base },
            Case { trains: [true, false, false], ..base },
            Case { trains: [false, true, false], bias: false, ..base },
            Case { trains: [false; 3], ..base },
            Case { n: 1, inputs: 2049, outputs: 1027, ..base },
            Case { n: 3, inputs: 5, outputs: 7, ..base },
            Case { n: 0, inputs: 5, outputs: 7, ..base },
        ];
        for case in cases {
            let formula = |x: &Tensor, weight: &Tensor, bias: Option<&Tensor>| {
                // Row by row, so that it shares no matrix product with what it judges.
                let rows = (x.unsqueeze(1) * weight.unsqueeze(0)).sum_dim_intlist([-1i64].as_slice(), false, Kind::Double);
                bias.map_or(rows.shallow_clone(), |bias| &rows + bias)
            };
            let (ours, our_gradients) = run(case, Kind::Float, linear);
            let (theirs, their_gradients) = run(case, Kind::Double, formula);
            assert_eq!((ours.size(), ours.requires_grad()), (theirs.size(), theirs.requires_grad()), "{case:?}");
            assert!(case.n == 0 || distance(&ours, &theirs) < 1e-5, "{case:?}");
            for (our, their) in our_gradients.iter().zip(&their_gradients) {
                assert_eq!(our.defined(), their.defined(), "{case:?}");
                assert!(!our.defined() || case.n == 0 || distance(our, their) < 1e-5, "{case:?}");
            }
        }
    }

    #[test]
    fn leading_dimensions_stay() {
        let (x, weight) = (random(&[3, 50, 129], 1), random(&[127, 129], 2));
        let y = linear(&x, &weight, None);
        assert_eq!(y.size(), [3, 50, 127]);
        let flat = linear(&x.view([150, 129]), &weight, None);
        assert!(distance(&y, &flat.view([3, 50, 127])) < 1e-6);
    }

    #[test]
    fn products_are_right_for_any_strides_and_repeat_bit_for_bit() {
        for (m, n, k) in [(130, 131, 133), (2, 3, 4)] {
            let (a, b) = (random(&[m, k], 1), random(&[k, n], 2));
            let expected =
                (a.to_kind(Kind::Double).unsqueeze(2) * b.unsqueeze(0)).sum_dim_intlist([1i64].as_slice(), false, Kind::Double);
            let ours = product(&a, &b.tr());
            assert!(distance(&ours, &expected) < 1e-5);
            assert!(distance(&product(&a.tr().contiguous().tr(), &b.tr().contiguous()), &expected) < 1e-5);
            assert_eq!(product(&a, &b.tr()), ours);
        }
    }

    #[test]
    fn nothing_is_recorded_without_gradients() {
        let weight = random(&[300, 200], 1).set_requires_grad(true);
        let x = random(&[100, 200], 2);
        assert!(!no_grad(|| linear(&x, &weight, None)).requires_grad());
        assert!(linear(&x, &weight, None).requires_grad());
        assert!(!product(&x, &weight).requires_grad());
    }

    #[test]
    #[should_panic(expected = "cannot be multiplied")]
    fn shapes_that_do_not_fit_are_refused() {
        let _ = linear(&random(&[2, 3], 1), &random(&[4, 5], 2), None);
    }
}
