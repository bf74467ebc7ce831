//! What a plugin and the program that loads it must share, and the comparison, field by field.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use object::elf::FileHeader64;
use object::read::elf::{FileHeader as _, SectionHeader as _};
use object::{Endianness, ReadCache};

use crate::error::{Error, ErrorKind, Result};
use crate::types::{Annotation, Comparison, Completion, Demonstration, EvalReport, Instruction, Judgement, PreferencePair};

/// The version of the way plugins are loaded.
pub const LOADER_VERSION: &str = "1";

const STAMP_SECTION: &str = ".farmhand.stamp";
const LOCK_SECTION: &str = ".farmhand.lock";

/// A stamp is small, a lock file is not; anything longer is not one of ours.
const LONGEST_SECTION: u64 = 16 << 20;

/// The fields that are compared, as the stamp and as messages call them.
const FIELDS: [(&str, &str); 7] = [
    ("loader", "loader version"),
    ("rustc", "compiler"),
    ("target", "target"),
    ("panic", "panic strategy"),
    ("core", "farmhand-core (version, hash of its source)"),
    ("layout", "layout of the types that cross"),
    ("libtorch", "libtorch"),
];

const COMMON_PARTS: [&str; 14] = [
    "loader=",
    LOADER_VERSION,
    "\nrustc=",
    env!("FARMHAND_RUSTC"),
    "\ntarget=",
    env!("FARMHAND_TARGET"),
    "\npanic=",
    if cfg!(panic = "unwind") { "unwind" } else { "abort" },
    concat!("\ncore=", env!("CARGO_PKG_VERSION"), " ", env!("FARMHAND_CORE_HASH")),
    "\nlayout=",
    text(&LAYOUT),
    "\nlibtorch=",
    env!("FARMHAND_LIBTORCH"),
    "\n",
];
const COMMON_BYTES: [u8; joined_len(&COMMON_PARTS)] = joined(&COMMON_PARTS);

/// The fields that all crates built with this copy of the core have in common, a line each.
#[doc(hidden)]
pub const COMMON_STAMP: &str = text(&COMMON_BYTES);

/// Sizes and alignments of types that cross, hashed: they differ when a dependency was built with another feature that changes
/// what a type holds, which no version tells.
const LAYOUT: [u8; 16] = {
    macro_rules! sizes {
        ($($type:ty),+) => { [$(size_of::<$type>(), align_of::<$type>()),+] };
    }
    let sizes = sizes![
        serde_json::Value,
        Error,
        Instruction,
        Demonstration,
        Completion,
        Comparison,
        Annotation,
        Judgement,
        PreferencePair,
        EvalReport,
        crate::Checkpoint,
        crate::BuildContext<'static>,
        crate::RunContext<'static>,
        crate::LearnerInputs<'static>,
        crate::ComponentInfo,
        crate::LearnerSpec
    ];
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut i = 0;
    while i < sizes.len() {
        hash = (hash ^ sizes[i] as u64).wrapping_mul(0x0000_0100_0000_01b3);
        i += 1;
    }
    let mut digits = [0; 16];
    let mut i = 0;
    while i < 16 {
        digits[i] = b"0123456789abcdef"[(hash >> (60 - 4 * i)) as usize & 15];
        i += 1;
    }
    digits
};

const fn text(bytes: &'static [u8]) -> &'static str {
    match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(_) => panic!("made of texts"),
    }
}

/// The length of texts put together.
#[doc(hidden)]
pub const fn joined_len(parts: &[&str]) -> usize {
    let (mut len, mut i) = (0, 0);
    while i < parts.len() {
        len += parts[i].len();
        i += 1;
    }
    len
}

/// Texts put together, while compiling.
#[doc(hidden)]
pub const fn joined<const N: usize>(parts: &[&str]) -> [u8; N] {
    let mut bytes = [0; N];
    let (mut at, mut i) = (0, 0);
    while i < parts.len() {
        let part = parts[i].as_bytes();
        let mut j = 0;
        while j < part.len() {
            bytes[at] = part[j];
            at += 1;
            j += 1;
        }
        i += 1;
    }
    bytes
}

/// What a plugin says about its making, or this program about its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp {
    fields: BTreeMap<String, String>,
    /// Package names with the versions in use.
    locked: BTreeMap<String, BTreeSet<String>>,
}

