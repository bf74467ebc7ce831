//! `pytorch_model.bin`: the tensors of a file that `torch.save` wrote, read one at a time and without running anything.
//!
//! Since torch 1.6 such a file is a zip archive with nothing compressed: `NAME/data.pkl` describes the tensors, `NAME/data/KEY`
//! holds the bytes of one storage each. Torch's own reader from C++ loads the whole file at once; this one seeks.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use farmhand_core::{Error, Result};
use tch::Tensor;

use crate::safetensors_file::dtype_name;
use crate::torch_pickle::{PickledTensor, read_state_dict};

/// The longest description of tensors that is read; a model of ten thousand tensors needs two megabytes.
const DESCRIPTION_BYTES: u64 = 64 << 20;

/// An open file of tensors.
#[derive(Debug)]
pub(crate) struct TorchFile {
    path: PathBuf,
    file: File,
    /// Where each entry's bytes begin, and how many there are.
    entries: BTreeMap<String, (u64, u64)>,
    /// The folder inside the archive.
    folder: String,
    tensors: Vec<(String, PickledTensor)>,
}

impl TorchFile {
    /// Opens a file and reads what tensors it holds.
    ///
    /// # Errors
    /// When it is missing, cut off, no such file, or describes anything but a state dict of tensors.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let mut file = File::open(path).map_err(|error| Error::io("read", path, error))?;
        let entries = read_directory(&mut file).map_err(|trouble| trouble.at(path))?;
        let description = entries.keys().find(|name| name.ends_with("/data.pkl") && name.matches('/').count() == 1).cloned();
        let Some(description) = description else {
            return Err(Trouble::Form("it holds no data.pkl".to_owned()).at(path));
        };
        let folder = description.trim_end_matches("data.pkl").to_owned();
        let (start, length) = entries[&description];
        if length > DESCRIPTION_BYTES {
            return Err(Trouble::Form(format!("its data.pkl has {length} bytes")).at(path));
        }
        let mut bytes = vec![0; length as usize];
        let read = file.seek(SeekFrom::Start(start)).and_then(|_| file.read_exact(&mut bytes));
        read.map_err(|error| Error::io("read", path, error))?;
        let tensors = read_state_dict(&bytes).map_err(|what| Trouble::Form(what).at(path))?;
        let opened = Self { path: path.to_owned(), file, entries, folder, tensors };
        for (name, tensor) in &opened.tensors {
            opened.place(name, tensor)?;
        }
        Ok(opened)
    }

    /// The names of the tensors, in the file's order.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.iter().map(|(name, _)| name.as_str())
    }

    /// The shape of a tensor; `None` when it is not there.
    pub(crate) fn shape(&self, name: &str) -> Option<Vec<i64>> {
        self.find(name).map(|tensor| tensor.shape.clone())
    }

    /// The type of a tensor's elements, in the words of safetensors.
    pub(crate) fn element_type(&self, name: &str) -> Option<String> {
        self.find(name).and_then(|tensor| dtype_name(tensor.kind)).map(str::to_owned)
    }

    fn find(&self, name: &str) -> Option<&PickledTensor> {
        self.tensors.iter().find(|(known, _)| known == name).map(|(_, tensor)| tensor)
    }

    /// A tensor on the CPU in the type it is stored in.
    ///
    /// # Errors
    /// When it is not there or the disk refuses.
    pub(crate) fn read(&mut self, name: &str) -> Result<Tensor> {
        let Some(tensor) = self.find(name).cloned() else {
            return Err(Error::invalid_data(format!("`{}` holds no tensor `{name}`", self.path.display())));
        };
        let (start, length) = self.place(name, &tensor)?;
        let mut bytes = vec![0; length as usize];
        let read = self.file.seek(SeekFrom::Start(start)).and_then(|_| self.file.read_exact(&mut bytes));
        read.map_err(|error| Error::io("read", &self.path, error))?;
        let elements = (bytes.len() / tensor.kind.elt_size_in_bytes()) as i64;
        let flat = Tensor::from_data_size(&bytes, &[elements], tensor.kind);
        Ok(flat.as_strided(&tensor.shape, &tensor.strides, 0).contiguous())
    }

    /// Where the bytes of a tensor begin in the file, and how many there are, from its first element to its last.
    fn place(&self, name: &str, tensor: &PickledTensor) -> Result<(u64, u64)> {
        let wrong = || Trouble::Form(format!("tensor `{name}` does not fit into its storage")).at(&self.path);
        let (start, length) = *self.entries.get(&format!("{}data/{}", self.folder, tensor.storage)).ok_or_else(wrong)?;
        let (mut span, mut n_elements): (u64, u64) = (1, 1);
        for (size, stride) in tensor.shape.iter().zip(&tensor.strides) {
            let (size, stride) = (u64::try_from(*size).map_err(|_| wrong())?, u64::try_from(*stride).map_err(|_| wrong())?);
            if size == 0 {
                return Ok((start, 0));
            }
            n_elements = n_elements.checked_mul(size).ok_or_else(wrong)?;
            span = (size - 1).checked_mul(stride).and_then(|far| span.checked_add(far)).ok_or_else(wrong)?;
        }
        let width = tensor.kind.elt_size_in_bytes() as u64;
        let from = (tensor.offset as u64).checked_mul(width).ok_or_else(wrong)?;
        let bytes = span.checked_mul(width).ok_or_else(wrong)?;
        // A view that repeats elements could ask for any amount of memory; no parameter is one.
        if n_elements > span || from.checked_add(bytes).is_none_or(|end| end > length) {
            return Err(wrong());
        }
        Ok((start + from, bytes))
    }
}

