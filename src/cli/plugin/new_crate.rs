//! `farmhand plugin new`: a crate with a component that works.
//!
//! The component is the same template that `cargo xtask new` puts into the workspace; only where its parts come from differs.

#[path = "../../../xtask/src/new_component/component_name.rs"]
mod component_name;

use std::path::{Path, PathBuf};

use farmhand_core::component::find_component;
use farmhand_core::run::write_atomic;
use farmhand_core::{ComponentKind, Error, Result};
use serde_json::json;

use self::component_name::type_name;
use super::compile::start_from_own_versions;
use super::sources;
use crate::cli::args::{Cli, PluginKind, PluginNewArgs};

/// A kind of component as a crate of its own.
struct Shape {
    /// The component's file as it stands in the workspace.
    template: &'static str,
    /// Farmhand's crates it is built of, by folder; the last is the one it stands in there, `crate` in the template.
    crates: &'static [&'static str],
    /// What the kind is called in configurations.
    key: &'static str,
    /// Where one, `NAME`, stands in an experiment.
    used: &'static str,
}

fn shape(kind: PluginKind) -> Shape {
    macro_rules! template {
        ($key:literal, $crates:expr, $used:literal) => {
            Shape {
                template: include_str!(concat!("../../../xtask/templates/", $key, ".rs")),
                crates: $crates,
                key: $key,
                used: $used,
            }
        };
    }
    match kind {
        PluginKind::Learner => template!("learner", &["core", "models", "plugins"], "[methods.NAME.learner.NAME]"),
        PluginKind::Policy => template!("policy", &["core", "plugins"], "[methods.NAME.policy.NAME]"),
        PluginKind::RewardModel => template!(
            "reward_model",
            &["core", "plugins"],
            "reward_model = { NAME = {} } under [methods.best_of_8.policy.best_of_n]"
        ),
        PluginKind::Annotator => template!("annotator", &["core", "annotators"], "[annotator.NAME]"),
        PluginKind::Evaluator => {
            template!("evaluator", &["core", "evaluators"], "evaluators = [{ win_rate = {} }, { NAME = {} }] under [evaluate]")
        }
    }
}

