//! `farmhand init`: a commented configuration to start from.

use farmhand_core::component::{find_component, unknown_component};
use farmhand_core::plugin::loaded_plugins;
use farmhand_core::{ComponentKind, Error, Result};
use serde_json::Value;

use super::args::InitArgs;
use super::option_table::option_rows;

/// The embedded demo, without its methods.
const QUICKSTART: &str = include_str!("../../examples/configs/quickstart.toml");

/// Writes the file; an existing one is left alone.
pub(super) fn init(args: &InitArgs) -> Result<()> {
    if args.path.exists() {
        let message = format!("`{}` exists and is left alone", args.path.display());
        return Err(Error::invalid_config(message).with_hint("name another file: `farmhand init other.toml`"));
    }
    let mut text = with_plugins(without_methods(QUICKSTART));
    for method in &args.methods {
        text += &method_table(method)?;
    }
    farmhand_core::run::write_atomic(&args.path, |out| {
        out.write_all(text.as_bytes()).map_err(|error| Error::io("write", &args.path, error))
    })?;
    super::print(&format!("wrote {}; run it with `farmhand run {}`\n", args.path.display(), args.path.display()))
}

/// The file with the plugins that are loaded, in front: keys outside of tables come first.
fn with_plugins(text: String) -> String {
    let paths: Vec<_> =
        loaded_plugins().iter().map(|plugin| toml::Value::from(plugin.path.display().to_string()).to_string()).collect();
    if paths.is_empty() { text } else { format!("plugins = [{}]\n{text}", paths.join(", ")) }
}

/// The file with its `[methods.…]` tables left out.
fn without_methods(text: &str) -> String {
    let mut kept = String::new();
    let mut inside = false;
    for line in text.lines() {
        if line.starts_with('[') {
            inside = line.starts_with("[methods.");
        }
        if !inside {
            kept += line;
            kept.push('\n');
        }
    }
    format!("{}\n", kept.trim_end())
}

/// `[methods.NAME]` with every option of the component at its default and what it means.
fn method_table(name: &str) -> Result<String> {
    let info = find_component(ComponentKind::Learner, name).or_else(|| find_component(ComponentKind::Policy, name)).ok_or_else(
        || {
            let (message, hint) = unknown_component(ComponentKind::Learner, name);
            Error::invalid_config(message).with_hint(hint)
        },
    )?;
    let schema = info.schema()?;
    let defaults: Value = serde_json::from_str(&(info.defaults)()).expect("options are JSON");
    let mut text = format!("\n# {}\n[methods.{name}.{}.{name}]\n", info.summary, info.kind.key());
    for row in option_rows(&schema, &defaults) {
        text += &format!("# {} ({})\n", row.meaning, row.takes);
        text += &match row.default {
            Some(default) if row.is_there => format!("{} = {default}\n", row.path),
            Some(default) => format!("# {} = {default}\n", row.path),
            None => format!("# {} = …\n", row.path),
        };
    }
    Ok(text)
}
