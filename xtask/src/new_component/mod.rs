//! `cargo xtask new KIND NAME`: a component from a template, registered and ready to run.
//!
//! A template is a component itself, `template_KIND`: the tests compile it and put it through the contract tests of its kind. A new
//! component is the template under another name.

mod component_name;
mod kinds;

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::Command;

use self::component_name::type_name;
use self::kinds::{KINDS, Kind};
use crate::failure::{Failure, Result};

/// Writes the file and adds it to its folder's list of modules.
pub(crate) fn new(root: &Path, args: &[OsString]) -> Result<()> {
    let (kind, name) = match args {
        [kind, name] => (kind.to_str().unwrap_or_default(), name.to_str().unwrap_or_default()),
        _ => return Err(Failure::usage("`new` takes a kind and a name: `cargo xtask new learner my_method`")),
    };
    let kind = Kind::find(kind)?;
    component_name::check(name).map_err(|refusal| Failure::new(refusal.message).with_hint(refusal.hint))?;
    let (file, index) = (root.join(kind.folder).join(format!("{name}.rs")), root.join(kind.index));
    if file.exists() || root.join(kind.folder).join(name).exists() || is_registered(root, kind, name) {
        let message = format!("there is {} {} `{name}` already", kind.article, kind.noun);
        return Err(Failure::new(message).with_hint("choose another name"));
    }
    let old = fs::read_to_string(&index).map_err(|error| Failure::io("read", &index, &error))?;
    let text = add_module(&old, name).ok_or_else(|| Failure::new(format!("`{}` has no `mod` line to add to", kind.index)))?;
    let write = |path: &Path, text: &str| fs::write(path, text).map_err(|error| Failure::io("write", path, &error));
    write(&file, &component(kind, name))?;
    write(&index, &text)?;
    // Long names move line breaks. Without rustfmt the file is merely not formatted.
    let _ = Command::new("rustfmt").args(["--edition", "2024"]).arg(&file).current_dir(root).status();
    println!("{}", next_steps(kind, name));
    Ok(())
}

/// The template under a new name.
fn component(kind: &Kind, name: &str) -> String {
    let from = format!("template_{}", kind.key);
    kind.template.replace(&from, name).replace(&type_name(&from), &type_name(name))
}

fn next_steps(kind: &Kind, name: &str) -> String {
    let file = format!("{}/{name}.rs", kind.folder);
    let (package, noun, listed) = (kind.package, kind.noun, kind.index);
    format!(
        "wrote {file} and its line in {listed}. It compiles and works as it is, and the contract tests cover it; next:

  1. put your {noun} into {file}: what it does and the paper on top, options, code, tests
  2. cargo xtask test -p {package} {name}     runs its own tests
  3. cargo xtask build                             then
     ./farmhand describe {name}                    shows its options
  4. use it: {}
  5. cargo xtask docs                              adds it to the reference",
        kind.used.replace("NAME", name)
    )
}

/// Whether a crate of the workspace registers a component of this kind and name.
fn is_registered(root: &Path, kind: &Kind, name: &str) -> bool {
    let line = format!("kind: {}, name: \"{name}\"", type_name(kind.key));
    let mut folders: Vec<_> = KINDS.iter().map(|kind| root.join(kind.folder)).chain([root.join("external/src")]).collect();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if fs::read_to_string(&path).is_ok_and(|text| text.contains(&line)) {
                return true;
            }
        }
    }
    false
}

