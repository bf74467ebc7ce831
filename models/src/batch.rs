//! Encoded texts as tensors: flat tokens in a layout, and the flat places of the response tokens.

use std::collections::BTreeMap;
use std::sync::Arc;

use farmhand_core::{Error, Result, Seed};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Device, Tensor};

use crate::dropout::{Dropout, Run};
use crate::encoding::EncodedText;
use crate::forward_pass::indices;
use crate::layout::{Layout, Segment};

/// How the texts of a forward pass lie in memory. Changes speed and memory, not the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BatchLayout {
    /// One text after the other without padding; texts with the same prompt share its tokens and computation.
    #[default]
    Packed,
    /// Texts of similar length as rows, padded to the longest.
    Padded,
}

/// Some encoded texts in one tensor. Which token belongs to which text is known by recorded lengths, never by an id.
///
/// The response tokens of all texts are numbered 0 to n − 1, text by text; `predict_rows`, `targets` and `row_of` have one
/// entry for each.
#[derive(Debug)]
pub struct TokenBatch {
    /// `[tokens]`, i64: the ids of all texts, as the layout says.
    pub ids: Tensor,
    /// Tokens of each text.
    pub lengths: Vec<usize>,
    /// Where each text's response starts.
    pub response_starts: Vec<usize>,
    /// `[n]`, i64: the place in `ids` of the token that predicts each response token (the one before it in its text).
    pub predict_rows: Tensor,
    /// `[n]`, i64: the response tokens.
    pub targets: Tensor,
    /// `[n]`, i64: the text each response token belongs to.
    pub row_of: Tensor,
    /// `[b]`, i64: the place in `ids` of each text's last token.
    pub last_rows: Tensor,
    pub(crate) layout: Arc<Layout>,
    /// The text each segment or padded row of the layout was put there for.
    owners: Vec<usize>,
    pub(crate) dropout: Option<Arc<Dropout>>,
}

impl TokenBatch {
    /// Lays the texts out on the device. A text may have an empty response.
    ///
    /// # Errors
    /// When there is no text, or one with a response and no prompt: nothing predicts a text's first token.
    pub fn new(items: &[&EncodedText], layout: BatchLayout, device: Device) -> Result<Self> {
        if items.is_empty() {
            return Err(Error::invalid_data("a batch of no texts"));
        }
        if items.iter().any(|item| item.response_start == 0) {
            return Err(Error::invalid_data("a prompt has no tokens, so nothing predicts the first token of its response")
                .with_hint("give every record a prompt that is not empty, or use the prompt format `alpaca` or `chat`"));
        }
        let Placed { ids, layout, owners, prompts, responses } = match layout {
            BatchLayout::Packed => pack(items),
            BatchLayout::Padded => pad(items),
        };
        let (mut predict_rows, mut targets, mut row_of, mut last_rows) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (row, item) in items.iter().enumerate() {
            let place = |token: usize| match token.checked_sub(item.response_start) {
                Some(token) => (responses[row] + token) as i64,
                None => (prompts[row] + token) as i64,
            };
            for token in item.response_start..item.ids.len() {
                predict_rows.push(place(token - 1));
                targets.push(i64::from(item.ids[token]));
                row_of.push(row as i64);
            }
            last_rows.push(place(item.ids.len() - 1));
        }
        Ok(Self {
            ids: indices(&ids, device),
            lengths: items.iter().map(|item| item.ids.len()).collect(),
            response_starts: items.iter().map(|item| item.response_start).collect(),
            predict_rows: indices(&predict_rows, device),
            targets: indices(&targets, device),
            row_of: indices(&row_of, device),
            last_rows: indices(&last_rows, device),
            layout: Arc::new(layout),
            owners,
            dropout: None,
        })
    }

    /// The same batch in training: an adapter drops inputs as each text's seed says. What is dropped at a position of a text
    /// depends on its seed alone, not on the batch or the layout, if texts that may share a prompt have the same seed.
    ///
    /// # Panics
    /// When there are fewer seeds than texts.
    #[must_use]
    pub fn with_dropout(mut self, seeds: &[Seed]) -> Self {
        let places = self.layout.places();
        let run = |(&owner, (start, length)): (&usize, (i64, i64))| Run {
            seed: seeds[owner],
            start: start as usize,
            length: length as usize,
        };
        self.dropout = Some(Arc::new(Dropout::new(self.owners.iter().zip(places).map(run).collect())));
        self
    }

    /// Texts, b.
    pub fn len(&self) -> usize {
        self.lengths.len()
    }

    /// Whether there are no texts; never, as [`TokenBatch::new`] refuses that.
    pub fn is_empty(&self) -> bool {
        self.lengths.is_empty()
    }

    /// Tokens the model computes: padding counts, a shared prompt counts once.
    pub fn n_computed_tokens(&self) -> usize {
        self.ids.numel()
    }

    /// Response tokens of all texts together, n.
    pub fn n_response_tokens(&self) -> usize {
        self.response_lengths().iter().sum()
    }

    /// Response tokens of each text.
    pub fn response_lengths(&self) -> Vec<usize> {
        self.lengths.iter().zip(&self.response_starts).map(|(length, start)| length - start).collect()
    }
}

/// Texts in flat tokens.
struct Placed {
    ids: Vec<i64>,
    layout: Layout,
    /// The text each segment or padded row was put there for.
    owners: Vec<usize>,
    /// Where each text's prompt starts in `ids`.
    prompts: Vec<usize>,
    /// Where each text's response starts in `ids`.
    responses: Vec<usize>,
}

