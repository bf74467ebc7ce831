//! Plugins opened, compared and entered: the program's side.

use std::path::{Path, PathBuf};
use std::sync::{LazyLock, PoisonError, RwLock};

use super::stamp::{Mismatch, Stamp};
use super::table::{THIS_HOST, Table};
use crate::component::{ComponentInfo, find_component};
use crate::error::{Error, ErrorKind, Result};

/// A plugin that was loaded.
#[derive(Debug)]
pub struct LoadedPlugin {
    /// Its package.
    pub package: String,
    /// Its version.
    pub version: String,
    /// Its file.
    pub path: PathBuf,
    /// What it registers.
    pub components: Vec<&'static ComponentInfo>,
    pub(super) table: &'static Table,
}

static OWN_STAMP: LazyLock<Stamp> = LazyLock::new(Stamp::of_this_program);

static LOADED: RwLock<Vec<&'static LoadedPlugin>> = RwLock::new(Vec::new());

/// Every plugin loaded so far, in the order of loading.
pub fn loaded_plugins() -> Vec<&'static LoadedPlugin> {
    LOADED.read().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Loads what a path names: one plugin, or every `.so` in a folder. What is loaded already is left as it is.
///
/// # Errors
/// As [`load_plugin`]; also when the folder holds none.
pub fn load_plugins(path: &Path) -> Result<()> {
    plugin_files(path)?.iter().try_for_each(|file| load_plugin(file).map(|_| ()))
}

/// The plugins a path names: the file itself, or every `.so` in a folder, sorted.
///
/// # Errors
/// When there is nothing at the path, or no `.so` in the folder.
pub fn plugin_files(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let entries = std::fs::read_dir(path).map_err(|error| Error::io("read the plugin folder", path, error))?;
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|file| file.extension().is_some_and(|end| end == "so"))
        .collect();
    files.sort();
    if files.is_empty() {
        let hint = if path.join("Cargo.toml").is_file() {
            format!("build it first: `farmhand plugin build {}`", path.display())
        } else {
            "a plugin folder holds what `farmhand plugin build` makes, files that end in `.so`".to_owned()
        };
        return Err(Error::missing_input(format!("the folder `{}` holds no plugin", path.display())).with_hint(hint));
    }
    Ok(files)
}

/// Loads one plugin for the rest of the process, after comparing its stamp with this program's. Its components are then found by name
/// like any other.
///
/// Like every shared library, a plugin does what it likes in this process: load only what you trust.
///
/// # Errors
/// When the file is missing or no plugin, was built for another program, cannot be opened, panics, registers nothing, or registers a
/// name that is taken.
pub fn load_plugin(path: &Path) -> Result<&'static LoadedPlugin> {
    let path = path.canonicalize().map_err(|error| {
        Error::io("open the plugin", path, error).with_hint("`farmhand plugin build DIR` makes a plugin and says where it is")
    })?;
    let mut loaded = LOADED.write().unwrap_or_else(PoisonError::into_inner);
    if let Some(plugin) = loaded.iter().find(|plugin| plugin.path == path) {
        return Ok(plugin);
    }
    let stamp = Stamp::of_file(&path)?;
    let mismatches = stamp.mismatches(&OWN_STAMP);
    if !mismatches.is_empty() {
        return Err(another_build(&path, &mismatches));
    }
    if let Some(other) = loaded.iter().find(|plugin| plugin.package == stamp.package()) {
        let message = format!("plugin `{}` is there twice: `{}` and `{}`", stamp.package(), other.path.display(), path.display());
        return Err(Error::invalid_config(message).with_hint("name one of the two"));
    }
    // Its functions look here for components too; nobody may wait for us while they run.
    drop(loaded);
    let symbol = format!("farmhand_plugin_{}", stamp.package());
    let declaration = crate::dylib::open_plugin(&path, &symbol).map_err(|error| {
        let message = format!("the plugin `{}` cannot be opened", path.display());
        Error::new(ErrorKind::IncompatiblePlugin, message)
            .with_source(error)
            .with_hint("build it again with `farmhand plugin build`")
    })?;
    let package: &'static str = stamp.package().to_owned().leak();
    let offer = (declaration.start)(&THIS_HOST, package).map_err(|error| error.context(format_args!("`{}`", path.display())))?;
    if offer.components.is_empty() {
        let message = format!("the plugin `{}` registers no component", path.display());
        return Err(Error::new(ErrorKind::IncompatiblePlugin, message).with_hint(
            "`farmhand_core::register!` and `#[typetag::serde]` stand beside each component; they must belong to the plugin's own package",
        ));
    }
    refuse_taken_names(&offer.components, package, &path)?;
    let plugin = Box::leak(Box::new(LoadedPlugin {
        package: package.to_owned(),
        version: stamp.version().to_owned(),
        path,
        components: offer.components,
        table: offer.table,
    }));
    loaded = LOADED.write().unwrap_or_else(PoisonError::into_inner);
    loaded.push(plugin);
    Ok(plugin)
}

