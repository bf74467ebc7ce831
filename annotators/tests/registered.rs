//! Every annotator of this crate keeps its promises to configuration files.

use farmhand_annotators as _;
use farmhand_core::component::components;
use farmhand_core::{AnnotatorSpec, ComponentKind};
use serde_json::Value;

fn has_null(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.iter().any(has_null),
        Value::Object(table) => table.values().any(has_null),
        _ => false,
    }
}

#[test]
fn the_annotators_are_there_and_nothing_else() {
    let ours = components().into_iter().filter(|info| info.package == "farmhand-annotators");
    let names: Vec<_> = ours.inspect(|info| assert_eq!(info.kind, ComponentKind::Annotator)).map(|info| info.name).collect();
    assert_eq!(names, ["cached", "from_file", "human", "label_noise", "order_swap", "pool", "rater", "reward_judge"]);
}

#[test]
fn defaults_read_back_as_they_are_and_unknown_options_are_refused() {
    for info in components().into_iter().filter(|info| info.package == "farmhand-annotators") {
        let name = info.name;
        let defaults: Value = serde_json::from_str(&(info.defaults)()).expect(name);
        assert!(!has_null(&defaults), "{name}: a null cannot be written as TOML: {defaults}");
        for text in [defaults.to_string(), "{}".to_owned()] {
            let spec = AnnotatorSpec::from_json(name, &text).expect(name);
            assert_eq!(serde_json::to_value(&spec).expect(name), serde_json::json!({ name: defaults }));
        }
        let error = AnnotatorSpec::from_json(name, r#"{"surprise": 1}"#).expect_err(name);
        assert!(error.to_string().contains("surprise"), "{error}");
        assert!(info.paper.is_some() && !info.summary.is_empty());
    }
}

#[test]
fn only_what_needs_a_file_or_a_model_has_problems_by_default() {
    let needy = |name: &str| !AnnotatorSpec::from_json(name, "{}").expect(name).problems().is_empty();
    let names = ["cached", "from_file", "human", "label_noise", "order_swap", "pool", "rater", "reward_judge"];
    assert_eq!(names.into_iter().filter(|name| needy(name)).collect::<Vec<_>>(), ["from_file", "human", "reward_judge"]);
}
