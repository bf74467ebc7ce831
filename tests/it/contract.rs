//! Every registered component keeps the promises of the registry. A new component is tested before its author writes a line.

use farmhand::core::component::{ComponentInfo, components};
use farmhand::core::config::check_against_schema;
use farmhand::core::{
    AnnotatorSpec, BuildContext, ComponentKind, Device, EvaluatorSpec, LearnerSpec, PolicySpec, RewardModelSpec,
};
use serde_json::{Value, json};

/// Reads a spec of the component's kind and writes it back.
fn round_trip(info: &ComponentInfo, options: &Value) -> Result<Value, String> {
    let tagged = json!({ info.name: options });
    fn through<T: serde::Serialize + serde::de::DeserializeOwned>(tagged: Value) -> Result<Value, String> {
        let spec: T = serde_json::from_value(tagged).map_err(|error| error.to_string())?;
        serde_json::to_value(&spec).map_err(|error| error.to_string())
    }
    match info.kind {
        ComponentKind::Policy => through::<PolicySpec>(tagged),
        ComponentKind::RewardModel => through::<RewardModelSpec>(tagged),
        ComponentKind::Annotator => through::<AnnotatorSpec>(tagged),
        ComponentKind::Learner => through::<LearnerSpec>(tagged),
        ComponentKind::Evaluator => through::<EvaluatorSpec>(tagged),
    }
}

fn defaults(info: &ComponentInfo) -> Value {
    serde_json::from_str(&(info.defaults)()).expect("defaults are JSON")
}

#[test]
fn the_registry_is_linked_and_every_name_is_there_once() {
    for kind in ComponentKind::ALL {
        assert!(components().iter().any(|info| info.kind == kind), "no {} is registered", kind.noun());
    }
    let mut names: Vec<(ComponentKind, &str)> = components().iter().map(|info| (info.kind, info.name)).collect();
    names.dedup();
    assert_eq!(names.len(), components().len(), "a name is registered twice");
}

#[test]
fn defaults_parse_round_trip_and_fit_their_schema() {
    for info in components() {
        let options = defaults(info);
        let back = round_trip(info, &options).unwrap_or_else(|error| panic!("{} `{}`: {error}", info.kind.noun(), info.name));
        assert_eq!(back, json!({ info.name: options }), "{} `{}` does not round-trip", info.kind.noun(), info.name);
        let schema = info.schema().expect("a schema is JSON");
        assert_eq!(check_against_schema(&options, &schema), [], "defaults of {} `{}`", info.kind.noun(), info.name);
        assert!(toml::to_string(&back).is_ok(), "{} `{}` cannot be written as TOML", info.kind.noun(), info.name);
    }
}

#[test]
fn an_unknown_option_is_refused_by_schema_and_by_serde() {
    for info in components() {
        let mut options = defaults(info);
        options.as_object_mut().expect("options are a table").insert("no_such_option".to_owned(), json!(1));
        let schema = info.schema().expect("a schema is JSON");
        let problems = check_against_schema(&options, &schema);
        assert!(problems.iter().any(|p| p.path == "no_such_option"), "{} `{}` takes any option", info.kind.noun(), info.name);
        assert!(round_trip(info, &options).is_err(), "{} `{}` takes any option", info.kind.noun(), info.name);
    }
}

#[test]
fn every_component_says_what_it_is_and_its_defaults_are_in_range() {
    for info in components() {
        assert!(
            !info.summary.is_empty() && !info.summary.ends_with('.'),
            "summary of `{}`: a fragment without a full stop",
            info.name
        );
        assert!(info.paper.is_none_or(|paper| paper.starts_with("https://")), "paper of `{}`: a link", info.name);
        let spec = json!({ info.name: defaults(info) });
        let problems = match info.kind {
            ComponentKind::Learner => serde_json::from_value::<LearnerSpec>(spec).expect("parses").problems(),
            ComponentKind::Policy => serde_json::from_value::<PolicySpec>(spec).expect("parses").problems(),
            ComponentKind::RewardModel => serde_json::from_value::<RewardModelSpec>(spec).expect("parses").problems(),
            ComponentKind::Annotator => serde_json::from_value::<AnnotatorSpec>(spec).expect("parses").problems(),
            ComponentKind::Evaluator => serde_json::from_value::<EvaluatorSpec>(spec).expect("parses").problems(),
        };
        // A wrapper has no sensible default for what it wraps, nor a program outside for its name; anything else must be in range.
        let wrapped = |path: &str| {
            let needed = ["inner", "model", "reward_model", "members", "policy", "path", "file", "config", ".command"];
            needed.iter().any(|key| path.contains(key))
        };
        let left: Vec<_> = problems.into_iter().filter(|problem| !wrapped(&problem.path)).collect();
        assert_eq!(left, [], "defaults of {} `{}`", info.kind.noun(), info.name);
    }
}

#[test]
fn learners_say_what_they_need_without_loading_anything() {
    let nowhere = std::path::Path::new("no/such/folder");
    for info in components().into_iter().filter(|info| info.kind == ComponentKind::Learner) {
        let spec: LearnerSpec = serde_json::from_value(json!({ info.name: defaults(info) })).expect("parses");
        let learner =
            spec.build(&BuildContext::new(Device::Cpu, nowhere)).unwrap_or_else(|error| panic!("{}: {error}", info.name));
        let requires = learner.requires();
        assert!(!requires.feedback.name().is_empty());
    }
}
