//! Saved tensors back into the tensors they came from, bit for bit.

use std::path::Path;

use farmhand_core::{Error, Result};
use tch::{Tensor, no_grad};

use crate::safetensors_file::SafetensorsFile;

/// Copies a safetensors file's tensors into tensors of the same names, shapes and types, in place; the file must hold
/// exactly these.
///
/// # Errors
/// When the file cannot be read, is cut off, or holds other tensors; tensors read before the error have changed then.
pub fn restore_tensors(path: &Path, tensors: &[(String, Tensor)]) -> Result<()> {
    let mut file = SafetensorsFile::open(path)?;
    let n_stored = file.names().len();
    if n_stored != tensors.len() {
        return Err(Error::invalid_data(format!("`{}` holds {n_stored} tensors, expected {}", path.display(), tensors.len()))
            .with_hint("it was saved by a run with another model or other options"));
    }
    for (name, tensor) in tensors {
        let stored = file.read(name)?;
        if stored.size() != tensor.size() || stored.kind() != tensor.kind() {
            return Err(Error::invalid_data(format!(
                "`{}` holds `{name}` as {:?} {:?}, expected {:?} {:?}",
                path.display(),
                stored.kind(),
                stored.size(),
                tensor.kind(),
                tensor.size()
            )));
        }
        no_grad(|| tensor.shallow_clone().copy_(&stored));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::safetensors_file::write_safetensors;

    #[test]
    fn values_come_back_into_the_same_storage_and_strangers_are_refused() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("x.safetensors");
        let tensor = Tensor::from_slice(&[1.5f32, f32::MIN_POSITIVE, -0.0]);
        write_safetensors(&path, [("a", &tensor)], &BTreeMap::new()).expect("written");
        let model = Tensor::zeros([3], (tch::Kind::Float, tch::Device::Cpu)).set_requires_grad(true);
        restore_tensors(&path, &[("a".to_owned(), model.shallow_clone())]).expect("restored");
        let bits = |tensor: &Tensor| {
            Vec::<f32>::try_from(tensor.detach()).expect("numbers").into_iter().map(f32::to_bits).collect::<Vec<_>>()
        };
        assert_eq!(bits(&model), bits(&tensor));
        for strangers in [
            vec![("b".to_owned(), model.detach())],
            vec![("a".to_owned(), Tensor::from_slice(&[0.0f32]))],
            vec![("a".to_owned(), Tensor::from_slice(&[0.0f64, 0.0, 0.0]))],
            Vec::new(),
        ] {
            assert!(restore_tensors(&path, &strangers).is_err());
        }
    }
}