/// A field in which a plugin and this program differ.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Mismatch {
    /// What differs, for example `compiler`, or the name of a package.
    pub field: String,
    /// What the plugin says.
    pub plugin: String,
    /// What this program says.
    pub farmhand: String,
}

impl Stamp {
    /// The stamp of the program that is running.
    pub fn of_this_program() -> Self {
        let locked = env!("FARMHAND_LOCKED").split(';').filter_map(|entry| entry.split_once(' '));
        Self { fields: fields(COMMON_STAMP), locked: versions(locked) }
    }

    /// The stamp of a plugin, read from its file. Nothing of the plugin runs.
    ///
    /// # Errors
    /// When the file cannot be read, is no shared library, or has no stamp.
    pub fn of_file(path: &Path) -> Result<Self> {
        let file = std::fs::File::open(path).map_err(|error| Error::io("open the plugin", path, error))?;
        let cache = ReadCache::new(file);
        // The table of sections alone: reading the symbols as well would take longer than loading the plugin.
        let no_library = |error| not_a_plugin(path, &format!("it is no shared library: {error}"));
        let header = FileHeader64::<Endianness>::parse(&cache).map_err(no_library)?;
        let endian = header.endian().map_err(no_library)?;
        let sections = header.sections(endian, &cache).map_err(no_library)?;
        let section = |name: &str| {
            let (_, section) = sections.section_by_name(endian, name.as_bytes()).ok_or_else(|| {
                not_a_plugin(path, &format!("it has no section `{name}`, which `farmhand_core::export_plugin!()` makes"))
            })?;
            let short = section.sh_size(endian) <= LONGEST_SECTION;
            let bytes = short.then(|| section.data(endian, &cache).ok()).flatten();
            let text = bytes.and_then(|bytes| std::str::from_utf8(bytes).ok());
            text.map(str::to_owned).ok_or_else(|| not_a_plugin(path, &format!("its section `{name}` cannot be read")))
        };
        let fields = fields(&section(STAMP_SECTION)?);
        for field in ["package", "version"] {
            if !fields.contains_key(field) {
                return Err(not_a_plugin(path, &format!("its stamp does not say `{field}`")));
            }
        }
        Ok(Self { fields, locked: versions(packages(&section(LOCK_SECTION)?)) })
    }

    /// The plugin's package.
    pub fn package(&self) -> &str {
        self.field("package")
    }

    /// The plugin's version.
    pub fn version(&self) -> &str {
        self.field("version")
    }

    /// What is compared, by name; packages are left out.
    pub fn fields(&self) -> impl Iterator<Item = (&'static str, &str)> {
        FIELDS.into_iter().map(|(key, name)| (name, self.field(key)))
    }

    fn field(&self, key: &str) -> &str {
        self.fields.get(key).map_or("", String::as_str)
    }

    /// Where the plugin differs from the program, in the order of the fields, packages last.
    pub fn mismatches(&self, program: &Self) -> Vec<Mismatch> {
        let holds_tensors = self.locked.contains_key("torch-sys");
        let mut found = Vec::new();
        for (key, name) in FIELDS {
            let (plugin, farmhand) = (self.field(key), program.field(key));
            if plugin != farmhand && (key != "libtorch" || holds_tensors) {
                found.push(Mismatch { field: name.to_owned(), plugin: plugin.to_owned(), farmhand: farmhand.to_owned() });
            }
        }
        for (package, wanted) in &program.locked {
            // What the plugin does not have, it was built without: a feature of a dependency that nothing in it asks for.
            let Some(has) = self.locked.get(package).filter(|has| !wanted.is_subset(has)) else { continue };
            let list = |versions: &BTreeSet<String>| versions.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
            found.push(Mismatch { field: format!("package {package}"), plugin: list(has), farmhand: list(wanted) });
        }
        found
    }
}

/// `key=value`, a line each.
fn fields(text: &str) -> BTreeMap<String, String> {
    text.lines().filter_map(|line| line.split_once('=')).map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

fn versions<'a>(packages: impl Iterator<Item = (&'a str, &'a str)>) -> BTreeMap<String, BTreeSet<String>> {
    let mut versions: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (name, version) in packages {
        versions.entry(name.to_owned()).or_default().insert(version.to_owned());
    }
    versions
}

