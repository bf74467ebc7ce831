//! `farmhand plugin check`: whether plugins fit this program. Nothing of them runs.

use std::path::{Path, PathBuf};

use farmhand_core::plugin::{Mismatch, Stamp, plugin_files};
use farmhand_core::{Error, ErrorKind, Result};
use serde_json::json;

use crate::cli::args::Cli;

/// Prints what each plugin says and where it differs; fails when one does.
pub(super) fn check(paths: &[PathBuf], cli: &Cli) -> Result<()> {
    let program = Stamp::of_this_program();
    let mut results = Vec::new();
    for path in paths {
        for file in plugin_files(path)? {
            let stamp = Stamp::of_file(&file)?;
            let mismatches = stamp.mismatches(&program);
            results.push((file, stamp, mismatches));
        }
    }
    if cli.json {
        let all: Vec<_> = results.iter().map(|(file, stamp, mismatches)| as_json(file, stamp, mismatches)).collect();
        crate::cli::print_json(&all)?;
    } else {
        let text: Vec<_> = results.iter().map(|(file, stamp, mismatches)| as_text(file, stamp, mismatches)).collect();
        crate::cli::print(&text.join("\n"))?;
    }
    match results.iter().filter(|(_, _, mismatches)| !mismatches.is_empty()).count() {
        0 => Ok(()),
        n => {
            let message =
                format!("{n} of {} plugins {} built for another farmhand", results.len(), if n == 1 { "was" } else { "were" });
            Err(Error::new(ErrorKind::IncompatiblePlugin, message)
                .with_hint("build again with this one: `farmhand plugin build DIR`"))
        }
    }
}

fn as_json(file: &Path, stamp: &Stamp, mismatches: &[Mismatch]) -> serde_json::Value {
    let fields: serde_json::Map<_, _> = stamp.fields().map(|(name, value)| (name.to_owned(), json!(value))).collect();
    json!({
        "path": file, "package": stamp.package(), "version": stamp.version(), "fits": mismatches.is_empty(),
        "stamp": fields, "mismatches": mismatches,
    })
}

fn as_text(file: &Path, stamp: &Stamp, mismatches: &[Mismatch]) -> String {
    let verdict = if mismatches.is_empty() { "fits this farmhand" } else { "was built for another farmhand" };
    let mut text = format!("{} {} ({}) {verdict}\n", stamp.package(), stamp.version(), file.display());
    for (name, value) in stamp.fields() {
        let other = mismatches.iter().find(|mismatch| mismatch.field == name);
        let other = other.map(|mismatch| format!("   this farmhand: {}", mismatch.farmhand)).unwrap_or_default();
        text += &format!("  {name}: {value}{other}\n");
    }
    for mismatch in mismatches.iter().filter(|mismatch| mismatch.field.starts_with("package ")) {
        text += &format!("  {}: {}   this farmhand: {}\n", mismatch.field, mismatch.plugin, mismatch.farmhand);
    }
    text
}
