//! The weights of a model folder: which file holds which tensor, and reading them checked and as `f32`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use farmhand_core::{Error, Result};
use tch::{Device, Kind, Tensor};

use crate::architecture::ParameterSpec;
use crate::safetensors_file::SafetensorsFile;

/// One safetensors file, or several with an index.
pub(crate) struct WeightFiles {
    dir: PathBuf,
    files: Vec<SafetensorsFile>,
    /// The place in `files` of every tensor.
    holders: BTreeMap<String, usize>,
}

impl WeightFiles {
    /// Opens `model.safetensors`, or the shards that `model.safetensors.index.json` lists.
    pub(crate) fn open(dir: &Path) -> Result<Self> {
        let (single, index) = (dir.join("model.safetensors"), dir.join("model.safetensors.index.json"));
        if single.is_file() {
            let file = SafetensorsFile::open(&single)?;
            let holders = file.names().into_iter().map(|name| (name, 0)).collect();
            return Ok(Self { dir: dir.to_owned(), files: vec![file], holders });
        }
        if !index.is_file() {
            return Err(no_weights(dir));
        }
        let map = read_index(&index)?;
        let shards: BTreeSet<&String> = map.values().collect();
        let mut files = Vec::new();
        let mut holders = BTreeMap::new();
        for (place, shard) in shards.into_iter().enumerate() {
            let file = SafetensorsFile::open(&dir.join(shard))
                .map_err(|error| error.context(format!("shard listed in `{}`", index.display())))?;
            for (name, _) in map.iter().filter(|(_, holder)| *holder == shard) {
                if file.shape(name).is_none() {
                    return Err(Error::invalid_data(format!(
                        "`{}` promises tensor `{name}` in `{shard}`, which does not hold it",
                        index.display()
                    )));
                }
                holders.insert(name.clone(), place);
            }
            files.push(file);
        }
        Ok(Self { dir: dir.to_owned(), files, holders })
    }

    /// The names of all tensors, sorted.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.holders.keys().map(String::as_str)
    }

    pub(crate) fn contains(&self, name: &str) -> bool {
        self.holders.contains_key(name)
    }

    /// One tensor as `f32` on `device`; `stored` is its name in the files.
    pub(crate) fn read(&mut self, stored: &str, spec: &ParameterSpec, device: Device) -> Result<Tensor> {
        let dir = self.dir.display();
        let Some(file) = self.holders.get(stored).map(|place| &mut self.files[*place]) else {
            return Err(Error::invalid_data(format!("the weights in `{dir}` lack tensor `{}`", spec.name))
                .with_hint("config.json describes another model than the weights"));
        };
        let shape = file.shape(stored).expect("the holder of a tensor has it");
        if shape != spec.shape {
            return Err(Error::invalid_data(format!(
                "tensor `{stored}` in `{dir}` has shape {shape:?}, config.json asks for {:?}",
                spec.shape
            ))
            .with_hint("config.json describes another model than the weights"));
        }
        let tensor = file.read(stored)?;
        if !tensor.is_floating_point() {
            return Err(Error::invalid_data(format!("tensor `{stored}` in `{dir}` holds {:?}, not floats", tensor.kind())));
        }
        Ok(tensor.to_device(device).to_kind(Kind::Float))
    }
}

fn no_weights(dir: &Path) -> Error {
    let pickled = ["pytorch_model.bin", "pytorch_model.bin.index.json", "consolidated.00.pth"];
    if let Some(name) = pickled.into_iter().find(|name| dir.join(name).is_file()) {
        return Error::missing_input(format!(
            "`{}` holds its weights only as `{name}`, a pickle, which is never read",
            dir.display()
        ))
        .with_hint(
            "a pickle can run any code; convert it with transformers: `model.save_pretrained(folder, safe_serialization=True)`",
        );
    }
    Error::missing_input(format!("`{}` holds no model.safetensors", dir.display()))
        .with_hint("weights are read from model.safetensors or the shards in model.safetensors.index.json")
}

/// Tensor name → file name.
pub(crate) fn read_index(path: &Path) -> Result<BTreeMap<String, String>> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let text = std::fs::read_to_string(path).map_err(|error| Error::io("read", path, error))?;
    let index: Index = serde_json::from_str(&text)
        .map_err(|error| Error::invalid_data(format!("`{}` is not an index of weights", path.display())).with_source(error))?;
    // A shard lies beside its index; anything else would read files the user did not point at.
    if let Some(file) =
        index.weight_map.values().find(|file| Path::new(file).file_name().is_none_or(|name| name != file.as_str()))
    {
        return Err(Error::invalid_data(format!("`{}` lists `{file}`, which is not a plain file name", path.display())));
    }
    Ok(index.weight_map)
}
