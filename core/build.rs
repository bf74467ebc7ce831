//! Writes down what a plugin must share with the program that loads it: compiler, target, this crate's source, libtorch, and the
//! versions of what this crate is built of.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    let root = PathBuf::from(variable("CARGO_MANIFEST_DIR"));
    let lock = root.join("../Cargo.lock");
    for path in ["build.rs", "src", "Cargo.toml"] {
        println!("cargo::rerun-if-changed={path}");
    }
    if lock.is_file() {
        println!("cargo::rerun-if-changed=../Cargo.lock");
    }
    println!("cargo::rerun-if-env-changed=LIBTORCH");
    set("FARMHAND_RUSTC", &rustc_version());
    set("FARMHAND_TARGET", &variable("TARGET"));
    set("FARMHAND_CORE_HASH", &format!("{:016x}", source_hash(&root)));
    set("FARMHAND_LIBTORCH", &libtorch_version());
    set("FARMHAND_LOCKED", &fs::read_to_string(lock).map(|text| locked(&text)).unwrap_or_default());
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}

fn set(name: &str, value: &str) {
    println!("cargo::rustc-env={name}={value}");
}

fn rustc_version() -> String {
    let output = Command::new(variable("RUSTC")).arg("--version").output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
}

/// The version that libtorch's folder says, without what its build appends; `none` without a libtorch.
fn libtorch_version() -> String {
    let folder = PathBuf::from(variable("LIBTORCH"));
    let said = ["build-version", "version.py"].iter().find_map(|file| fs::read_to_string(folder.join(file)).ok());
    let text = said.unwrap_or_default();
    let number = text.split(|c: char| !c.is_ascii_digit() && c != '.').find(|part| part.contains('.') && part.len() >= 5);
    number.unwrap_or("none").to_owned()
}

/// FNV-1a over the manifest and every source file, by name.
fn source_hash(root: &Path) -> u64 {
    let mut files = vec![root.join("Cargo.toml")];
    let mut folders = vec![root.join("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    files.sort();
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for file in files {
        let name = file.strip_prefix(root).unwrap_or(&file).to_string_lossy().into_owned();
        for byte in name.bytes().chain([0]).chain(fs::read(&file).unwrap_or_default()) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
    hash
}

/// `name version` of every package this crate is built of, and of the tensors' packages, joined by `;`.
fn locked(lock: &str) -> String {
    /// What tests alone need stands in the lock file too, but crosses no border.
    const FOR_TESTS: [&str; 2] = ["proptest", "tempfile"];
    let packages: Vec<Package> = lock.split("[[package]]").skip(1).filter_map(Package::read).collect();
    let mut seen: BTreeSet<(&str, &str)> = BTreeSet::new();
    let mut open = vec!["farmhand-core"];
    while let Some(named) = open.pop() {
        // A version is said only where there are several.
        let (name, version) = named.split_once(' ').unwrap_or((named, ""));
        for package in packages.iter().filter(|package| package.name == name && [package.version, ""].contains(&version)) {
            if seen.insert((package.name, package.version)) {
                open.extend(package.needs.iter().filter(|need| !FOR_TESTS.contains(need)));
            }
        }
    }
    seen.extend(
        packages
            .iter()
            .filter(|package| ["tch", "torch-sys"].contains(&package.name))
            .map(|package| (package.name, package.version)),
    );
    let others = seen.into_iter().filter(|(name, _)| *name != "farmhand-core");
    others.map(|(name, version)| format!("{name} {version}")).collect::<Vec<_>>().join(";")
}

/// A package in a `Cargo.lock`.
struct Package<'a> {
    name: &'a str,
    version: &'a str,
    /// Names, with the version where there are several.
    needs: Vec<&'a str>,
}

impl<'a> Package<'a> {
    fn read(text: &'a str) -> Option<Self> {
        let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(" = \"")?.strip_suffix('"'));
        let needs = text.lines().filter_map(|line| line.strip_prefix(" \"")?.strip_suffix("\","));
        Some(Self { name: value("name")?, version: value("version")?, needs: needs.collect() })
    }
}
