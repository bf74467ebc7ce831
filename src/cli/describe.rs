//! `farmhand describe`: a component's options, defaults, units and paper; or the whole reference as Markdown.

use farmhand_core::component::{ComponentInfo, components};
use farmhand_core::config::{ExperimentConfig, did_you_mean};
use farmhand_core::{ComponentKind, Error, Result, schema_json};
use serde_json::{Value, json};

use super::args::{Cli, DescribeArgs};
use super::option_table::{OptionRow, option_rows};

/// What is described: a component or the experiment file.
struct Subject {
    title: String,
    summary: String,
    paper: Option<&'static str>,
    usage: String,
    /// Names and meanings.
    presets: Vec<(&'static str, &'static str)>,
    rows: Vec<OptionRow>,
}

/// Prints the description.
pub(super) fn describe(args: &DescribeArgs, cli: &Cli) -> Result<()> {
    let subjects = match &args.name {
        _ if args.all => std::iter::once(Ok(experiment())).chain(in_order().map(component)).collect::<Result<_>>()?,
        Some(name) if name == "experiment" => vec![experiment()],
        Some(name) => named(name)?,
        None => Vec::new(),
    };
    if cli.json {
        return super::print_json(&subjects.iter().map(as_json).collect::<Vec<_>>());
    }
    let text = if args.markdown { markdown(&subjects) } else { subjects.iter().map(plain).collect::<Vec<_>>().join("\n") };
    super::print(&text)
}

fn in_order() -> impl Iterator<Item = &'static ComponentInfo> {
    ComponentKind::ALL.into_iter().flat_map(|kind| components().into_iter().filter(move |info| info.kind == kind))
}

fn named(name: &str) -> Result<Vec<Subject>> {
    let (kind, bare) = match name.split_once('.') {
        Some((kind, bare)) => (ComponentKind::from_key(kind), bare),
        None => (None, name),
    };
    let named = in_order().filter(|info| info.name == bare && kind.is_none_or(|kind| kind == info.kind));
    let found: Vec<Subject> = named.map(component).collect::<Result<_>>()?;
    if found.is_empty() {
        let mut known: Vec<&str> = components().iter().map(|info| info.name).collect();
        known.push("experiment");
        return Err(Error::invalid_config(format!("there is no component `{name}`")).with_hint(did_you_mean(name, &known)));
    }
    Ok(found)
}

fn component(info: &'static ComponentInfo) -> Result<Subject> {
    let schema = info.schema()?;
    let defaults: Value = serde_json::from_str(&(info.defaults)()).expect("options are JSON");
    Ok(Subject {
        title: format!("{} `{}`", info.kind.noun(), info.name),
        summary: info.summary.to_owned(),
        paper: info.paper,
        usage: format!("{}.{} = {{ … }}", info.kind.key(), info.name),
        presets: info.presets.iter().map(|preset| (preset.name, preset.summary)).collect(),
        rows: option_rows(&schema, &defaults),
    })
}

fn experiment() -> Subject {
    let schema: Value = serde_json::from_str(&schema_json::<ExperimentConfig>()).expect("a schema is JSON");
    Subject {
        title: "the experiment file".to_owned(),
        summary: "what `farmhand run` reads".to_owned(),
        paper: None,
        usage: "farmhand run experiment.toml".to_owned(),
        presets: Vec::new(),
        rows: option_rows(&schema, &experiment_defaults(&schema)),
    }
}

/// The defaults that stand in the schema itself.
fn experiment_defaults(schema: &Value) -> Value {
    let properties = schema.get("properties").and_then(Value::as_object);
    let defaults =
        properties.into_iter().flatten().filter_map(|(key, option)| Some((key.clone(), option.get("default")?.clone())));
    Value::Object(defaults.collect())
}

fn plain(subject: &Subject) -> String {
    let mut text = format!("{}: {}\n", subject.title, subject.summary);
    if let Some(paper) = subject.paper {
        text += &format!("paper: {paper}\n");
    }
    text += &format!("in a configuration: {}\n\n", subject.usage);
    for (name, whose) in &subject.presets {
        text +=
            &format!("  preset = \"{name}\"\n      Takes the options from {whose}; those that stand beside it change them.\n");
    }
    if subject.rows.is_empty() {
        text += "  no options\n";
    }
    for row in &subject.rows {
        let default = row.default.as_deref().unwrap_or("unset");
        text += &format!("  {} = {default}    ({})\n", row.path, row.takes);
        for line in wrap(&row.meaning, 96) {
            text += &format!("      {line}\n");
        }
    }
    text
}

fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().expect("there is a line");
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > width {
            lines.push(word.to_owned());
        } else {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}

fn markdown(subjects: &[Subject]) -> String {
    let mut text = "# Reference\n\nMade by `cargo xtask docs` from the components themselves; do not edit.\n".to_owned();
    for subject in subjects {
        text += &format!("\n## {}\n\n{}", subject.title, sentence(&subject.summary));
        if let Some(paper) = subject.paper {
            text += &format!(" Paper: <{paper}>.");
        }
        text += &match subject.usage.starts_with("farmhand ") {
            // The comment gives the test of the book what a reader has.
            true => format!(
                "\n\n<!-- given\ncp examples/configs/tiny.toml experiment.toml\n-->\n\n```console\n$ {}\n```\n",
                subject.usage
            ),
            false => format!("\n\n```toml\n{}\n```\n", subject.usage),
        };
        for (name, whose) in &subject.presets {
            text += &format!("\n`preset = \"{name}\"` takes the options from {whose}; those that stand beside it change them.\n");
        }
        if subject.rows.is_empty() {
            text += "\nNo options.\n";
            continue;
        }
        text += "\n| option | takes | default | meaning |\n| --- | --- | --- | --- |\n";
        for row in &subject.rows {
            let default = row.default.as_ref().map_or("unset".to_owned(), |default| format!("`{}`", default.replace('|', "\\|")));
            text += &format!(
                "| `{}` | {} | {default} | {} |\n",
                row.path,
                row.takes.replace('|', "\\|"),
                row.meaning.replace('|', "\\|")
            );
        }
    }
    text
}

fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars.next().map(|c| c.to_uppercase().to_string()).unwrap_or_default();
    format!("{first}{}.", chars.as_str().trim_end_matches('.'))
}

fn as_json(subject: &Subject) -> Value {
    let row = |row: &OptionRow| json!({ "path": row.path, "takes": row.takes, "default": row.default, "meaning": row.meaning });
    json!({
        "title": subject.title, "summary": subject.summary, "paper": subject.paper, "usage": subject.usage,
        "presets": subject.presets.iter().map(|(name, whose)| json!({ "name": name, "summary": whose })).collect::<Vec<_>>(),
        "options": subject.rows.iter().map(row).collect::<Vec<_>>(),
    })
}
