//! Compares values with a JSON Schema and reports everything wrong at once, by key path.
//!
//! serde stops at the first mistake and, inside enums, loses where it was. The schemas that `schemars` derives from
//! the option types hold the same knowledge, so the check walks values and schema side by side. It understands the
//! part of JSON Schema that these derived schemas use, and components: a schema with `x-component` stands for a table
//! with exactly one key, the name of a registered component of that kind.

use serde_json::{Map, Value};

use super::did_you_mean;
use crate::component::{ComponentInfo, ComponentKind, component_names, find_component, unknown_component};
use crate::error::Problem;
use crate::spec::take_preset;

/// Everything in `value` that does not fit `schema`.
pub fn check_against_schema(value: &Value, schema: &Value) -> Vec<Problem> {
    let mut problems = Vec::new();
    check(value, schema, "", &mut problems);
    problems
}

/// Everything in a component's options that does not fit it, the name of a preset included.
pub fn check_options(info: &ComponentInfo, options: &Value) -> Vec<Problem> {
    let schema = match info.schema() {
        Ok(schema) => schema,
        Err(error) => return vec![Problem::new("", error.to_string())],
    };
    let mut options = options.clone();
    let mut problems: Vec<Problem> = take_preset(info, &mut options).err().into_iter().collect();
    check(&options, &schema, "", &mut problems);
    problems
}

fn check(value: &Value, schema: &Value, path: &str, problems: &mut Vec<Problem>) {
    if let Some(kind) = schema.get("x-component").and_then(Value::as_str).and_then(ComponentKind::from_key) {
        return check_component(value, kind, path, problems);
    }
    if let Some(variants) = schema.get("oneOf").or_else(|| schema.get("anyOf")).and_then(Value::as_array) {
        return check_variants(value, variants, path, problems);
    }
    if let Some(names) = schema.get("enum").and_then(Value::as_array) {
        return check_names(value, &names.iter().filter_map(Value::as_str).collect::<Vec<_>>(), path, problems);
    }
    if let Some(name) = schema.get("const").and_then(Value::as_str) {
        return check_names(value, &[name], path, problems);
    }
    let types: Vec<&str> = match schema.get("type") {
        Some(Value::String(name)) => vec![name],
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).collect(),
        _ => return,
    };
    if !types.iter().any(|name| has_type(value, name)) {
        let expected = types.iter().filter(|name| **name != "null").map(|name| type_noun(name)).collect::<Vec<_>>().join(" or ");
        problems.push(Problem::new(path, format!("expected {expected}, got {}", describe(value))));
        return;
    }
    match value {
        Value::Object(table) => check_table(table, schema, path, problems),
        Value::Array(items) => check_list(items, schema, path, problems),
        Value::Number(number) => check_range(number, schema, path, problems),
        _ => {}
    }
}

