//! One pass of records through a policy, for losses that are functions of the log-probabilities of whole texts: pairs, ranked
//! lists, labelled answers. The loss itself stands in the method's file, as a closure over [`TextLogProbs`].

use farmhand_core::{Result, Seed};
use farmhand_models::{LanguageModel, SelectedLogProbs, selected_log_probs, selected_log_probs_no_grad};
use tch::{Device, Kind, Tensor, no_grad};

use super::learner_options::PassOptions;
use super::records::{Record, record_batch, text_places};

/// The log-probabilities of the responses of some records' texts.
#[derive(Debug)]
pub struct TextLogProbs {
    /// Of every response token, in nats, text after text, `[tokens]`.
    pub tokens: Tensor,
    /// ln Σ_v π(v)² over the vocabulary, where each token was predicted, `[tokens]`, without gradient; only where asked for.
    pub log_squares: Option<Tensor>,
    /// Response tokens of each text.
    pub lengths: Vec<usize>,
    /// The record of each text, an index into all records, and which of its texts it is.
    pub places: Vec<(usize, usize)>,
    /// The text of each token, `[tokens]`.
    text_of: Tensor,
}

impl TextLogProbs {
    /// From the log-probabilities of all tokens `[tokens]`, text after text.
    pub fn new(tokens: Tensor, lengths: Vec<usize>, places: Vec<(usize, usize)>) -> Self {
        let text_of = lengths.iter().zip(0..).flat_map(|(&length, text)| std::iter::repeat_n(text, length));
        let text_of = Tensor::from_slice(&text_of.collect::<Vec<i64>>()).to_device(tokens.device());
        Self { tokens, log_squares: None, lengths, places, text_of }
    }

    /// Sums over the tokens of each text of any numbers `[tokens]`, `[texts]`.
    pub fn sums_of(&self, numbers: &Tensor) -> Tensor {
        let n = self.lengths.len() as i64;
        Tensor::zeros([n], (numbers.kind(), numbers.device())).index_add(0, &self.text_of, numbers)
    }

    /// The log-probability of each text, `[texts]`.
    pub fn sums(&self) -> Tensor {
        self.sums_of(&self.tokens)
    }

    /// The tokens of each text, `[texts]`.
    pub fn counts(&self) -> Tensor {
        self.of_texts(|i| self.lengths[i] as f64)
    }

    /// The mean log-probability of each text's tokens, `[texts]`.
    pub fn means(&self) -> Tensor {
        self.sums() / self.counts()
    }

    /// A number for each text, by its place in `lengths`, `[texts]`.
    pub fn of_texts(&self, number: impl Fn(usize) -> f64) -> Tensor {
        self.on_device(&(0..self.lengths.len()).map(number).collect::<Vec<_>>())
    }

    /// A number for each token, by its text's place in `lengths` and its own place in the text, `[tokens]`.
    pub fn of_tokens(&self, number: impl Fn(usize, usize) -> f64) -> Tensor {
        let (lengths, number) = (&self.lengths, &number);
        let of_text = |text: usize| (0..lengths[text]).map(move |token| number(text, token));
        self.on_device(&(0..lengths.len()).flat_map(of_text).collect::<Vec<_>>())
    }

    /// Those of the numbers `[texts]` that belong to the texts with this number in their records, in the order of the records.
    pub fn nth(&self, numbers: &Tensor, text: usize) -> Tensor {
        let found = self.places.iter().zip(0..).filter(|((_, number), _)| *number == text).map(|(_, place)| place);
        numbers.index_select(0, &Tensor::from_slice(&found.collect::<Vec<i64>>()).to_device(numbers.device()))
    }

    /// The records, each once, in the order of [`TextLogProbs::nth`].
    pub fn rows(&self) -> Vec<usize> {
        self.places.iter().filter(|(_, text)| *text == 0).map(|(row, _)| *row).collect()
    }

    fn on_device(&self, numbers: &[f64]) -> Tensor {
        Tensor::from_slice(numbers).to_kind(self.tokens.kind()).to_device(self.tokens.device())
    }

