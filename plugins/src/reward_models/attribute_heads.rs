//! One linear head an attribute on a language model's body: what `attribute_regression` trains and `attributes` reads.

use std::collections::BTreeMap;
use std::path::Path;

use farmhand_core::{Error, Result, RunContext, Seed};
use farmhand_models::{LanguageModel, SafetensorsFile, ScalarHead, TokenBatch, write_safetensors};
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor, no_grad};

const TENSORS: &str = "attribute_heads.safetensors";
const NAMES: &str = "attribute_heads.json";
const WEIGHT: &str = "attributes.weight";
const BIAS: &str = "attributes.bias";

/// What stands beside the heads' tensors.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Names {
    attributes: Vec<String>,
}

/// Heads that predict one number an attribute from the hidden state at an answer's last token.
#[derive(Debug)]
pub struct AttributeHeads {
    names: Vec<String>,
    /// `attributes.bias` `[k]` and `attributes.weight` `[k, d]`, sorted by name.
    parameters: [(String, Tensor); 2],
}

impl AttributeHeads {
    /// New heads whose predictions are about `means`: weights as those of a new scalar head, the means as biases.
    pub fn random(names: Vec<String>, means: &[f64], hidden_size: usize, seed: Seed, device: Device) -> Self {
        let row = |name: &String| ScalarHead::random(hidden_size, seed.child_text("attribute", name), device);
        let rows: Vec<Tensor> = names.iter().map(|name| row(name).weight().shallow_clone()).collect();
        let bias = Tensor::from_slice(means).to_kind(Kind::Float).to_device(device);
        Self::new(names, Tensor::cat(&rows, 0), bias)
    }

    fn new(names: Vec<String>, weight: Tensor, bias: Tensor) -> Self {
        Self { names, parameters: [(BIAS.to_owned(), bias), (WEIGHT.to_owned(), weight)] }
    }

    /// The attributes, in the order of the predictions.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Its tensors, sorted by name.
    pub fn parameters(&self) -> &[(String, Tensor)] {
        &self.parameters
    }

    /// Whether gradients are kept for its tensors; new heads are frozen.
    pub fn set_trainable(&self, trainable: bool) {
        for (_, tensor) in &self.parameters {
            let _ = tensor.set_requires_grad(trainable);
        }
    }

    /// Predictions `[rows, attributes]`, read at each row's last real token; differentiable.
    pub fn predict(&self, body: &LanguageModel, batch: &TokenBatch) -> Tensor {
        let [(_, bias), (_, weight)] = &self.parameters;
        let hidden = body.hidden(batch).index_select(0, &batch.last_rows);
        hidden.to_kind(weight.kind()).linear(weight, Some(bias))
    }

    /// One head that gives the mean of all predictions, so that the model can be read as a scalar reward model.
    pub fn mean_head(&self) -> ScalarHead {
        let [(_, bias), (_, weight)] = &self.parameters;
        let head = ScalarHead::zeros(weight.size()[1] as usize, weight.device());
        no_grad(|| {
            head.weight().shallow_clone().copy_(&weight.mean_dim([0].as_slice(), true, Kind::Float));
            head.bias().shallow_clone().copy_(&bias.mean(Kind::Float).view([1]));
        });
        head
    }

    /// Writes the heads into the checkpoint of the context's stage.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn save(&self, ctx: &RunContext<'_>) -> Result<()> {
        let dir = ctx.stage.checkpoint_dir();
        let tensors = self.parameters.iter().map(|(name, tensor)| (name.as_str(), tensor));
        write_safetensors(&dir.join(TENSORS), tensors, &BTreeMap::new())?;
        let path = dir.join(NAMES);
        farmhand_core::run::write_atomic(&path, |out| {
            serde_json::to_writer_pretty(&mut *out, &Names { attributes: self.names.clone() })
                .map_err(|error| Error::io("write", &path, error.into()))?;
            out.write_all(b"\n").map_err(|error| Error::io("write", &path, error))
        })
    }

    /// The heads in a model folder.
    ///
    /// # Errors
    /// When there are none, or they do not fit a body of that width.
    pub fn load(dir: &Path, hidden_size: usize, device: Device) -> Result<Self> {
        let path = dir.join(NAMES);
        let text = std::fs::read_to_string(&path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Error::missing_input(format!("`{}` has no attribute heads", dir.display()))
                .with_hint("train some with `attribute_regression`"),
            _ => Error::io("read", &path, error),
        })?;
        let Names { attributes } = serde_json::from_str(&text)
            .map_err(|error| Error::invalid_data(format!("`{}` does not name attributes", path.display())).with_source(error))?;
        let mut file = SafetensorsFile::open(&dir.join(TENSORS))?;
        let mut read = |name: &str, shape: &[i64]| -> Result<Tensor> {
            let tensor = file.read(name)?;
            if tensor.size() != shape {
                let message = format!("tensor `{name}` in `{}` has shape {:?}, expected {shape:?}", dir.display(), tensor.size());
                return Err(Error::invalid_data(message).with_hint("the heads belong to another model"));
            }
            Ok(tensor.to_kind(Kind::Float).to_device(device))
        };
        let k = attributes.len() as i64;
        let (weight, bias) = (read(WEIGHT, &[k, hidden_size as i64])?, read(BIAS, &[k])?);
        Ok(Self::new(attributes, weight, bias))
    }
}
