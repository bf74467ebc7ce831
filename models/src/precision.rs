//! The number type a model computes in.
//!
//! Weights are `f32` whatever the type: they are the masters that optimiser steps move, since a small change to a `bf16`
//! number is lost, and they are what checkpoints hold. Computing in `bf16` means that activations are `bf16` and that a layer
//! reads its weights rounded to it; gradients come back through that rounding and add up in `f32`. This is mixed precision as
//! Micikevicius et al., 2018, <https://arxiv.org/abs/1710.03740>, describe it; `bf16` needs no scaling of the loss.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

/// The number type of activations in training and scoring. Generation computes in `f32`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// `bf16` on a GPU, `f32` on the CPU.
    #[default]
    Auto,
    /// 32 bits.
    F32,
    /// 16 bits: the range of `f32` with 8 bits of mantissa.
    Bf16,
}

impl Precision {
    /// The type it means on a device.
    pub(crate) fn kind(self, device: Device) -> Kind {
        match self {
            Self::Auto if matches!(device, Device::Cuda(_)) => Kind::BFloat16,
            Self::Auto | Self::F32 => Kind::Float,
            Self::Bf16 => Kind::BFloat16,
        }
    }
}

/// A weight in the type of the activations it meets; differentiable.
pub(crate) fn like_activations(weight: &Tensor, x: &Tensor) -> Tensor {
    if weight.kind() == x.kind() { weight.shallow_clone() } else { weight.to_kind(x.kind()) }
}

#[cfg(test)]
mod tests {
    use farmhand_core::Seed;

    use super::*;
    use crate::{
        AdamW, BatchLayout, EncodedText, LanguageModel, LlamaOptions, ModelConfig, OptimConfig, Schedule, TokenBatch,
        selected_log_probs,
    };

    const STEPS: u64 = 12;

    fn model(precision: Precision) -> LanguageModel {
        let model = LanguageModel::random(ModelConfig::tiny_llama(LlamaOptions::default()), Seed::root(1), Device::Cpu);
        let model = model.expect("made");
        model.set_precision(precision);
        model.set_trainable(true);
        model
    }

    fn batch(model: &LanguageModel) -> TokenBatch {
        let mut rng = Seed::root(2).rng();
        let n = model.config().vocab_size();
        let text = |length: usize, rng: &mut farmhand_core::Rng| EncodedText {
            ids: (0..length).map(|_| rng.below(n) as u32).collect(),
            response_start: 2,
        };
        let texts: Vec<_> = [9, 17, 5].map(|length| text(length, &mut rng)).into();
        TokenBatch::new(&texts.iter().collect::<Vec<_>>(), BatchLayout::Packed, Device::Cpu).expect("made")
    }

    fn optimiser(model: &LanguageModel) -> AdamW {
        let config = OptimConfig { lr: 3e-3, schedule: Schedule::Constant, warmup_ratio: 0.0, ..OptimConfig::default() };
        AdamW::new(model.parameters(), &config, STEPS)
    }

    /// The loss before each of these steps.
    fn train(model: &LanguageModel, optimiser: &mut AdamW, steps: u64) -> Vec<f64> {
        let batch = batch(model);
        let step = |_| {
            let selected = selected_log_probs(model, &batch);
            let loss = -selected.values.mean(Kind::Float);
            selected.backward(&loss);
            optimiser.step().expect("finite");
            loss.double_value(&[])
        };
        (0..steps).map(step).collect()
    }

    #[test]
    fn training_in_bf16_follows_training_in_f32_and_its_weights_stay_f32() {
        let (full, half) = (model(Precision::F32), model(Precision::Bf16));
        assert_eq!(half.hidden(&batch(&half)).kind(), Kind::BFloat16);
        let losses = train(&full, &mut optimiser(&full), STEPS);
        let rounded = train(&half, &mut optimiser(&half), STEPS);
        assert!(losses[0] - losses[STEPS as usize - 1] > 0.5, "{losses:?}");
        for (full, half) in losses.iter().zip(&rounded) {
            assert!((full - half).abs() < 0.02 * full && full != half, "{losses:?} {rounded:?}");
        }
        assert!(half.parameters().iter().all(|(_, tensor)| tensor.kind() == Kind::Float));
        // More than a `bf16` could hold.
        let holds = |(_, tensor): &(String, Tensor)| tensor.to_kind(Kind::BFloat16).to_kind(Kind::Float) == *tensor;
        assert!(!half.parameters().iter().any(|pair| pair.1.dim() == 2 && holds(pair)));
    }

    #[test]
    fn a_resumed_run_in_bf16_ends_with_the_same_bits() {
        let whole = model(Precision::Bf16);
        train(&whole, &mut optimiser(&whole), 6);
        let cut = model(Precision::Bf16);
        let mut first = optimiser(&cut);
        train(&cut, &mut first, 3);
        let dir = tempfile::tempdir().expect("a folder");
        first.save(dir.path()).expect("saved");
        cut.save(dir.path()).expect("saved");
        let resumed = LanguageModel::load(dir.path(), Device::Cpu).expect("loaded");
        resumed.set_precision(Precision::Bf16);
        resumed.set_trainable(true);
        let mut second = optimiser(&resumed);
        second.load(dir.path()).expect("loaded");
        train(&resumed, &mut second, 3);
        for ((name, a), (_, b)) in whole.parameters().iter().zip(resumed.parameters()) {
            assert_eq!(a, b, "{name}");
        }
    }

    #[test]
    fn checkpointing_changes_no_bit_and_a_frozen_bf16_model_scores() {
        let gradients = |every: usize| {
            let model = model(Precision::Bf16);
            model.set_checkpointing(every);
            let selected = selected_log_probs(&model, &batch(&model));
            let loss = selected.values.sum(Kind::Float);
            selected.backward(&loss);
            model.parameters().iter().map(|(_, tensor)| tensor.grad()).collect::<Vec<_>>()
        };
        assert_eq!(gradients(0), gradients(1));
        let frozen = model(Precision::Bf16).copy().expect("copied");
        assert_eq!(frozen.hidden(&batch(&frozen)).kind(), Kind::BFloat16);
    }

    #[test]
    fn auto_is_bf16_on_a_gpu_only() {
        assert_eq!(Precision::Auto.kind(Device::Cpu), Kind::Float);
        assert_eq!(Precision::Auto.kind(Device::Cuda(0)), Kind::BFloat16);
        assert_eq!(serde_json::to_string(&Precision::Bf16).expect("JSON"), "\"bf16\"");
    }
}
