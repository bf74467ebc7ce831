//! What an online learner keeps of one round of sampling.

use tch::{Kind, Tensor};

use super::kl::KlEstimator;
use super::masked::zero_masked;
use super::reward_shaping::length_mask;

/// One round of sampled responses with what every update needs. `[rollouts, tokens]` tensors are padded on the right with 0; all
/// live on the CPU and carry no gradient.
#[derive(Debug)]
pub struct RolloutBatch {
    /// Response lengths in tokens, the end-of-sequence token included, each at least 1.
    pub lengths: Vec<usize>,
    /// 1 for response tokens, 0 for padding, `[rollouts, tokens]`.
    pub mask: Tensor,
    /// Log-probabilities of the sampled tokens under the policy that sampled them, in nats, `[rollouts, tokens]`.
    pub log_probs: Tensor,
    /// The same under the reference policy, `[rollouts, tokens]`; the policy's own where a method has no reference.
    pub reference_log_probs: Tensor,
}

impl RolloutBatch {
    /// Joins flat per-token numbers `[tokens]`, in the order of `lengths`, into a batch of `width` columns, at least the
    /// longest length.
    pub fn new(width: usize, lengths: Vec<usize>, log_probs: &Tensor, reference_log_probs: &Tensor) -> Self {
        let mask = length_mask(&lengths, width, Kind::Float);
        Self { log_probs: padded(log_probs, &mask), reference_log_probs: padded(reference_log_probs, &mask), mask, lengths }
    }

    /// How many rollouts there are.
    pub fn len(&self) -> usize {
        self.lengths.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.lengths.is_empty()
    }

    /// The divergence from the reference at each token, in nats, `[rollouts, tokens]`, 0 where padded.
    pub fn kl(&self, estimator: KlEstimator) -> Tensor {
        zero_masked(&estimator.per_token(&self.log_probs, &self.reference_log_probs), &self.mask)
    }

    /// The batch's numbers in `block` `[rollouts, tokens]` that belong to `rows`, flat `[tokens]`, row after row.
    pub fn flat_rows(&self, block: &Tensor, rows: &[usize]) -> Tensor {
        flat_rows(block, &self.mask, rows)
    }
}

/// The numbers in `block` `[rollouts, tokens]` at the real cells of some rows of `mask`, flat `[tokens]`, row after row.
pub fn flat_rows(block: &Tensor, mask: &Tensor, rows: &[usize]) -> Tensor {
    let index: Vec<i64> = rows.iter().map(|&row| row as i64).collect();
    let index = Tensor::from_slice(&index);
    block.index_select(0, &index).masked_select(&mask.index_select(0, &index).ne(0.0))
}

/// Sums over the tokens of each rollout of a padded `block` `[rollouts, tokens]`, one number a rollout.
pub fn row_sums(block: &Tensor) -> Vec<f64> {
    let sums = block.sum_dim_intlist([1i64].as_slice(), false, Kind::Double);
    Vec::<f64>::try_from(sums).expect("one number a row")
}

/// Flat numbers `[tokens]` spread over the real cells of `mask` `[rollouts, tokens]`, 0 elsewhere.
pub fn padded(flat: &Tensor, mask: &Tensor) -> Tensor {
    let flat = flat.detach().to_device(mask.device());
    Tensor::zeros(mask.size(), (flat.kind(), mask.device())).masked_scatter(&mask.ne(0.0), &flat)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flat_and_padded_forms_agree() {
        let flat = Tensor::from_slice(&[1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0]);
        let batch = RolloutBatch::new(3, vec![2, 1, 3], &flat, &(&flat * 3.0));
        assert_eq!(batch.mask.size(), [3, 3]);
        let rows = Vec::<f32>::try_from(batch.log_probs.view(-1)).expect("numbers");
        assert_eq!(rows, [1.0, 2.0, 0.0, 3.0, 0.0, 0.0, 4.0, 5.0, 6.0]);
        let picked = Vec::<f32>::try_from(batch.flat_rows(&batch.reference_log_probs, &[2, 0])).expect("numbers");
        assert_eq!(picked, [12.0, 15.0, 18.0, 3.0, 6.0]);
        assert_eq!(row_sums(&batch.kl(KlEstimator::K1)), [-6.0, -6.0, -30.0]);
    }
}
