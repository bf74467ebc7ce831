//! Where things lie: the repository, and the cache outside of it when there is one.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::failure::{Failure, Result};

/// The folders these tasks work in.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    /// The root of the repository.
    pub(crate) root: PathBuf,
    /// A folder outside of the repository that keeps libtorch and compiled crates for every clone.
    pub(crate) cache: Option<PathBuf>,
}

impl Places {
    /// Finds them from the environment; `shared` creates the cache folder in the user's home first.
    pub(crate) fn find(shared: bool) -> Result<Self> {
        let manifest = std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
        let root = manifest.parent().map(Path::to_path_buf).ok_or_else(|| Failure::new("xtask lies in no repository"))?;
        let var = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        if shared {
            let cache = home_cache(var).ok_or_else(|| {
                Failure::new("there is no home folder to keep a shared cache in").with_hint("set FARMHAND_CACHE to a folder")
            })?;
            std::fs::create_dir_all(&cache).map_err(|error| Failure::io("create", &cache, &error))?;
        }
        let cache = cache(var, |path| path.is_dir()).map(|path| std::path::absolute(&path).unwrap_or(path));
        Ok(Self { root, cache })
    }

    /// The folder that holds `torch/` and `nvidia/` when these tasks manage libtorch.
    pub(crate) fn libtorch(&self) -> PathBuf {
        match &self.cache {
            Some(cache) => cache.join(format!("libtorch-{}", crate::libtorch::VERSION)),
            None => self.root.join(".libtorch"),
        }
    }
}

/// `$FARMHAND_CACHE`, created when needed; otherwise the cache in the user's home, but only if it exists:
/// nothing is put into a home folder unasked.
fn cache(var: impl Fn(&str) -> Option<OsString>, exists: impl Fn(&Path) -> bool) -> Option<PathBuf> {
    match var("FARMHAND_CACHE") {
        Some(path) => Some(path.into()),
        None => home_cache(var).filter(|path| exists(path)),
    }
}

/// `$XDG_CACHE_HOME/farmhand`, or `~/.cache/farmhand`.
fn home_cache(var: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let xdg = var("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let caches = xdg.or_else(|| Some(PathBuf::from(var("HOME")?).join(".cache")))?;
    Some(caches.join("farmhand"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(vars: &[(&str, &str)], existing: &[&str]) -> Option<PathBuf> {
        let var = |name: &str| vars.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value));
        cache(var, |path| existing.iter().any(|known| Path::new(known) == path))
    }

    #[test]
    fn a_named_cache_wins_and_need_not_exist() {
        assert_eq!(found(&[("FARMHAND_CACHE", "/c"), ("HOME", "/h")], &["/h/.cache/farmhand"]), Some("/c".into()));
    }

    #[test]
    fn a_cache_at_home_counts_only_if_it_exists() {
        assert_eq!(found(&[("HOME", "/h")], &[]), None);
        assert_eq!(found(&[("HOME", "/h")], &["/h/.cache/farmhand"]), Some("/h/.cache/farmhand".into()));
        let vars = [("XDG_CACHE_HOME", "/x"), ("HOME", "/h")];
        assert_eq!(found(&vars, &["/h/.cache/farmhand"]), None);
        assert_eq!(found(&vars, &["/x/farmhand"]), Some("/x/farmhand".into()));
        assert_eq!(found(&[], &[]), None);
    }
}
