//! Safetensors files: named tensors in, named tensors out, byte for byte the same for the same tensors.
//!
//! The format is a header length (8 bytes, little endian), a JSON header with type, shape and byte range of each
//! tensor, and the bytes. Tensors are read one at a time, so no more than one stands in memory twice.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use farmhand_core::{Error, Result, run};
use safetensors::Dtype;
use safetensors::tensor::Metadata;
use serde_json::json;
use tch::{Kind, Tensor};

/// An open safetensors file whose header has been checked against its length.
pub struct SafetensorsFile {
    path: PathBuf,
    file: File,
    data_start: u64,
    metadata: Metadata,
}

impl SafetensorsFile {
    /// Opens a file and checks that it is whole.
    ///
    /// # Errors
    /// When it is missing, is not a safetensors file, or is shorter or longer than its header says.
    pub fn open(path: &Path) -> Result<Self> {
        let mut file = File::open(path).map_err(|error| Error::io("read", path, error))?;
        let length = file.metadata().map_err(|error| Error::io("read", path, error))?.len();
        let damaged = |what: String| {
            Error::invalid_data(format!("`{}` is not a whole safetensors file: {what}", path.display()))
                .with_hint("the file was probably cut off while it was copied or downloaded; fetch it again")
        };
        let mut prefix = [0; 8];
        file.read_exact(&mut prefix).map_err(|_| damaged(format!("it has {length} bytes")))?;
        let header_length = u64::from_le_bytes(prefix);
        if header_length > length.saturating_sub(8) {
            return Err(damaged(format!("its header should have {header_length} bytes, the file has {length}")));
        }
        let mut header = vec![0; header_length as usize];
        file.read_exact(&mut header).map_err(|error| Error::io("read", path, error))?;
        let metadata: Metadata = serde_json::from_slice(&header)
            .map_err(|error| damaged("its header cannot be read".to_owned()).with_source(error))?;
        let expected = 8 + header_length + metadata.data_len() as u64;
        if expected != length {
            return Err(damaged(format!("expected {expected} bytes, it has {length}")));
        }
        Ok(Self { path: path.to_owned(), file, data_start: 8 + header_length, metadata })
    }

    /// The names of the tensors, sorted.
    pub fn names(&self) -> Vec<String> {
        let mut names = self.metadata.offset_keys();
        names.sort();
        names
    }

    /// The shape of a tensor; `None` when it is not there.
    pub fn shape(&self, name: &str) -> Option<Vec<i64>> {
        self.metadata.info(name).map(|info| info.shape.iter().map(|size| *size as i64).collect())
    }

    /// The type of a tensor's elements, for example `BF16`; `None` when it is not there.
    pub(crate) fn element_type(&self, name: &str) -> Option<String> {
        self.metadata.info(name).map(|info| format!("{:?}", info.dtype))
    }

    /// A tensor on the CPU in the type it is stored in.
    ///
    /// # Errors
    /// When it is not there, its type is neither a float nor an integer libtorch knows, or the disk refuses.
    pub fn read(&mut self, name: &str) -> Result<Tensor> {
        let file = self.path.display();
        let Some(info) = self.metadata.info(name) else {
            return Err(Error::invalid_data(format!("`{file}` holds no tensor `{name}`")));
        };
        let Some(kind) = kind(info.dtype) else {
            return Err(Error::invalid_data(format!(
                "`{file}`: tensor `{name}` has type {:?}, which cannot be read",
                info.dtype
            ))
            .with_hint("weights are read from F64, F32, F16 and BF16"));
        };
        let shape: Vec<i64> = info.shape.iter().map(|size| *size as i64).collect();
        let (start, end) = info.data_offsets;
        let mut bytes = vec![0; end - start];
        let seek = self.file.seek(SeekFrom::Start(self.data_start + start as u64));
        seek.and_then(|_| self.file.read_exact(&mut bytes)).map_err(|error| Error::io("read", &self.path, error))?;
        Ok(Tensor::from_data_size(&bytes, &shape, kind))
    }
}

fn kind(dtype: Dtype) -> Option<Kind> {
    match dtype {
        Dtype::F64 => Some(Kind::Double),
        Dtype::F32 => Some(Kind::Float),
        Dtype::F16 => Some(Kind::Half),
        Dtype::BF16 => Some(Kind::BFloat16),
        Dtype::I64 => Some(Kind::Int64),
        Dtype::I32 => Some(Kind::Int),
        Dtype::U8 => Some(Kind::Uint8),
        Dtype::BOOL => Some(Kind::Bool),
        _ => None,
    }
}

pub(crate) fn dtype_name(kind: Kind) -> Option<&'static str> {
    match kind {
        Kind::Double => Some("F64"),
        Kind::Float => Some("F32"),
        Kind::Half => Some("F16"),
        Kind::BFloat16 => Some("BF16"),
        Kind::Int64 => Some("I64"),
        Kind::Int => Some("I32"),
        Kind::Uint8 => Some("U8"),
        Kind::Bool => Some("BOOL"),
        _ => None,
    }
}

/// Writes tensors to a safetensors file, whole or not at all. The same tensors give the same bytes.
///
/// # Errors
/// When two tensors have one name, a type has no place in the format, or the disk refuses.
pub fn write_safetensors<'a>(
    path: &Path,
    tensors: impl IntoIterator<Item = (&'a str, &'a Tensor)>,
    metadata: &BTreeMap<String, String>,
) -> Result<()> {
    write_safetensors_mapped(path, tensors, metadata, |_, tensor| tensor.shallow_clone())
}

