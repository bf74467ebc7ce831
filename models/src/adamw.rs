//! AdamW with its options and a state that is saved and restored exactly.
//!
//! Loshchilov and Hutter, 2019, <https://arxiv.org/abs/1711.05101>; the arithmetic is that of torch's `AdamW`: decay
//! `p ← p (1 − lr λ)`, moments `m`, `v`, then `p ← p − lr / (1 − β₁ᵗ) · m / (√v / √(1 − β₂ᵗ) + ε)`.

use std::collections::BTreeMap;
use std::path::Path;

use farmhand_core::{Error, Result};
use tch::{Kind, Tensor, no_grad};

use crate::gradient::{clip_factor, gradient_norm, zero_gradients};
use crate::native::{Argument, call};
use crate::optim_config::OptimConfig;
use crate::restore_tensors::restore_tensors;
use crate::safetensors_file::write_safetensors;
use crate::work::tensor_work;

/// What one optimiser step did.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepReport {
    /// Norm of all gradients together, before clipping.
    pub grad_norm: f64,
    /// The learning rate that was used.
    pub lr: f64,
}

/// The optimiser of some tensors. Gradients accumulate in the tensors over any number of backward passes; whoever calls
/// scales each loss so that their sum is the loss of the whole step. The moments are `f32` and live beside the weights.
///
/// A weight that is not `f32` (`bf16` on a GPU) has an `f32` master copy here: steps move the master, whose small changes
/// the weight could not hold, and the weight is its rounding.
#[derive(Debug)]
pub struct AdamW {
    config: OptimConfig,
    total_steps: u64,
    done: u64,
    /// Sorted by name.
    weights: Vec<Weight>,
}

/// One tensor and its state.
#[derive(Debug)]
struct Weight {
    name: String,
    tensor: Tensor,
    /// `f32`, where `tensor` is not or does not lie in one piece.
    master: Option<Tensor>,
    mean: Tensor,
    square: Tensor,
    decays: bool,
}

impl Weight {
    fn new(name: &str, tensor: &Tensor) -> Self {
        no_grad(|| {
            let direct = tensor.kind() == Kind::Float && tensor.is_contiguous();
            let master = (!direct).then(|| tensor.detach().to_kind(Kind::Float).contiguous().copy());
            let zeros = || Tensor::zeros(tensor.size(), (Kind::Float, tensor.device()));
            Self {
                name: name.to_owned(),
                tensor: tensor.shallow_clone(),
                master,
                mean: zeros(),
                square: zeros(),
                decays: decays(name, tensor),
            }
        })
    }

    /// What the steps move.
    fn full_precision(&self) -> &Tensor {
        self.master.as_ref().unwrap_or(&self.tensor)
    }

    /// The weight becomes the rounding of its master.
    fn follow_master(&self) {
        if let Some(master) = &self.master {
            no_grad(|| self.tensor.shallow_clone().copy_(master));
        }
    }
}

/// Weights that are stepped together: many, so that a GPU starts few kernels, and few, so that gradients which have to be
/// turned into `f32` first do not all stand in memory twice.
const TOGETHER: usize = 32;

impl AdamW {
    /// An optimiser of `parameters`, which share their storage with the model, for a run of `total_steps` steps.
    pub fn new(parameters: &[(String, Tensor)], config: &OptimConfig, total_steps: u64) -> Self {
        let mut weights: Vec<Weight> = parameters.iter().map(|(name, tensor)| Weight::new(name, tensor)).collect();
        weights.sort_by(|a, b| a.name.cmp(&b.name));
        Self { config: config.clone(), total_steps, done: 0, weights }
    }

    /// Steps done so far.
    pub fn steps_done(&self) -> u64 {
        self.done
    }

    /// Moves the weights along the accumulated gradients and forgets these. Tensors without a gradient stay as they are.
    ///
    /// # Errors
    /// When a gradient is not finite; then nothing has moved and the gradients are still there.
    pub fn step(&mut self) -> Result<StepReport> {
        tensor_work(|| self.update())
    }

