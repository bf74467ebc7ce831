//! The kinds of components: where each lives and what a new one looks like.

use crate::failure::{Failure, Result};

/// A kind of component.
pub(super) struct Kind {
    /// As configurations say it.
    pub(super) key: &'static str,
    /// As people say it.
    pub(super) noun: &'static str,
    pub(super) article: &'static str,
    /// Where components of this kind are, from the repository.
    pub(super) folder: &'static str,
    /// The file that lists the folder's modules.
    pub(super) index: &'static str,
    /// The package that holds them.
    pub(super) package: &'static str,
    pub(super) template: &'static str,
    /// How a new one, `NAME`, is used.
    pub(super) used: &'static str,
}

/// All kinds.
pub(super) const KINDS: [Kind; 5] = [
    Kind {
        key: "learner",
        noun: "learner",
        article: "a",
        folder: "plugins/src/learners",
        index: "plugins/src/learners/mod.rs",
        package: "farmhand-plugins",
        template: include_str!("../../templates/learner.rs"),
        used: "`./farmhand learn NAME --model DIR --data pairs.jsonl --out my-run`, or compare it:\n     \
               add `[methods.NAME.learner.NAME]` to a copy of examples/configs/quickstart.toml, then `./farmhand run my.toml`",
    },
    Kind {
        key: "annotator",
        noun: "annotator",
        article: "an",
        folder: "annotators/src",
        index: "annotators/src/lib.rs",
        package: "farmhand-annotators",
        template: include_str!("../../templates/annotator.rs"),
        used: "`[annotator.NAME]` in place of the annotator in a copy of examples/configs/quickstart.toml,\n     \
               then `./farmhand run my.toml`",
    },
    Kind {
        key: "evaluator",
        noun: "evaluator",
        article: "an",
        folder: "evaluators/src",
        index: "evaluators/src/lib.rs",
        package: "farmhand-evaluators",
        template: include_str!("../../templates/evaluator.rs"),
        used: "`evaluators = [{ win_rate = {} }, { NAME = {} }]` under `[evaluate]` in a copy of\n     \
               examples/configs/quickstart.toml, then `./farmhand run my.toml`",
    },
    Kind {
        key: "policy",
        noun: "policy",
        article: "a",
        folder: "plugins/src/policies",
        index: "plugins/src/policies/mod.rs",
        package: "farmhand-plugins",
        template: include_str!("../../templates/policy.rs"),
        used: "`[methods.NAME.policy.NAME]` in a copy of examples/configs/quickstart.toml, then `./farmhand run my.toml`",
    },
    Kind {
        key: "reward_model",
        noun: "reward model",
        article: "a",
        folder: "plugins/src/reward_models",
        index: "plugins/src/reward_models/mod.rs",
        package: "farmhand-plugins",
        template: include_str!("../../templates/reward_model.rs"),
        used: "`[methods.best_of_8.policy.best_of_n]` with `reward_model = { NAME = {} }` in a copy of\n     \
               examples/configs/quickstart.toml, then `./farmhand run my.toml`",
    },
];

impl Kind {
    /// The kind of this name, its words joined by `-` or `_`.
    pub(super) fn find(name: &str) -> Result<&'static Self> {
        KINDS.iter().find(|kind| kind.key == name.replace('-', "_")).ok_or_else(|| {
            Failure::usage(format!("`new` makes a `learner`, `annotator`, `evaluator`, `policy` or `reward-model`, no `{name}`"))
        })
    }
}
