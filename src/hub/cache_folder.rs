//! One model's part of the hub's cache, in the layout that Hugging Face's tools share:
//!
//! ```text
//! models--owner--name/blobs/ETAG                    a file's bytes, named by their hash
//!                     blobs/ETAG.incomplete         what has arrived so far
//!                     refs/main                     the commit a branch or tag was at
//!                     snapshots/COMMIT/config.json  a link to a blob
//! .locks/models--owner--name/ETAG.lock              held while a blob is written
//! ```

use std::fs::{File, TryLockError};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use farmhand_core::{CancelFlag, Error, EventSink, Result};

/// The cache of one model.
#[derive(Debug, Clone)]
pub(super) struct CacheFolder {
    root: PathBuf,
    name: String,
}

impl CacheFolder {
    pub(super) fn new(cache: &Path, repo: &str) -> Self {
        Self { root: cache.to_owned(), name: format!("models--{}", repo.replace('/', "--")) }
    }

    fn folder(&self) -> PathBuf {
        self.root.join(&self.name)
    }

    pub(super) fn blob(&self, etag: &str) -> PathBuf {
        self.folder().join("blobs").join(etag)
    }

    pub(super) fn incomplete(&self, etag: &str) -> PathBuf {
        self.folder().join("blobs").join(format!("{etag}.incomplete"))
    }

    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder().join("snapshots").join(commit)
    }

    /// The commit that a revision was at when it was last fetched; a commit is itself.
    pub(super) fn commit_of(&self, revision: &str) -> Option<String> {
        if is_commit(revision) {
            return Some(revision.to_owned());
        }
        let text = std::fs::read_to_string(self.folder().join("refs").join(revision)).ok()?;
        Some(text.trim().to_owned()).filter(|commit| is_commit(commit))
    }

    /// Notes the commit that a branch or tag is at.
    pub(super) fn note_commit(&self, revision: &str, commit: &str) -> Result<()> {
        if revision == commit || self.commit_of(revision).as_deref() == Some(commit) {
            return Ok(());
        }
        let path = self.folder().join("refs").join(revision);
        farmhand_core::run::write_atomic(&path, |out| {
            out.write_all(commit.as_bytes()).map_err(|error| Error::io("write", &path, error))
        })
    }

    /// Makes a blob appear as a file of a snapshot.
    pub(super) fn link(&self, commit: &str, file: &str, etag: &str) -> Result<()> {
        let link = self.snapshot(commit).join(file);
        let up = "../".repeat(2 + file.matches('/').count());
        let target = PathBuf::from(format!("{up}blobs/{etag}"));
        if std::fs::read_link(&link).is_ok_and(|old| old == target) {
            return Ok(());
        }
        make_parent(&link)?;
        let temporary = link.with_file_name(format!(".{etag}.tmp"));
        let _ = std::fs::remove_file(&temporary);
        std::os::unix::fs::symlink(&target, &temporary).map_err(|error| Error::io("make the link", &link, error))?;
        std::fs::rename(&temporary, &link).map_err(|error| Error::io("make the link", &link, error))
    }

    /// Waits until no other process writes this blob; the lock ends with the file.
    pub(super) fn lock(&self, etag: &str, events: &dyn EventSink, cancel: &CancelFlag) -> Result<File> {
        let path = self.root.join(".locks").join(&self.name).join(format!("{etag}.lock"));
        make_parent(&path)?;
        let file = File::options().create(true).write(true).truncate(false).open(&path);
        let file = file.map_err(|error| Error::io("open", &path, error))?;
        let mut told = false;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::Error(error)) => return Err(Error::io("lock", &path, error)),
                Err(TryLockError::WouldBlock) => {
                    if !std::mem::replace(&mut told, true) {
                        events.info("  another process fetches the same file; waiting for it");
                    }
                    cancel.check()?;
                    std::thread::sleep(Duration::from_millis(100));
                }
            }
        }
    }
}

/// Makes the folder of a file.
pub(super) fn make_parent(path: &Path) -> Result<()> {
    let parent = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent).map_err(|error| Error::io("make folder", parent, error))
}

/// Whether a text is a whole commit hash.
pub(super) fn is_commit(text: &str) -> bool {
    text.len() == 40 && is_hexadecimal(text)
}

pub(super) fn is_hexadecimal(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// Whether a name from a server stays inside the folder it is put in.
pub(super) fn is_plain_path(name: &str) -> bool {
    let plain = |part: Component<'_>| matches!(part, Component::Normal(_));
    !name.is_empty() && Path::new(name).components().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_is_the_one_python_reads() {
        let dir = tempfile::tempdir().expect("a folder");
        let (cache, commit) = (CacheFolder::new(dir.path(), "owner/name"), "0123456789abcdef0123456789abcdef01234567");
        let blob = cache.blob("abc");
        assert_eq!(blob, dir.path().join("models--owner--name/blobs/abc"));
        make_parent(&blob).expect("made");
        std::fs::write(&blob, "{}").expect("written");
        for file in ["config.json", "sub/config.json"] {
            cache.link(commit, file, "abc").expect("linked");
            cache.link(commit, file, "abc").expect("linked before");
            assert_eq!(std::fs::read_to_string(cache.snapshot(commit).join(file)).expect("readable"), "{}");
        }
        assert_eq!(cache.commit_of("main"), None);
        cache.note_commit("refs/pr/1", commit).expect("noted");
        assert_eq!(cache.commit_of("refs/pr/1").as_deref(), Some(commit));
        assert_eq!(cache.commit_of(commit).as_deref(), Some(commit));
    }

    #[test]
    fn names_that_lead_elsewhere_are_not_plain() {
        assert!(is_plain_path("a.json") && is_plain_path("sub/a.json"));
        assert!(["", "/etc/passwd", "../x", "a/../../x"].iter().all(|name| !is_plain_path(name)));
    }
}
