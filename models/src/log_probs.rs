//! Log-probabilities of given tokens: the one primitive all losses use.
//!
//! Logits are `[tokens, vocabulary]`, by far the largest tensor of a training step, so no more than a chunk of their
//! rows exists at a time, and only rows that predict a response token are computed at all. The gradient is taken in
//! two steps: the loss gives ∂loss/∂value of every value, and from these the gradient of each chunk's logits follows in
//! closed form, `∂loss/∂logits = ∂loss/∂value · (onehot(target) − softmax) / temperature`, times `1 − tanh²` of logits that
//! the architecture bends (`softcap · tanh(logit / softcap)`). The probabilities of the last
//! chunk are kept between the passes, so that a batch of one chunk is computed once.

use tch::{Kind, Tensor, no_grad};

use crate::batch::TokenBatch;
use crate::language_model::LanguageModel;
use crate::native;
use crate::precision::like_activations;
use crate::work::{count_head, tensor_work};

/// Logits in one chunk: 128 MB of `f32`, or about 650 rows for a vocabulary of 50 000.
pub(crate) const CHUNK_LOGITS: i64 = 1 << 25;

/// Rows of a chunk for this vocabulary.
fn default_chunk(vocab_size: usize) -> i64 {
    (CHUNK_LOGITS / vocab_size.max(1) as i64).max(1)
}

/// Log-probabilities that a loss can be built on, and what their gradient needs.
pub struct SelectedLogProbs {
    /// `[n]` in nats: one for each response token of the batch, rows in batch order. A leaf that requires gradients.
    pub values: Tensor,
    /// `[n]` in nats: the entropy of the whole distribution each token was predicted from; carries no gradient.
    pub entropies: Tensor,
    /// `[n, d]`: the hidden states the tokens are predicted from, with the body's graph behind them.
    hidden: Tensor,
    /// `[v, d]`.
    head: Tensor,
    targets: Tensor,
    shaping: Shaping,
    chunk: i64,
    /// Probabilities `[rows, v]` of the last chunk.
    kept: Option<Tensor>,
}

/// How the products of hidden states and output head become a distribution.
#[derive(Debug, Clone, Copy)]
struct Shaping {
    /// Logits are bent to softcap · tanh(logit / softcap), before the temperature.
    softcap: Option<f64>,
    temperature: f64,
}

impl Shaping {
    fn of(model: &LanguageModel, temperature: f64) -> Self {
        Self { softcap: model.logit_softcap(), temperature }
    }
}

impl std::fmt::Debug for SelectedLogProbs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SelectedLogProbs({} values)", self.targets.numel())
    }
}

/// Log-probabilities of all response tokens of a batch, at temperature 1, ready for a loss.
pub fn selected_log_probs(model: &LanguageModel, batch: &TokenBatch) -> SelectedLogProbs {
    selected_log_probs_at(model, batch, 1.0)
}

/// As [`selected_log_probs`], of the distribution softmax(logits / `temperature`), temperature > 0.
pub fn selected_log_probs_at(model: &LanguageModel, batch: &TokenBatch, temperature: f64) -> SelectedLogProbs {
    tensor_work(|| {
        let hidden = model.hidden(batch).index_select(0, &batch.predict_rows);
        let chunk = default_chunk(model.config().vocab_size());
        let selected = SelectedLogProbs::new(hidden, model.head(), &batch.targets, Shaping::of(model, temperature), chunk);
        let backward = f64::from(u8::from(selected.hidden.requires_grad())) + f64::from(u8::from(selected.head.requires_grad()));
        count_head((1.0 + backward) * model.flops().head(batch.n_response_tokens()));
        selected
    })
}

/// Log-probabilities `[n]` and entropies `[n]` of all response tokens of a batch, without gradients, at temperature 1.
pub fn selected_log_probs_no_grad(model: &LanguageModel, batch: &TokenBatch) -> (Tensor, Tensor) {
    selected_log_probs_no_grad_at(model, batch, 1.0)
}

/// As [`selected_log_probs_no_grad`], of the distribution softmax(logits / `temperature`), temperature > 0.
pub fn selected_log_probs_no_grad_at(model: &LanguageModel, batch: &TokenBatch, temperature: f64) -> (Tensor, Tensor) {
    let forward = || {
        let hidden = model.hidden(batch).index_select(0, &batch.predict_rows);
        let chunk = default_chunk(model.config().vocab_size());
        let (values, entropies, _) = forward(&hidden, model.head(), &batch.targets, Shaping::of(model, temperature), chunk);
        (values, entropies)
    };
    count_head(model.flops().head(batch.n_response_tokens()));
    tensor_work(|| no_grad(forward))
}

