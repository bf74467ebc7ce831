//! Repetitions: the methods run once with each seed, on the same model, the same feedback and the same judge.

use farmhand_core::Seed;
use farmhand_core::config::ExperimentConfig;

/// One of the repetitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::pipeline) struct Repetition {
    /// The root of its seed tree.
    pub(in crate::pipeline) seed: u64,
    /// Whether there are others to tell it from.
    named: bool,
}

impl Repetition {
    /// The one of what is not repeated.
    pub(super) fn only(seed: u64) -> Self {
        Self { seed, named: false }
    }

    /// The root of its seed tree.
    pub(super) fn root(self) -> Seed {
        Seed::root(self.seed)
    }

    /// The name of a stage or a model of this repetition: `learn-dpo`, or `learn-dpo@1` where there are several.
    pub(in crate::pipeline) fn name_of(self, name: &str) -> String {
        if self.named { format!("{name}@{}", self.seed) } else { name.to_owned() }
    }
}

/// The repetitions of an experiment, at least one.
pub(in crate::pipeline) fn repetitions(config: &ExperimentConfig) -> Vec<Repetition> {
    match config.seeds.as_slice() {
        [] => vec![Repetition::only(config.seed)],
        seeds => seeds.iter().map(|seed| Repetition { seed: *seed, named: true }).collect(),
    }
}
