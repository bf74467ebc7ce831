//! Every component of this crate keeps its promises to configuration files.

use farmhand_annotators as _;
use farmhand_core::component::{ComponentInfo, components};
use farmhand_core::{AnnotatorSpec, ComponentKind, Problem, Result, RewardModelSpec};
use serde_json::Value;

fn ours() -> impl Iterator<Item = &'static ComponentInfo> {
    components().into_iter().filter(|info| info.package == "farmhand-annotators")
}

fn has_null(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.iter().any(has_null),
        Value::Object(table) => table.values().any(has_null),
        _ => false,
    }
}

/// The component with these options, as it is written back, and what is wrong with them.
fn read(info: &ComponentInfo, options: &str) -> Result<(Value, Vec<Problem>)> {
    let json = |spec: serde_json::Result<Value>| spec.expect("a specification is JSON");
    Ok(match info.kind {
        ComponentKind::Annotator => {
            let spec = AnnotatorSpec::from_json(info.name, options)?;
            (json(serde_json::to_value(&spec)), spec.problems())
        }
        ComponentKind::RewardModel => {
            let spec = RewardModelSpec::from_json(info.name, options)?;
            (json(serde_json::to_value(&spec)), spec.problems())
        }
        other => panic!("a {} in this crate: `{}`", other.noun(), info.name),
    })
}

#[test]
fn the_components_are_there_and_nothing_else() {
    let of = |kind| ours().filter(|info| info.kind == kind).map(|info| info.name).collect::<Vec<_>>();
    let annotators = [
        "alpaca_eval",
        "both_orders",
        "cached",
        "chain_of_thought",
        "from_file",
        "human",
        "label_noise",
        "order_swap",
        "pool",
        "ranking",
        "rater",
        "reward_judge",
        "rubric",
        "weighted",
    ];
    assert_eq!(of(ComponentKind::Annotator), annotators);
    assert_eq!(of(ComponentKind::RewardModel), ["ranking", "rubric"]);
}

#[test]
fn defaults_read_back_as_they_are_and_unknown_options_are_refused() {
    for info in ours() {
        let name = info.name;
        let defaults: Value = serde_json::from_str(&(info.defaults)()).expect(name);
        assert!(!has_null(&defaults), "{name}: a null cannot be written as TOML: {defaults}");
        for text in [defaults.to_string(), "{}".to_owned()] {
            assert_eq!(read(info, &text).expect(name).0, serde_json::json!({ name: defaults }));
        }
        let error = read(info, r#"{"surprise": 1}"#).expect_err(name);
        assert!(error.to_string().contains("surprise"), "{error}");
        assert!(info.paper.is_some() && !info.summary.is_empty());
    }
}

#[test]
fn only_what_needs_a_file_or_a_model_has_problems_by_default() {
    let needy: Vec<&str> = ours().filter(|info| !read(info, "{}").expect(info.name).1.is_empty()).map(|info| info.name).collect();
    let behind_a_server = ["chain_of_thought", "ranking", "rubric", "weighted"];
    for name in &needy {
        assert!(behind_a_server.contains(name) || ["alpaca_eval", "from_file", "human", "reward_judge"].contains(name), "{name}");
    }
    // Two of them are annotators and reward models.
    assert_eq!(needy.len(), behind_a_server.len() + 2 + 4);
}