/// Sums `[b]` of values `[n]` over the response tokens of each row; differentiable. A row without any gives 0.
pub fn sequence_sums(values: &Tensor, batch: &TokenBatch) -> Tensor {
    Tensor::zeros([batch.len() as i64], (values.kind(), values.device())).index_add(0, &batch.row_of, values)
}

impl SelectedLogProbs {
    fn new(hidden: Tensor, head: &Tensor, targets: &Tensor, shaping: Shaping, chunk: i64) -> Self {
        let (values, entropies, kept) = no_grad(|| forward(&hidden, head, targets, shaping, chunk));
        let values = values.set_requires_grad(true);
        let (head, targets) = (head.shallow_clone(), targets.shallow_clone());
        Self { values, entropies, hidden, head, targets, shaping, chunk, kept }
    }

    /// Adds ∂loss/∂parameter to the gradient of every parameter the loss depends on: first from the scalar `loss` into
    /// `values` and whatever else it depends on, then from there through the output head and the body.
    pub fn backward(self, loss: &Tensor) {
        tensor_work(|| {
            loss.backward();
            self.backward_from_values();
        });
    }

    /// ln Σ_v p(v)² over the vocabulary, `[n]`, without gradient: how sure the model was where each token was predicted, 0 when one
    /// token has all the probability. Computes the logits again, chunk by chunk.
    pub fn log_square_sums(&self) -> Tensor {
        tensor_work(|| {
            no_grad(|| {
                let (hidden, n) = (self.hidden.detach(), self.targets.numel() as i64);
                let head = like_activations(&self.head, &hidden);
                let rows = chunks(n, self.chunk).into_iter().map(|(start, rows)| {
                    let targets = self.targets.narrow(0, start, rows);
                    let probabilities = distributions(&hidden.narrow(0, start, rows), &head, &targets, self.shaping).0;
                    probabilities.square().sum_dim_intlist([-1i64].as_slice(), false, Kind::Float).log()
                });
                let empty = Tensor::zeros([0], (Kind::Float, hidden.device()));
                Tensor::cat(&std::iter::once(empty).chain(rows).collect::<Vec<_>>(), 0)
            })
        })
    }

    /// The second half of [`SelectedLogProbs::backward`], for a loss over several of these: call `loss.backward()` once
    /// and then this on each.
    pub fn backward_from_values(self) {
        tensor_work(|| self.backward_through_head());
    }

    fn backward_through_head(self) {
        let outer = self.values.grad();
        let n = self.targets.numel() as i64;
        let (trains_body, trains_head) = (self.hidden.requires_grad(), self.head.requires_grad());
        if !outer.defined() || n == 0 || !(trains_body || trains_head) {
            return;
        }
        let hidden_gradient = no_grad(|| {
            let mut head_gradient = trains_head.then(|| gradient_buffer(&self.head));
            let mut hidden_gradient = Vec::new();
            let mut kept = self.kept;
            let hidden = self.hidden.detach();
            let head = like_activations(&self.head, &hidden);
            // Backwards, so that the kept probabilities are used and freed before others are computed.
            for (start, rows) in chunks(n, self.chunk).into_iter().rev() {
                let hidden = hidden.narrow(0, start, rows);
                let targets = self.targets.narrow(0, start, rows);
                let probabilities = kept.take().unwrap_or_else(|| distributions(&hidden, &head, &targets, self.shaping).0);
                let weights = outer.narrow(0, start, rows).unsqueeze(1) / self.shaping.temperature;
                let targets = targets.unsqueeze(1);
                let mut logits_gradient = probabilities;
                let _ = logits_gradient.g_mul_(&weights.neg());
                let _ = logits_gradient.scatter_add_(1, &targets, &weights);
                if let Some(cap) = self.shaping.softcap {
                    let bent = (native::product(&hidden, &head) / cap).tanh();
                    let _ = logits_gradient.g_mul_(&(1.0 - bent.square()));
                }
                let logits_gradient = like_activations(&logits_gradient, &hidden);
                match &mut head_gradient {
                    Some(gradient) if gradient.kind() == hidden.kind() => drop(gradient.addmm_(&logits_gradient.tr(), &hidden)),
                    Some(gradient) => drop(gradient.g_add_(&native::product(&logits_gradient.tr(), &hidden.tr()))),
                    None => (),
                }
                if trains_body {
                    hidden_gradient.push(native::product(&logits_gradient, &head.tr()));
                }
            }
            hidden_gradient.reverse();
            trains_body.then(|| Tensor::cat(&hidden_gradient, 0))
        });
        if let Some(gradient) = hidden_gradient {
            native::backward(&[&self.hidden], &[&gradient]);
        }
    }
}

