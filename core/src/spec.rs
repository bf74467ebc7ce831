//! Specs: a component's name over its options, as configurations hold it.
//!
//! A spec is read where the component is made: here, or in the copy of this crate that a plugin carries ([`crate::plugin`]).

use std::collections::BTreeMap;
use std::sync::Arc;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::DeserializeOwned;
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::Value;

use crate::annotator::{Annotator, AnnotatorConfig};
use crate::component::{BuildContext, ComponentInfo, ComponentKind, Preset, own_component, unknown_component};
use crate::error::{Error, Problem, Result};
use crate::evaluator::{Evaluator, EvaluatorConfig};
use crate::learner::{Learner, LearnerConfig};
use crate::plugin::{Calls, elsewhere};
use crate::policy::{Policy, PolicyConfig};
use crate::reward_model::{RewardModel, RewardModelConfig};

/// Where a component's options are kept.
enum Source<C: ?Sized, S: 'static, T: ?Sized + 'static> {
    /// Here.
    Here(Arc<C>),
    /// In the copy of this crate that makes the component; it is reached through its functions alone.
    Elsewhere(Arc<S>, &'static Calls<S, T>),
}

impl<C: ?Sized, S, T: ?Sized> Clone for Source<C, S, T> {
    fn clone(&self) -> Self {
        match self {
            Self::Here(config) => Self::Here(config.clone()),
            Self::Elsewhere(spec, calls) => Self::Elsewhere(spec.clone(), calls),
        }
    }
}

/// Exactly one name over its options.
fn name_and_options<'de, D: Deserializer<'de>>(deserializer: D, kind: ComponentKind) -> Result<(String, Value), D::Error> {
    let table = BTreeMap::<String, Value>::deserialize(deserializer)?;
    let mut entries = table.into_iter();
    match (entries.next(), entries.next()) {
        (Some(entry), None) => Ok(entry),
        _ => Err(de::Error::custom(format!("expected exactly one {} name over its options", kind.noun()))),
    }
}

fn unknown<E: de::Error>(kind: ComponentKind, name: &str) -> E {
    let (message, hint) = unknown_component(kind, name);
    E::custom(format!("{message} ({hint})"))
}

/// Reads options of a component that is made here.
fn read_options<E: de::Error, C: DeserializeOwned>(info: &ComponentInfo, options: Value) -> Result<C, E> {
    let options = complete_options(info, options).map_err(|problem| {
        let problem = problem.under(info.name);
        E::custom(match &problem.hint {
            Some(hint) => format!("`{}`: {} ({hint})", problem.path, problem.message),
            None => format!("`{}`: {}", problem.path, problem.message),
        })
    })?;
    let tagged = Value::Object([(info.name.to_owned(), options)].into_iter().collect());
    serde_path_to_error::deserialize(tagged).map_err(|error| E::custom(format!("`{}`: {}", error.path(), error.inner())))
}

/// The key that takes a component's options from one of its presets.
pub(crate) const PRESET: &str = "preset";

/// Options as a user wrote them, with the rest from the preset that they name or from the component's defaults. So a table that
/// sets one option, at any depth, leaves the others as the component has them. Unknown options are refused here, for serde lets
/// them pass where a table takes in the options of another.
fn complete_options(info: &ComponentInfo, mut written: Value) -> Result<Value, Problem> {
    let preset = take_preset(info, &mut written)?;
    let base = preset.map_or_else(info.defaults, |preset| (preset.options)());
    let read = |text: &str| serde_json::from_str(text).expect("what a component says about itself is JSON");
    let schema = info.schema().map_err(|error| Problem::new("", error.to_string()))?;
    if let Some(problem) = crate::config::check_against_schema(&written, &schema).into_iter().next() {
        return Err(problem);
    }
    Ok(overlay(read(&base), written, &schema))
}

/// Takes the key `preset` out of options; `None` when it is not there or the component has no presets.
pub(crate) fn take_preset(info: &ComponentInfo, options: &mut Value) -> Result<Option<&'static Preset>, Problem> {
    let Some(table) = options.as_object_mut().filter(|_| !info.presets.is_empty()) else { return Ok(None) };
    let Some(name) = table.remove(PRESET) else { return Ok(None) };
    let known: Vec<&str> = info.presets.iter().map(|preset| preset.name).collect();
    let found = info.presets.iter().find(|preset| name.as_str() == Some(preset.name));
    found.map(Some).ok_or_else(|| {
        let name = name.as_str().map_or_else(|| name.to_string(), str::to_owned);
        Problem::new(PRESET, format!("unknown preset `{name}`")).with_hint(crate::config::did_you_mean(&name, &known))
    })
}

