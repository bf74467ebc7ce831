//! The folder outside of any run for what other runs can use again.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// `$FARMHAND_CACHE`, made when something is kept; otherwise `farmhand` in `$XDG_CACHE_HOME` or `~/.cache`, but only if it is
/// there: nothing is put into a home folder unasked.
pub(crate) fn cache_dir() -> Option<PathBuf> {
    find(|name| std::env::var_os(name).filter(|value| !value.is_empty()), Path::is_dir)
}

fn find(var: impl Fn(&str) -> Option<OsString>, exists: impl Fn(&Path) -> bool) -> Option<PathBuf> {
    if let Some(named) = var("FARMHAND_CACHE") {
        return Some(named.into());
    }
    let xdg = var("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let caches = xdg.or_else(|| Some(PathBuf::from(var("HOME")?).join(".cache")))?;
    Some(caches.join("farmhand")).filter(|path| exists(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_cache_need_not_exist_and_one_at_home_must() {
        let found = |vars: &[(&str, &str)], existing: &str| {
            let var = |name: &str| vars.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value));
            find(var, |path| path == Path::new(existing))
        };
        assert_eq!(found(&[("FARMHAND_CACHE", "/c"), ("HOME", "/h")], ""), Some("/c".into()));
        assert_eq!(found(&[("HOME", "/h")], "/h/.cache/farmhand"), Some("/h/.cache/farmhand".into()));
        assert_eq!(found(&[("HOME", "/h")], ""), None);
        assert_eq!(found(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")], "/x/farmhand"), Some("/x/farmhand".into()));
        assert_eq!(found(&[], ""), None);
    }
}