/// Start and number of rows of each chunk.
fn chunks(n: i64, chunk: i64) -> Vec<(i64, i64)> {
    (0..n).step_by(chunk as usize).map(|start| (start, chunk.min(n - start))).collect()
}

/// The distributions that these rows predict: probabilities `[rows, v]`, log-probabilities of the targets and entropies `[rows]`.
fn distributions(hidden: &Tensor, head: &Tensor, targets: &Tensor, shaping: Shaping) -> (Tensor, Tensor, Tensor) {
    let mut logits = native::product(hidden, head);
    if let Some(cap) = shaping.softcap {
        let _ = logits.g_div_scalar_(cap).tanh_().g_mul_scalar_(cap);
    }
    native::softmax_rows(logits, targets, shaping.temperature)
}

/// Values `[n]`, entropies `[n]` and the probabilities of the last chunk.
fn forward(hidden: &Tensor, head: &Tensor, targets: &Tensor, shaping: Shaping, chunk: i64) -> (Tensor, Tensor, Option<Tensor>) {
    let empty = || Tensor::zeros([0], (Kind::Float, hidden.device()));
    let (mut values, mut entropies, mut kept) = (vec![empty()], vec![empty()], None);
    let head = like_activations(head, hidden);
    for (start, rows) in chunks(targets.numel() as i64, chunk) {
        drop(kept.take());
        let targets = targets.narrow(0, start, rows);
        let (probabilities, value, entropy) = distributions(&hidden.narrow(0, start, rows), &head, &targets, shaping);
        values.push(value);
        entropies.push(entropy);
        kept = Some(probabilities);
    }
    (Tensor::cat(&values, 0), Tensor::cat(&entropies, 0), kept)
}

/// The gradient of a parameter, made of zeros when it has none yet; adding to it in place is what autograd would do.
fn gradient_buffer(parameter: &Tensor) -> Tensor {
    if !parameter.grad().defined() {
        native::set_gradient(parameter, Some(&parameter.zeros_like()));
    }
    parameter.grad()
}

#[cfg(test)]
mod tests {
    use farmhand_core::Seed;
    use tch::Device;

    use super::*;
    use crate::batch::BatchLayout;
    use crate::config::{LlamaOptions, ModelConfig};
    use crate::encoding::EncodedText;

    fn model(tied: bool, seed: u64) -> LanguageModel {
        let options =
            LlamaOptions { vocab_size: 50, hidden_size: 16, intermediate_size: 24, tie_embeddings: tied, ..Default::default() };
        prepare(ModelConfig::tiny_llama(options), seed)
    }

    /// A model whose logits are bent.
    fn capped(seed: u64) -> LanguageModel {
        let json = serde_json::json!({
            "model_type": "gemma2", "vocab_size": 50, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1,
            "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 64,
            "final_logit_softcapping": 2.0,
        });
        let serde_json::Value::Object(json) = json else { unreachable!("an object") };
        prepare(ModelConfig::from_json(json, "the test").expect("valid"), seed)
    }

    fn prepare(config: ModelConfig, seed: u64) -> LanguageModel {
        let model = LanguageModel::random(config, Seed::root(seed), Device::Cpu).expect("made");
        no_grad(|| {
            // Larger weights than a fresh model's, so that probabilities differ from uniform.
            for (_, tensor) in model.parameters().iter().filter(|(_, tensor)| tensor.dim() == 2) {
                let _ = tensor.shallow_clone().g_mul_scalar_(8.0);
            }
        });
        model.set_trainable(true);
        model
    }

    fn texts(lengths: &[(usize, usize)]) -> Vec<EncodedText> {
        let mut rng = Seed::root(3).rng();
        let text = |&(prompt, response): &(usize, usize), rng: &mut farmhand_core::Rng| EncodedText {
            ids: (0..prompt + response).map(|_| rng.below(50) as u32).collect(),
            response_start: prompt,
        };
        lengths.iter().map(|lengths| text(lengths, &mut rng)).collect()
    }