/// As [`write_safetensors`], each tensor as `map` gives it from its name and itself when its turn comes, of the same type and
/// shape: no more than one of them exists at a time.
pub(crate) fn write_safetensors_mapped<'a>(
    path: &Path,
    tensors: impl IntoIterator<Item = (&'a str, &'a Tensor)>,
    metadata: &BTreeMap<String, String>,
    map: impl Fn(&str, &Tensor) -> Tensor,
) -> Result<()> {
    let mut sorted = BTreeMap::new();
    for (name, tensor) in tensors {
        if sorted.insert(name, tensor).is_some() {
            return Err(Error::other(format!("two tensors named `{name}` for `{}`", path.display())));
        }
    }
    // Readers want no gaps between tensors and each aligned to its type: wide types first, then by name.
    let mut order: Vec<_> = sorted.iter().map(|(name, tensor)| (*name, *tensor)).collect();
    order.sort_by_key(|(_, tensor)| std::cmp::Reverse(tensor.kind().elt_size_in_bytes()));
    let header = header(order.iter().map(|(name, tensor)| (*name, tensor.kind(), tensor.size())), metadata)?;
    run::write_atomic(path, |out| {
        let mut write = |bytes: &[u8]| out.write_all(bytes).map_err(|error| Error::io("write", path, error));
        write(&(header.len() as u64).to_le_bytes())?;
        write(&header)?;
        for (name, tensor) in &order {
            write(&tensor_bytes(&map(name, tensor)))?;
        }
        Ok(())
    })
}

/// The header of a file that holds these tensors in this order.
pub(crate) fn header<'a>(
    tensors: impl IntoIterator<Item = (&'a str, Kind, Vec<i64>)>,
    metadata: &BTreeMap<String, String>,
) -> Result<Vec<u8>> {
    let mut header = serde_json::Map::new();
    if !metadata.is_empty() {
        header.insert("__metadata__".to_owned(), json!(metadata));
    }
    let mut offset = 0;
    for (name, kind, shape) in tensors {
        let dtype = dtype_name(kind)
            .ok_or_else(|| Error::other(format!("tensor `{name}` has type {kind:?}, which safetensors cannot hold")))?;
        let end = offset + shape.iter().product::<i64>() as usize * kind.elt_size_in_bytes();
        header.insert(name.to_owned(), json!({ "dtype": dtype, "shape": shape, "data_offsets": [offset, end] }));
        offset = end;
    }
    let mut header = serde_json::to_vec(&header).expect("a header is JSON");
    header.resize(header.len().next_multiple_of(8), b' ');
    Ok(header)
}

/// The bytes of a tensor in row-major order, little endian on every machine libtorch supports.
pub(crate) fn tensor_bytes(tensor: &Tensor) -> Vec<u8> {
    let tensor = tensor.detach().to_device(tch::Device::Cpu).contiguous();
    let mut bytes = vec![0; tensor.numel() * tensor.kind().elt_size_in_bytes()];
    tensor.copy_data_u8(&mut bytes, tensor.numel());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back_and_the_order_given_does_not_matter() {
        let dir = tempfile::tempdir().expect("a folder");
        let (a, b) = (Tensor::from_slice(&[1.5f32, -2.0]).view([2, 1]), Tensor::from_slice(&[3i64]));
        let half = Tensor::from_slice(&[0.5f32]).to_kind(Kind::BFloat16);
        let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
        let path = dir.path().join("x.safetensors");
        write_safetensors(&path, [("h", &half), ("b", &b), ("a", &a)], &metadata).expect("written");
        let bytes = std::fs::read(&path).expect("readable");
        write_safetensors(&path, [("a", &a), ("b", &b), ("h", &half)], &metadata).expect("written");
        assert_eq!(bytes, std::fs::read(&path).expect("readable"));

        let parsed = safetensors::SafeTensors::deserialize(&bytes).expect("the reference reader takes it");
        assert_eq!(parsed.len(), 3);
        let mut file = SafetensorsFile::open(&path).expect("whole");
        assert_eq!(file.names(), ["a", "b", "h"]);
        assert_eq!(file.read("a").expect("there"), a);
        assert_eq!(file.read("b").expect("there"), b);
        assert_eq!(file.read("h").expect("there").kind(), Kind::BFloat16);
        assert!(file.read("c").is_err());
    }

    #[test]
    fn damaged_files_are_errors_at_every_length() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("x.safetensors");
        write_safetensors(&path, [("a", &Tensor::from_slice(&[1f32, 2.0]))], &BTreeMap::new()).expect("written");
        let bytes = std::fs::read(&path).expect("readable");
        for length in 0..bytes.len() {
            std::fs::write(&path, &bytes[..length]).expect("written");
            let error = SafetensorsFile::open(&path).err().unwrap_or_else(|| panic!("{length} bytes were taken for whole"));
            assert!(error.message().contains("not a whole safetensors file"), "{error}");
        }
        std::fs::write(&path, [bytes.as_slice(), &[0]].concat()).expect("written");
        assert!(SafetensorsFile::open(&path).is_err());
        std::fs::write(&path, [255; 64]).expect("written");
        assert!(SafetensorsFile::open(&path).is_err());
    }
}
