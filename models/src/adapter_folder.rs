//! Low-rank adapters on disk, in PEFT's format: `adapter_config.json` and `adapter_model.safetensors`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use farmhand_core::{ADAPTER_CONFIG, AdapterBase, Error, Result};
use serde_json::{Map, Value, json};
use tch::{Device, Kind, Tensor};

use crate::config_json::ConfigJson;
use crate::heads::ScalarHead;
use crate::language_model::LanguageModel;
use crate::lora::{Adapter, LoraConfig, PEFT_PREFIX, linear_modules, tensor_name};
use crate::low_rank::LowRank;
use crate::model_folders::{read_adapter_config, recorded_base, seen_from};
use crate::safetensors_file::{SafetensorsFile, write_safetensors};

const WEIGHTS: &str = "adapter_model.safetensors";

/// Writes a model's adapter into an existing folder that will stand at `place`, with the scalar head if there is one, and gives
/// back what the manifest has to say about the base.
pub(crate) fn write_adapter(dir: &Path, place: &Path, model: &LanguageModel, head: Option<&ScalarHead>) -> Result<AdapterBase> {
    let adapter = model.adapter().expect("only a model with an adapter is written as one");
    let mut tensors = adapter.parameters();
    for (name, tensor) in head.into_iter().flat_map(ScalarHead::parameters) {
        tensors.push((format!("{PEFT_PREFIX}{name}"), tensor.shallow_clone()));
    }
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    write_safetensors(&dir.join(WEIGHTS), tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)), &metadata)?;
    let path = dir.join(ADAPTER_CONFIG);
    let mut text = serde_json::to_vec_pretty(&peft_config(model, adapter, head.is_some())).expect("a JSON value is JSON");
    text.push(b'\n');
    std::fs::write(&path, text).map_err(|error| Error::io("write", &path, error))?;
    let path = seen_from(place, adapter.base()).unwrap_or_else(|| adapter.base().to_owned());
    Ok(AdapterBase { path: path.to_string_lossy().into_owned(), fingerprint: model.fingerprint() })
}

/// `adapter_config.json`.
fn peft_config(model: &LanguageModel, adapter: &Adapter, is_scalar: bool) -> Value {
    let config = adapter.config();
    // PEFT's own spelling of a whole number has no fraction.
    let alpha = if config.alpha.fract() == 0.0 { json!(config.alpha as i64) } else { json!(config.alpha) };
    let targets: BTreeSet<&str> = if config.targets.is_empty() {
        adapter.modules().filter_map(|module| module.rsplit('.').next()).collect()
    } else {
        config.targets.iter().map(String::as_str).collect()
    };
    json!({
        "alpha_pattern": {},
        "auto_mapping": null,
        "base_model_name_or_path": adapter.base().to_string_lossy(),
        "bias": "none",
        "fan_in_fan_out": model.config().architecture().stores_input_first(),
        "inference_mode": true,
        "init_lora_weights": true,
        "layers_pattern": null,
        "layers_to_transform": null,
        "lora_alpha": alpha,
        "lora_dropout": config.dropout,
        "modules_to_save": if is_scalar { json!(["score"]) } else { Value::Null },
        "peft_type": "LORA",
        "r": config.rank,
        "rank_pattern": {},
        "revision": null,
        "target_modules": targets,
        "task_type": if is_scalar { "SEQ_CLS" } else { "CAUSAL_LM" },
        "use_dora": false,
        "use_rslora": config.use_rslora,
    })
}

impl Adapter {
    /// Reads an adapter's folder, made by farmhand or PEFT, for a model that lies in the folder `base`.
    ///
    /// # Errors
    /// When a file is missing or damaged, the adapter needs something that is not implemented, or it was made for another
    /// model: other layers, other sizes, other weights.
    pub fn load(dir: &Path, model: &LanguageModel, base: &Path) -> Result<Self> {
        let shown = dir.display();
        if let Some(recorded) = recorded_base(dir)?
            && recorded.fingerprint != model.fingerprint()
        {
            return Err(Error::invalid_data(format!("the adapter `{shown}` was trained on other weights than these"))
                .with_hint("its base model was replaced or trained further; merge it with the one it was trained on"));
        }
        let fields = read_adapter_config(dir)?;
        let source = format!("`{}`", dir.join(ADAPTER_CONFIG).display());
        let config = lora_config(&ConfigJson::new(&fields, &source))?;
        let mut file = open_weights(dir)?;
        let modules: BTreeSet<String> = linear_modules(model.config()).into_iter().map(|module| module.name).collect();
        let mut layers = BTreeMap::new();
        for name in file.names() {
            let Some(own) = name.strip_prefix(PEFT_PREFIX).filter(|own| !own.starts_with("score.")) else {
                if name.starts_with(PEFT_PREFIX) {
                    continue;
                }
                return Err(unknown_tensor(dir, &name));
            };
            let [a, b] = ["lora_A", "lora_B"].map(|part| own.strip_suffix(&format!(".{part}.weight")));
            let Some(module) = a.or(b).filter(|module| modules.contains(*module)) else {
                return Err(unknown_tensor(dir, &name));
            };
            if a.is_none() {
                continue;
            }
            let mut read = |part: &str, place: usize| {
                let tensor = read_floats(&mut file, &tensor_name(module, part), model.device())?;
                let rank = tensor.size().get(place).copied();
                if tensor.dim() == 2 && rank == Some(config.rank as i64) {
                    return Ok(tensor);
                }
                Err(Error::invalid_data(format!(
                    "tensor `{}` in `{shown}` has shape {:?}, but `r` in {ADAPTER_CONFIG} is {}",
                    tensor_name(module, part),
                    tensor.size(),
                    config.rank
                )))
            };
            let (a, b) = (read("lora_A", 0)?, read("lora_B", 1)?);
            let layer = LowRank { module: module.to_owned(), a, b, scale: config.scale(), dropout: config.dropout };
            layers.insert(module.to_owned(), layer);
        }
        // A second half without a first one was passed over.
        let n_halves = file.names().iter().filter(|name| name.contains(".lora_")).count();
        if layers.is_empty() || n_halves != 2 * layers.len() {
            return Err(Error::invalid_data(format!(
                "`{}` holds {n_halves} tensors for {} layers, expected two a layer",
                dir.join(WEIGHTS).display(),
                layers.len()
            )));
        }
        let adapter = Self::from_layers(config, base.to_owned(), layers);
        adapter.check(model.config()).map_err(|error| error.context(format!("adapter `{shown}`")))?;
        Ok(adapter)
    }
}

