//! AdamW with its options and a state that is saved and restored exactly.
//!
//! Loshchilov and Hutter, 2019, <https://arxiv.org/abs/1711.05101>; the arithmetic is that of torch's `AdamW`: decay
//! `p ← p (1 − lr λ)`, moments `m`, `v`, then `p ← p − lr / (1 − β₁ᵗ) · m / (√v / √(1 − β₂ᵗ) + ε)`.

use std::collections::BTreeMap;
use std::path::Path;

use farmhand_core::{Error, Problem, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor, no_grad};

use crate::gradient::{clip_factor, gradient_norm, zero_gradients};
use crate::restore_tensors::restore_tensors;
use crate::safetensors_file::write_safetensors;
use crate::schedule::Schedule;

/// How weights move: AdamW, gradient clipping, learning-rate schedule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OptimConfig {
    /// Learning rate at its highest, ≥ 0.
    pub lr: f64,
    /// Decay of weight matrices per unit of learning rate, λ ≥ 0; biases and normalisation weights never decay.
    pub weight_decay: f64,
    /// Memory of the mean and of the squared gradient, each in [0, 1).
    pub betas: [f64; 2],
    /// Added to the denominator, > 0.
    pub eps: f64,
    /// Norm of all gradients together above which they are scaled down, ≥ 0; 0 never scales.
    pub max_grad_norm: f64,
    /// How the learning rate goes after the warm-up: `constant`, `linear` or `cosine`.
    pub schedule: Schedule,
    /// Steps over which the learning rate rises from 0; not together with `warmup_ratio`.
    pub warmup_steps: u64,
    /// The same as a part of all steps, in [0, 1], rounded up; not together with `warmup_steps`.
    pub warmup_ratio: f64,
}

impl Default for OptimConfig {
    fn default() -> Self {
        Self {
            lr: 2e-5,
            weight_decay: 0.0,
            betas: [0.9, 0.999],
            eps: 1e-8,
            max_grad_norm: 1.0,
            schedule: Schedule::Cosine,
            warmup_steps: 0,
            warmup_ratio: 0.03,
        }
    }
}

impl OptimConfig {
    /// Everything out of range, paths relative to this table.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut check = |ok: bool, key: &str, expected: &str, got: f64| {
            if !ok {
                problems.push(Problem::new(key, format!("expected {expected}, got {got}")));
            }
        };
        let not_negative = |value: f64| value.is_finite() && value >= 0.0;
        check(not_negative(self.lr), "lr", "a number ≥ 0", self.lr);
        check(not_negative(self.weight_decay), "weight_decay", "a number ≥ 0", self.weight_decay);
        for beta in self.betas {
            check((0.0..1.0).contains(&beta), "betas", "numbers in [0, 1)", beta);
        }
        check(self.eps.is_finite() && self.eps > 0.0, "eps", "a number > 0", self.eps);
        check(not_negative(self.max_grad_norm), "max_grad_norm", "a number ≥ 0", self.max_grad_norm);
        check((0.0..=1.0).contains(&self.warmup_ratio), "warmup_ratio", "a number in [0, 1]", self.warmup_ratio);
        if self.warmup_steps > 0 && self.warmup_ratio > 0.0 {
            problems.push(
                Problem::new("warmup_steps", "both `warmup_steps` and `warmup_ratio` are set")
                    .with_hint("set `warmup_ratio = 0` to count the warm-up in steps"),
            );
        }
        problems
    }

    /// Steps of the warm-up in a run of `total_steps`.
    pub fn warmup(&self, total_steps: u64) -> u64 {
        if self.warmup_steps > 0 { self.warmup_steps } else { (total_steps as f64 * self.warmup_ratio).ceil() as u64 }
    }

    /// The learning rate of optimiser step `step` (from 0) of `total_steps`.
    pub fn lr_at(&self, step: u64, total_steps: u64) -> f64 {
        self.lr * self.schedule.factor(step, self.warmup(total_steps), total_steps)
    }
}

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
#[derive(Debug)]
pub struct AdamW {
    config: OptimConfig,
    total_steps: u64,
    done: u64,
    parameters: Vec<(String, Tensor)>,
    means: Vec<Tensor>,
    squares: Vec<Tensor>,
    decays: Vec<bool>,
}