    fn update(&mut self) -> Result<StepReport> {
        let tensors: Vec<(String, Tensor)> =
            self.weights.iter().map(|weight| (weight.name.clone(), weight.tensor.shallow_clone())).collect();
        let step = self.done;
        let grad_norm = gradient_norm(&tensors).map_err(|error| error.context(format!("optimiser step {}", step + 1)))?;
        let lr = self.config.lr_at(step, self.total_steps);
        let max_norm = self.config.max_grad_norm;
        let clip = if max_norm > 0.0 { clip_factor(grad_norm, max_norm) } else { 1.0 };
        self.done += 1;
        no_grad(|| {
            for decays in [true, false] {
                let moving = |weight: &&Weight| weight.decays == decays && weight.tensor.grad().defined();
                let moving: Vec<&Weight> = self.weights.iter().filter(moving).collect();
                moving.chunks(TOGETHER).try_for_each(|weights| self.apply(weights, lr, clip))?;
            }
            Ok(())
        })
        .map_err(|error: Error| error.context("AdamW"))?;
        zero_gradients(&tensors);
        Ok(StepReport { grad_norm, lr })
    }

    /// One pass over the memory of `weights`, which all decay or all do not.
    fn apply(&self, weights: &[&Weight], lr: f64, clip: f64) -> Result<()> {
        let gradient = |weight: &&Weight| weight.tensor.grad().to_kind(Kind::Float).contiguous();
        let gradients: Vec<Tensor> = weights.iter().map(gradient).collect();
        let device = weights[0].tensor.device();
        let number = |value: f64| Tensor::from(value as f32).to_device(device);
        let (step, divisor) = (number(self.done as f64), number(1.0 / clip));
        let list = |pick: fn(&Weight) -> &Tensor| weights.iter().map(|weight| pick(weight)).collect::<Vec<_>>();
        let [beta1, beta2] = self.config.betas;
        let decay = if weights[0].decays { self.config.weight_decay } else { 0.0 };
        call(
            "aten::_fused_adamw_",
            &[
                Argument::Tensors(&list(Weight::full_precision)),
                Argument::Tensors(&gradients.iter().collect::<Vec<_>>()),
                Argument::Tensors(&list(|weight| &weight.mean)),
                Argument::Tensors(&list(|weight| &weight.square)),
                // The largest squares so far, for the AMSGrad variant.
                Argument::Tensors(&[]),
                Argument::Tensors(&vec![&step; weights.len()]),
                Argument::Float(lr),
                Argument::Float(beta1),
                Argument::Float(beta2),
                Argument::Float(decay),
                Argument::Float(self.config.eps),
                // Neither AMSGrad nor uphill.
                Argument::Bool(false),
                Argument::Bool(false),
                if clip < 1.0 { Argument::Tensor(&divisor) } else { Argument::None },
            ],
        )?;
        weights.iter().for_each(|weight| weight.follow_master());
        Ok(())
    }

    /// The weights in `f32`, by name: what a checkpoint should hold. Those that are `f32` themselves share their storage.
    pub fn full_precision(&self) -> Vec<(String, Tensor)> {
        self.weights.iter().map(|weight| (weight.name.clone(), weight.full_precision().detach())).collect()
    }

    /// Writes the state (both moments, master copies and the steps done) into an existing folder as `optimiser.safetensors`.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn save(&self, dir: &Path) -> Result<()> {
        let done = i64::try_from(self.done).map_err(|error| Error::other("too many steps").with_source(error))?;
        let state = self.state(Tensor::from_slice(&[done]));
        write_safetensors(&dir.join(STATE_FILE), state.iter().map(|(name, tensor)| (name.as_str(), tensor)), &BTreeMap::new())
    }

    /// Restores what [`AdamW::save`] wrote: the next step does exactly what it would have done then.
    ///
    /// # Errors
    /// When the file is missing or cut off, or belongs to other tensors.
    pub fn load(&mut self, dir: &Path) -> Result<()> {
        let done = Tensor::from_slice(&[0i64]);
        restore_tensors(&dir.join(STATE_FILE), &self.state(done.shallow_clone()))?;
        self.done = u64::try_from(done.int64_value(&[0])).map_err(|error| {
            Error::invalid_data(format!("`{}` has a negative step", dir.join(STATE_FILE).display())).with_source(error)
        })?;
        self.weights.iter().for_each(Weight::follow_master);
        Ok(())
    }

    fn state(&self, done: Tensor) -> Vec<(String, Tensor)> {
        let mut state = vec![("steps_done".to_owned(), done)];
        for weight in &self.weights {
            let parts = [("mean", Some(&weight.mean)), ("square", Some(&weight.square)), ("master", weight.master.as_ref())];
            for (part, tensor) in parts {
                state.extend(tensor.map(|tensor| (format!("{part}.{}", weight.name), tensor.shallow_clone())));
            }
        }
        state
    }
}