/// The scalar head that an adapter's folder holds, if it does.
pub(crate) fn read_head(dir: &Path, hidden_size: usize, device: Device) -> Result<Option<ScalarHead>> {
    let mut file = open_weights(dir)?;
    let [weight, bias] = ["score.weight", "score.bias"].map(|name| format!("{PEFT_PREFIX}{name}"));
    let Some(shape) = file.shape(&weight) else { return Ok(None) };
    if shape != [1, hidden_size as i64] {
        return Err(Error::invalid_data(format!(
            "tensor `{weight}` in `{}` has shape {shape:?}, expected [1, {hidden_size}]",
            dir.display()
        )));
    }
    let bias = match file.shape(&bias) {
        Some(_) => read_floats(&mut file, &bias, device)?.reshape([1]),
        None => Tensor::zeros([1], (Kind::Float, device)),
    };
    Ok(Some(ScalarHead::new(read_floats(&mut file, &weight, device)?, bias)))
}

fn open_weights(dir: &Path) -> Result<SafetensorsFile> {
    let path = dir.join(WEIGHTS);
    if path.is_file() {
        return SafetensorsFile::open(&path);
    }
    let error = Error::missing_input(format!("the adapter `{}` holds no {WEIGHTS}", dir.display()));
    Err(if dir.join("adapter_model.bin").is_file() {
        error.with_hint("a pickle can run any code and is never read; save the adapter again with `safe_serialization=True`")
    } else {
        error
    })
}

fn read_floats(file: &mut SafetensorsFile, name: &str, device: Device) -> Result<Tensor> {
    let tensor = file.read(name)?;
    if !tensor.is_floating_point() {
        return Err(Error::invalid_data(format!("tensor `{name}` of the adapter holds {:?}, not floats", tensor.kind())));
    }
    Ok(tensor.to_device(device).to_kind(Kind::Float))
}

fn unknown_tensor(dir: &Path, name: &str) -> Error {
    Error::invalid_data(format!("the adapter `{}` holds `{name}`, for which the model has no place", dir.display()))
        .with_hint("it was made for another base model, or changes more than the linear layers of the blocks")
}

/// The options in `adapter_config.json`; whatever would change the maths and is not implemented is refused.
fn lora_config(json: &ConfigJson<'_>) -> Result<LoraConfig> {
    if json.text("peft_type")? != "LORA" {
        return Err(json.unsupported("peft_type", "`LORA`"));
    }
    if !matches!(json.text_or("bias", "none")?, "none") {
        return Err(json.unsupported("bias", "`none`"));
    }
    for key in ["use_dora", "use_qalora", "lora_bias"] {
        json.expect_flag(key, false)?;
    }
    for key in OTHER_MATHS {
        let is_empty =
            |value: &Value| value.as_object().is_some_and(Map::is_empty) || value.as_array().is_some_and(Vec::is_empty);
        if json.find(key).is_some_and(|value| !is_empty(value)) {
            return Err(json.unsupported(key, "null"));
        }
    }
    let is_harmless = |value: &Value| value.is_boolean() || matches!(value.as_str(), Some("gaussian" | "eva" | "orthogonal"));
    if json.find("init_lora_weights").is_some_and(|value| !is_harmless(value)) {
        // These change the base as well when the adapter is loaded.
        return Err(json.unsupported("init_lora_weights", "a start that leaves the base model as it is, such as `true`"));
    }
    if let Some(value) = json.find("modules_to_save")
        && !value.as_array().is_some_and(|names| names.iter().all(|name| name == "score" || name == "classifier"))
    {
        return Err(json.unsupported("modules_to_save", "null, or `score` of a reward model"));
    }
    let dropout = json.number_or("lora_dropout", 0.0)?;
    if !(0.0..1.0).contains(&dropout) {
        return Err(json.wrong("lora_dropout", "a number in [0, 1)"));
    }
    Ok(LoraConfig {
        rank: json.size("r")?,
        alpha: json.positive("lora_alpha")?,
        use_rslora: json.flag_or("use_rslora", false)?,
        dropout,
        ..LoraConfig::default()
    })
}

/// Options of PEFT that change what an adapter computes, beside flags.
const OTHER_MATHS: [&str; 9] = [
    "alora_invocation_tokens",
    "alpha_pattern",
    "kasa_config",
    "layer_replication",
    "monteclora_config",
    "rank_pattern",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
];
