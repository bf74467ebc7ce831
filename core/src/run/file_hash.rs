//! Hashes of files and folders, read once a run as long as nothing changes them.

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256};

use super::atomic::sorted_entries;
use crate::error::{Error, Result};

/// The SHA-256 of a file, in hexadecimal.
///
/// # Errors
/// When it cannot be read.
pub fn file_hash(path: &Path) -> Result<String> {
    let mut file = File::open(path).map_err(|error| Error::io("read", path, error))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer).map_err(|error| Error::io("read", path, error))? {
            0 => break,
            n => hash.update(&buffer[..n]),
        }
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The SHA-256 of a file, or of a folder's file names and contents, in hexadecimal.
///
/// # Errors
/// When something cannot be read.
pub fn hash_path(path: &Path) -> Result<String> {
    hash_tree(path, &file_hash)
}

fn hash_tree(path: &Path, of_file: &dyn Fn(&Path) -> Result<String>) -> Result<String> {
    if !path.is_dir() {
        return of_file(path);
    }
    let mut hash = Sha256::new();
    for entry in sorted_entries(path)? {
        let name = entry.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        hash.update((name.len() as u64).to_le_bytes());
        hash.update(name.as_bytes());
        hash.update(hash_tree(&entry, of_file)?.as_bytes());
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// What changes when a file does: place on the disk, length, and the time of the last change to contents or name.
type Stamp = (u64, u64, u64, i64, i64);

/// A change within this time of another may leave the clock of the file system where it was.
const SETTLED: Duration = Duration::from_secs(2);

/// The hashes of files that were read before. A file is read again when its stamp is another, or so young that a further change
/// might not have shown in it.
#[derive(Debug, Default)]
pub(super) struct KnownHashes(Mutex<HashMap<PathBuf, (Stamp, String)>>);

impl KnownHashes {
    /// As [`file_hash`].
    pub(super) fn file(&self, path: &Path) -> Result<String> {
        let stamp = std::fs::metadata(path).ok().as_ref().and_then(settled);
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let (Some(stamp), Some((old, hash))) = (stamp, known.get(path))
            && stamp == *old
        {
            return Ok(hash.clone());
        }
        let hash = file_hash(path)?;
        if let Some(stamp) = stamp {
            known.insert(path.to_owned(), (stamp, hash.clone()));
        }
        Ok(hash)
    }

    /// As [`hash_path`].
    pub(super) fn path(&self, path: &Path) -> Result<String> {
        hash_tree(path, &|file| self.file(file))
    }
}

fn settled(metadata: &Metadata) -> Option<Stamp> {
    let changed = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(metadata.ctime()).ok()?);
    let age = SystemTime::now().duration_since(changed).ok()?;
    (age > SETTLED).then(|| stamp(metadata))
}

fn stamp(metadata: &Metadata) -> Stamp {
    (metadata.dev(), metadata.ino(), metadata.len(), metadata.ctime(), metadata.ctime_nsec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_again_only_when_it_changed_or_is_young() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("a");
        std::fs::write(&path, "one").expect("written");
        let known = KnownHashes::default();
        assert_eq!(known.file(&path).expect("read"), file_hash(&path).expect("read"));
        assert!(known.0.lock().expect("free").is_empty(), "it is too young to be remembered");
        // A remembered hash is used as long as the stamp fits, and no longer.
        let stamp = stamp(&std::fs::metadata(&path).expect("there"));
        known.0.lock().expect("free").insert(path.clone(), (stamp, "remembered".to_owned()));
        std::thread::sleep(SETTLED + Duration::from_millis(1100));
        assert_eq!(known.file(&path).expect("known"), "remembered");
        std::fs::write(&path, "two").expect("written");
        assert_eq!(known.file(&path).expect("read"), file_hash(&path).expect("read"));
        assert_eq!(known.path(dir.path()).expect("hashed"), hash_path(dir.path()).expect("hashed"));
    }
}