    /// All parts in one; the tokens are a new leaf.
    fn joined(parts: &[Self]) -> Self {
        let tokens = Tensor::cat(&parts.iter().map(|part| &part.tokens).collect::<Vec<_>>(), 0).detach();
        let log_squares: Option<Vec<&Tensor>> = parts.iter().map(|part| part.log_squares.as_ref()).collect();
        let lengths = parts.iter().flat_map(|part| part.lengths.clone()).collect();
        let places = parts.iter().flat_map(|part| part.places.clone()).collect();
        Self { log_squares: log_squares.map(|parts| Tensor::cat(&parts, 0)), ..Self::new(tokens, lengths, places) }
    }
}

/// What goes through which policy, and how.
#[derive(Debug)]
pub struct TextPass<'a> {
    /// The policy.
    pub policy: &'a LanguageModel,
    /// All records.
    pub records: &'a [Record],
    /// How they pass.
    pub passes: &'a PassOptions,
    /// The loss compares texts of different records, so that it must see the whole step at once. Then each step that does not fit
    /// into one forward pass goes through the policy twice: for the numbers, and for the gradient.
    pub whole_step: bool,
    /// Whether the loss reads `log_squares`.
    pub log_squares: bool,
}

impl<'a> TextPass<'a> {
    /// A pass for a loss that is a sum over records and reads nothing but log-probabilities.
    pub fn new(policy: &'a LanguageModel, records: &'a [Record], passes: &'a PassOptions) -> Self {
        Self { policy, records, passes, whole_step: false, log_squares: false }
    }

    /// Runs the picked records through the policy, micro-batch by micro-batch; with the seed of an optimiser step, adds the
    /// gradient of the loss. `terms` gives the part of some texts in the step's loss and in other numbers, scalars that are summed
    /// over the micro-batches; the texts of a record are always together.
    ///
    /// # Errors
    /// When a batch cannot be made.
    pub fn run<const N: usize>(
        &self,
        picked: &[usize],
        train: Option<Seed>,
        terms: impl Fn(&TextLogProbs) -> (Tensor, [Tensor; N]),
    ) -> Result<(f64, [f64; N])> {
        let groups = self.passes.micro_batching(self.policy.device()).groups(self.records, picked);
        // Read once, at the end: a look at a number makes the host wait for the device.
        let mut totals = Tensor::zeros([N as i64 + 1], (Kind::Double, self.policy.device()));
        if self.whole_step && groups.len() > 1 {
            let parts = groups.iter().map(|rows| Ok(self.forward(rows, train, false)?.0)).collect::<Result<Vec<_>>>()?;
            let mut whole = TextLogProbs::joined(&parts);
            whole.tokens = whole.tokens.set_requires_grad(train.is_some());
            let (loss, numbers) = terms(&whole);
            totals += stacked(&loss, &numbers);
            if train.is_some() {
                loss.backward();
                self.backward(&groups, train, &whole.tokens.grad())?;
            }
        } else {
            for rows in &groups {
                let (log_probs, selected) = self.forward(rows, train, train.is_some())?;
                let (loss, numbers) = terms(&log_probs);
                totals += stacked(&loss, &numbers);
                if let Some(selected) = selected {
                    selected.backward(&loss);
                }
            }
        }
        Ok((totals.double_value(&[0]), std::array::from_fn(|i| totals.double_value(&[i as i64 + 1]))))
    }

    /// Adds the gradient of a loss whose derivatives by all tokens of the groups, in their order, are known, `[tokens]`.
    fn backward(&self, groups: &[Vec<usize>], train: Option<Seed>, derivatives: &Tensor) -> Result<()> {
        let mut start = 0;
        for rows in groups {
            let (log_probs, selected) = self.forward(rows, train, true)?;
            let n = log_probs.tokens.numel() as i64;
            let loss = (&log_probs.tokens * derivatives.narrow(0, start, n)).sum(log_probs.tokens.kind());
            start += n;
            if let Some(selected) = selected {
                selected.backward(&loss);
            }
        }
        Ok(())
    }

