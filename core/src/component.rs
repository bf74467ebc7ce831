//! Components by name: registration, lookup, and the specs that stand for them in configurations.
//!
//! A component registers itself where it is written, with [`register!`](crate::register) and a typetag
//! implementation; there is no central list. A spec such as [`LearnerSpec`] is what configurations hold:
//! a table with exactly one key, the component's name, over its options.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use crate::budget::Budget;
use crate::checkpoint::{Checkpoint, FindModel, FoldersOnly};
use crate::context::Device;
use crate::error::{Error, Result};
use crate::plugin::{elsewhere, everywhere, is_own, made_elsewhere};
pub use crate::spec::{AnnotatorSpec, EvaluatorSpec, LearnerSpec, PolicySpec, RewardModelSpec};

/// The five kinds of component.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ComponentKind {
    /// Answers instructions.
    Policy,
    /// Scores answers.
    RewardModel,
    /// Judges pairs of answers.
    Annotator,
    /// Learns from feedback.
    Learner,
    /// Measures.
    Evaluator,
}

impl ComponentKind {
    /// All kinds, in the order lists show them.
    pub const ALL: [Self; 5] = [Self::Learner, Self::Policy, Self::RewardModel, Self::Annotator, Self::Evaluator];

    /// The name of the kind in configurations, for example `reward_model`.
    pub fn key(self) -> &'static str {
        match self {
            Self::Policy => "policy",
            Self::RewardModel => "reward_model",
            Self::Annotator => "annotator",
            Self::Learner => "learner",
            Self::Evaluator => "evaluator",
        }
    }

    /// The name of the kind in sentences, for example `reward model`.
    pub fn noun(self) -> &'static str {
        match self {
            Self::RewardModel => "reward model",
            other => other.key(),
        }
    }

    /// The name of several of the kind, for example `policies`.
    pub fn plural(self) -> &'static str {
        match self {
            Self::Policy => "policies",
            Self::RewardModel => "reward models",
            Self::Annotator => "annotators",
            Self::Learner => "learners",
            Self::Evaluator => "evaluators",
        }
    }

    /// The kind with this key.
    pub fn from_key(key: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.key() == key)
    }
}

/// What a component says about itself.
#[derive(Debug)]
pub struct ComponentInfo {
    /// Its kind.
    pub kind: ComponentKind,
    /// Its name in configurations.
    pub name: &'static str,
    /// One line about it.
    pub summary: &'static str,
    /// Where the method is published, if anywhere.
    pub paper: Option<&'static str>,
    /// The cargo package it lives in.
    pub package: &'static str,
    /// JSON Schema of its options, with their documentation, as text; [`schema`](Self::schema) reads it.
    pub schema_text: fn() -> String,
    /// Its options with every default, as JSON.
    pub defaults: fn() -> String,
    /// Published settings by name, which `preset` in its options takes instead of the defaults.
    pub presets: &'static [Preset],
}

/// Settings of a component that somebody published.
#[derive(Debug)]
pub struct Preset {
    /// Its name in configurations.
    pub name: &'static str,
    /// One line about it: whose settings they are.
    pub summary: &'static str,
    /// All options, as JSON.
    pub options: fn() -> String,
}

inventory::collect!(ComponentInfo);

impl ComponentInfo {
    /// JSON Schema of its options, with their documentation.
    ///
    /// # Errors
    /// When the component is a plugin's and the plugin panics, or says something that is not JSON. Plugins are not asked when they are
    /// loaded, for the answer takes longer to make than the rest of loading.
    pub fn schema(&self) -> Result<Value> {
        serde_json::from_str(&self.whole_schema_text()?).map_err(|error| {
            let message = format!("{} `{}` describes its options in something that is not JSON", self.kind.noun(), self.name);
            Error::broken_contract(message).with_source(error)
        })
    }

    /// The text, asked of the copy of this crate that makes the component, where panics are caught.
    pub(crate) fn whole_schema_text(&self) -> Result<String> {
        match made_elsewhere(self) {
            Some(table) => (table.schema)(self.kind, self.name),
            None => Ok((self.schema_text)()),
        }
    }
}

/// The JSON Schema of an options type, as text. Used by [`register!`](crate::register).
pub fn schema_json<C: JsonSchema>() -> String {
    let generator = schemars::generate::SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    serde_json::to_string(&generator.into_generator().into_root_schema_for::<C>()).expect("a schema is JSON")
}

/// The default options of a type, as JSON text. Used by [`register!`](crate::register).
pub fn defaults_json<C: Default + Serialize>() -> String {
    options_json(&C::default())
}

/// Options as JSON text. Used by [`register!`](crate::register).
pub fn options_json(options: &impl Serialize) -> String {
    serde_json::to_string(options).expect("options are JSON")
}

