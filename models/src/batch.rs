//! Encoded texts as tensors: padded on the right, with recorded lengths and the flat places of the response tokens.

use farmhand_core::{Error, Result};
use tch::{Device, Tensor};

use crate::encoding::EncodedText;

/// Some encoded texts in one tensor. Padding stands on the right and is known by the recorded lengths, never by its id.
///
/// The response tokens of all rows are numbered 0 to n − 1, row by row; `predict_rows`, `targets` and `row_of` have one
/// entry for each.
#[derive(Debug)]
pub struct TokenBatch {
    /// `[b, t]`, i64: the ids, padded on the right.
    pub ids: Tensor,
    /// Tokens of each row, without padding.
    pub lengths: Vec<usize>,
    /// Where each row's response starts.
    pub response_starts: Vec<usize>,
    /// `[n]`, i64: the place in the flat `[b · t]` of the position that predicts each response token (the one before it).
    pub predict_rows: Tensor,
    /// `[n]`, i64: the response tokens.
    pub targets: Tensor,
    /// `[n]`, i64: the row each response token belongs to.
    pub row_of: Tensor,
}

impl TokenBatch {
    /// Pads the texts to the longest and puts them on the device. A row may have an empty response.
    ///
    /// # Errors
    /// When there is no text, or one with a response and no prompt: nothing predicts a text's first token.
    pub fn new(items: &[&EncodedText], pad: u32, device: Device) -> Result<Self> {
        let Some(longest) = items.iter().map(|item| item.ids.len()).max() else {
            return Err(Error::invalid_data("a batch of no texts"));
        };
        let mut flat = vec![i64::from(pad); items.len() * longest];
        let (mut predict_rows, mut targets, mut row_of) = (Vec::new(), Vec::new(), Vec::new());
        for (row, item) in items.iter().enumerate() {
            if item.response_start == 0 {
                return Err(Error::invalid_data("a prompt has no tokens, so nothing predicts the first token of its response")
                    .with_hint("give every record a prompt that is not empty, or use the prompt format `alpaca` or `chat`"));
            }
            let start = row * longest;
            for (place, id) in item.ids.iter().enumerate() {
                flat[start + place] = i64::from(*id);
                if place >= item.response_start {
                    predict_rows.push((start + place - 1) as i64);
                    targets.push(i64::from(*id));
                    row_of.push(row as i64);
                }
            }
        }
        let tensor = |values: &[i64]| Tensor::from_slice(values).to_device(device);
        Ok(Self {
            ids: tensor(&flat).view([items.len() as i64, longest as i64]),
            lengths: items.iter().map(|item| item.ids.len()).collect(),
            response_starts: items.iter().map(|item| item.response_start).collect(),
            predict_rows: tensor(&predict_rows),
            targets: tensor(&targets),
            row_of: tensor(&row_of),
        })
    }

    /// Rows, b.
    pub fn len(&self) -> usize {
        self.lengths.len()
    }

    /// Whether there are no rows; never, as [`TokenBatch::new`] refuses that.
    pub fn is_empty(&self) -> bool {
        self.lengths.is_empty()
    }

    /// Tokens of the longest row, t.
    pub fn width(&self) -> usize {
        self.lengths.iter().copied().max().unwrap_or(0)
    }

    /// Response tokens of all rows together, n.
    pub fn n_response_tokens(&self) -> usize {
        self.response_lengths().iter().sum()
    }

    /// Response tokens of each row.
    pub fn response_lengths(&self) -> Vec<usize> {
        self.lengths.iter().zip(&self.response_starts).map(|(length, start)| length - start).collect()
    }

    /// `[b]`, i64: the place in the flat `[b · t]` of each row's last real token.
    pub fn last_rows(&self) -> Tensor {
        let width = self.width();
        let places: Vec<i64> = self.lengths.iter().enumerate().map(|(row, length)| (row * width + length - 1) as i64).collect();
        Tensor::from_slice(&places).to_device(self.ids.device())
    }
}

/// Groups texts of similar length: each group has at most `max_rows` rows, and at most `max_tokens` tokens after padding
/// unless a single text is longer. The longest group comes first, so that memory runs out at once or not at all.
/// Depends on the lengths and their order only. Returns indices into `lengths`, each exactly once.
pub fn micro_batches(lengths: &[usize], max_tokens: usize, max_rows: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by(|a, b| lengths[*b].cmp(&lengths[*a]).then(a.cmp(b)));
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for index in order {
        match groups.last_mut() {
            Some(group) if group.len() < max_rows && (group.len() + 1) * lengths[group[0]] <= max_tokens => group.push(index),
            _ => groups.push(vec![index]),
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(ids: &[u32], response_start: usize) -> EncodedText {
        EncodedText { ids: ids.to_vec(), response_start }
    }

    #[test]
    fn rows_are_padded_on_the_right_and_response_places_are_recorded() {
        // The padding id also occurs as a real token: only the lengths tell them apart.
        let (one, two) = (text(&[5, 0, 7, 0], 2), text(&[9, 8], 1));
        let batch = TokenBatch::new(&[&one, &two], 0, Device::Cpu).expect("made");
        let values = |tensor: &Tensor| Vec::<i64>::try_from(tensor.view([-1])).expect("numbers");
        assert_eq!(batch.ids.size(), [2, 4]);
        assert_eq!(values(&batch.ids), [5, 0, 7, 0, 9, 8, 0, 0]);
        assert_eq!(values(&batch.predict_rows), [1, 2, 4]);
        assert_eq!(values(&batch.targets), [7, 0, 8]);
        assert_eq!(values(&batch.row_of), [0, 0, 1]);
        assert_eq!(values(&batch.last_rows()), [3, 5]);
        assert_eq!((batch.len(), batch.width(), batch.n_response_tokens()), (2, 4, 3));
        assert_eq!(batch.response_lengths(), [2, 1]);
    }

    #[test]
    fn an_empty_prompt_and_an_empty_batch_are_refused_and_an_empty_response_is_not() {
        assert!(TokenBatch::new(&[], 0, Device::Cpu).is_err());
        assert!(TokenBatch::new(&[&text(&[1], 0)], 0, Device::Cpu).is_err());
        assert_eq!(TokenBatch::new(&[&text(&[1], 1)], 0, Device::Cpu).expect("made").n_response_tokens(), 0);
    }

    proptest! {
        #[test]
        fn every_text_is_in_exactly_one_group_within_the_budget(
            lengths in prop::collection::vec(1usize..60, 0..40), max_tokens in 1usize..200, max_rows in 1usize..9,
        ) {
            let groups = micro_batches(&lengths, max_tokens, max_rows);
            let mut all = groups.concat();
            all.sort_unstable();
            prop_assert_eq!(all, (0..lengths.len()).collect::<Vec<_>>());
            for group in &groups {
                let longest = group.iter().map(|index| lengths[*index]).max().expect("a group has rows");
                prop_assert!(group.len() == 1 || (group.len() <= max_rows && group.len() * longest <= max_tokens));
            }
            prop_assert_eq!(&groups, &micro_batches(&lengths, max_tokens, max_rows));
        }
    }
}
