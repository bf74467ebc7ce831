//! Weights written one tensor at a time, into as many safetensors files as their size asks for.

use std::collections::BTreeMap;
use std::path::Path;

use farmhand_core::{Error, Result, run};
use serde_json::json;
use tch::{Kind, Tensor};

use crate::safetensors_file::{header, tensor_bytes};

/// Bytes of one file at most, where a single tensor is not larger: what transformers takes.
pub(crate) const SHARD_BYTES: u64 = 5_000_000_000;

/// A tensor to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PlannedTensor {
    pub(crate) name: String,
    pub(crate) shape: Vec<i64>,
}

impl PlannedTensor {
    pub(crate) fn n_elements(&self) -> u64 {
        self.shape.iter().product::<i64>() as u64
    }
}

/// Writes tensors in the order given: `model.safetensors`, or several files of at most `limit` bytes and their index. `make`
/// gives the tensors, each once and in this order, so that no more than one stands in memory.
///
/// # Errors
/// What `make` reports, and when the disk refuses.
pub(crate) fn write_sharded_weights(
    dir: &Path,
    tensors: &[PlannedTensor],
    kind: Kind,
    limit: u64,
    mut make: impl FnMut(&PlannedTensor) -> Result<Tensor>,
) -> Result<()> {
    let shards = shards(tensors, kind, limit);
    let n_shards = shards.len();
    let mut weight_map = BTreeMap::new();
    for (i, shard) in shards.into_iter().enumerate() {
        let file = match n_shards {
            1 => "model.safetensors".to_owned(),
            _ => format!("model-{:05}-of-{n_shards:05}.safetensors", i + 1),
        };
        let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
        let header = header(shard.iter().map(|tensor| (tensor.name.as_str(), kind, tensor.shape.clone())), &metadata)?;
        let path = dir.join(&file);
        run::write_atomic(&path, |out| {
            let mut write = |bytes: &[u8]| out.write_all(bytes).map_err(|error| Error::io("write", &path, error));
            write(&(header.len() as u64).to_le_bytes())?;
            write(&header)?;
            shard.iter().try_for_each(|planned| write(&tensor_bytes(&make(planned)?.to_kind(kind))))
        })?;
        weight_map.extend(shard.iter().map(|tensor| (tensor.name.clone(), file.clone())));
    }
    if n_shards < 2 {
        return Ok(());
    }
    let total: u64 = tensors.iter().map(|tensor| tensor.n_elements() * kind.elt_size_in_bytes() as u64).sum();
    let index = json!({ "metadata": { "total_size": total }, "weight_map": weight_map });
    let path = dir.join("model.safetensors.index.json");
    run::write_atomic(&path, |out| {
        serde_json::to_writer_pretty(&mut *out, &index).map_err(|error| Error::io("write", &path, error.into()))
    })
}

/// Consecutive tensors that fit into one file each.
fn shards(tensors: &[PlannedTensor], kind: Kind, limit: u64) -> Vec<&[PlannedTensor]> {
    let bytes = |tensor: &PlannedTensor| tensor.n_elements() * kind.elt_size_in_bytes() as u64;
    let (mut shards, mut first, mut size) = (Vec::new(), 0, 0);
    for (i, tensor) in tensors.iter().enumerate() {
        if i > first && size + bytes(tensor) > limit {
            shards.push(&tensors[first..i]);
            (first, size) = (i, 0);
        }
        size += bytes(tensor);
    }
    shards.push(&tensors[first..]);
    shards
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stored_tensors::StoredTensors;

    #[test]
    fn tensors_are_read_back_from_one_file_or_several() {
        let planned = |name: &str, n: i64| PlannedTensor { name: name.to_owned(), shape: vec![n, 2] };
        let tensors = [planned("a", 3), planned("b", 1), planned("c", 9), planned("d", 1)];
        let make = |planned: &PlannedTensor| {
            Ok(Tensor::full(planned.shape.as_slice(), planned.shape[0], (Kind::Float, tch::Device::Cpu)))
        };
        for (limit, files) in [(u64::MAX, 1), (32, 3), (1, 4)] {
            let dir = tempfile::tempdir().expect("a folder");
            write_sharded_weights(dir.path(), &tensors, Kind::Float, limit, make).expect("written");
            let listed = std::fs::read_dir(dir.path()).expect("listed").count();
            assert_eq!(listed, if files == 1 { 1 } else { files + 1 }, "limit {limit}");
            let mut stored = StoredTensors::open(dir.path()).expect("whole");
            assert_eq!(stored.names().collect::<Vec<_>>(), ["a", "b", "c", "d"]);
            let summary = crate::stored_weights(dir.path()).expect("whole").expect("there");
            assert_eq!((summary.files.len(), summary.elements), (files, BTreeMap::from([("F32".to_owned(), 28)])));
            for tensor in &tensors {
                assert_eq!(stored.read(&tensor.name).expect("there"), make(tensor).expect("made"));
            }
        }
    }

    #[test]
    fn a_tensor_that_cannot_be_made_leaves_nothing() {
        let dir = tempfile::tempdir().expect("a folder");
        let tensors = [PlannedTensor { name: "a".to_owned(), shape: vec![1] }];
        let failed = write_sharded_weights(dir.path(), &tensors, Kind::Float, 9, |_| Err(Error::other("no")));
        assert!(failed.is_err());
        assert_eq!(std::fs::read_dir(dir.path()).expect("listed").count(), 0);
    }
}
