//! Writes down what a plugin must share with the program that loads it: compiler, target, this crate's source, libtorch, and the
//! versions of what this crate is built of.

use std::collections::{BTreeMap, BTreeSet};
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
    let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let mut needs: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let mut name = "";
    for line in lock.lines() {
        let text = line.split('"').nth(1).unwrap_or_default();
        if line.starts_with("name = ") {
            name = text;
        } else if line.starts_with("version = ") && !name.is_empty() {
            versions.entry(name).or_default().insert(text);
        } else if line.starts_with(" \"") {
            needs.entry(name).or_default().insert(text.split(' ').next().unwrap_or_default());
        }
    }
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    let mut open = vec!["farmhand-core"];
    while let Some(package) = open.pop() {
        // What tests alone need stands in the lock file too, but crosses no border.
        for need in needs.get(package).into_iter().flatten().copied().filter(|need| !["proptest", "tempfile"].contains(need)) {
            if seen.insert(need) {
                open.push(need);
            }
        }
    }
    let packages = seen.into_iter().chain(["tch", "torch-sys"]);
    let of = |package: &'_ str| {
        versions.get(package).into_iter().flatten().map(|version| format!("{package} {version}")).collect::<Vec<_>>()
    };
    packages.flat_map(of).collect::<Vec<_>>().join(";")
}
