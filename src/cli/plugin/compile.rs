//! `farmhand plugin build`: cargo, with what makes the plugin fit this program.
//!
//! A new crate starts from farmhand's own lock file, so that both use the same versions, and is compiled with farmhand's own build profile
//! in the folder where farmhand keeps what it compiled, so that libtorch's bindings are not compiled again.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use farmhand_core::plugin::Stamp;
use farmhand_core::run::write_atomic;
use farmhand_core::{Error, ErrorKind, Result};
use serde_json::{Value, json};

use super::sources;
use crate::cli::args::{Cli, PluginBuildArgs};
use crate::cli::terminal::Terminal;
use crate::pipeline::CANCEL;

/// The crates of farmhand that a plugin may be linked with: they are compiled as farmhand compiles its own code.
const OWN_CRATES: [&str; 8] = [
    "farmhand-core",
    "farmhand-endpoints",
    "farmhand-models",
    "farmhand-plugins",
    "farmhand-annotators",
    "farmhand-evaluators",
    "farmhand-analysis",
    "farmhand-external",
];

/// Builds the plugin, compares it with this program, and leaves it in the crate's folder.
pub(super) fn build(args: &PluginBuildArgs, cli: &Cli, terminal: &Terminal) -> Result<()> {
    let dir = &args.dir;
    let manifest = dir.join("Cargo.toml");
    if !manifest.is_file() {
        return Err(Error::missing_input(format!("`{}` holds no crate: there is no Cargo.toml", dir.display()))
            .with_hint("`farmhand plugin new NAME` writes one"));
    }
    let sources = sources(args.farmhand.as_deref())?;
    start_from_own_versions(dir, &sources, args.update)?;
    let library = compile(&manifest, &sources, args.release, cli.quiet)?;
    let stamp = Stamp::of_file(&library)?;
    let path = dir.join(format!("{}.so", stamp.package()));
    copy(&library, &path)?;
    let mismatches = stamp.mismatches(&Stamp::of_this_program());
    if let Some(first) = mismatches.first() {
        let message = format!(
            "`{}` is built, but not for this farmhand: {}: the plugin has `{}`, this farmhand `{}`",
            path.display(),
            first.field,
            first.plugin,
            first.farmhand
        );
        let hint = if first.field.starts_with("package ") {
            format!("`farmhand plugin build {} --update` takes the versions of this farmhand", dir.display())
        } else {
            "build farmhand again from the same sources and with the same compiler, then the plugin".to_owned()
        };
        return Err(Error::new(ErrorKind::IncompatiblePlugin, message).with_hint(hint));
    }
    if cli.json {
        return crate::cli::print_json(&json!({ "path": path, "package": stamp.package(), "version": stamp.version() }));
    }
    terminal.note(&format!(
        "an experiment loads it with `plugins = [\"{}\"]`, other commands with `--plugin {}`",
        path.display(),
        path.display()
    ));
    crate::cli::print(&format!("{}\n", path.display()))
}

/// A crate without a lock file gets farmhand's: cargo keeps the versions in it and drops what the crate does not use.
pub(super) fn start_from_own_versions(dir: &Path, sources: &Path, again: bool) -> Result<()> {
    let lock = dir.join("Cargo.lock");
    if lock.exists() && !again {
        return Ok(());
    }
    copy(&sources.join("Cargo.lock"), &lock)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let bytes = std::fs::read(from).map_err(|error| Error::io("read", from, error))?;
    write_atomic(to, |out| out.write_all(&bytes).map_err(|error| Error::io("write", to, error)))
}