/// Registers a component: what it is, its options type, one line about it, and its paper.
///
/// ```
/// use farmhand_core::{BuildContext, Error, Evaluator, EvaluatorConfig, Result, register};
///
/// register! {
///     kind: Evaluator, name: "answers", config: AnswersConfig,
///     summary: "the number of answers",
/// }
///
/// /// Options of `[evaluator.answers]`: none.
/// #[derive(Debug, Clone, Default, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
/// #[serde(deny_unknown_fields, default)]
/// struct AnswersConfig {}
///
/// #[typetag::serde(name = "answers")]
/// impl EvaluatorConfig for AnswersConfig {
///     fn build(&self, _: &BuildContext<'_>) -> Result<Box<dyn Evaluator>> {
///         Err(Error::other("left out of this example"))
///     }
/// }
///
/// assert!(farmhand_core::component::component_names(farmhand_core::ComponentKind::Evaluator).contains(&"answers"));
/// ```
/// The options type is `Default + Serialize + Deserialize + JsonSchema`, and the same name stands in
/// `#[typetag::serde(name = "dpo")]`; a test compares the two. After the paper, published settings may follow, each a name,
/// whose they are, and the options: `presets: { "alpaca_farm": "AlpacaFarm's published set-up" => PpoConfig::alpaca_farm() }`.
#[macro_export]
macro_rules! register {
    (
        kind: $kind:ident, name: $name:literal, config: $config:ty, summary: $summary:literal
        $(, paper: $paper:literal)? $(, presets: { $($preset:literal: $whose:literal => $options:expr),+ $(,)? })? $(,)?
    ) => {
        $crate::inventory::submit! {
            $crate::ComponentInfo {
                kind: $crate::ComponentKind::$kind,
                name: $name,
                summary: $summary,
                paper: $crate::first_or_none!($($paper)?),
                package: env!("CARGO_PKG_NAME"),
                schema_text: $crate::schema_json::<$config>,
                defaults: $crate::defaults_json::<$config>,
                presets: &[$($($crate::Preset { name: $preset, summary: $whose, options: || $crate::options_json(&$options) }),+)?],
            }
        }
    };
}

/// `Some` of the one argument, or `None` without one. Part of [`register!`](crate::register).
#[doc(hidden)]
#[macro_export]
macro_rules! first_or_none {
    () => {
        None
    };
    ($value:expr) => {
        Some($value)
    };
}

/// Every component there is, sorted by kind and name: those registered here, and those of plugins that were loaded.
pub fn components() -> Vec<&'static ComponentInfo> {
    let mut all = everywhere();
    all.sort_by_key(|info| (info.kind, info.name));
    all
}

/// The names of one kind, sorted.
pub fn component_names(kind: ComponentKind) -> Vec<&'static str> {
    components().into_iter().filter(|info| info.kind == kind).map(|info| info.name).collect()
}

/// The component of that kind and name.
pub fn find_component(kind: ComponentKind, name: &str) -> Option<&'static ComponentInfo> {
    own_component(kind, name).or_else(|| elsewhere(kind, name).map(|(info, _)| info))
}

/// The component of that kind and name that this copy of the crate makes.
pub(crate) fn own_component(kind: ComponentKind, name: &str) -> Option<&'static ComponentInfo> {
    inventory::iter::<ComponentInfo>.into_iter().find(|info| info.kind == kind && info.name == name && is_own(info))
}

/// "unknown learner `dop`", with the nearest known name or the list as a hint, and that it may be a plugin's.
pub fn unknown_component(kind: ComponentKind, name: &str) -> (String, String) {
    let known = component_names(kind);
    let message = format!("unknown {} `{name}`", kind.noun());
    let hint = crate::config::did_you_mean(name, &known);
    (
        message,
        format!("{hint}; what a plugin brings is known once the configuration's `plugins`, or `--plugin`, names the plugin"),
    )
}

/// What a component may use while it is built.
#[derive(Debug, Clone, Copy)]
pub struct BuildContext<'a> {
    /// Where tensors will live.
    pub device: Device,
    /// Relative paths in options start here.
    pub base_dir: &'a Path,
    /// The policy that is meant when options name no model.
    pub policy: Option<&'a Checkpoint>,
    /// The reward model that is meant when options name no model.
    pub reward_model: Option<&'a Checkpoint>,
    /// Finds the models that options name.
    pub models: &'a dyn FindModel,
    /// A folder outside of the run for what other runs can use again; without one nothing is kept for them.
    pub cache_dir: Option<&'a Path>,
    /// What paid requests may cost; without one they may cost anything.
    pub budget: Option<&'a Budget>,
}

impl<'a> BuildContext<'a> {
    /// A context that offers no models and no cache, and finds those that options name in folders alone.
    pub fn new(device: Device, base_dir: &'a Path) -> Self {
        Self { device, base_dir, policy: None, reward_model: None, models: &FoldersOnly, cache_dir: None, budget: None }
    }

    /// A path from the options, made absolute to `base_dir`.
    pub fn resolve(&self, path: &Path) -> PathBuf {
        self.base_dir.join(path)
    }

    /// The policy checkpoint: the one the options name, otherwise the context's.
    ///
    /// # Errors
    /// When there is neither, or the named one does not exist.
    pub fn policy_checkpoint(&self, option: Option<&Path>) -> Result<Checkpoint> {
        self.checkpoint(option, self.policy, "policy")
    }

    /// The reward model checkpoint: the one the options name, otherwise the context's.
    ///
    /// # Errors
    /// When there is neither, or the named one does not exist.
    pub fn reward_checkpoint(&self, option: Option<&Path>) -> Result<Checkpoint> {
        self.checkpoint(option, self.reward_model, "reward model")
    }

    fn checkpoint(&self, option: Option<&Path>, fallback: Option<&Checkpoint>, noun: &str) -> Result<Checkpoint> {
        match (option, fallback) {
            (Some(name), _) => self.models.find_model(name, self.base_dir),
            (None, Some(checkpoint)) => Ok(checkpoint.clone()),
            (None, None) => Err(Error::missing_input(format!("no {noun} to load"))
                .with_hint("set `model` in the component's options to a model folder or a hub id")),
        }
    }
}