/// Puts `mod name;` among the first `mod` lines, in order and as visible as they are.
fn add_module(index: &str, name: &str) -> Option<String> {
    let lines: Vec<&str> = index.lines().collect();
    let module = |line: &str| line.strip_suffix(';').and_then(|line| line.rsplit_once("mod ")).map(|(_, name)| name.to_owned());
    let first = lines.iter().position(|line| module(line).is_some())?;
    let modules: Vec<String> = lines[first..].iter().map_while(|line| module(line)).collect();
    let visibility = lines[first].split("mod ").next()?;
    let at = first + modules.iter().rposition(|other| other.as_str() < name).map_or(0, |i| i + 1);
    let mut lines: Vec<String> = lines.into_iter().map(str::to_owned).collect();
    lines.insert(at, format!("{visibility}mod {name};"));
    Some(lines.join("\n") + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> &'static Path {
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the repository")
    }

    #[test]
    fn a_module_line_goes_to_its_place() {
        let index = "//! Learners.\n\nmod dpo;\nmod sft;\n\npub use dpo::DpoConfig;\n";
        let added = |name| add_module(index, name).expect("there are modules");
        assert_eq!(added("ppo"), "//! Learners.\n\nmod dpo;\nmod ppo;\nmod sft;\n\npub use dpo::DpoConfig;\n");
        assert!(added("a").contains("\n\nmod a;\nmod dpo;"));
        assert!(added("z").contains("mod sft;\nmod z;\n\n"));
        assert!(add_module("pub mod dpo;\n", "ppo").expect("a module").contains("pub mod ppo;"));
        let two = "pub mod pool;\npub mod rater;\n\nmod failures;\n";
        assert_eq!(add_module(two, "zeal").expect("modules"), "pub mod pool;\npub mod rater;\npub mod zeal;\n\nmod failures;\n");
        assert_eq!(add_module("//! Nothing.\n", "ppo"), None);
    }

    #[test]
    fn every_kind_has_a_folder_a_list_of_modules_and_a_template_that_takes_another_name() {
        for kind in &KINDS {
            assert!(root().join(kind.folder).is_dir(), "{}", kind.folder);
            let index = fs::read_to_string(root().join(kind.index)).expect(kind.index);
            assert!(add_module(&index, "zzz").expect(kind.index).contains("mod zzz;"));
            let text = component(kind, "zeal_of_words");
            assert!(!text.contains("template") && !text.contains("Template"), "{}", kind.key);
            let line = format!("kind: {}, name: \"zeal_of_words\", config: ZealOfWordsConfig", type_name(kind.key));
            assert!(text.contains(&line), "{line}");
            assert!(text.contains("#[cfg(test)]") && text.contains("/// Options of `["), "{}", kind.key);
        }
    }

    #[test]
    fn a_name_that_any_crate_registers_is_taken() {
        let taken = |kind: &str, name: &str| is_registered(root(), Kind::find(kind).expect("a kind"), name);
        assert!(taken("learner", "dpo") && taken("annotator", "command") && taken("reward-model", "rubric"));
        assert!(!taken("learner", "command") && !taken("annotator", "zeal_of_words"));
    }

    #[test]
    fn kinds_are_found_however_they_are_joined_and_others_are_refused() {
        assert_eq!(Kind::find("reward-model").expect("a kind").key, "reward_model");
        assert_eq!(Kind::find("reward_model").expect("a kind").key, "reward_model");
        assert!(Kind::find("trainer").is_err());
    }

    #[test]
    fn a_component_is_written_and_listed_and_never_over_another() {
        let root = std::env::temp_dir().join(format!("farmhand-new-component-{}", std::process::id()));
        for kind in &KINDS {
            fs::create_dir_all(root.join(kind.folder)).expect("a folder");
            fs::write(root.join(kind.index), "//! Some.\n\nmod dpo;\n").expect("written");
        }
        let words = |kind: &str, name: &str| [kind, name].map(OsString::from);
        for kind in ["learner", "annotator", "evaluator", "policy", "reward-model"] {
            new(&root, &words(kind, "my_own")).expect(kind);
            let again = new(&root, &words(kind, "my_own")).expect_err("taken");
            assert!(again.to_string().contains("already"), "{again}");
        }
        for kind in &KINDS {
            let text = fs::read_to_string(root.join(kind.folder).join("my_own.rs")).expect("there");
            assert!(text.contains("struct MyOwnConfig"), "{}", kind.key);
            assert!(fs::read_to_string(root.join(kind.index)).expect("there").contains("mod my_own;"));
        }
        fs::remove_dir_all(&root).expect("removed");
    }
}