/// Names and versions in a `Cargo.lock`, read line by line: the file is long, and cargo writes it in one way.
fn packages(lock: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut name = "";
    lock.lines().filter_map(move |line| {
        let quoted = |key: &str| line.strip_prefix(key)?.strip_prefix(" = \"")?.strip_suffix('"');
        if let Some(text) = quoted("name") {
            name = text;
        }
        quoted("version").filter(|_| !name.is_empty()).map(|version| (name, version))
    })
}

fn not_a_plugin(path: &Path, why: &str) -> Error {
    Error::new(ErrorKind::IncompatiblePlugin, format!("`{}` is not a plugin: {why}", path.display()))
        .with_hint("a plugin is what `farmhand plugin build DIR` makes of a crate that `farmhand plugin new NAME` wrote")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(text: &str, lock: &str) -> Stamp {
        Stamp { fields: fields(text), locked: versions(packages(lock)) }
    }

    /// A lock file with all that this program is built of.
    fn own_lock() -> String {
        let entry = |text: &str| {
            text.split_once(' ').map(|(name, version)| format!("[[package]]\nname = \"{name}\"\nversion = \"{version}\"\n"))
        };
        env!("FARMHAND_LOCKED").split(';').filter_map(entry).collect()
    }

    #[test]
    fn this_program_says_what_it_is_made_of() {
        let own = Stamp::of_this_program();
        assert!(own.field("rustc").starts_with("rustc 1."), "{own:?}");
        assert!(own.fields().all(|(_, value)| !value.is_empty()), "{own:?}");
        assert!(own.locked.contains_key("serde") && own.locked.contains_key("erased-serde") && own.locked.contains_key("tch"));
        assert!(!own.locked.contains_key("proptest"), "what tests need does not cross");
        assert_eq!(stamp(COMMON_STAMP, &own_lock()).mismatches(&own), []);
    }

    #[test]
    fn every_field_is_compared() {
        let own = Stamp::of_this_program();
        for (key, name) in FIELDS {
            let other = COMMON_STAMP.replace(&format!("{key}={}\n", own.field(key)), &format!("{key}=other\n"));
            let found = stamp(&other, &own_lock()).mismatches(&own);
            assert_eq!(found.len(), 1, "{key}");
            assert_eq!((found[0].field.as_str(), found[0].plugin.as_str()), (name, "other"));
            assert_eq!(found[0].farmhand, own.field(key));
        }
    }

    #[test]
    fn versions_of_packages_are_compared_and_tensors_only_where_there_are_any() {
        let own = Stamp::of_this_program();
        let serde = own.locked["serde"].first().expect("one version").clone();
        let other =
            own_lock().replace(&format!("name = \"serde\"\nversion = \"{serde}\""), "name = \"serde\"\nversion = \"0.0.1\"");
        let found = stamp(COMMON_STAMP, &other).mismatches(&own);
        assert_eq!(found, [Mismatch { field: "package serde".to_owned(), plugin: "0.0.1".to_owned(), farmhand: serde }]);

        let without: String = own_lock()
            .split_inclusive("[[package]]\n")
            .filter(|part| !part.contains("tch") && !part.contains("torch-sys"))
            .collect();
        let no_torch = COMMON_STAMP.replace(&format!("libtorch={}\n", own.field("libtorch")), "libtorch=none\n");
        assert_eq!(stamp(&no_torch, &without).mismatches(&own), []);
    }

    #[test]
    fn what_is_no_plugin_is_said_to_be_none() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("a.so");
        let missing = Stamp::of_file(&path).expect_err("missing");
        assert_eq!(missing.kind(), ErrorKind::MissingInput);
        for bytes in [&b""[..], b"#!/bin/sh\n", b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x03\0\x3e\0"] {
            std::fs::write(&path, bytes).expect("written");
            let error = Stamp::of_file(&path).expect_err("no library");
            assert_eq!(error.kind(), ErrorKind::IncompatiblePlugin);
            assert!(error.to_string().contains("is no shared library") && error.hint().is_some(), "{error}");
        }
        let own = std::env::current_exe().expect("this test");
        let error = Stamp::of_file(&own).expect_err("a program").to_string();
        assert!(error.contains("has no section `.farmhand.stamp`"), "{error}");
    }
}
