//! Runs cargo and what it builds, with libtorch in the environment.

use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::failure::{Failure, Result};
use crate::libtorch::Libtorch;
use crate::places::Places;

/// A repository with its libtorch: everything a cargo command needs to know.
#[derive(Debug)]
pub(crate) struct Workshop {
    /// The folders.
    pub(crate) places: Places,
    libtorch: Libtorch,
}

impl Workshop {
    /// Sets libtorch up when it is missing.
    pub(crate) fn open(places: Places) -> Result<Self> {
        let libtorch = crate::libtorch::set_up(&places)?;
        Ok(Self { places, libtorch })
    }

    /// The variables cargo runs with, `LD_LIBRARY_PATH` in front of what it holds: it is for documentation tests, which no
    /// link argument reaches.
    ///
    /// A cache keeps compiled crates for all clones (cargo's build directory), while every clone has its own
    /// `target/` with the finished programs. A target folder that the user chose is left alone.
    pub(crate) fn variables(&self) -> Vec<(&'static str, OsString)> {
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let mut variables = vec![("LIBTORCH", self.libtorch.dir.clone().into()), ("LD_LIBRARY_PATH", self.libtorch.lib().into())];
        if let Some(cache) = self.places.cache.as_deref().filter(|_| !set("CARGO_TARGET_DIR") && !set("CARGO_BUILD_BUILD_DIR")) {
            variables.push(("CARGO_BUILD_BUILD_DIR", cache.join("target").into()));
        }
        variables
    }

    /// A cargo command in the repository's root.
    pub(crate) fn cargo<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.current_dir(&self.places.root).args(args);
        // `cargo xtask` describes the package xtask to us; what we start must not take that for its own.
        let ours = |name: &str| ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_"].iter().any(|prefix| name.starts_with(prefix));
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(ours) {
                command.env_remove(name);
            }
        }
        for (name, mut value) in self.variables() {
            if let Some(rest) = std::env::var_os(name).filter(|rest| name == "LD_LIBRARY_PATH" && !rest.is_empty()) {
                value.push(":");
                value.push(rest);
            }
            command.env(name, value);
        }
        command
    }

    /// The same, for tests: one OpenMP thread a process, because several test processes share the cores.
    pub(crate) fn cargo_for_tests<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = self.cargo(args);
        command.env("OMP_NUM_THREADS", "1");
        command
    }

    /// Builds the two programs, leaves the link `farmhand` in the root, and gives back the path of the program.
    pub(crate) fn build(&self, args: &[OsString]) -> Result<PathBuf> {
        // The whole workspace, so that crates get the same features here and in `cargo xtask test` and are built once.
        run("the build", self.cargo(["build", "--workspace", "--bins"]).args(args))?;
        let profile = if args.iter().any(|arg| arg == "--release") { "release" } else { "debug" };
        let program = self.target_dir()?.join(profile).join("farmhand");
        if !program.exists() {
            return Err(Failure::new(format!("the build left no `{}`", program.display())));
        }
        link(&program, &self.places.root)?;
        Ok(program)
    }

    /// Where cargo puts finished programs, whatever variable or configuration file decides it.
    fn target_dir(&self) -> Result<PathBuf> {
        let mut metadata = self.cargo(["metadata", "--no-deps", "--format-version", "1"]);
        let output =
            metadata.stderr(Stdio::inherit()).output().map_err(|error| Failure::new(format!("cannot run cargo: {error}")))?;
        let json = String::from_utf8_lossy(&output.stdout);
        let dir =
            json_string(&json, "target_directory").ok_or_else(|| Failure::new("`cargo metadata` names no target directory"))?;
        Ok(dir.into())
    }
}

/// Runs a command to its end; its own output says what went wrong.
pub(crate) fn run(what: &str, command: &mut Command) -> Result<()> {
    let status = command.status().map_err(|error| Failure::new(format!("cannot run {what}: {error}")))?;
    if status.success() { Ok(()) } else { Err(Failure::ended(what, status)) }
}

/// Becomes the command, so that signals and the exit code are its own. Comes back only when that fails.
pub(crate) fn become_command(what: &str, command: &mut Command) -> Failure {
    let error = command.exec();
    Failure::new(format!("cannot run {what}: {error}"))
}

/// Points the link `farmhand` in `root` at the program; something else of that name stays as it is.
fn link(program: &Path, root: &Path) -> Result<()> {
    let link = root.join("farmhand");
    let target = program.strip_prefix(root).unwrap_or(program);
    match std::fs::symlink_metadata(&link) {
        Ok(meta) if !meta.is_symlink() => {
            eprintln!("`{}` is not a link of ours and stays as it is", link.display());
            return Ok(());
        }
        Ok(_) if std::fs::read_link(&link).is_ok_and(|old| old == target) => return Ok(()),
        Ok(_) => std::fs::remove_file(&link).map_err(|error| Failure::io("replace", &link, &error))?,
        Err(_) => {}
    }
    std::os::unix::fs::symlink(target, &link).map_err(|error| Failure::io("create", &link, &error))
}

/// The first string value of `key` in a JSON text, its escapes resolved as far as paths need it.
fn json_string(json: &str, key: &str) -> Option<String> {
    let (_, rest) = json.split_once(&format!("\"{key}\":"))?;
    let mut chars = rest.trim_start().strip_prefix('"')?.chars();
    let mut value = String::new();
    loop {
        match chars.next()? {
            '"' => return Some(value),
            '\\' => value.push(chars.next()?),
            other => value.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_string_is_found_in_json() {
        let json = r#"{"version":1,"target_directory":"/a b/\"t\"","build_directory":"/c"}"#;
        assert_eq!(json_string(json, "target_directory").as_deref(), Some("/a b/\"t\""));
        assert_eq!(json_string(json, "workspace_root"), None);
        assert_eq!(json_string(r#"{"a":1}"#, "a"), None);
    }
}
