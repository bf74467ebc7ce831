//! A component's options as rows, read from its JSON Schema and its defaults.

use serde_json::{Map, Value};

/// One option.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct OptionRow {
    /// Its key path inside the component, for example `optim.lr`.
    pub(super) path: String,
    /// What it takes, for example `number` or `token_mean | seq_mean`.
    pub(super) takes: String,
    /// Its default as TOML; `None` when unset.
    pub(super) default: Option<String>,
    /// What it means.
    pub(super) meaning: String,
    /// Whether the table that it lies in is there by default; of one that is not, the defaults count once any option is written.
    pub(super) is_there: bool,
}

/// The options of a schema; tables inside are flattened to dotted paths.
pub(super) fn option_rows(schema: &Value, defaults: &Value) -> Vec<OptionRow> {
    let mut rows = Vec::new();
    collect(schema, defaults, "", true, &mut rows);
    rows
}

/// The choices of options that cite a publication, tables inside included: option path, choice, what it means. A citation is a
/// year of this century or an address on arXiv.
pub(super) fn cited_choices(schema: &Value) -> Vec<(String, String, String)> {
    let mut found = Vec::new();
    collect_cited(schema, "", &mut found);
    found
}

fn collect_cited(schema: &Value, prefix: &str, found: &mut Vec<(String, String, String)>) {
    for (key, option) in schema.get("properties").and_then(Value::as_object).unwrap_or(&Map::new()) {
        let path = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        if option.get("x-component").is_none() {
            collect_cited(option, &path, found);
        }
        for variant in variants(option) {
            let meaning = variant.get("description").and_then(Value::as_str).unwrap_or_default().replace('\n', " ");
            if cites(&meaning) {
                found.extend(variant_names(variant).first().map(|choice| (path.clone(), choice.clone(), meaning)));
            }
        }
    }
}

fn cites(text: &str) -> bool {
    let is_year = |word: &str| word.len() == 4 && word.starts_with("20") && word.bytes().all(|byte| byte.is_ascii_digit());
    text.contains("arxiv.org/abs/") || text.split(|c: char| !c.is_alphanumeric()).any(is_year)
}

fn collect(schema: &Value, defaults: &Value, prefix: &str, is_there: bool, rows: &mut Vec<OptionRow>) {
    let none = Map::new();
    for (key, option) in schema.get("properties").and_then(Value::as_object).unwrap_or(&none) {
        let path = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        let default = defaults.get(key).or_else(|| option.get("default")).unwrap_or(&Value::Null);
        let meaning = meaning(option);
        if option.get("properties").is_some() && option.get("x-component").is_none() {
            let is_there = is_there && defaults.get(key).is_some_and(Value::is_object);
            collect(option, default, &path, is_there, rows);
        } else {
            rows.push(OptionRow { path, takes: takes(option), default: toml_text(default), meaning, is_there });
        }
    }
}

fn meaning(option: &Value) -> String {
    let own = option.get("description").and_then(Value::as_str).unwrap_or_default();
    let mut text = own.replace('\n', " ");
    for variant in variants(option) {
        if let Some(what) = variant.get("description").and_then(Value::as_str) {
            let names = variant_names(variant).join(", ");
            if !names.is_empty() {
                text += &format!(" `{names}`: {}", what.replace('\n', " "));
            }
        }
    }
    text.trim().to_owned()
}

/// The choices of an option; a choice of choices, as in an optional one, is flattened.
fn variants(option: &Value) -> Vec<&Value> {
    let list = option.get("oneOf").or_else(|| option.get("anyOf")).and_then(Value::as_array);
    let nested = |variant| match variants(variant) {
        inner if inner.is_empty() => vec![variant],
        inner => inner,
    };
    list.into_iter().flatten().flat_map(nested).collect()
}

fn variant_names(variant: &Value) -> Vec<String> {
    if let Some(name) = variant.get("const").and_then(Value::as_str) {
        return vec![name.to_owned()];
    }
    if let Some(names) = variant.get("enum").and_then(Value::as_array) {
        return names.iter().filter_map(Value::as_str).map(str::to_owned).collect();
    }
    let with_data = variant.get("properties").and_then(Value::as_object).into_iter().flatten();
    with_data
        .map(|(name, data)| {
            let fields: Vec<&str> = data
                .get("properties")
                .and_then(Value::as_object)
                .into_iter()
                .flat_map(|t| t.keys())
                .map(String::as_str)
                .collect();
            if fields.is_empty() {
                format!("{{ {name} = {} }}", takes(data))
            } else {
                format!("{{ {name} = {{ {} }} }}", fields.join(", "))
            }
        })
        .collect()
}

fn takes(option: &Value) -> String {
    if let Some(kind) = option.get("x-component").and_then(Value::as_str) {
        let article = if kind.starts_with(['a', 'e']) { "an" } else { "a" };
        return format!("{article} {}", kind.replace('_', " "));
    }
    let named: Vec<String> = variants(option)
        .into_iter()
        .flat_map(|variant| match (variant.get("x-component"), variant_names(variant)) {
            (Some(_), _) => vec![takes(variant)],
            (None, names) => names,
        })
        .chain(variant_names(&serde_json::json!({ "enum": option.get("enum").cloned().unwrap_or(Value::Array(Vec::new())) })))
        .collect();
    if !named.is_empty() {
        return named.join(" | ");
    }
    let types: Vec<&str> = match option.get("type") {
        Some(Value::String(name)) => vec![name],
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).filter(|name| *name != "null").collect(),
        _ => variants(option)
            .into_iter()
            .filter_map(|v| v.get("type").and_then(Value::as_str))
            .filter(|name| *name != "null")
            .collect(),
    };
    let noun = |name: &&str| match *name {
        "integer" => "whole number".to_owned(),
        "string" => "text".to_owned(),
        "boolean" => "true | false".to_owned(),
        "array" => match option.get("items") {
            Some(items) => format!("list: {}", takes(items)),
            None => "list".to_owned(),
        },
        "object" => "table".to_owned(),
        other => other.to_owned(),
    };
    types.iter().map(noun).collect::<Vec<_>>().join(" | ")
}

/// A JSON value as it stands in TOML; `None` for null.
pub(super) fn toml_text(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::Object(table) => {
            let entries: Vec<String> =
                table.iter().filter_map(|(key, value)| Some(format!("{key} = {}", toml_text(value)?))).collect();
            Some(if entries.is_empty() { "{}".to_owned() } else { format!("{{ {} }}", entries.join(", ")) })
        }
        Value::Array(items) => Some(format!("[{}]", items.iter().filter_map(toml_text).collect::<Vec<_>>().join(", "))),
        other => Some(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_registered_component_documents_every_option() {
        for info in farmhand_core::component::components() {
            let schema = info.schema().expect("JSON");
            let defaults: Value = serde_json::from_str(&(info.defaults)()).expect("JSON");
            for row in option_rows(&schema, &defaults) {
                assert!(
                    !row.meaning.is_empty(),
                    "{} `{}`: option `{}` has no documentation",
                    info.kind.noun(),
                    info.name,
                    row.path
                );
                assert!(!row.takes.is_empty(), "{} `{}`: option `{}` has no type", info.kind.noun(), info.name, row.path);
            }
        }
    }

    #[test]
    fn values_read_as_toml() {
        let value = serde_json::json!({ "a": 1.5, "b": ["x"], "c": { "d": true }, "e": null });
        assert_eq!(toml_text(&value).expect("a value"), "{ a = 1.5, b = [\"x\"], c = { d = true } }");
    }
}