/// Writes the crate; a folder that holds anything is left alone.
pub(super) fn new(args: &PluginNewArgs, cli: &Cli) -> Result<()> {
    let (name, shape) = (args.name.as_str(), shape(args.kind));
    let package = name.replace('_', "-");
    let sources = sources(args.farmhand.as_deref())?;
    let manifest_text = manifest_text(&shape, &package, &sources);
    check_name(name, &shape, &manifest_text)?;
    let dir = args.dir.clone().unwrap_or_else(|| PathBuf::from(name));
    let is_empty = || std::fs::read_dir(&dir).is_ok_and(|mut entries| entries.next().is_none());
    if dir.symlink_metadata().is_ok() && !is_empty() {
        return Err(Error::invalid_config(format!("`{}` exists and is left alone", dir.display()))
            .with_hint("choose another folder with `--dir DIR`"));
    }
    let manifest = dir.join("Cargo.toml");
    write(&dir.join("src/lib.rs"), &library(&shape, name))?;
    write(&dir.join(".gitignore"), "/target\n/*.so\n")?;
    write(&manifest, &manifest_text)?;
    // `export_plugin!()` puts the lock file into the library; so the crate can be a dependency before it was ever built itself.
    start_from_own_versions(&dir, &sources, false)?;
    if cli.json {
        return crate::cli::print_json(&json!({ "dir": dir, "package": package, "kind": shape.key, "name": name }));
    }
    let shown = dir.display();
    crate::cli::print(&format!(
        "wrote {shown}/src/lib.rs, a {} that works as it is; next:

  1. put your own into {shown}/src/lib.rs: it says what goes where
  2. farmhand plugin build {shown}: minutes the first time, then seconds
  3. farmhand --plugin {shown} describe {name}
  4. name it in an experiment: plugins = [\"{shown}\"] on top, a path from the file's own folder on, and below
     {}
",
        shape.key.replace('_', " "),
        shape.used.replace("NAME", name)
    ))
}

/// A name must be one, of no built-in component of the kind, and of no crate that the new one needs.
fn check_name(name: &str, shape: &Shape, manifest: &str) -> Result<()> {
    component_name::check(name).map_err(|refusal| Error::invalid_config(refusal.message).with_hint(refusal.hint))?;
    let kind = shape.key.replace('_', " ");
    if let Some(known) = ComponentKind::from_key(shape.key).and_then(|kind| find_component(kind, name)) {
        return Err(Error::invalid_config(format!("the {kind} `{name}` exists already, in `{}`", known.package))
            .with_hint("choose another name: the two could not be loaded together"));
    }
    let needed = manifest.lines().skip_while(|line| *line != "[dependencies]").filter_map(|line| line.split_once(" = "));
    if needed.map(|(crate_name, _)| crate_name.replace('-', "_")).any(|crate_name| crate_name == name) {
        return Err(Error::invalid_config(format!("`{name}` is a crate that a {kind} needs")).with_hint("choose another name"));
    }
    Ok(())
}

fn library(shape: &Shape, name: &str) -> String {
    let generic = format!("template_{}", shape.key);
    let home = shape.crates.last().expect("a crate it stands in");
    let text = shape.template.replace(&generic, name).replace(&type_name(&generic), &type_name(name));
    let text = text.replace("use crate::", &format!("use farmhand_{home}::"));
    // Tests stay last, as everywhere.
    let (component, tests) = text.split_once("\n#[cfg(test)]\n").unwrap_or((&text, ""));
    format!("{}\n\nfarmhand_core::export_plugin!();\n\n#[cfg(test)]\n{tests}", component.trim_end())
}

/// The crate whose components are a feature, which a plugin leaves out: it is half as large and loads in half the time.
const WITH_COMPONENTS: &str = "plugins";

/// What the template names besides farmhand's crates, with the versions farmhand uses.
fn manifest_text(shape: &Shape, package: &str, sources: &Path) -> String {
    const OTHERS: [(&str, &str); 6] = [
        ("async_trait", "async-trait = \"0.1\""),
        ("schemars", "schemars = \"1\""),
        ("serde::", "serde = { version = \"1\", features = [\"derive\"] }"),
        ("serde_json", "serde_json = { version = \"1\", features = [\"float_roundtrip\"] }"),
        ("tch::", "tch = { version = \"=0.24.0\", default-features = false }"),
        ("typetag", "typetag = \"0.2\""),
    ];
    let toml_text = |path: &Path| toml::Value::from(path.display().to_string()).to_string();
    let mut text = format!(
        "[package]\nname = \"{package}\"\nversion = \"0.1.0\"\nedition = \"2024\"\npublish = false\n\n[lib]\n# `cdylib`: what `farmhand --plugin` \
         loads. `rlib`: what a program of your own links.\ncrate-type = [\"cdylib\", \"rlib\"]\n\n[dependencies]\n"
    );
    let dependency =
        |folder: &str, rest: &str| format!("farmhand-{folder} = {{ path = {}{rest} }}\n", toml_text(&sources.join(folder)));
    for folder in shape.crates {
        text +=
            &if *folder == WITH_COMPONENTS { dependency(folder, ", default-features = false") } else { dependency(folder, "") };
    }
    for (_, line) in OTHERS.iter().filter(|(word, _)| shape.template.contains(word)) {
        text += &format!("{line}\n");
    }
    if shape.crates.contains(&WITH_COMPONENTS) {
        text += "\n# The program that loads the plugin has the built-in components; tests have no program around them.\n[dev-dependencies]\n";
        text += &dependency(WITH_COMPONENTS, "");
    }
    text + "\n# Not a member of a workspace above it.\n[workspace]\n"
}

fn write(path: &Path, text: &str) -> Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(|error| Error::io("create", folder, error))?;
    }
    write_atomic(path, |out| out.write_all(text.as_bytes()).map_err(|error| Error::io("write", path, error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crate_names_what_its_component_needs() {
        for (kind, home, tensors) in [
            (PluginKind::Learner, "farmhand_plugins", true),
            (PluginKind::Policy, "farmhand_plugins", false),
            (PluginKind::RewardModel, "farmhand_plugins", false),
            (PluginKind::Annotator, "farmhand_annotators", false),
            (PluginKind::Evaluator, "farmhand_evaluators", false),
        ] {
            let shape = shape(kind);
            let library = library(&shape, "my_method");
            assert!(library.contains(&format!("use {home}::")) && !library.contains("crate::"), "{library}");
            assert!(library.contains("struct MyMethodConfig") && !library.to_lowercase().contains("template"), "{library}");
            assert_eq!(library.matches("export_plugin!()").count(), 1);
            assert!(library.find("export_plugin!()") < library.find("#[cfg(test)]"), "tests stay last");
            let manifest: toml::Table = manifest_text(&shape, "my-method", Path::new("/some \"where\"")).parse().expect("TOML");
            let needs = manifest["dependencies"].as_table().expect("a table");
            assert_eq!(needs["farmhand-core"]["path"].as_str(), Some("/some \"where\"/core"));
            let without = needs.get("farmhand-plugins").map(|plugins| plugins["default-features"] == toml::Value::from(false));
            assert_eq!(without, (home == "farmhand_plugins").then_some(true));
            assert_eq!((needs.contains_key("tch"), needs.contains_key("async-trait")), (tensors, kind == PluginKind::Annotator));
        }
    }

    #[test]
    fn names_that_are_taken_are_refused() {
        let said = |kind, name: &str| {
            let shape = shape(kind);
            let manifest = manifest_text(&shape, &name.replace('_', "-"), Path::new("/farmhand"));
            check_name(name, &shape, &manifest).err().map(|error| error.to_string()).unwrap_or_default()
        };
        assert_eq!(said(PluginKind::Learner, "my_method2"), "");
        assert!(said(PluginKind::Learner, "match").contains("a word of Rust"));
        assert_eq!(said(PluginKind::Learner, "version"), "", "only crates count");
        assert!(said(PluginKind::Annotator, "pool").contains("the annotator `pool` exists already, in `farmhand-annotators`"));
        assert_eq!(said(PluginKind::Learner, "pool"), "", "of another kind");
        for name in ["typetag", "farmhand_core", "tch"] {
            assert!(said(PluginKind::Learner, name).contains(&format!("`{name}` is a crate that a learner needs")), "{name}");
        }
    }
}
