//! Named tensors to a safetensors file and back, bit for bit.

use std::path::Path;

use farmhand_core::{Error, Result};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use tch::{Kind, Tensor, no_grad};

/// Writes tensors under their names. The same tensors give the same bytes.
///
/// # Errors
/// When the disk refuses or a tensor is of a kind that is not kept in states.
pub fn write_tensors(path: &Path, tensors: &[(String, Tensor)]) -> Result<()> {
    let mut sorted: Vec<&(String, Tensor)> = tensors.iter().collect();
    sorted.sort_by(|a, b| a.0.cmp(&b.0));
    let mut buffers = Vec::with_capacity(sorted.len());
    for (name, tensor) in sorted {
        let (dtype, width) = match tensor.kind() {
            Kind::Float => (Dtype::F32, 4),
            Kind::Double => (Dtype::F64, 8),
            Kind::Int64 => (Dtype::I64, 8),
            Kind::BFloat16 => (Dtype::BF16, 2),
            other => return Err(Error::other(format!("tensor `{name}` of kind {other:?} cannot be saved"))),
        };
        let count = tensor.numel();
        let mut bytes = vec![0; count * width];
        tensor.detach().to_device(tch::Device::Cpu).contiguous().copy_data_u8(&mut bytes, count);
        let shape: Vec<usize> = tensor.size().iter().map(|size| *size as usize).collect();
        buffers.push((name.as_str(), dtype, shape, bytes));
    }
    let failed = |error: safetensors::SafeTensorError| match error {
        safetensors::SafeTensorError::IoError(error) => Error::io("write", path, error),
        other => Error::other(format!("cannot write `{}`", path.display())).with_source(other),
    };
    let mut views = Vec::with_capacity(buffers.len());
    for (name, dtype, shape, bytes) in &buffers {
        views.push((*name, TensorView::new(*dtype, shape.clone(), bytes).map_err(failed)?));
    }
    safetensors::serialize_to_file(views, None, path).map_err(failed)
}

/// Copies a file's tensors into tensors of the same names, shapes and kinds; the file must hold exactly these.
///
/// # Errors
/// When the file cannot be read, is cut off, or holds other tensors.
pub fn read_tensors_into(path: &Path, tensors: &[(String, Tensor)]) -> Result<()> {
    let bytes = std::fs::read(path).map_err(|error| Error::io("read", path, error))?;
    let broken = |what: String| Error::invalid_data(format!("`{}` {what}", path.display()));
    let file = SafeTensors::deserialize(&bytes)
        .map_err(|error| broken("is not a safetensors file, or was cut off".to_owned()).with_source(error))?;
    if file.len() != tensors.len() {
        return Err(broken(format!("holds {} tensors, expected {}", file.len(), tensors.len())));
    }
    for (name, tensor) in tensors {
        let view = file.tensor(name).map_err(|error| broken(format!("holds no tensor `{name}`")).with_source(error))?;
        let shape: Vec<i64> = view.shape().iter().map(|size| *size as i64).collect();
        let kind = match view.dtype() {
            Dtype::F32 => Kind::Float,
            Dtype::F64 => Kind::Double,
            Dtype::I64 => Kind::Int64,
            Dtype::BF16 => Kind::BFloat16,
            other => return Err(broken(format!("holds `{name}` as {other:?}, which states do not use"))),
        };
        if shape != tensor.size() || kind != tensor.kind() {
            return Err(broken(format!(
                "holds `{name}` as {kind:?} {shape:?}, expected {:?} {:?}",
                tensor.kind(),
                tensor.size()
            )));
        }
        let stored = Tensor::from_data_size(view.data(), &shape, kind);
        no_grad(|| tensor.shallow_clone().copy_(&stored));
    }
    Ok(())
}