/// `written` over `base`, table by table. Choices, lists and maps are taken whole.
fn overlay(base: Value, written: Value, schema: &Value) -> Value {
    let is_table = schema.get("properties").is_some() && schema.get("oneOf").or_else(|| schema.get("anyOf")).is_none();
    match (base, written) {
        (Value::Object(mut base), Value::Object(written)) if is_table => {
            for (key, value) in written {
                let value = match base.remove(&key) {
                    Some(old) => overlay(old, value, &schema["properties"][&key]),
                    None => value,
                };
                base.insert(key, value);
            }
            Value::Object(base)
        }
        (_, written) => written,
    }
}

macro_rules! spec {
    ($(#[$doc:meta])* $spec:ident, $config:ident, $component:ident, $calls:ident, $kind:expr) => {
        $(#[$doc])*
        #[derive(Clone)]
        pub struct $spec {
            name: String,
            source: Source<dyn $config, $spec, dyn $component>,
        }

        impl $spec {
            /// The component with these options.
            ///
            /// # Errors
            /// When the name is unknown or the options do not fit.
            pub fn from_json(name: &str, options: &str) -> Result<Self> {
                let text = format!("{{{}:{options}}}", Value::from(name));
                serde_json::from_str(&text).map_err(|error| Error::invalid_config(error.to_string()))
            }

            /// The component of this name with options that are whole: nothing is read and no default is made, so that a default
            /// may hold it.
            pub fn of(name: &str, config: impl $config + 'static) -> Self {
                Self { name: name.to_owned(), source: Source::Here(Arc::new(config)) }
            }

            /// The component's name.
            pub fn name(&self) -> &str {
                &self.name
            }

            /// Builds the component; the error says which.
            ///
            /// # Errors
            /// Whatever the component reports.
            pub fn build(&self, ctx: &BuildContext<'_>) -> Result<Box<dyn $component>> {
                self.build_bare(ctx).map_err(|error| error.context(format_args!("{} `{}`", $kind.noun(), self.name)))
            }

            /// The same without saying which, for a copy of this crate that says it itself.
            pub(crate) fn build_bare(&self, ctx: &BuildContext<'_>) -> Result<Box<dyn $component>> {
                match &self.source {
                    Source::Here(config) => config.build(ctx),
                    Source::Elsewhere(spec, calls) => (calls.build)(spec, ctx),
                }
            }

            /// What is wrong with the options, paths relative to the spec (they begin with the name).
            pub fn problems(&self) -> Vec<Problem> {
                match &self.source {
                    Source::Here(config) => config.problems().into_iter().map(|problem| problem.under(&self.name)).collect(),
                    Source::Elsewhere(spec, calls) => {
                        (calls.problems)(spec).unwrap_or_else(|error| vec![Problem::new(self.name.clone(), error.to_string())])
                    }
                }
            }
        }

        impl std::fmt::Debug for $spec {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                match &self.source {
                    Source::Here(config) => config.fmt(f),
                    Source::Elsewhere(spec, calls) => {
                        write!(f, "{} {}", self.name, (calls.write)(spec).unwrap_or_else(|error| error.to_string()))
                    }
                }
            }
        }

        impl Serialize for $spec {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                match &self.source {
                    Source::Here(config) => {
                        let config: &dyn $config = &**config;
                        config.serialize(serializer)
                    }
                    Source::Elsewhere(spec, calls) => {
                        let options = (calls.write)(spec).map_err(S::Error::custom)?;
                        let options: Value = serde_json::from_str(&options).map_err(S::Error::custom)?;
                        BTreeMap::from([(&self.name, options)]).serialize(serializer)
                    }
                }
            }
        }

        impl<'de> Deserialize<'de> for $spec {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let (name, options) = name_and_options(deserializer, $kind)?;
                let source = match own_component($kind, &name) {
                    Some(info) => Source::Here(read_options::<D::Error, Box<dyn $config>>(info, options)?.into()),
                    None => {
                        let (_, table) = elsewhere($kind, &name).ok_or_else(|| unknown($kind, &name))?;
                        let spec = (table.$calls.read)(&name, &options.to_string()).map_err(de::Error::custom)?;
                        Source::Elsewhere(Arc::new(spec), &table.$calls)
                    }
                };
                Ok(Self { name, source })
            }
        }

        impl JsonSchema for $spec {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($spec).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "object", "x-component": $kind.key() })
            }
        }
    };
}

spec! {
    /// A policy by name and options.
    PolicySpec, PolicyConfig, Policy, policy, ComponentKind::Policy
}
spec! {
    /// A reward model by name and options.
    RewardModelSpec, RewardModelConfig, RewardModel, reward_model, ComponentKind::RewardModel
}
spec! {
    /// An annotator by name and options.
    AnnotatorSpec, AnnotatorConfig, Annotator, annotator, ComponentKind::Annotator
}
spec! {
    /// A learner by name and options.
    LearnerSpec, LearnerConfig, Learner, learner, ComponentKind::Learner
}
spec! {
    /// An evaluator by name and options.
    EvaluatorSpec, EvaluatorConfig, Evaluator, evaluator, ComponentKind::Evaluator
}