    fn forward(
        &self,
        rows: &[usize],
        train: Option<Seed>,
        with_gradient: bool,
    ) -> Result<(TextLogProbs, Option<SelectedLogProbs>)> {
        let device: Device = self.policy.device();
        let batch = record_batch(self.records, rows, self.passes.layout, device, train)?;
        let selected = match (with_gradient, self.log_squares) {
            (true, _) => Some(selected_log_probs(self.policy, &batch)),
            (false, true) => Some(no_grad(|| selected_log_probs(self.policy, &batch))),
            (false, false) => None,
        };
        let tokens = match &selected {
            Some(selected) if with_gradient => selected.values.shallow_clone(),
            Some(selected) => selected.values.detach(),
            None => selected_log_probs_no_grad(self.policy, &batch).0,
        };
        let log_squares = selected.as_ref().filter(|_| self.log_squares).map(SelectedLogProbs::log_square_sums);
        let log_probs = TextLogProbs {
            log_squares,
            text_of: batch.row_of.shallow_clone(),
            lengths: batch.response_lengths(),
            places: text_places(self.records, rows),
            tokens,
        };
        Ok((log_probs, selected.filter(|_| with_gradient)))
    }
}

fn stacked(loss: &Tensor, numbers: &[Tensor]) -> Tensor {
    let all: Vec<Tensor> = std::iter::once(loss).chain(numbers).map(|number| number.detach().to_kind(Kind::Double)).collect();
    Tensor::stack(&all, 0)
}

#[cfg(test)]
mod tests {
    use farmhand_models::TextCodec;

    use super::*;
    use crate::testing::{Stage, assert_same_however_split, pair_records, small_lora, tiny_checkpoint};
    use crate::training::start_training;

    const ALL: [usize; 8] = [7, 6, 5, 4, 3, 2, 1, 0];

    #[test]
    fn texts_are_found_by_record_and_number() {
        let texts = TextLogProbs::new(
            Tensor::from_slice(&[-1.0, -2.0, -0.5, -4.0, -0.25, -0.75]),
            vec![2, 1, 1, 2],
            vec![(5, 0), (3, 0), (5, 1), (3, 1)],
        );
        let list = |tensor: &Tensor| Vec::<f64>::try_from(tensor).expect("numbers");
        assert_eq!(list(&texts.sums()), [-3.0, -0.5, -4.0, -1.0]);
        assert_eq!(list(&texts.means()), [-1.5, -0.5, -4.0, -0.5]);
        assert_eq!(list(&texts.nth(&texts.counts(), 1)), [1.0, 2.0]);
        assert_eq!(texts.rows(), [5, 3]);
        let weights = texts.of_tokens(|text, token| (10 * text + token) as f64);
        assert_eq!(list(&weights), [0.0, 1.0, 10.0, 20.0, 30.0, 31.0]);
        assert_eq!(list(&texts.sums_of(&weights)), [1.0, 10.0, 20.0, 61.0]);
    }

    #[test]
    fn a_loss_on_the_whole_step_and_one_on_parts_have_the_same_gradients_however_the_step_is_split() {
        let stage = Stage::new();
        let init = tiny_checkpoint(&stage);
        let records = pair_records(&TextCodec::load(&init, None).expect("a codec"), 8);
        for passes in [PassOptions::default(), PassOptions { lora: Some(small_lora()), ..PassOptions::default() }] {
            let policy = LanguageModel::load(init.path(), Device::Cpu).expect("loaded");
            let policy = start_training(policy, &passes, &init, Seed::root(1)).expect("started");
            for (_, tensor) in policy.trained() {
                no_grad(|| drop(tensor.shallow_clone().g_add_scalar_(0.05)));
            }
            for whole_step in [false, true] {
                assert_same_however_split(&policy, 1e-5, |passes| {
                    let pass = TextPass { whole_step, log_squares: true, ..TextPass::new(&policy, &records, passes) };
                    let loss = |texts: &TextLogProbs| {
                        let squares = texts.log_squares.as_ref().expect("asked for").sum(Kind::Double);
                        (-(texts.sums() * texts.means()).sum(Kind::Float), [squares])
                    };
                    let (loss, [squares]) = pass.run(&ALL, Some(Seed::root(3)), loss).expect("run");
                    assert!(squares < 0.0);
                    loss + squares
                });
            }
        }
    }
}
