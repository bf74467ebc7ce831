//! The tensors of a model folder in whatever form they are stored: safetensors or torch's `.bin`, one file or several.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use farmhand_core::{Error, Result};
use serde::Serialize;
use tch::{Kind, Tensor};

use crate::safetensors_file::SafetensorsFile;
use crate::torch_file::TorchFile;
use crate::weights::read_index;

enum TensorFile {
    Safetensors(SafetensorsFile),
    Torch(TorchFile),
}

impl TensorFile {
    fn open(path: &Path) -> Result<Self> {
        if path.extension().is_some_and(|extension| extension == "safetensors") {
            SafetensorsFile::open(path).map(Self::Safetensors)
        } else {
            TorchFile::open(path).map(Self::Torch)
        }
    }

    fn names(&self) -> Vec<String> {
        match self {
            Self::Safetensors(file) => file.names(),
            Self::Torch(file) => file.names().map(str::to_owned).collect(),
        }
    }

    fn shape(&self, name: &str) -> Option<Vec<i64>> {
        match self {
            Self::Safetensors(file) => file.shape(name),
            Self::Torch(file) => file.shape(name),
        }
    }

    /// The type of a tensor's elements, in the words of safetensors.
    fn element_type(&self, name: &str) -> String {
        match self {
            Self::Safetensors(file) => file.element_type(name),
            Self::Torch(file) => file.element_type(name),
        }
        .unwrap_or_else(|| "unknown".to_owned())
    }

    fn read(&mut self, name: &str) -> Result<Tensor> {
        match self {
            Self::Safetensors(file) => file.read(name),
            Self::Torch(file) => file.read(name),
        }
    }
}

/// How the weights of a folder are stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StoredWeights {
    /// The files.
    pub files: Vec<String>,
    /// Their bytes together.
    pub bytes: u64,
    /// Elements by their type, for example `BF16`.
    pub elements: BTreeMap<String, u64>,
}

/// How the weights of a folder are stored, from the headers of the files; safetensors where there are both forms. `None` when
/// not all of them are there, as of a model of the hub that was only described.
///
/// # Errors
/// When a file is damaged.
pub fn stored_weights(dir: &Path) -> Result<Option<StoredWeights>> {
    let there = FORMS.iter().any(|(single, index)| dir.join(single).is_file() || dir.join(index).is_file());
    if !there || files_of(dir)?.iter().any(|path| !path.is_file()) {
        return Ok(None);
    }
    let mut stored = StoredWeights { files: Vec::new(), bytes: 0, elements: BTreeMap::new() };
    for path in files_of(dir)? {
        let file = TensorFile::open(&path)?;
        for name in file.names() {
            let n_elements: i64 = file.shape(&name).unwrap_or_default().iter().product();
            *stored.elements.entry(file.element_type(&name)).or_default() += n_elements as u64;
        }
        stored.bytes += std::fs::metadata(&path).map_err(|error| Error::io("read", &path, error))?.len();
        stored.files.push(path.file_name().unwrap_or_default().to_string_lossy().into_owned());
    }
    Ok(Some(stored))
}

/// Tensors by name, read one at a time.
pub(crate) struct StoredTensors {
    dir: PathBuf,
    files: Vec<TensorFile>,
    /// The place in `files` of every tensor.
    holders: BTreeMap<String, usize>,
}

impl StoredTensors {
    /// Opens the weights of a folder; safetensors where there are both forms.
    pub(crate) fn open(dir: &Path) -> Result<Self> {
        let (mut files, mut holders) = (Vec::new(), BTreeMap::new());
        for path in files_of(dir)? {
            let file = TensorFile::open(&path)?;
            for name in file.names() {
                if holders.insert(name.clone(), files.len()).is_some() {
                    return Err(Error::invalid_data(format!("tensor `{name}` stands twice in `{}`", dir.display())));
                }
            }
            files.push(file);
        }
        Ok(Self { dir: dir.to_owned(), files, holders })
    }

    /// The names, sorted.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.holders.keys().map(String::as_str)
    }

    /// The shape of a tensor; `None` when it is not there.
    pub(crate) fn shape(&self, name: &str) -> Option<Vec<i64>> {
        self.files[*self.holders.get(name)?].shape(name)
    }

    /// A tensor on the CPU as `f32`.
    pub(crate) fn read(&mut self, name: &str) -> Result<Tensor> {
        let Some(place) = self.holders.get(name) else {
            return Err(Error::invalid_data(format!("`{}` holds no tensor `{name}`", self.dir.display())));
        };
        let tensor = self.files[*place].read(name)?;
        if !tensor.is_floating_point() {
            let message = format!("tensor `{name}` in `{}` holds {:?}, not floats", self.dir.display(), tensor.kind());
            return Err(Error::invalid_data(message));
        }
        Ok(tensor.to_kind(Kind::Float))
    }
}

/// The forms that weights come in, best first: one file, or the index of several.
const FORMS: [(&str, &str); 3] = [
    ("model.safetensors", "model.safetensors.index.json"),
    ("pytorch_model.bin", "pytorch_model.bin.index.json"),
    ("adapter_model.safetensors", "adapter_model.safetensors.index.json"),
];

/// The files with a folder's weights.
fn files_of(dir: &Path) -> Result<Vec<PathBuf>> {
    for (single, index) in FORMS {
        if dir.join(single).is_file() {
            return Ok(vec![dir.join(single)]);
        }
        if dir.join(index).is_file() {
            let shards: BTreeSet<String> = read_index(&dir.join(index))?.into_values().collect();
            return Ok(shards.into_iter().map(|shard| dir.join(shard)).collect());
        }
    }
    Err(Error::missing_input(format!("`{}` holds no weights", dir.display()))
        .with_hint("expected model.safetensors, pytorch_model.bin, or an index of several with the files it lists"))
}