fn check_component(value: &Value, kind: ComponentKind, path: &str, problems: &mut Vec<Problem>) {
    let known =
        || format!("known: {}", component_names(kind).iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "));
    let Value::Object(table) = value else {
        let message = format!("expected a table with the name of one {}, got {}", kind.noun(), describe(value));
        return problems.push(Problem::new(path, message).with_hint(known()));
    };
    if table.len() != 1 {
        let names = table.keys().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        let got = if names.is_empty() { "none".to_owned() } else { names };
        let message = format!("expected exactly one {}, got {got}", kind.noun());
        return problems.push(Problem::new(path, message).with_hint(known()));
    }
    for (name, options) in table {
        let path = join(path, name);
        match find_component(kind, name) {
            Some(info) => {
                problems.extend(check_options(info, options).into_iter().map(|problem| problem.under(&path)));
            }
            None => {
                let (message, hint) = unknown_component(kind, name);
                problems.push(Problem::new(path, message).with_hint(hint));
            }
        }
    }
}

/// A closed choice: texts for variants without data, tables with one key for variants with data, or plain types.
fn check_variants(value: &Value, variants: &[Value], path: &str, problems: &mut Vec<Problem>) {
    let mut attempts = Vec::new();
    for variant in variants {
        let mut found = Vec::new();
        check(value, variant, path, &mut found);
        if found.is_empty() {
            return;
        }
        attempts.push((variant, found));
    }
    if let Value::Object(table) = value {
        let named = attempts.iter().position(|(variant, _)| {
            variant.get("x-component").is_some()
                || variant
                    .get("properties")
                    .and_then(Value::as_object)
                    .is_some_and(|known| table.keys().any(|key| known.contains_key(key)))
        });
        if let Some(i) = named {
            problems.append(&mut attempts.swap_remove(i).1);
            return;
        }
    }
    let names: Vec<&str> = variants.iter().flat_map(variant_names).collect();
    match value {
        _ if names.is_empty() => problems.append(&mut attempts.swap_remove(0).1),
        Value::String(_) => check_names(value, &names, path, problems),
        Value::Object(table) => {
            for key in table.keys() {
                problems.push(Problem::new(join(path, key), "unknown choice").with_hint(did_you_mean(key, &names)));
            }
        }
        _ => problems.push(
            Problem::new(path, format!("expected one of the choices, got {}", describe(value)))
                .with_hint(did_you_mean("", &names)),
        ),
    }
}

fn variant_names(variant: &Value) -> Vec<&str> {
    if let Some(name) = variant.get("const").and_then(Value::as_str) {
        return vec![name];
    }
    if let Some(names) = variant.get("enum").and_then(Value::as_array) {
        return names.iter().filter_map(Value::as_str).collect();
    }
    variant
        .get("properties")
        .and_then(Value::as_object)
        .map(|known| known.keys().map(String::as_str).collect())
        .unwrap_or_default()
}

fn check_names(value: &Value, names: &[&str], path: &str, problems: &mut Vec<Problem>) {
    match value.as_str() {
        Some(text) if names.contains(&text) => {}
        Some(text) => problems.push(Problem::new(path, format!("unknown value `{text}`")).with_hint(did_you_mean(text, names))),
        None => problems
            .push(Problem::new(path, format!("expected a text, got {}", describe(value))).with_hint(did_you_mean("", names))),
    }
}

fn check_table(table: &Map<String, Value>, schema: &Value, path: &str, problems: &mut Vec<Problem>) {
    let none = Map::new();
    let known = schema.get("properties").and_then(Value::as_object).unwrap_or(&none);
    // The second name is the one of tables that take options of another table among their own.
    let others = schema.get("additionalProperties").or_else(|| schema.get("unevaluatedProperties"));
    for (key, value) in table {
        let path = join(path, key);
        match (known.get(key), others) {
            (Some(schema), _) => check(value, schema, &path, problems),
            (None, Some(Value::Bool(false))) => {
                let names: Vec<&str> = known.keys().map(String::as_str).collect();
                problems.push(Problem::new(path, "unknown option").with_hint(did_you_mean(key, &names)));
            }
            (None, Some(schema @ Value::Object(_))) => check(value, schema, &path, problems),
            (None, _) => {}
        }
    }
    for key in schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
        if !table.contains_key(key) {
            problems.push(Problem::new(join(path, key), "is missing"));
        }
    }
}

fn check_list(items: &[Value], schema: &Value, path: &str, problems: &mut Vec<Problem>) {
    let prefix = schema.get("prefixItems").and_then(Value::as_array);
    for (i, item) in items.iter().enumerate() {
        if let Some(schema) = prefix.and_then(|prefix| prefix.get(i)).or_else(|| schema.get("items")) {
            check(item, schema, &format!("{path}[{i}]"), problems);
        }
    }
    let limit = |key: &str| schema.get(key).and_then(Value::as_u64);
    if let Some(least) = limit("minItems").filter(|least| (items.len() as u64) < *least) {
        problems.push(Problem::new(path, format!("expected at least {least} items, got {}", items.len())));
    }
    if let Some(most) = limit("maxItems").filter(|most| (items.len() as u64) > *most) {
        problems.push(Problem::new(path, format!("expected at most {most} items, got {}", items.len())));
    }
}