/// Why an archive cannot be read.
enum Trouble {
    Io(std::io::Error),
    Form(String),
}

impl From<std::io::Error> for Trouble {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

impl Trouble {
    fn at(self, path: &Path) -> Error {
        match self {
            Self::Io(error) if error.kind() != std::io::ErrorKind::UnexpectedEof => Error::io("read", path, error),
            Self::Io(_) => Self::Form("it is cut off".to_owned()).at(path),
            Self::Form(what) => Error::invalid_data(format!("`{}` is no file of tensors from torch: {what}", path.display()))
                .with_hint(
                    "expected what `torch.save(state_dict, file)` writes since torch 1.6; if the file was cut off, fetch it again",
                ),
        }
    }
}

const END: &[u8] = b"PK\x05\x06";
const END_64_LOCATOR: &[u8] = b"PK\x06\x07";
const END_64: &[u8] = b"PK\x06\x06";
const CENTRAL: &[u8] = b"PK\x01\x02";
const LOCAL: &[u8] = b"PK\x03\x04";

/// The entries of a zip archive (APPNOTE 6.3.10): where each one's bytes begin, and how many there are.
fn read_directory(file: &mut File) -> Result<BTreeMap<String, (u64, u64)>, Trouble> {
    let length = file.seek(SeekFrom::End(0))?;
    let tail_start = length.saturating_sub(22 + 65_535 + 20);
    let tail = read_at(file, tail_start, length - tail_start)?;
    let end = (0..tail.len().saturating_sub(21)).rev().find(|at| tail[*at..].starts_with(END));
    let Some(end) = end else {
        return Err(Trouble::Form("it is no zip archive, or it is cut off".to_owned()));
    };
    let (mut count, mut size, mut start) =
        (u64::from(u16_at(&tail, end + 10)), u64::from(u32_at(&tail, end + 12)), u64::from(u32_at(&tail, end + 16)));
    // Large archives say it in wider fields, which a locator right before the end points at.
    if let Some(locator) = end.checked_sub(20).filter(|at| tail[*at..].starts_with(END_64_LOCATOR)) {
        let record = read_at(file, u64_at(&tail, locator + 8), 56)?;
        if !record.starts_with(END_64) {
            return Err(Trouble::Form("its directory is damaged".to_owned()));
        }
        (count, size, start) = (u64_at(&record, 32), u64_at(&record, 40), u64_at(&record, 48));
    }
    if start.checked_add(size).is_none_or(|end| end > length) {
        return Err(Trouble::Form("it is cut off".to_owned()));
    }
    let directory = read_at(file, start, size)?;
    let mut entries = BTreeMap::new();
    let mut at = 0;
    for _ in 0..count {
        let damaged = || Trouble::Form("its directory is damaged".to_owned());
        let record = directory.get(at..).filter(|rest| rest.len() >= 46 && rest.starts_with(CENTRAL)).ok_or_else(damaged)?;
        let lengths = [28, 30, 32].map(|field| usize::from(u16_at(record, field)));
        let whole = record.get(..46 + lengths.iter().sum::<usize>()).ok_or_else(damaged)?;
        let name = String::from_utf8_lossy(&whole[46..46 + lengths[0]]).into_owned();
        if u16_at(record, 10) != 0 {
            return Err(Trouble::Form(format!("`{name}` in it is compressed")));
        }
        let (mut bytes, mut header) = (u64::from(u32_at(record, 24)), u64::from(u32_at(record, 42)));
        widen(
            &whole[46 + lengths[0]..46 + lengths[0] + lengths[1]],
            [u32_at(record, 24), u32_at(record, 20)],
            &mut bytes,
            &mut header,
        );
        let local = read_at(file, header, 30)?;
        if !local.starts_with(LOCAL) {
            return Err(damaged());
        }
        let begin = header + 30 + u64::from(u16_at(&local, 26)) + u64::from(u16_at(&local, 28));
        if begin.checked_add(bytes).is_none_or(|end| end > length) {
            return Err(Trouble::Form("it is cut off".to_owned()));
        }
        entries.insert(name, (begin, bytes));
        at += whole.len();
    }
    Ok(entries)
}

/// Takes sizes that do not fit 32 bits from the zip64 field, which lists those that were left at their maximum, in order.
fn widen(mut extra: &[u8], [size, packed]: [u32; 2], bytes: &mut u64, header: &mut u64) {
    while extra.len() >= 4 {
        let (id, length) = (u16_at(extra, 0), usize::from(u16_at(extra, 2)));
        let Some(field) = extra.get(4..4 + length) else { return };
        if id == 1 {
            let mut wide = field.chunks_exact(8).map(|eight| u64_at(eight, 0));
            if size == u32::MAX {
                *bytes = wide.next().unwrap_or(*bytes);
            }
            if packed == u32::MAX {
                wide.next();
            }
            if *header == u64::from(u32::MAX) {
                *header = wide.next().unwrap_or(*header);
            }
        }
        extra = &extra[4 + length..];
    }
}

fn read_at(file: &mut File, start: u64, length: u64) -> Result<Vec<u8>, Trouble> {
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    if file.take(length).read_to_end(&mut bytes)? as u64 != length {
        return Err(Trouble::Form("it is cut off".to_owned()));
    }
    Ok(bytes)
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::safetensors_file::SafetensorsFile;

    fn golden(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden_recovery").join(name)
    }

    #[test]
    fn types_views_and_shared_storages_are_read_as_torch_means_them() {
        let mut plain = SafetensorsFile::open(&golden("layouts.safetensors")).expect("a golden file");
        let mut file = TorchFile::open(&golden("layouts.bin")).expect("a golden file");
        let mut names: Vec<String> = file.names().map(str::to_owned).collect();
        names.sort();
        assert_eq!(names, plain.names());
        for name in names {
            let (want, got) = (plain.read(&name).expect("there"), file.read(&name).expect("there"));
            assert_eq!((got.size(), got.kind(), file.shape(&name)), (want.size(), want.kind(), Some(want.size())), "{name}");
            assert_eq!(got, want, "{name}");
        }
        assert!(file.read("other").is_err() && file.shape("other").is_none());
    }

    #[test]
    fn cut_and_changed_files_are_errors_never_panics() {
        let dir = tempfile::tempdir().expect("a folder");
        let (path, whole) = (dir.path().join("x.bin"), std::fs::read(golden("layouts.bin")).expect("a golden file"));
        for length in (0..whole.len()).step_by(7) {
            std::fs::write(&path, &whole[..length]).expect("written");
            let error = TorchFile::open(&path).err().unwrap_or_else(|| panic!("{length} bytes were taken for whole"));
            assert!(error.message().contains("is no file of tensors from torch"), "{error}");
        }
        // Whatever a changed byte makes of the file, reading it ends.
        for place in (0..whole.len()).step_by(5) {
            let mut changed = whole.clone();
            changed[place] ^= 0xff;
            std::fs::write(&path, &changed).expect("written");
            if let Ok(mut file) = TorchFile::open(&path) {
                let names: Vec<String> = file.names().map(str::to_owned).collect();
                names.iter().for_each(|name| drop(file.read(name)));
            }
        }
    }
}
