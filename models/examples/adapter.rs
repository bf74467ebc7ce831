//! Writes a low-rank adapter with random changes for a model folder: `cargo run --example adapter -- BASE OUT`.
//!
//! `models/tests/golden/make_lora_goldens.py` gives it to PEFT, to see that PEFT computes the same with it.

use std::path::Path;

use farmhand_core::{Error, Result, Seed};
use farmhand_models::{Adapter, LanguageModel, LoraConfig};
use tch::{Device, Tensor, no_grad};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [base, out] = arguments.as_slice() else {
        return Err(Error::invalid_config("expected a model folder and an output folder"));
    };
    let model = LanguageModel::load(Path::new(base), Device::Cpu)?;
    let config = LoraConfig { rank: 2, alpha: 6.0, ..LoraConfig::default() };
    // PEFT takes the base from its caller; this is what the tests look for.
    let adapter = Adapter::new(model.config(), &config, Path::new("../llama"), Seed::root(7), Device::Cpu)?;
    let mut rng = Seed::root(8).rng();
    for (_, tensor) in adapter.parameters().iter().filter(|(name, _)| name.contains("lora_B")) {
        let values: Vec<f32> = (0..tensor.numel()).map(|_| (0.2 * rng.normal()) as f32).collect();
        no_grad(|| tensor.shallow_clone().copy_(&Tensor::from_slice(&values).view(tensor.size().as_slice())));
    }
    std::fs::create_dir_all(out).map_err(|error| Error::io("make folder", Path::new(out), error))?;
    model.with_adapter(adapter)?.save_adapter(Path::new(out)).map(|_| ())
}