fn check_range(number: &serde_json::Number, schema: &Value, path: &str, problems: &mut Vec<Problem>) {
    let Some(value) = number.as_f64() else { return };
    let limit = |key: &str| schema.get(key).and_then(Value::as_f64);
    if let Some(least) = limit("minimum").filter(|least| value < *least) {
        problems.push(Problem::new(path, format!("expected at least {least}, got {number}")));
    }
    if let Some(most) = limit("maximum").filter(|most| value > *most) {
        problems.push(Problem::new(path, format!("expected at most {most}, got {number}")));
    }
}

fn has_type(value: &Value, name: &str) -> bool {
    match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "null" => value.is_null(),
        _ => true,
    }
}

fn type_noun(name: &str) -> &'static str {
    match name {
        "object" => "a table",
        "array" => "a list",
        "string" => "a text",
        "boolean" => "true or false",
        "integer" => "a whole number",
        "number" => "a number",
        _ => "another type",
    }
}

fn describe(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_owned(),
        Value::Bool(truth) => truth.to_string(),
        Value::Number(number) if number.is_f64() => format!("the number {number}"),
        Value::Number(number) => format!("the whole number {number}"),
        Value::String(text) if text.chars().count() > 40 => "a long text".to_owned(),
        Value::String(text) => format!("the text {text:?}"),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "a table".to_owned(),
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::component::schema_json;

    /// Options.
    #[derive(schemars::JsonSchema, serde::Deserialize)]
    #[serde(deny_unknown_fields, default, rename_all = "snake_case")]
    struct Options {
        loss: Loss,
        path: Option<std::path::PathBuf>,
        betas: [f64; 2],
        learner: Option<crate::LearnerSpec>,
    }

    impl Default for Options {
        fn default() -> Self {
            Self { loss: Loss::Logistic, path: None, betas: [0.9, 0.999], learner: None }
        }
    }

    /// A loss.
    #[derive(schemars::JsonSchema, serde::Deserialize, Clone, serde::Serialize)]
    #[serde(rename_all = "snake_case", deny_unknown_fields)]
    enum Loss {
        /// Plain.
        Logistic,
        /// With a number.
        Robust {
            /// Noise.
            label_noise: f64,
        },
    }

    fn problems(value: Value) -> Vec<String> {
        let schema = serde_json::from_str(&schema_json::<Options>()).expect("JSON");
        check_against_schema(&value, &schema).into_iter().map(|p| format!("{}: {}", p.path, p.message)).collect()
    }

    #[test]
    fn what_fits_passes() {
        assert!(problems(serde_json::json!({})).is_empty());
        assert!(problems(serde_json::json!({"loss": "logistic", "path": "x", "betas": [0.9, 1]})).is_empty());
        assert!(problems(serde_json::json!({"loss": {"robust": {"label_noise": 0.1}}})).is_empty());
    }

    #[test]
    fn what_does_not_fit_is_named_where_it_stands() {
        assert_eq!(problems(serde_json::json!({"loss": "logistik"})), ["loss: unknown value `logistik`"]);
        assert_eq!(problems(serde_json::json!({"loss": {"robus": {}}})), ["loss.robus: unknown choice"]);
        assert_eq!(
            problems(serde_json::json!({"loss": {"robust": {"label_noise": "x"}}})),
            ["loss.robust.label_noise: expected a number, got the text \"x\""]
        );
        assert_eq!(problems(serde_json::json!({"betas": [0.9]})), ["betas: expected at least 2 items, got 1"]);
        assert_eq!(problems(serde_json::json!({"learner": {"nope": {}}})), ["learner.nope: unknown learner `nope`"]);
        assert_eq!(
            problems(serde_json::json!({"learner": {"a": {}, "b": {}}})),
            ["learner: expected exactly one learner, got `a`, `b`"]
        );
    }
}
