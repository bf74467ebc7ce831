//! The functions that two copies of the core hand each other: components by name, touched only by the copy that made them.

use std::sync::OnceLock;

use super::guard::{become_plugin, guarded, owner};
use super::guarded::Guard;
use super::library::{LoadedPlugin, loaded_plugins};
use crate::annotator::Annotator;
use crate::component::{
    AnnotatorSpec, BuildContext, ComponentInfo, ComponentKind, EvaluatorSpec, LearnerSpec, PolicySpec, RewardModelSpec,
    find_component,
};
use crate::error::{Error, Problem, Result};
use crate::evaluator::Evaluator;
use crate::learner::Learner;
use crate::policy::Policy;
use crate::reward_model::RewardModel;

/// What one copy of the core does with components of one kind on behalf of another; `S` is a spec, `T` the contract.
pub(crate) struct Calls<S, T: ?Sized> {
    /// A spec from the options of the component with this name, as JSON.
    pub(crate) read: fn(&str, &str) -> Result<S>,
    /// The options with every default, as JSON.
    pub(crate) write: fn(&S) -> Result<String>,
    /// What is wrong with the options, paths from the component's name on.
    pub(crate) problems: fn(&S) -> Result<Vec<Problem>>,
    /// Builds the component, its panics caught.
    pub(crate) build: fn(&S, &BuildContext<'_>) -> Result<Box<T>>,
}

/// All five kinds.
pub(crate) struct Table {
    /// The JSON Schema of the options of the component of that kind and name, as text.
    pub(crate) schema: fn(ComponentKind, &str) -> Result<String>,
    pub(crate) policy: Calls<PolicySpec, dyn Policy>,
    pub(crate) reward_model: Calls<RewardModelSpec, dyn RewardModel>,
    pub(crate) annotator: Calls<AnnotatorSpec, dyn Annotator>,
    pub(crate) learner: Calls<LearnerSpec, dyn Learner>,
    pub(crate) evaluator: Calls<EvaluatorSpec, dyn Evaluator>,
}

macro_rules! calls {
    ($spec:ty) => {
        Calls {
            read: |name, options| guarded("reading options", || <$spec>::from_json(name, options)),
            write: |spec| {
                let text = || serde_json::to_value(spec).map(|value| value[spec.name()].to_string());
                guarded("writing options", || text().map_err(|error| Error::other("options are not JSON").with_source(error)))
            },
            problems: |spec| guarded("checking options", || Ok(spec.problems())),
            build: |spec, ctx| guarded("`build`", || spec.build_bare(ctx).map(Guard::guard)),
        }
    };
}

/// This copy's table.
static TABLE: Table = Table {
    schema: |kind, name| {
        let missing = || Error::broken_contract(format!("{} `{name}` is not there", kind.noun()));
        guarded("describing options", || find_component(kind, name).ok_or_else(missing)?.whole_schema_text())
    },
    policy: calls!(PolicySpec),
    reward_model: calls!(RewardModelSpec),
    annotator: calls!(AnnotatorSpec),
    learner: calls!(LearnerSpec),
    evaluator: calls!(EvaluatorSpec),
};

impl std::fmt::Debug for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Table")
    }
}

/// What the program that loads plugins gives them: every component it knows, other plugins' included.
#[derive(Debug)]
pub struct Host {
    table: &'static Table,
    components: fn() -> Vec<&'static ComponentInfo>,
}

/// What a plugin gives the program that loads it.
#[derive(Debug)]
pub struct Offer {
    /// The components of the plugin's own package.
    pub(super) components: Vec<&'static ComponentInfo>,
    /// How to reach them.
    pub(super) table: &'static Table,
}

/// The program that loaded the plugin whose copy of the core this is.
static HOST: OnceLock<&'static Host> = OnceLock::new();

pub(super) static THIS_HOST: Host = Host { table: &TABLE, components: everywhere };

/// Runs in the plugin: learns who loads it and offers its components.
///
/// # Errors
/// When the plugin registers nothing, says nothing sensible about a component, or panics.
pub fn start(host: &'static Host, package: &'static str) -> Result<Offer> {
    become_plugin(package);
    // A second start of the same library finds the same host.
    let _ = HOST.set(host);
    guarded("starting", || {
        let components: Vec<_> = crate::inventory::iter::<ComponentInfo>.into_iter().filter(|info| is_own(info)).collect();
        for info in &components {
            for text in std::iter::once((info.defaults)()).chain(info.presets.iter().map(|preset| (preset.options)())) {
                if let Err(error) = serde_json::from_str::<serde_json::Value>(&text) {
                    let message = format!("{} `{}` has options that are not JSON", info.kind.noun(), info.name);
                    return Err(Error::broken_contract(message).with_source(error));
                }
            }
        }
        Ok(Offer { components, table: &TABLE })
    })
}

/// Whether this copy of the core makes that component. A plugin's copy may know some of the built-in ones too, for it is linked
/// with the crates it calls; those are the program's to make.
pub(crate) fn is_own(info: &ComponentInfo) -> bool {
    owner().is_none_or(|package| info.package == package)
}

/// How to reach the copy of the core that makes a component, when it is another.
pub(crate) fn made_elsewhere(info: &ComponentInfo) -> Option<&'static Table> {
    if let Some(host) = HOST.get() {
        return (!is_own(info)).then_some(host.table);
    }
    let makes = |plugin: &&LoadedPlugin| plugin.components.iter().any(|own| std::ptr::eq(*own, info));
    loaded_plugins().into_iter().find(makes).map(|plugin| plugin.table)
}

/// A component that another copy of the core makes, and how to reach it.
pub(crate) fn elsewhere(kind: ComponentKind, name: &str) -> Option<(&'static ComponentInfo, &'static Table)> {
    let named = |info: &&'static ComponentInfo| info.kind == kind && info.name == name;
    if let Some(host) = HOST.get() {
        return (host.components)().into_iter().find(named).map(|info| (info, host.table));
    }
    loaded_plugins().into_iter().find_map(|plugin| plugin.components.iter().copied().find(named).map(|info| (info, plugin.table)))
}

/// Every component that this copy makes or reaches, in no order.
pub(crate) fn everywhere() -> Vec<&'static ComponentInfo> {
    let own = crate::inventory::iter::<ComponentInfo>.into_iter().filter(|info| is_own(info));
    match HOST.get() {
        Some(host) => {
            let theirs = (host.components)().into_iter().filter(|info| !is_own(info));
            own.chain(theirs).collect()
        }
        None => own.chain(loaded_plugins().into_iter().flat_map(|plugin| plugin.components.iter().copied())).collect(),
    }
}
