//! The state of a training run between two steps: weights, optimisers and whatever else the method keeps, bit for bit.

use std::path::{Path, PathBuf};

use farmhand_core::{Error, Result, RunContext};
use serde::{Deserialize, Serialize};
use tch::Tensor;

use crate::adamw::AdamW;
use crate::tensor_file::{read_tensors_into, write_tensors};

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
            write_tensors(&model_file(dir, name), parameters)?;
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
        read_tensors_into(&model_file(&dir, name), parameters)?;
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
