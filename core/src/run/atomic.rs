//! Files that are there whole or not at all: written under a temporary name, synced, renamed.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

fn temporary(path: &Path) -> PathBuf {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    path.with_file_name(format!(".{name}.tmp"))
}

fn sync_dir(path: &Path) -> Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let dir = File::open(parent).map_err(|error| Error::io("open", parent, error))?;
    dir.sync_all().map_err(|error| Error::io("sync", parent, error))
}

/// Writes a file: it is there whole or not at all, even after a crash. Missing parent folders are made.
///
/// # Errors
/// When the disk refuses, or `write` does.
pub fn write_atomic(path: &Path, write: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(|error| Error::io("make folder", parent, error))?;
    }
    let temporary = temporary(path);
    let result = write_and_rename(path, &temporary, write);
    if result.is_err() {
        // The half-written file is worthless and would hold space on a full disk.
        let _ = std::fs::remove_file(&temporary);
    }
    result
}

fn write_and_rename(path: &Path, temporary: &Path, write: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    let file = File::create(temporary).map_err(|error| Error::io("write", temporary, error))?;
    let mut writer = BufWriter::new(file);
    write(&mut writer)?;
    let file = writer.into_inner().map_err(|error| Error::io("write", path, error.into_error()))?;
    file.sync_all().map_err(|error| Error::io("write", path, error))?;
    std::fs::rename(temporary, path).map_err(|error| Error::io("rename to", path, error))?;
    sync_dir(path)
}

/// Makes a folder and fills it: it is there whole or not at all. An existing folder of that name is replaced.
///
/// # Errors
/// When the disk refuses, or `fill` does.
pub fn write_dir_atomic(path: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let temporary = temporary(path);
    let clear = |dir: &Path| match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", dir, error)),
        _ => Ok(()),
    };
    clear(&temporary)?;
    std::fs::create_dir_all(&temporary).map_err(|error| Error::io("make folder", &temporary, error))?;
    if let Err(error) = fill(&temporary).and_then(|()| sync_files(&temporary)) {
        let _ = std::fs::remove_dir_all(&temporary);
        return Err(error);
    }
    clear(path)?;
    std::fs::rename(&temporary, path).map_err(|error| Error::io("rename to", path, error))?;
    sync_dir(path)
}

fn sync_files(dir: &Path) -> Result<()> {
    for path in sorted_entries(dir)? {
        if path.is_dir() {
            sync_files(&path)?;
        } else {
            let file = File::open(&path).map_err(|error| Error::io("open", &path, error))?;
            file.sync_all().map_err(|error| Error::io("sync", &path, error))?;
        }
    }
    Ok(())
}

pub(super) fn sorted_entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(dir).map_err(|error| Error::io("list", dir, error))?;
    let mut paths = entries
        .map(|entry| entry.map(|entry| entry.path()).map_err(|error| Error::io("list", dir, error)))
        .collect::<Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::hash_path;

    #[test]
    fn a_failed_write_leaves_the_old_file_and_nothing_else() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("a/b.txt");
        write_atomic(&path, |out| out.write_all(b"one").map_err(|e| Error::io("write", Path::new("x"), e))).expect("written");
        let failed = write_atomic(&path, |out| {
            let _ = out.write_all(b"half");
            Err(Error::other("no"))
        });
        assert!(failed.is_err());
        assert_eq!(std::fs::read_to_string(&path).expect("readable"), "one");
        assert_eq!(std::fs::read_dir(dir.path().join("a")).expect("listed").count(), 1);
    }

    #[test]
    fn folders_are_replaced_whole_and_their_hash_follows_names_and_contents() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("state");
        let fill = |name: &'static str, text: &'static str| {
            move |dir: &Path| std::fs::write(dir.join(name), text).map_err(|e| Error::io("write", dir, e))
        };
        write_dir_atomic(&path, fill("a", "1")).expect("written");
        let first = hash_path(&path).expect("hashed");
        write_dir_atomic(&path, fill("b", "1")).expect("written");
        assert!(!path.join("a").exists());
        assert_ne!(first, hash_path(&path).expect("hashed"));
        assert!(write_dir_atomic(&path, |_| Err(Error::other("no"))).is_err());
        assert!(path.join("b").exists());
    }
}
