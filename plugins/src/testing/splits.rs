//! A step's loss and gradients do not depend on how its records lie in forward passes: what the tests of learners share to show it.

use farmhand_models::{BatchLayout, LanguageModel};
use tch::Tensor;

use crate::rl::reduction::StepTotals;
use crate::training::{MicroBatch, MicroLoss, PassOptions, Record, Sampler, micro_step};

/// Ways to split the records of a step over forward passes: layout, records and tokens at most.
pub(crate) const SPLITS: [(BatchLayout, usize, usize); 6] = [
    (BatchLayout::Packed, 8, 4096),
    (BatchLayout::Packed, 3, 4096),
    (BatchLayout::Packed, 8, 30),
    (BatchLayout::Packed, 1, 4096),
    (BatchLayout::Padded, 3, 4096),
    (BatchLayout::Padded, 8, 30),
];

/// Passes that split a step in one of these ways.
fn passes((layout, size, tokens): (BatchLayout, usize, usize)) -> PassOptions {
    PassOptions { layout, micro_batch_size: Some(size), micro_batch_tokens: Some(tokens), ..PassOptions::default() }
}

/// Makes one step of at most 8 records with each of [`SPLITS`]; loss and gradients must be those of one padded pass, the gradients up
/// to `tolerance` of the largest entry. `step` gives the loss and the gradients.
pub(crate) fn assert_same_step_however_split(tolerance: f64, step: impl Fn(PassOptions) -> (f64, Vec<Tensor>)) {
    let (loss, expected) = step(passes((BatchLayout::Padded, 8, 4096)));
    for split in SPLITS {
        let (same_loss, same) = step(passes(split));
        assert!((loss - same_loss).abs() < 1e-5 * loss.abs().max(1.0), "{loss} and {same_loss} with {split:?}");
        assert_same_gradients(&same, &expected, tolerance);
    }
}

/// The same for a step that `run` makes with one model: it adds the gradient and gives the loss.
pub(crate) fn assert_same_however_split(model: &LanguageModel, tolerance: f64, run: impl Fn(&PassOptions) -> f64) {
    assert_same_step_however_split(tolerance, |passes| (run(&passes), take_gradients(&model.trained())));
}

/// Loss and gradients of an optimiser step over records that a sampler's policy answered, split as the sampler's passes say.
pub(crate) fn split_step(
    sampler: &Sampler<'_>,
    records: &[Record],
    rows: &[usize],
    totals: StepTotals,
    mut loss: impl FnMut(&MicroBatch<'_>) -> MicroLoss,
) -> (f64, Vec<Tensor>) {
    let mut total = 0.0;
    for group in sampler.passes.micro_batching(tch::Device::Cpu).groups(records, rows) {
        let (told, _) = micro_step(sampler, records, &group, totals, rows.len(), &mut loss).expect("run");
        total += told.double_value(&[0]);
    }
    (total, take_gradients(&sampler.policy.trained()))
}

/// The gradients of some parameters, which are then cleared.
pub(crate) fn take_gradients(parameters: &[(String, Tensor)]) -> Vec<Tensor> {
    let take = |(_, tensor): &(String, Tensor)| {
        let gradient = if tensor.grad().defined() { tensor.grad().copy() } else { tensor.zeros_like() };
        tensor.shallow_clone().zero_grad();
        gradient.detach()
    };
    parameters.iter().map(take).collect()
}

/// Whether two lists of tensors are the same up to `tolerance` of the largest entry.
pub(crate) fn assert_same_gradients(got: &[Tensor], expected: &[Tensor], tolerance: f64) {
    let largest = |tensors: &mut dyn Iterator<Item = Tensor>| {
        tensors.map(|tensor| tensor.abs().max().double_value(&[])).fold(0.0, f64::max)
    };
    let scale = largest(&mut expected.iter().map(Tensor::shallow_clone));
    assert!(scale > 0.0, "there is no gradient");
    let difference = largest(&mut got.iter().zip(expected).map(|(a, b)| a - b));
    assert!(difference <= tolerance * scale, "gradients differ by {difference}, the largest is {scale}");
}