impl AdamW {
    /// An optimiser of `parameters`, which share their storage with the model, for a run of `total_steps` steps.
    pub fn new(parameters: &[(String, Tensor)], config: &OptimConfig, total_steps: u64) -> Self {
        let mut sorted: Vec<(String, Tensor)> =
            parameters.iter().map(|(name, tensor)| (name.clone(), tensor.shallow_clone())).collect();
        sorted.sort_by(|a, b| a.0.cmp(&b.0));
        let zeros = || sorted.iter().map(|(_, tensor)| no_grad(|| tensor.zeros_like().to_kind(Kind::Float))).collect();
        Self {
            config: config.clone(),
            total_steps,
            done: 0,
            means: zeros(),
            squares: zeros(),
            decays: sorted.iter().map(|(name, tensor)| decays(name, tensor)).collect(),
            parameters: sorted,
        }
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
        let step = self.done;
        let grad_norm = gradient_norm(&self.parameters).map_err(|error| error.context(format!("optimiser step {}", step + 1)))?;
        let lr = self.config.lr_at(step, self.total_steps);
        self.done += 1;
        let power = i32::try_from(self.done).unwrap_or(i32::MAX);
        let [beta1, beta2] = self.config.betas;
        let max_norm = self.config.max_grad_norm;
        let update = Update {
            clip: if max_norm > 0.0 { clip_factor(grad_norm, max_norm) } else { 1.0 },
            rate: lr / (1.0 - beta1.powi(power)),
            decay: 1.0 - lr * self.config.weight_decay,
            betas: self.config.betas,
            scale: (1.0 - beta2.powi(power)).sqrt(),
            eps: self.config.eps,
        };
        no_grad(|| {
            for (index, (_, parameter)) in self.parameters.iter().enumerate() {
                let gradient = parameter.grad();
                if gradient.defined() {
                    let decay = self.decays[index] && self.config.weight_decay > 0.0;
                    update.apply(parameter, &gradient, &self.means[index], &self.squares[index], decay);
                }
            }
        });
        zero_gradients(&self.parameters);
        Ok(StepReport { grad_norm, lr })
    }

    /// Writes the state (both moments and the steps done) into an existing folder as `optimiser.safetensors`.
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
        Ok(())
    }

    fn state(&self, done: Tensor) -> Vec<(String, Tensor)> {
        let mut state = vec![("steps_done".to_owned(), done)];
        for (index, (name, _)) in self.parameters.iter().enumerate() {
            state.push((format!("mean.{name}"), self.means[index].shallow_clone()));
            state.push((format!("square.{name}"), self.squares[index].shallow_clone()));
        }
        state
    }
}

const STATE_FILE: &str = "optimiser.safetensors";

/// The numbers of one step.
struct Update {
    /// The factor on the gradients.
    clip: f64,
    /// lr / (1 − β₁ᵗ).
    rate: f64,
    /// 1 − lr λ.
    decay: f64,
    betas: [f64; 2],
    /// √(1 − β₂ᵗ).
    scale: f64,
    eps: f64,
}

/// Elements that are worked on together on the CPU: few enough that all operations but the first find them in the cache.
const STRETCH: i64 = 1 << 15;

impl Update {
    fn apply(&self, parameter: &Tensor, gradient: &Tensor, mean: &Tensor, square: &Tensor, decay: bool) {
        let gradient = gradient.to_kind(Kind::Float);
        let tensors = [parameter, &gradient, mean, square];
        if parameter.device() != Device::Cpu || !tensors.iter().all(|tensor| tensor.is_contiguous()) {
            self.apply_to(tensors.map(Tensor::shallow_clone), decay);
            return;
        }
        let flat = tensors.map(|tensor| tensor.view([-1]));
        let n = flat[0].size()[0];
        for start in (0..n).step_by(STRETCH as usize) {
            self.apply_to([0, 1, 2, 3].map(|index: usize| flat[index].narrow(0, start, STRETCH.min(n - start))), decay);
        }
    }

    fn apply_to(&self, [mut parameter, mut gradient, mut mean, mut square]: [Tensor; 4], decay: bool) {
        let [beta1, beta2] = self.betas;
        if self.clip < 1.0 {
            let _ = gradient.g_mul_scalar_(self.clip);
        }
        let _ = mean.lerp_(&gradient, 1.0 - beta1);
        let scaled = &gradient * (1.0 - beta2);
        let _ = square.g_mul_scalar_(beta2).addcmul_(&gradient, &scaled);
        let mut denominator = square.sqrt();
        let _ = denominator.g_div_scalar_(self.scale).g_add_scalar_(self.eps);
        let change = &mean * -self.rate;
        if decay {
            let _ = parameter.g_mul_scalar_(self.decay);
        }
        let _ = parameter.addcdiv_(&change, &denominator);
    }
}

/// Weight matrices and embeddings decay; biases and normalisation weights, which have one dimension, do not.
fn decays(name: &str, tensor: &Tensor) -> bool {
    tensor.dim() >= 2 && !name.ends_with("bias")
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn options_out_of_range_are_all_named() {
        assert_eq!(OptimConfig::default().problems(), []);
        let wrong = OptimConfig { lr: -1.0, betas: [0.9, 1.0], eps: 0.0, warmup_steps: 5, ..OptimConfig::default() };
        let paths: Vec<String> = wrong.problems().into_iter().map(|problem| problem.path).collect();
        assert_eq!(paths, ["lr", "betas", "eps", "warmup_steps"]);
        assert_eq!(OptimConfig { warmup_ratio: 0.03, ..OptimConfig::default() }.warmup(101), 4);
    }
}
