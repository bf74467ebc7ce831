//! `cargo xtask new learner NAME`: a component from a template, registered and ready to run.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::failure::{Failure, Result};

const TEMPLATE: &str = include_str!("../templates/learner.rs.txt");
const FOLDER: &str = "plugins/src/learners";

/// Rust's keywords that would pass for a name, and names that say nothing.
const REFUSED: [&str; 49] = [
    "abstract", "as", "async", "await", "become", "box", "break", "const", "continue", "crate", "do", "dyn", "else", "enum",
    "extern", "false", "final", "fn", "for", "gen", "if", "impl", "in", "let", "loop", "macro", "match", "mod", "move", "mut",
    "override", "priv", "pub", "ref", "return", "self", "static", "struct", "super", "trait", "true", "try", "type", "unsafe",
    "use", "where", "while", "yield", "learner",
];

/// Writes the file and adds it to its folder's `mod.rs`.
pub(crate) fn new(root: &Path, args: &[OsString]) -> Result<()> {
    let (kind, name) = match args {
        [kind, name] => (kind.to_str().unwrap_or_default(), name.to_str().unwrap_or_default()),
        _ => return Err(Failure::usage("`new` takes a kind and a name: `cargo xtask new learner my_method`")),
    };
    if kind != "learner" {
        return Err(Failure::usage(format!("`new` makes a `learner`, not a `{kind}`")));
    }
    check_name(name)?;
    let folder = root.join(FOLDER);
    let (file, index) = (folder.join(format!("{name}.rs")), folder.join("mod.rs"));
    if file.exists() || folder.join(name).exists() {
        return Err(Failure::new(format!("there is a learner `{name}` already")).with_hint("choose another name"));
    }
    let old = fs::read_to_string(&index).map_err(|error| Failure::io("read", &index, &error))?;
    let text =
        add_module(&old, name).ok_or_else(|| Failure::new(format!("`{}` has no `mod` line to add to", index.display())))?;
    let write = |path: &Path, text: &str| fs::write(path, text).map_err(|error| Failure::io("write", path, &error));
    write(&file, &TEMPLATE.replace("NAME", name).replace("TypeName", &type_name(name)))?;
    write(&index, &text)?;
    // Long names move line breaks. Without rustfmt the file is merely not formatted.
    let _ = Command::new("rustfmt").args(["--edition", "2024"]).arg(&file).current_dir(root).status();
    println!(
        "wrote {FOLDER}/{name}.rs and its line in {FOLDER}/mod.rs. It compiles and learns as it is; next:

  1. put your method into {FOLDER}/{name}.rs: paper and equation on top, options, loop, loss, tests
  2. cargo xtask test -p farmhand-plugins {name}     runs its own tests
  3. cargo xtask build                             then
     ./farmhand describe {name}                    shows its options
     ./farmhand learn {name} --model DIR --data pairs.jsonl --out my-run
  4. compare it: add `[methods.{name}.learner.{name}]` to a copy of examples/configs/quickstart.toml, then
     ./farmhand run my.toml"
    );
    Ok(())
}

/// A name is snake_case, begins with a letter, and is a possible module name.
fn check_name(name: &str) -> Result<()> {
    let letters = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    let shape = name.starts_with(|c: char| c.is_ascii_lowercase()) && !name.ends_with('_') && !name.contains("__");
    if !letters || !shape || name.len() > 40 {
        return Err(Failure::new(format!("`{name}` is no name for a learner"))
            .with_hint("lower-case words joined by `_`, as `my_method`; at most 40 characters, the first a letter"));
    }
    if REFUSED.contains(&name) {
        return Err(Failure::new(format!("`{name}` is a word of Rust or says nothing")).with_hint("choose another name"));
    }
    Ok(())
}

/// `my_method` is `MyMethod`.
fn type_name(name: &str) -> String {
    let capitalised = |word: &str| word[..1].to_ascii_uppercase() + &word[1..];
    name.split('_').filter(|word| !word.is_empty()).map(capitalised).collect()
}

/// Puts `mod name;` among the other `mod` lines, in order and as visible as they are.
fn add_module(index: &str, name: &str) -> Option<String> {
    let module = |line: &str| line.strip_suffix(';').and_then(|line| line.rsplit_once("mod ")).map(|(_, name)| name.to_owned());
    let lines: Vec<&str> = index.lines().collect();
    let modules: Vec<(usize, String)> = lines.iter().enumerate().filter_map(|(i, line)| Some((i, module(line)?))).collect();
    let (first, _) = modules.first()?;
    let visibility = lines[*first].split("mod ").next()?;
    let at = modules.iter().rev().find(|(_, other)| other.as_str() < name).map_or(*first, |(i, _)| i + 1);
    let mut lines: Vec<String> = lines.into_iter().map(str::to_owned).collect();
    lines.insert(at, format!("{visibility}mod {name};"));
    Some(lines.join("\n") + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_snake_case_words() {
        for good in ["my_method", "dpo2", "a"] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", "MyMethod", "my-method", "2dpo", "_x", "x_", "a__b", "match", "../x", "é"] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
        assert_eq!(type_name("my_method2"), "MyMethod2");
    }

    #[test]
    fn a_module_line_goes_to_its_place() {
        let index = "//! Learners.\n\nmod dpo;\nmod sft;\n\npub use dpo::DpoConfig;\n";
        let added = |name| add_module(index, name).expect("there are modules");
        assert_eq!(added("ppo"), "//! Learners.\n\nmod dpo;\nmod ppo;\nmod sft;\n\npub use dpo::DpoConfig;\n");
        assert!(added("a").contains("\n\nmod a;\nmod dpo;"));
        assert!(added("z").contains("mod sft;\nmod z;\n\n"));
        assert!(add_module("pub mod dpo;\n", "ppo").expect("a module").contains("pub mod ppo;"));
        assert_eq!(add_module("//! Nothing.\n", "ppo"), None);
    }
}