fn another_build(path: &Path, mismatches: &[Mismatch]) -> Error {
    const SHOWN: usize = 8;
    let mut message = format!("the plugin `{}` was built for another farmhand:", path.display());
    for mismatch in mismatches.iter().take(SHOWN) {
        message +=
            &format!("\n  {}: the plugin has `{}`, this farmhand `{}`", mismatch.field, mismatch.plugin, mismatch.farmhand);
    }
    if let Some(more @ 1..) = mismatches.len().checked_sub(SHOWN) {
        message += &format!("\n  and {more} more");
    }
    Error::new(ErrorKind::IncompatiblePlugin, message)
        .with_hint("build it again with this farmhand: `farmhand plugin build DIR`, where DIR is the plugin's crate")
}

fn refuse_taken_names(components: &[&'static ComponentInfo], package: &str, path: &Path) -> Result<()> {
    for (i, info) in components.iter().enumerate() {
        let twice = components[..i].iter().copied().find(|other| other.kind == info.kind && other.name == info.name);
        let Some(other) = twice.or_else(|| find_component(info.kind, info.name)) else { continue };
        let owner = match loaded_plugins().iter().find(|plugin| plugin.package == other.package) {
            Some(plugin) => format!("the plugin `{}` (`{}`)", plugin.package, plugin.path.display()),
            None => format!("`{}`", other.package),
        };
        let message = format!(
            "the name of {} `{}` is taken twice: by {owner}, and by the plugin `{package}` (`{}`)",
            info.kind.noun(),
            info.name,
            path.display()
        );
        return Err(Error::invalid_config(message)
            .with_hint("rename the plugin's component: in `register!` and in `#[typetag::serde(name = …)]`"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_names_its_libraries_and_an_empty_one_says_what_to_do() {
        let dir = tempfile::tempdir().expect("a folder");
        let error = plugin_files(dir.path()).expect_err("none");
        assert!(error.to_string().contains("holds no plugin"), "{error}");
        std::fs::write(dir.path().join("Cargo.toml"), "").expect("written");
        assert!(plugin_files(dir.path()).expect_err("none").hint().is_some_and(|hint| hint.contains("plugin build")));
        for name in ["b.so", "a.so", "notes.txt"] {
            std::fs::write(dir.path().join(name), "").expect("written");
        }
        assert_eq!(plugin_files(dir.path()).expect("two"), [dir.path().join("a.so"), dir.path().join("b.so")]);
        assert!(load_plugin(&dir.path().join("c.so")).expect_err("missing").to_string().contains("cannot open the plugin"));
    }

    #[test]
    fn both_sides_of_a_difference_are_shown() {
        let mismatch =
            |i: usize| Mismatch { field: format!("field {i}"), plugin: "theirs".to_owned(), farmhand: "ours".to_owned() };
        let all: Vec<Mismatch> = (0..10).map(mismatch).collect();
        let error = another_build(Path::new("a.so"), &all);
        assert_eq!(error.kind(), ErrorKind::IncompatiblePlugin);
        assert!(error.to_string().contains("field 7: the plugin has `theirs`, this farmhand `ours`\n  and 2 more"), "{error}");
        assert!(!another_build(Path::new("a.so"), &all[..8]).to_string().contains("more"));
    }
}