/// Runs cargo and gives back the library it made. Its messages go to the terminal.
fn compile(manifest: &Path, sources: &Path, release: bool, quiet: bool) -> Result<PathBuf> {
    let target = manifest.with_file_name("target");
    std::fs::create_dir_all(&target).map_err(|error| Error::io("create", &target, error))?;
    let profile = target.join("farmhand-profile.toml");
    let text = build_profile(sources)?;
    write_atomic(&profile, |out| out.write_all(text.as_bytes()).map_err(|error| Error::io("write", &profile, error)))?;

    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--lib", "--message-format", "json-render-diagnostics", "--manifest-path"]).arg(manifest);
    cargo.arg("--config").arg(&profile);
    if release {
        cargo.arg("--release");
    }
    if quiet {
        cargo.arg("--quiet");
    }
    let unset = |name: &str| std::env::var_os(name).is_none_or(|value| value.is_empty());
    if unset("LIBTORCH") {
        cargo.env("LIBTORCH", env!("FARMHAND_LIBTORCH_DIR"));
    }
    let shared = Path::new(env!("FARMHAND_BUILD_DIR"));
    if unset("CARGO_TARGET_DIR") && unset("CARGO_BUILD_BUILD_DIR") && shared.is_dir() {
        cargo.env("CARGO_BUILD_BUILD_DIR", shared);
    }
    let mut child = cargo.stdout(Stdio::piped()).spawn().map_err(|error| {
        Error::other("cannot start cargo, which compiles the plugin")
            .with_source(error)
            .with_hint("install Rust as farmhand's README says, or set CARGO to the program")
    })?;
    let mut library = None;
    let out = child.stdout.take().expect("piped");
    for line in BufReader::new(out).lines() {
        let line = line.map_err(|error| Error::other("cannot read what cargo says").with_source(error))?;
        library = made_library(&line, manifest).or(library);
    }
    let status = child.wait().map_err(|error| Error::other("cannot wait for cargo").with_source(error))?;
    if CANCEL.is_cancelled() {
        return Err(Error::cancelled());
    }
    if !status.success() {
        return Err(Error::other(format!("the plugin in `{}` was not built", manifest.with_file_name("").display()))
            .with_hint("cargo's messages above say why"));
    }
    library.ok_or_else(|| {
        Error::invalid_config(format!("`{}` makes no shared library", manifest.display()))
            .with_hint("put `crate-type = [\"cdylib\"]` under `[lib]`")
    })
}

/// The shared library that one of cargo's messages tells of, if it is of this crate.
fn made_library(line: &str, manifest: &Path) -> Option<PathBuf> {
    let message: Value = serde_json::from_str(line).ok()?;
    let same = Path::new(message.get("manifest_path")?.as_str()?).canonicalize().ok()? == manifest.canonicalize().ok()?;
    let files = message.get("filenames")?.as_array()?;
    let library =
        files.iter().filter_map(Value::as_str).map(Path::new).find(|file| file.extension().is_some_and(|end| end == "so"))?;
    (same && message["reason"] == "compiler-artifact").then(|| library.to_owned())
}

/// Farmhand's own build profile as a configuration of cargo's, farmhand's crates included.
fn build_profile(sources: &Path) -> Result<String> {
    let path = sources.join("Cargo.toml");
    let text = std::fs::read_to_string(&path).map_err(|error| Error::io("read", &path, error))?;
    let broken = |error: &dyn std::fmt::Display| Error::invalid_data(format!("`{}`: {error}", path.display()));
    let whole: toml::Table = text.parse().map_err(|error| broken(&error))?;
    let mut profiles = whole.get("profile").and_then(toml::Value::as_table).cloned().unwrap_or_default();
    if let Some(dev) = profiles.get_mut("dev").and_then(toml::Value::as_table_mut) {
        let own: toml::Table =
            ["opt-level", "debug"].into_iter().filter_map(|key| Some((key.to_owned(), dev.get(key)?.clone()))).collect();
        let packages = dev.entry("package").or_insert_with(|| toml::Table::new().into());
        for name in OWN_CRATES {
            let table = packages.as_table_mut().map(|packages| packages.entry(name).or_insert_with(|| toml::Table::new().into()));
            if let Some(table) = table.and_then(toml::Value::as_table_mut) {
                own.iter().for_each(|(key, value)| _ = table.entry(key).or_insert_with(|| value.clone()));
            }
        }
    }
    let config = toml::Table::from_iter([("profile".to_owned(), profiles.into())]);
    toml::to_string(&config).map_err(|error| broken(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_build_profile_compiles_farmhands_crates_as_farmhand_does() {
        let text = build_profile(Path::new(env!("CARGO_MANIFEST_DIR"))).expect("made");
        let config: toml::Table = text.parse().expect("TOML");
        let dev = &config["profile"]["dev"];
        assert_eq!(dev["package"]["farmhand-models"]["opt-level"], dev["opt-level"]);
        assert_eq!(dev["package"]["farmhand-evaluators"]["opt-level"].as_integer(), Some(3), "what is set stays");
        assert_eq!(dev["package"]["*"]["opt-level"].as_integer(), Some(0));
    }

    #[test]
    fn the_library_is_found_among_cargos_messages() {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
        let line = |reason: &str, path: &Path| {
            json!({ "reason": reason, "manifest_path": path, "filenames": ["/t/liba.rlib", "/t/liba.so"] }).to_string()
        };
        assert_eq!(made_library(&line("compiler-artifact", &manifest), &manifest), Some(PathBuf::from("/t/liba.so")));
        let other = Path::new(env!("CARGO_MANIFEST_DIR")).join("core/Cargo.toml");
        assert_eq!(made_library(&line("compiler-artifact", &other), &manifest), None);
        assert_eq!(made_library(&line("build-finished", &manifest), &manifest), None);
        assert_eq!(made_library("not JSON", &manifest), None);
    }
}
