//! Gradient checkpointing: blocks run twice, so that their insides need not be kept for the backward pass.
//!
//! Chen et al., 2016, <https://arxiv.org/abs/1604.06174>. Of every few blocks only the input is kept; the backward pass runs
//! them again before it goes through them. That costs one more forward pass in time, and memory for the insides of one such
//! run of blocks instead of all.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tch::Tensor;

use crate::architecture::Body;
use crate::forward_pass::{Pass, WholePass};
use crate::native;

/// A body that the backward pass can still reach when the forward pass is over.
pub(crate) struct SharedBody(Arc<Mutex<Box<dyn Body>>>);

impl SharedBody {
    pub(crate) fn new(body: Box<dyn Body>) -> Self {
        Self(Arc::new(Mutex::new(body)))
    }

    /// The body; nothing else may hold it at the time.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Box<dyn Body>> {
        // A body has no state that a panic could leave half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs the body over the ids `[n]` of a pass → `[n, d]`, keeping for the backward pass the input of every `every`-th
    /// block, `every` ≥ 1. Nothing trains before block `start`, so the backward pass does not go there.
    pub(crate) fn run_checkpointed(&self, ids: &Tensor, pass: &WholePass, start: usize, every: usize) -> Tensor {
        let (x, tables) = self.lock().start(ids, &pass.positions());
        let mut x = x.to_kind(pass.kind());
        let n_blocks = self.lock().n_blocks();
        for layer in 0..start.min(n_blocks) {
            x = self.lock().block(layer, &x, &tables, &mut pass.clone());
        }
        for first in (start..n_blocks).step_by(every) {
            let (body, pass) = (Self(Arc::clone(&self.0)), pass.clone());
            let tables: Vec<_> = tables.iter().map(|tables| tables.shallow_clone()).collect();
            let blocks = move |x: &Tensor| {
                let (body, mut pass) = (body.lock(), pass.clone());
                let run = |x, layer| body.block(layer, &x, &tables, &mut pass);
                (first..n_blocks.min(first + every)).fold(x.shallow_clone(), run)
            };
            x = native::checkpoint(&x, Box::new(blocks));
        }
        self.lock().finish(&x, pass)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use farmhand_core::Seed;
    use tch::{Kind, Tensor};

    use crate::{Adapter, FreezeConfig, LoraConfig};
    use crate::{BatchLayout, EncodedText, LanguageModel, LlamaOptions, ModelConfig, TokenBatch, selected_log_probs};

    #[test]
    fn log_probs_and_gradients_are_the_same_bit_for_bit_however_many_blocks_are_kept() {
        let config = ModelConfig::tiny_llama(LlamaOptions { n_layers: 5, ..LlamaOptions::default() });
        let model = LanguageModel::random(config, Seed::root(1), tch::Device::Cpu).expect("made");
        model.set_trainable(true);
        let text = |ids: std::ops::Range<u32>| EncodedText { ids: ids.collect(), response_start: 3 };
        let texts = [text(5..30), text(5..9), text(100..117)];
        let batch = TokenBatch::new(&texts.each_ref(), BatchLayout::Packed, tch::Device::Cpu).expect("made");
        let run = |every| {
            model.set_checkpointing(every);
            model.parameters().iter().for_each(|(_, tensor)| tensor.shallow_clone().zero_grad());
            let selected = selected_log_probs(&model, &batch);
            let (values, loss) = (selected.values.detach(), selected.values.square().sum(Kind::Float));
            selected.backward(&loss);
            let gradients: Vec<_> = model.parameters().iter().map(|(_, tensor)| tensor.grad().copy()).collect();
            (values, gradients)
        };
        let plain = run(0);
        for every in [1, 2, 5, 7] {
            assert!(run(every) == plain, "every {every} blocks");
        }
    }

    #[test]
    fn it_changes_nothing_with_frozen_blocks_or_with_an_adapter_that_drops_inputs() {
        let config = ModelConfig::tiny_llama(LlamaOptions { n_layers: 4, ..LlamaOptions::default() });
        let base = LanguageModel::random(config, Seed::root(1), tch::Device::Cpu).expect("made");
        let lora = LoraConfig { rank: 2, dropout: 0.4, ..LoraConfig::default() };
        let adapter = Adapter::new(base.config(), &lora, Path::new("base"), Seed::root(2), tch::Device::Cpu).expect("made");
        let text = EncodedText { ids: (5..30).collect(), response_start: 3 };
        let frozen = FreezeConfig { embeddings: true, first_blocks: 2, ..FreezeConfig::default() };
        let adapted = base.with_adapter(adapter).expect("it fits");
        for (model, freeze) in [(&adapted, FreezeConfig::default()), (&base, frozen)] {
            model.set_trainable(true);
            model.freeze(&freeze).expect("applied");
            assert_eq!(model.first_trained_block(), freeze.first_blocks);
            let run = |every| {
                model.set_checkpointing(every);
                let batch = TokenBatch::new(&[&text], BatchLayout::Packed, tch::Device::Cpu).expect("made");
                let selected = selected_log_probs(model, &batch.with_dropout(&[Seed::root(3)]));
                let loss = selected.values.square().sum(Kind::Float);
                selected.backward(&loss);
                let take = |(_, tensor): &(String, Tensor)| {
                    let gradient = tensor.grad().copy();
                    tensor.shallow_clone().zero_grad();
                    gradient
                };
                model.trained().iter().map(take).collect::<Vec<_>>()
            };
            let plain = run(0);
            assert!(plain.iter().any(|gradient| gradient.abs().max().double_value(&[]) > 0.0));
            for every in [1, 2, 3] {
                assert!(run(every) == plain, "every {every} blocks");
            }
        }
    }
}
