//! The state of a training run between two steps: weights, optimisers and whatever else the method keeps, bit for bit.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use farmhand_core::{Error, Result, RunContext};
use serde::{Deserialize, Serialize};
use tch::Tensor;

use crate::adamw::AdamW;
use crate::restore_tensors::restore_tensors;
use crate::safetensors_file::write_safetensors;

#[derive(Serialize, Deserialize)]
struct StateFile {
    step: u64,
    extra: serde_json::Value,
}

const STATE_FILE: &str = "state.json";

/// Saves the state after `step` optimiser steps; the one before is removed once this one is safe. `models` are the tensors
/// that were trained, `optims` their optimisers (with the schedule's position), each under a name of the method's own;
/// `extra` is what else the method needs to go on, such as an adaptive coefficient. The place in the data is the step itself.
///
/// # Errors
/// When the disk refuses; then the state before is still there.
pub fn save_train_state(
    ctx: &RunContext<'_>,
    step: u64,
    models: &[(&str, &[(String, Tensor)])],
    optims: &[(&str, &AdamW)],
    extra: &serde_json::Value,
) -> Result<()> {
    ctx.stage.save_state(step, |dir| {
        for (name, parameters) in models {
            let tensors = parameters.iter().map(|(name, tensor)| (name.as_str(), tensor));
            write_safetensors(&model_file(dir, name), tensors, &BTreeMap::new())?;
        }
        for (name, optimiser) in optims {
            let folder = optimiser_dir(dir, name);
            std::fs::create_dir(&folder).map_err(|error| Error::io("make folder", &folder, error))?;
            optimiser.save(&folder)?;
        }
        let path = dir.join(STATE_FILE);
        let text = serde_json::to_vec(&StateFile { step, extra: extra.clone() }).expect("a JSON value is JSON");
        std::fs::write(&path, text).map_err(|error| Error::io("write", &path, error))
    })
}

/// Restores the latest saved state into the same tensors and optimisers, and gives back how many steps were done and the
/// method's own values; `None` when nothing was saved. What follows has the same bytes as if it had never stopped.
///
/// # Errors
/// When a file is missing, cut off, or of another model.
pub fn load_train_state(
    ctx: &RunContext<'_>,
    models: &[(&str, &[(String, Tensor)])],
    optims: &mut [(&str, &mut AdamW)],
) -> Result<Option<(u64, serde_json::Value)>> {
    let Some((step, dir)) = ctx.stage.latest_state()? else { return Ok(None) };
    let path = dir.join(STATE_FILE);
    let text = std::fs::read(&path).map_err(|error| Error::io("read", &path, error))?;
    let state: StateFile = serde_json::from_slice(&text)
        .map_err(|error| Error::invalid_data(format!("`{}` is not a saved state", path.display())).with_source(error))?;
    if state.step != step {
        return Err(Error::invalid_data(format!("`{}` is of step {}, expected {step}", path.display(), state.step)));
    }
    for (name, parameters) in models {
        restore_tensors(&model_file(&dir, name), parameters)?;
    }
    for (name, optimiser) in optims {
        optimiser.load(&optimiser_dir(&dir, name))?;
    }
    Ok(Some((step, state.extra)))
}

fn model_file(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.safetensors"))
}

fn optimiser_dir(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.optimiser"))
}

#[cfg(test)]
mod tests {
    use farmhand_core::run::StageDir;
    use farmhand_core::{CancelFlag, Device, NoEvents, PollingExecutor, Seed};
    use tch::Kind;

    use super::*;
    use crate::{OptimConfig, StepPlan};

    /// Fits two matrices to a fixed target, one data point in an order of its own a step.
    struct Run {
        parameters: Vec<(String, Tensor)>,
        optimiser: AdamW,
        plan: StepPlan,
    }

    impl Run {
        fn new() -> Self {
            let leaf = |offset: i64| {
                (Tensor::arange_start(offset, offset + 6, (Kind::Float, tch::Device::Cpu)).sin())
                    .view([2, 3])
                    .set_requires_grad(true)
            };
            let parameters = vec![("a.weight".to_owned(), leaf(0)), ("b.weight".to_owned(), leaf(9))];
            let config = OptimConfig { lr: 0.1, weight_decay: 0.01, ..OptimConfig::default() };
            Self { optimiser: AdamW::new(&parameters, &config, 10), parameters, plan: StepPlan::new(5, 1, 2, Seed::root(3)) }
        }

        fn train(&mut self, steps: std::ops::Range<u64>) {
            for step in steps {
                let point = self.plan.items(step)[0] as f64;
                let product = self.parameters[0].1.matmul(&self.parameters[1].1.tr());
                (product - point).square().mean(Kind::Float).backward();
                self.optimiser.step().expect("finite");
            }
        }

        fn bytes(&self) -> Vec<u8> {
            let dir = tempfile::tempdir().expect("a folder");
            let path = dir.path().join("x");
            write_safetensors(&path, self.parameters.iter().map(|(name, tensor)| (name.as_str(), tensor)), &BTreeMap::new())
                .expect("written");
            std::fs::read(path).expect("read")
        }
    }

    #[test]
    fn a_run_that_was_cut_ends_with_the_same_bytes() {
        let dir = tempfile::tempdir().expect("a folder");
        let stage = StageDir::create(dir.path().join("stage")).expect("made");
        let cancel = CancelFlag::new();
        let ctx = RunContext {
            stage: &stage,
            seed: Seed::root(1),
            device: Device::Cpu,
            events: &NoEvents,
            cancel: &cancel,
            executor: &PollingExecutor,
        };
        let mut whole = Run::new();
        whole.train(0..10);

        let mut first = Run::new();
        let models: &[(&str, &[(String, Tensor)])] = &[("policy", &first.parameters)];
        assert!(load_train_state(&ctx, models, &mut []).expect("nothing there").is_none());
        first.train(0..5);
        let extra = serde_json::json!({ "beta": 0.1f64 + 0.2 });
        save_train_state(&ctx, 5, &[("policy", &first.parameters)], &[("policy", &first.optimiser)], &extra).expect("saved");

        let mut second = Run::new();
        let (step, restored) =
            load_train_state(&ctx, &[("policy", &second.parameters)], &mut [("policy", &mut second.optimiser)])
                .expect("loaded")
                .expect("there");
        assert_eq!((step, restored), (5, extra));
        assert_eq!(second.bytes(), first.bytes());
        second.train(step..10);
        assert_eq!(second.bytes(), whole.bytes());
        assert_ne!(second.bytes(), first.bytes());

        let wrong = [("c.weight".to_owned(), second.parameters[0].1.shallow_clone())];
        assert!(load_train_state(&ctx, &[("policy", &wrong)], &mut []).is_err());
    }
}