    fn batch(texts: &[EncodedText]) -> TokenBatch {
        TokenBatch::new(&texts.iter().collect::<Vec<_>>(), BatchLayout::Packed, Device::Cpu).expect("made")
    }

    fn gradients(model: &LanguageModel) -> Vec<Tensor> {
        model.parameters().iter().map(|(_, tensor)| tensor.grad().copy()).collect()
    }

    fn clear(model: &LanguageModel) {
        model.parameters().iter().for_each(|(_, tensor)| tensor.shallow_clone().zero_grad());
    }

    /// The largest difference, as a share of the largest number when that is above 1.
    fn distance(a: &Tensor, b: &Tensor) -> f64 {
        (a - b).abs().max().double_value(&[]) / b.abs().max().double_value(&[]).max(1.0)
    }

    /// All logits at once, and autograd.
    fn naive(model: &LanguageModel, batch: &TokenBatch, temperature: f64) -> (Tensor, Tensor) {
        let logits = model.logits(&model.hidden(batch)) / temperature;
        let log_probs = logits.log_softmax(-1, Kind::Float).index_select(0, &batch.predict_rows);
        let values = log_probs.gather(1, &batch.targets.unsqueeze(1), false).squeeze_dim(1);
        let entropies = -(log_probs.exp() * &log_probs).sum_dim_intlist([-1i64].as_slice(), false, Kind::Float);
        (values, entropies)
    }

    /// A loss that treats every value differently.
    fn loss(values: &Tensor) -> Tensor {
        let weights = Tensor::arange(values.numel() as i64, (Kind::Float, values.device())).cos();
        (values * weights).sum(Kind::Float) + values.square().mean(Kind::Float)
    }

    #[test]
    fn values_and_all_gradients_are_those_of_full_logits_for_any_chunk_size() {
        let batch = batch(&texts(&[(3, 6), (5, 1), (2, 0), (1, 9)]));
        let makes: [(fn() -> LanguageModel, f64); 4] =
            [(|| model(true, 1), 1.0), (|| model(false, 1), 1.0), (|| model(true, 1), 0.7), (|| capped(1), 0.7)];
        for (make, temperature) in makes {
            let model = make();
            let (values, entropies) = naive(&model, &batch, temperature);
            loss(&values).backward();
            let expected = gradients(&model);
            for chunk in [1, 3, 5, 16, 1000] {
                // Twice: into gradients that do not exist yet, and on top of others.
                let model = make();
                for round in 1..=2 {
                    let hidden = model.hidden(&batch).index_select(0, &batch.predict_rows);
                    let selected =
                        SelectedLogProbs::new(hidden, model.head(), &batch.targets, Shaping::of(&model, temperature), chunk);
                    assert!(distance(&selected.values, &values) < 1e-5);
                    assert!(distance(&selected.entropies, &entropies) < 1e-5);
                    let total = loss(&selected.values);
                    selected.backward(&total);
                    for (gradient, expected) in gradients(&model).iter().zip(&expected) {
                        assert!(distance(gradient, &(expected * round)) < 1e-5, "chunk {chunk}");
                    }
                }
            }
        }
    }

    #[test]
    fn square_sums_are_those_of_full_logits_for_any_chunk_size() {
        let (model, batch) = (model(true, 1), batch(&texts(&[(3, 6), (5, 1), (1, 9)])));
        let logits = model.logits(&model.hidden(&batch)) / 0.7;
        let expected = (logits.log_softmax(-1, Kind::Float) * 2.0).logsumexp([-1i64].as_slice(), false);
        let expected = expected.index_select(0, &batch.predict_rows);
        for chunk in [1, 5, 1000] {
            let hidden = model.hidden(&batch).index_select(0, &batch.predict_rows);
            let selected = SelectedLogProbs::new(hidden, model.head(), &batch.targets, Shaping::of(&model, 0.7), chunk);
            assert!(distance(&selected.log_square_sums(), &expected) < 1e-5, "chunk {chunk}");
        }
    }