/// Rows of one width. What pads them is never seen: attention is causal, and no loss reads those places.
fn pad(items: &[&EncodedText]) -> Placed {
    let width = items.iter().map(|item| item.ids.len()).max().unwrap_or(0);
    let mut ids = vec![0; items.len() * width];
    for (row, item) in items.iter().enumerate() {
        for (place, id) in item.ids.iter().enumerate() {
            ids[row * width + place] = i64::from(*id);
        }
    }
    let prompts: Vec<usize> = (0..items.len()).map(|row| row * width).collect();
    let responses = prompts.iter().zip(items).map(|(start, item)| start + item.response_start).collect();
    Placed { ids, layout: Layout::padded(items.len(), width), owners: (0..items.len()).collect(), prompts, responses }
}

/// One text after the other. A prompt that several texts begin with stands before the first of their responses, once.
fn pack(items: &[&EncodedText]) -> Placed {
    let mut n_texts_of: BTreeMap<&[u32], usize> = BTreeMap::new();
    for item in items {
        *n_texts_of.entry(item.prompt()).or_default() += 1;
    }
    let (mut ids, mut segments, mut owners) = (Vec::new(), Vec::new(), Vec::new());
    let mut put = |text: usize, tokens: &[u32], prefix: Option<usize>| {
        let start = ids.len();
        ids.extend(tokens.iter().map(|id| i64::from(*id)));
        owners.push(text);
        segments.push(Segment { length: tokens.len() as i64, prefix });
        (start, segments.len() - 1)
    };
    let mut shared: BTreeMap<&[u32], (usize, usize)> = BTreeMap::new();
    let (mut prompts, mut responses) = (Vec::new(), Vec::new());
    for (text, item) in items.iter().enumerate() {
        if n_texts_of[item.prompt()] == 1 {
            let (start, _) = put(text, &item.ids, None);
            prompts.push(start);
            responses.push(start + item.response_start);
            continue;
        }
        let (start, segment) = *shared.entry(item.prompt()).or_insert_with(|| put(text, item.prompt(), None));
        prompts.push(start);
        responses.push(if item.response().is_empty() { start } else { put(text, item.response(), Some(segment)).0 });
    }
    Placed { layout: Layout::packed(segments), ids, owners, prompts, responses }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(ids: &[u32], response_start: usize) -> EncodedText {
        EncodedText { ids: ids.to_vec(), response_start }
    }

    fn values(tensor: &Tensor) -> Vec<i64> {
        Vec::<i64>::try_from(tensor.view([-1])).expect("numbers")
    }

    #[test]
    fn padded_rows_record_the_places_of_their_responses() {
        let (one, two) = (text(&[5, 1, 7, 0], 2), text(&[9, 8], 1));
        let batch = TokenBatch::new(&[&one, &two], BatchLayout::Padded, Device::Cpu).expect("made");
        assert_eq!(values(&batch.ids), [5, 1, 7, 0, 9, 8, 0, 0]);
        assert_eq!(batch.layout.positions(), [0, 1, 2, 3, 0, 1, 2, 3]);
        assert_eq!(values(&batch.predict_rows), [1, 2, 4]);
        assert_eq!(values(&batch.targets), [7, 0, 8]);
        assert_eq!(values(&batch.row_of), [0, 0, 1]);
        assert_eq!(values(&batch.last_rows), [3, 5]);
        assert_eq!((batch.len(), batch.n_computed_tokens(), batch.n_response_tokens()), (2, 8, 3));
        assert_eq!(batch.response_lengths(), [2, 1]);
    }

    #[test]
    fn packed_texts_share_an_equal_prompt_and_nothing_else() {
        // The first, third and fourth begin with 5 1; the fourth has no response at all.
        let texts = [text(&[5, 1, 7, 0], 2), text(&[9, 8], 1), text(&[5, 1, 6], 2), text(&[5, 1], 2)];
        let batch = TokenBatch::new(&texts.iter().collect::<Vec<_>>(), BatchLayout::Packed, Device::Cpu).expect("made");
        assert_eq!(values(&batch.ids), [5, 1, 7, 0, 9, 8, 6]);
        assert_eq!(batch.layout.positions(), [0, 1, 2, 3, 0, 1, 2]);
        assert_eq!(values(&batch.predict_rows), [1, 2, 4, 1]);
        assert_eq!(values(&batch.targets), [7, 0, 8, 6]);
        assert_eq!(values(&batch.row_of), [0, 0, 1, 2]);
        assert_eq!(values(&batch.last_rows), [3, 5, 6, 1]);
        assert_eq!((batch.len(), batch.n_computed_tokens(), batch.n_response_tokens()), (4, 7, 4));
    }

    #[test]
    fn an_empty_prompt_and_an_empty_batch_are_refused_and_an_empty_response_is_not() {
        for layout in [BatchLayout::Packed, BatchLayout::Padded] {
            assert!(TokenBatch::new(&[], layout, Device::Cpu).is_err());
            assert!(TokenBatch::new(&[&text(&[1], 0)], layout, Device::Cpu).is_err());
            assert_eq!(TokenBatch::new(&[&text(&[1], 1)], layout, Device::Cpu).expect("made").n_response_tokens(), 0);
        }
    }
}
