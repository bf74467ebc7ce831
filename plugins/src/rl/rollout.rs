//! What an online learner keeps of one round of sampling.

use tch::{Kind, Tensor};

use super::reward_shaping::length_mask;

/// One round of sampled responses with everything the update needs. `[rollouts, tokens]` tensors are padded on the
/// right with 0; all live on the CPU and carry no gradient.
#[derive(Debug)]
pub struct RolloutBatch {
    /// Response lengths in tokens, the end-of-sequence token included, each at least 1.
    pub lengths: Vec<usize>,
    /// 1 for response tokens, 0 for padding, `[rollouts, tokens]`.
    pub mask: Tensor,
    /// Log-probabilities of the sampled tokens under the policy that sampled them, in nats, `[rollouts, tokens]`.
    pub log_probs: Tensor,
    /// The same under the reference policy, `[rollouts, tokens]`.
    pub reference_log_probs: Tensor,
    /// The value model's prediction at the position that predicts each token, `[rollouts, tokens]`.
    pub values: Tensor,
    /// The reward model's score of each response after penalties, `[rollouts]`.
    pub scores: Tensor,
}

impl RolloutBatch {
    /// Joins flat per-token numbers `[tokens]`, in the order of `lengths`, into a batch of `width` columns, at least the
    /// longest length.
    pub fn new(
        width: usize,
        lengths: Vec<usize>,
        log_probs: &Tensor,
        reference_log_probs: &Tensor,
        values: &Tensor,
        scores: &[f64],
    ) -> Self {
        let mask = length_mask(&lengths, width, Kind::Float);
        let pad = |flat: &Tensor| padded(flat, &mask);
        Self {
            log_probs: pad(log_probs),
            reference_log_probs: pad(reference_log_probs),
            values: pad(values),
            scores: Tensor::from_slice(scores).to_kind(Kind::Float),
            mask,
            lengths,
        }
    }

    /// The batch's numbers in `block` `[rollouts, tokens]` that belong to `rows`, flat `[tokens]`, row after row.
    pub fn flat_rows(&self, block: &Tensor, rows: &[usize]) -> Tensor {
        let index: Vec<i64> = rows.iter().map(|&row| row as i64).collect();
        let index = Tensor::from_slice(&index);
        block.index_select(0, &index).masked_select(&self.mask.index_select(0, &index).ne(0.0))
    }
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
        let batch = RolloutBatch::new(3, vec![2, 1, 3], &flat, &(&flat * 2.0), &(&flat * 3.0), &[0.1, 0.2, 0.3]);
        assert_eq!(batch.mask.size(), [3, 3]);
        let rows = Vec::<f32>::try_from(batch.log_probs.view(-1)).expect("numbers");
        assert_eq!(rows, [1.0, 2.0, 0.0, 3.0, 0.0, 0.0, 4.0, 5.0, 6.0]);
        let picked = Vec::<f32>::try_from(batch.flat_rows(&batch.values, &[2, 0])).expect("numbers");
        assert_eq!(picked, [12.0, 15.0, 18.0, 3.0, 6.0]);
    }
}