const STATE_FILE: &str = "optimiser.safetensors";

/// Weight matrices and embeddings decay; biases and normalisation weights, which have one dimension, do not.
fn decays(name: &str, tensor: &Tensor) -> bool {
    tensor.dim() >= 2 && !name.ends_with("bias")
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;
    use crate::schedule::Schedule;

    type Named = BTreeMap<String, Vec<f32>>;

    #[derive(Deserialize)]
    struct Golden {
        shapes: BTreeMap<String, Vec<i64>>,
        start: Named,
        steps: Vec<GoldenStep>,
    }

    #[derive(Deserialize)]
    struct GoldenStep {
        gradients: Named,
        grad_norm: f64,
        lr: f64,
        parameters: Named,
    }

    fn golden() -> Golden {
        serde_json::from_str(include_str!("../tests/golden_text/adamw.json")).expect("golden")
    }

    fn config() -> OptimConfig {
        OptimConfig {
            lr: 0.05,
            weight_decay: 0.1,
            betas: [0.9, 0.95],
            schedule: Schedule::Linear,
            warmup_steps: 2,
            warmup_ratio: 0.0,
            ..OptimConfig::default()
        }
    }

    fn parameters(golden: &Golden) -> Vec<(String, Tensor)> {
        let leaf =
            |name: &str, values: &[f32]| Tensor::from_slice(values).view(golden.shapes[name].as_slice()).set_requires_grad(true);
        golden.start.iter().map(|(name, values)| (name.clone(), leaf(name, values))).collect()
    }

    fn backward(parameters: &[(String, Tensor)], gradients: &Named) {
        for (name, parameter) in parameters {
            let gradient = Tensor::from_slice(&gradients[name]).view(parameter.size().as_slice());
            (parameter * gradient).sum(Kind::Float).backward();
        }
    }

    fn values(tensor: &Tensor) -> Vec<f32> {
        Vec::try_from(tensor.detach().view([-1])).expect("numbers")
    }

    #[test]
    fn ten_steps_are_those_of_torch_with_transformers_schedule() {
        let golden = golden();
        let parameters = parameters(&golden);
        let mut optimiser = AdamW::new(&parameters, &config(), 10);
        for step in &golden.steps {
            backward(&parameters, &step.gradients);
            let report = optimiser.step().expect("finite");
            assert!((report.grad_norm - step.grad_norm).abs() < 1e-5 && (report.lr - step.lr).abs() < 1e-12);
            for (name, parameter) in &parameters {
                for (ours, expected) in values(parameter).iter().zip(&step.parameters[name]) {
                    assert!((ours - expected).abs() < 1e-6, "{name}: {ours} {expected}");
                }
            }
        }
    }

    #[test]
    fn a_restored_optimiser_goes_on_with_the_same_bits() {
        let golden = golden();
        let (whole, cut) = (parameters(&golden), parameters(&golden));
        let mut optimiser = AdamW::new(&whole, &config(), 10);
        for step in &golden.steps {
            backward(&whole, &step.gradients);
            optimiser.step().expect("finite");
        }
        let dir = tempfile::tempdir().expect("a folder");
        let mut first = AdamW::new(&cut, &config(), 10);
        for step in &golden.steps[..4] {
            backward(&cut, &step.gradients);
            first.step().expect("finite");
        }
        first.save(dir.path()).expect("saved");
        let mut second = AdamW::new(&cut, &config(), 10);
        second.load(dir.path()).expect("loaded");
        for step in &golden.steps[4..] {
            backward(&cut, &step.gradients);
            second.step().expect("finite");
        }
        for ((_, a), (_, b)) in whole.iter().zip(&cut) {
            assert_eq!(
                values(a).iter().map(|x| x.to_bits()).collect::<Vec<_>>(),
                values(b).iter().map(|x| x.to_bits()).collect::<Vec<_>>()
            );
        }
        let mut other = AdamW::new(&cut[..2], &config(), 10);
        assert!(other.load(dir.path()).expect_err("other tensors").message().contains("holds 7 tensors, expected 5"));
    }

    #[test]
    fn nothing_moves_when_a_gradient_is_not_finite() {
        let golden = golden();
        let parameters = parameters(&golden);
        let before = values(&parameters[1].1);
        let mut optimiser = AdamW::new(&parameters, &config(), 10);
        (&parameters[0].1 * f64::NAN).sum(Kind::Float).backward();
        let error = optimiser.step().expect_err("not a number");
        assert!(error.message().contains("optimiser step 1") && error.message().contains("`layer.bias`"), "{error}");
        assert_eq!((values(&parameters[1].1), optimiser.steps_done()), (before, 0));
    }

    #[test]
    fn bf16_weights_follow_f32_masters_and_resume_with_the_same_bits() {
        let golden = golden();
        let rounded = |parameters: Vec<(String, Tensor)>| -> Vec<(String, Tensor)> {
            let half = |tensor: Tensor| tensor.detach().to_kind(Kind::BFloat16).set_requires_grad(true);
            parameters.into_iter().map(|(name, tensor)| (name, half(tensor))).collect()
        };
        let run = |parameters: &[(String, Tensor)], optimiser: &mut AdamW, steps: &[GoldenStep]| {
            for step in steps {
                backward(parameters, &step.gradients);
                optimiser.step().expect("finite");
            }
        };
        let (full, half, cut) = (parameters(&golden), rounded(parameters(&golden)), rounded(parameters(&golden)));
        run(&full, &mut AdamW::new(&full, &config(), 10), &golden.steps);
        let mut optimiser = AdamW::new(&half, &config(), 10);
        run(&half, &mut optimiser, &golden.steps);
        for (((_, full), (_, half)), (_, master)) in full.iter().zip(&half).zip(&optimiser.full_precision()) {
            assert_eq!((half.kind(), master.kind()), (Kind::BFloat16, Kind::Float));
            assert_eq!(half, &master.to_kind(Kind::BFloat16));
            // The start and the gradients are rounded to 8 bits of mantissa; the steps on top are not.
            assert!((full - master).abs().max().double_value(&[]) < 0.02);
        }

        let dir = tempfile::tempdir().expect("a folder");
        let mut first = AdamW::new(&cut, &config(), 10);
        run(&cut, &mut first, &golden.steps[..4]);
        first.save(dir.path()).expect("saved");
        let start = rounded(parameters(&golden));
        let mut second = AdamW::new(&start, &config(), 10);
        second.load(dir.path()).expect("loaded");
        run(&start, &mut second, &golden.steps[4..]);
        for ((_, whole), (_, resumed)) in optimiser.full_precision().iter().zip(&second.full_precision()) {
            assert_eq!(whole, resumed);
        }
        assert_eq!(start, half);
    }

    #[test]
    fn a_weight_that_lies_in_strides_moves_like_one_in_one_piece() {
        let start = Tensor::arange(6, (Kind::Float, tch::Device::Cpu)).view([2, 3]);
        let straight = start.copy().set_requires_grad(true);
        let strided = start.tr().contiguous().tr().set_requires_grad(true);
        for weight in [&straight, &strided] {
            let mut optimiser = AdamW::new(&[("w".to_owned(), weight.shallow_clone())], &config(), 10);
            for _ in 0..3 {
                (weight * &start).square().sum(Kind::Float).backward();
                optimiser.step().expect("finite");
            }
        }
        assert!(straight == strided && straight != start);
    }
}