    #[test]
    fn neither_padding_nor_the_rest_of_the_batch_is_seen() {
        let (model, texts) = (model(true, 2), texts(&[(3, 6), (5, 2), (9, 12)]));
        let (together, entropies) = selected_log_probs_no_grad(&model, &batch(&texts));
        let apart: Vec<_> =
            texts.iter().map(|text| selected_log_probs_no_grad(&model, &batch(std::slice::from_ref(text)))).collect();
        let column = |pick: fn(&(Tensor, Tensor)) -> &Tensor| Tensor::cat(&apart.iter().map(pick).collect::<Vec<_>>(), 0);
        assert!(distance(&together, &column(|pair| &pair.0)) < 1e-5);
        assert!(distance(&entropies, &column(|pair| &pair.1)) < 1e-5);
        let padded = TokenBatch::new(&texts.iter().collect::<Vec<_>>(), BatchLayout::Padded, Device::Cpu).expect("made");
        assert!(distance(&selected_log_probs_no_grad(&model, &padded).0, &together) < 1e-6);
    }

    #[test]
    fn texts_that_share_a_prompt_get_the_values_and_gradients_of_texts_apart() {
        let (model, mut texts) = (model(true, 6), texts(&[(7, 6), (7, 2), (9, 3), (7, 4)]));
        for i in [1, 3] {
            let prompt = texts[0].ids[..7].to_vec();
            texts[i].ids[..7].copy_from_slice(&prompt);
        }
        let run = |layout| {
            clear(&model);
            let batch = TokenBatch::new(&texts.iter().collect::<Vec<_>>(), layout, Device::Cpu).expect("made");
            let selected = selected_log_probs(&model, &batch);
            let (values, total) = (selected.values.detach(), loss(&selected.values));
            selected.backward(&total);
            (values, gradients(&model), batch.n_computed_tokens())
        };
        let (values, expected, n_padded) = run(BatchLayout::Padded);
        let (packed, gradients, n_packed) = run(BatchLayout::Packed);
        assert_eq!((n_padded, n_packed), (4 * 13, 13 + 2 + 12 + 4));
        assert!(distance(&packed, &values) < 1e-6);
        for (gradient, expected) in gradients.iter().zip(&expected) {
            assert!(distance(gradient, expected) < 1e-6);
        }
    }

    #[test]
    fn gradients_of_a_batch_are_the_sum_of_its_parts() {
        let (model, texts) = (model(true, 4), texts(&[(3, 6), (5, 2), (9, 12)]));
        let run = |texts: &[EncodedText]| {
            let selected = selected_log_probs(&model, &batch(texts));
            let total = selected.values.sum(Kind::Float);
            selected.backward(&total);
        };
        run(&texts);
        let whole = gradients(&model);
        clear(&model);
        texts.iter().for_each(|text| run(std::slice::from_ref(text)));
        for (part, whole) in gradients(&model).iter().zip(&whole) {
            assert!(distance(part, whole) < 1e-5);
        }
    }

    #[test]
    fn one_loss_over_two_batches_gives_the_same_gradients_as_both_in_one() {
        let (model, texts) = (model(false, 5), texts(&[(3, 4), (3, 5)]));
        let margin = |sums: &Tensor, others: &Tensor| (sums - others).log_sigmoid().sum(Kind::Float);
        let joint = batch(&texts);
        let selected = selected_log_probs(&model, &joint);
        let sums = sequence_sums(&selected.values, &joint);
        let total = margin(&sums.narrow(0, 0, 1), &sums.narrow(0, 1, 1));
        selected.backward(&total);
        let expected = gradients(&model);
        clear(&model);
        let batches = [batch(&texts[..1]), batch(&texts[1..])];
        let [first, second] = [0, 1].map(|i| selected_log_probs(&model, &batches[i]));
        margin(&sequence_sums(&first.values, &batches[0]), &sequence_sums(&second.values, &batches[1])).backward();
        first.backward_from_values();
        second.backward_from_values();
        for (gradient, expected) in gradients(&model).iter().zip(&expected) {
            assert!(distance(gradient, expected) < 1e-5);
        }
    }

    #[test]
    fn a_batch_without_response_tokens_has_no_values_and_moves_nothing() {
        let (model, texts) = (model(true, 6), texts(&[(3, 0)]));
        let batch = batch(&texts);
        let selected = selected_log_probs(&model, &batch);
        assert_eq!(selected.values.size(), [0]);
        assert_eq!(sequence_sums(&selected.values, &batch).double_value(&[0]), 0.0);
        let total = selected.values.sum(Kind::Float);
        selected.backward(&total);
        assert!(model.parameters().iter().all(|(_, tensor)| !tensor.grad().defined()));
    }
}
